"""Rendering a prompt and its responses into token ids.

Prompt and response are rendered together through the chat template and sliced, never a lone
assistant message: templates that add a default system turn would put one inside every response.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Prompt = str | list[dict[str, str]]


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
