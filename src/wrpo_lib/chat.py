"""Rendering a prompt and its responses into token ids, alike for sampling, scoring and training.

Prompt and response are rendered together through the chat template and sliced, never a lone
assistant message: templates that add a default system turn would put one inside every response.
A template that cannot take a system turn gets its text at the head of the first user turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = list[dict[str, str]]
Prompt = str | Messages
ROLES = ("system", "user", "assistant", "tool")
MARKERS = ("<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "[INST]", "<|user|>")
"""Signs that a text went through some model's chat template already."""
PROBE = "wrpo-probe"


def prompt_problems(prompt: Any) -> Iterator[str]:
    """Everything wrong with a prompt: messages that end in a user turn, or rendered text."""
    if isinstance(prompt, str):
        if not prompt.strip():
            yield "is empty; remove the row"
        return
    if not isinstance(prompt, list) or not prompt:
        yield "is missing or not a list of messages; give [{'role': 'user', 'content': ...}]"
        return
    for k, message in enumerate(prompt, 1):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            yield f"message {k} has no text content; give role and content"
        elif message.get("role") not in ROLES:
            yield f"message {k} has the role {message.get('role')!r}; use one of {', '.join(ROLES)}"
        elif not message["content"].strip() and message["role"] == "user":
            yield f"message {k} is empty; remove the row"
    if isinstance(prompt[-1], dict) and prompt[-1].get("role") != "user":
        yield "does not end in a user turn; drop what follows the last question"


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
                f"the tokenizer {tokenizer.name_or_path or type(tokenizer).__name__!r} has no chat "
                "template; set tokenizer.chat_template, or choose a chat model"
            )
        self.tokenizer = tokenizer
        self.takes_system = _takes_system(tokenizer, str(tokenizer.chat_template))
        self.folded = 0

    def ids(self, messages: Messages, ask: bool = True) -> list[int]:
        """Token ids of the rendered conversation, with ``ask`` ready for the model to answer."""
        return _token_ids(self.tokenizer, _apply(self.tokenizer, self._fit(messages), ask))

    def texts(self, prompt: Messages, responses: list[str]) -> tuple[str, list[str]]:
        """The prompt's text and each response's, with the end token of an assistant turn."""
        prompt = self._fit(prompt)
        start = _apply(self.tokenizer, prompt)
        end, after = self._turn_end(prompt, start)
        found = [self._response(prompt, start, text).removesuffix(after) for text in responses]
        return start, [_end_once(text, end) for text in found]

    def _fit(self, messages: Messages) -> Messages:
        if messages[0]["role"] != "system" or self.takes_system:
            return messages
        self.folded += 1
        return fold_system(messages)

    def _response(self, prompt: Messages, start: str, text: str) -> str:
        """What the template writes for the response after ``start``."""
        turn = {"role": "assistant", "content": text}
        whole = _apply(self.tokenizer, [*prompt, turn], ask=False)
        if not whole.startswith(start):
            raise WRPOError(
                "the chat template renders the prompt differently when a response follows, so the "
                "response cannot be told apart; give prompts already rendered as text"
            )
        return whole[len(start) :]

    def _turn_end(self, prompt: Messages, start: str) -> tuple[str, str]:
        """The end token of an assistant turn (eos if the template has none), and all after it."""
        whole = self._response(prompt, start, PROBE)
        if PROBE not in whole:
            raise WRPOError("the chat template drops the assistant's text; use another template")
        after = whole.split(PROBE, 1)[1]
        special = {*self.tokenizer.all_special_tokens, *map(str, self.tokenizer.get_added_vocab())}
        found = [token for token in special if token and after.strip().startswith(token)]
        return max(found, key=len) if found else _eos(self.tokenizer), after


@lru_cache(maxsize=16)
def _takes_system(tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    """Some templates refuse a system turn, some drop it without a word."""
    probe = [{"role": "system", "content": PROBE}, {"role": "user", "content": "x"}]
    try:
        return PROBE in _apply(tokenizer, probe)
    except WRPOError:
        return False


def _apply(tokenizer: PreTrainedTokenizerBase, messages: Messages, ask: bool = True) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
        )
    except Exception as error:  # templates raise errors of their own kinds
        roles = ", ".join(m.get("role", "?") for m in messages)
        raise WRPOError(
            f"the chat template cannot render the roles ({roles}): {error}; change the prompt"
        ) from error


def _token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _eos(tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer.eos_token is None:
        raise WRPOError("the tokenizer has no eos token to end responses with; set eos_token")
    return str(tokenizer.eos_token)


def _end_once(text: str, end: str) -> str:
    while text.endswith(end):
        text = text[: -len(end)]
    return text + end


@dataclass(frozen=True)
class Rendered:
    """Token ids of one prompt and each of its responses, and what was cut.

    ``folded``: the system turn was put into the user turn.
    """

    prompt_ids: list[int]
    response_ids: list[list[int]]
    prompt_truncated: bool
    response_truncated: list[bool]
    folded: bool = False


def render_text(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, responses: list[str]
) -> tuple[str, list[str]]:
    """The prompt's text and each response's text, which ends with exactly one end token.

    ``prompt`` is a list of messages, or text that went through a chat template already. The end
    token is what the template puts after an assistant turn, otherwise the tokenizer's eos.
    """
    if isinstance(prompt, str):
        return prompt, [_end_once(text, _eos(tokenizer)) for text in responses]
    return Renderer(tokenizer).texts(prompt, responses)


def render(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    responses: list[str],
    max_length: int | None = None,
    max_prompt_length: int | None = None,
) -> Rendered:
    """Token ids of a prompt and its responses.

    Where prompt plus a response exceed ``max_length``, the prompt is cut first, from the left, to
    ``max_prompt_length``; then each response on its own, from the right, to what is left. A short
    response is never cut because another one is long.
    """
    start, texts = render_text(tokenizer, prompt, responses)
    system = not isinstance(prompt, str) and prompt[0]["role"] == "system"
    folded = system and not Renderer(tokenizer).takes_system
    prompt_ids = _token_ids(tokenizer, start)
    response_ids = [_token_ids(tokenizer, text) for text in texts]
    longest = max(map(len, response_ids), default=0)
    if max_length is None or len(prompt_ids) + longest <= max_length:
        return Rendered(prompt_ids, response_ids, False, [False] * len(response_ids), folded)
    kept = prompt_ids if max_prompt_length is None else prompt_ids[-max_prompt_length:]
    left = max_length - len(kept)
    if left < 1:
        raise WRPOError(
            f"a prompt of {len(kept)} tokens leaves no room for a response in max_length "
            f"{max_length}; raise it or lower max_prompt_length"
        )
    cut = [len(ids) > left for ids in response_ids]
    short = len(kept) < len(prompt_ids)
    return Rendered(kept, [ids[:left] for ids in response_ids], short, cut, folded)


class Truncation(Counter[str]):
    """How many rows, prompts and responses (by field) were seen and cut, and prompts folded."""

    def add(self, rendered: Rendered, fields: list[str]) -> None:
        """Count one rendered row whose responses are named by ``fields``."""
        self["rows"] += 1
        self["prompt"] += rendered.prompt_truncated
        self["folded"] += rendered.folded
        for name, cut in zip(fields, rendered.response_truncated, strict=True):
            self[name] += cut

    def report(self) -> str:
        """One line for the log."""
        cut = ", ".join(f"{k} {v}" for k, v in self.items() if k not in ("rows", "folded") and v)
        rows, folded = self["rows"], self["folded"]
        note = f"; the system turn of {folded} prompts put into the user turn" if folded else ""
        what = f"truncated in {rows} rows: {cut}" if cut else f"nothing truncated in {rows} rows"
        return what + note
