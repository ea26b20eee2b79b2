"""Prompts: read from files, fitted to a chat template, rendered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.request import Messages
from wrpo_lib.quadruples.schema import iter_rows, prompt_problems

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKERS = ("<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "[INST]", "<|user|>")
"""Signs that a text went through some model's chat template already."""


def read_prompts(path: str | Path) -> Iterator[tuple[str, Messages]]:
    """(prompt_id, messages) of every row, one at a time; other fields are ignored.

    ``prompt`` may be messages or text, which is then one user turn; text that went through a chat
    template already is refused, since every model has a template of its own. A repeated id is an
    error, but in a file of responses (which has a ``sample`` field) the prompt may repeat with it.
    """
    seen: dict[str, int] = {}
    for number, row in enumerate(iter_rows(path), 1):
        where = f"{path}, row {number}"
        prompt_id, messages = row.get("prompt_id"), as_messages(row.get("prompt"), where)
        if not isinstance(prompt_id, str) or not prompt_id.strip():
            raise WRPOError(f"{where}, field 'prompt_id': missing or not text; give every row one")
        content = hash(str(messages))
        if prompt_id not in seen:
            seen[prompt_id] = content
            yield prompt_id, messages
        elif "sample" not in row or seen[prompt_id] != content:
            raise WRPOError(
                f"{where}, field 'prompt_id': {prompt_id!r} stands in an earlier row already; "
                "make ids unique"
            )


def as_messages(prompt: Any, where: str) -> Messages:
    """A prompt as chat messages ending in a user turn; ``where`` names it in errors."""
    for what in prompt_problems(prompt):
        raise WRPOError(f"{where}, field 'prompt': {what}")
    if not isinstance(prompt, str):
        return [{"role": m["role"], "content": m["content"]} for m in prompt]
    if any(marker in prompt for marker in MARKERS):
        raise WRPOError(
            f"{where}, field 'prompt': went through a chat template already; give messages, so "
            "that each model's own template can be used"
        )
    return [{"role": "user", "content": prompt}]


def fold_system(messages: Messages) -> Messages:
    """The same conversation without a system turn: its text opens the first user turn."""
    system, rest = messages[0], [dict(m) for m in messages[1:]]
    user = next(m for m in rest if m["role"] == "user")
    user["content"] = "\n\n".join(t for t in (system["content"], user["content"]) if t.strip())
    return rest


class Renderer:
    """A tokenizer's chat template; ``folded`` counts prompts whose system turn it cannot take."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise WRPOError(
                f"the tokenizer {tokenizer.name_or_path!r} has no chat template; set one, or "
                "choose a chat model"
            )
        self.tokenizer = tokenizer
        self.takes_system = self._takes_system()
        self.folded = 0

    def _takes_system(self) -> bool:
        """Some templates refuse a system turn, some drop it without a word."""
        probe = [{"role": "system", "content": "wrpo-probe"}, {"role": "user", "content": "x"}]
        try:
            return "wrpo-probe" in self._apply(probe)
        except WRPOError:
            return False

    def _apply(self, messages: Messages, ask: bool = True) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=ask
                )
            )
        except Exception as error:  # templates raise errors of their own kinds
            roles = ", ".join(m["role"] for m in messages)
            raise WRPOError(
                f"the chat template cannot render the roles ({roles}): {error}; change the prompt"
            ) from error

    def ids(self, messages: Messages, ask: bool = True) -> list[int]:
        """Token ids of the rendered conversation, with ``ask`` ready for the model to answer."""
        if messages[0]["role"] == "system" and not self.takes_system:
            messages = fold_system(messages)
            self.folded += 1
        ids = self.tokenizer(self._apply(messages, ask), add_special_tokens=False)["input_ids"]
        return list(ids)
