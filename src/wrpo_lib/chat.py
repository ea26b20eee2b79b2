"""Rendering a prompt and its responses into token ids.

Prompt and response are rendered together through the chat template and sliced, never a lone
assistant message: templates that add a default system turn would put one inside every response.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = list[dict[str, str]]
Prompt = str | Messages
ROLES = ("system", "user", "assistant", "tool")
MARKERS = ("<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "[INST]", "<|user|>")
"""Signs that a text went through some model's chat template already."""


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


@dataclass(frozen=True)
class Rendered:
    """Token ids of one prompt and each of its responses, and what was cut."""

    prompt_ids: list[int]
    response_ids: list[list[int]]
    prompt_truncated: bool
    response_truncated: list[bool]


def render_text(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, responses: list[str]
) -> tuple[str, list[str]]:
    """The prompt's text and each response's text, which ends with exactly one end token.

    ``prompt`` is a list of messages, or text that went through a chat template already. The end
    token is what the template puts after an assistant turn, otherwise the tokenizer's eos.
    """
    eos = tokenizer.eos_token
    if isinstance(prompt, str):
        if eos is None:
            raise WRPOError("the tokenizer has no eos token to end responses with; set eos_token")
        return prompt, [_end_once(text, eos) for text in responses]
    if not tokenizer.chat_template:
        raise WRPOError(
            f"the tokenizer {tokenizer.name_or_path or type(tokenizer).__name__!r} has no chat "
            "template; set tokenizer.chat_template or give prompts already rendered as text"
        )
    start = _apply(tokenizer, prompt, add_generation_prompt=True)
    end, after = _turn_end(tokenizer, prompt, start)
    end = end or eos
    if end is None:
        raise WRPOError(
            "neither the chat template nor the tokenizer has an end token; set eos_token"
        )
    texts = [_response(tokenizer, prompt, start, text) for text in responses]
    return start, [_end_once(text.removesuffix(after), end) for text in texts]


def _apply(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], **kw: Any) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **kw))
    except Exception as error:
        roles = ", ".join(m.get("role", "?") for m in messages)
        raise WRPOError(
            f"the chat template cannot render the roles ({roles}): {error}; change the prompt"
        ) from error


_PROBE = "wrpo-probe"


def _response(
    tokenizer: PreTrainedTokenizerBase, prompt: list[dict[str, str]], start: str, text: str
) -> str:
    """What the template writes for the response after ``start``."""
    whole = _apply(tokenizer, [*prompt, {"role": "assistant", "content": text}])
    if not whole.startswith(start):
        raise WRPOError(
            "the chat template renders the prompt differently when a response follows, so the "
            "response cannot be told apart; give prompts already rendered as text"
        )
    return whole[len(start) :]


def _turn_end(
    tokenizer: PreTrainedTokenizerBase, prompt: list[dict[str, str]], start: str
) -> tuple[str | None, str]:
    """The end token of an assistant turn, if the template writes one, and all it writes there."""
    whole = _response(tokenizer, prompt, start, _PROBE)
    if _PROBE not in whole:
        raise WRPOError("the chat template drops the assistant's text; use another template")
    after = whole.split(_PROBE, 1)[1]
    special = {*tokenizer.all_special_tokens, *map(str, tokenizer.get_added_vocab())}
    found = [token for token in special if token and after.strip().startswith(token)]
    return max(found, key=len, default=None), after


def _end_once(text: str, end: str) -> str:
    while text.endswith(end):
        text = text[: -len(end)]
    return text + end


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
    prompt_ids = list(tokenizer(start, add_special_tokens=False)["input_ids"])
    response_ids = [list(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in texts]
    longest = max(map(len, response_ids), default=0)
    cut_prompt = False
    if max_length is not None and len(prompt_ids) + longest > max_length:
        limit = max_length - 1 if max_prompt_length is None else max_prompt_length
        if limit >= max_length:
            raise WRPOError(
                f"max_prompt_length {limit} leaves no room for a response in max_length "
                f"{max_length}; lower it"
            )
        if max_prompt_length is not None and len(prompt_ids) > limit:
            prompt_ids, cut_prompt = prompt_ids[-limit:], True
        room = max_length - len(prompt_ids)
        if room < 1:
            raise WRPOError(
                f"a prompt of {len(prompt_ids)} tokens leaves no room for a response in max_length "
                f"{max_length}; raise it or set max_prompt_length"
            )
        return Rendered(
            prompt_ids,
            [ids[:room] for ids in response_ids],
            cut_prompt,
            [len(ids) > room for ids in response_ids],
        )
    return Rendered(prompt_ids, response_ids, False, [False] * len(response_ids))


class Truncation(Counter[str]):
    """How many rows, prompts and responses (by field) were seen and cut."""

    def add(self, rendered: Rendered, fields: list[str]) -> None:
        """Count one rendered row whose responses are named by ``fields``."""
        self["rows"] += 1
        self["prompt"] += rendered.prompt_truncated
        for name, cut in zip(fields, rendered.response_truncated, strict=True):
            self[name] += cut

    def report(self) -> str:
        """One line for the log."""
        cut = {k: v for k, v in self.items() if k != "rows" and v}
        if not cut:
            return f"nothing truncated in {self['rows']} rows"
        what = ", ".join(f"{k} {v}" for k, v in cut.items())
        return f"truncated in {self['rows']} rows: {what}"


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
