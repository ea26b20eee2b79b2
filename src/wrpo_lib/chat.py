"""Rendering a prompt and its responses into token ids, alike for sampling, scoring and training.

The chat template renders the prompt, up to where the model answers; a response is trained as it was
sampled: its own text, and the one token that ends a turn. Both are tokenised together and cut at
the boundary, since some tokenizers begin a text that stands alone with another token.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from wrpo_lib.errors import WRPOError, explained

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = list[dict[str, str]]
Prompt = str | Messages
FIELDS = ("role", "content")
ROLES = ("system", "user", "assistant", "tool")
MARKERS = ("<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "[INST]", "<|user|>")
PROBE = "wrpo-probe"


def is_rendered(prompt: Any) -> bool:
    """Whether a prompt is text that went through a chat template; other text is one user turn."""
    return isinstance(prompt, str) and any(marker in prompt for marker in MARKERS)


def check_prompt(prompt: Any) -> Any:
    """The prompt, if it is text, or messages that end in a user turn; else a ValueError."""
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list) or not prompt:
        raise ValueError("is not a list of messages; give [{'role': 'user', 'content': ...}]")
    for k, message in enumerate(prompt, 1):
        held = message if isinstance(message, dict) else {}
        role, text = held.get("role"), held.get("content")
        if not isinstance(text, str):
            raise ValueError(f"message {k} has no text content; give role and content")
        if role not in ROLES:
            raise ValueError(f"message {k} has the role {role!r}; use one of {', '.join(ROLES)}")
        if not text.strip() and role == "user":
            raise ValueError(f"message {k} is empty; remove the row")
    if role != "user":
        raise ValueError("does not end in a user turn; drop what follows the last question")
    return prompt


def as_messages(prompt: Any, where: str) -> Messages:
    """A prompt as chat messages ending in a user turn; ``where`` names it in errors."""
    try:
        if is_rendered(prompt):
            raise ValueError("went through a chat template already; give messages instead")
        return [{name: message[name] for name in FIELDS} for message in check_prompt(prompt)]
    except ValueError as error:
        raise WRPOError(f"{where}, field 'prompt': {error}") from error


class Renderer:
    """A tokenizer's chat template; ``folded`` counts system turns put into the user turn."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            name = tokenizer.name_or_path or type(tokenizer).__name__
            what = "set tokenizer.chat_template, or choose a chat model"
            raise WRPOError(f"the tokenizer {name!r} has no chat template; {what}")
        self.tokenizer, self.folded = tokenizer, 0

    def ids(self, messages: Messages, ask: bool = True) -> list[int]:
        """Token ids of the rendered conversation, with ``ask`` ready for the model to answer."""
        return _token_ids(self.tokenizer, _apply(self.tokenizer, self.fit(messages), ask))

    def fit(self, messages: Messages) -> Messages:
        """The conversation as the template takes it."""
        template = str(self.tokenizer.chat_template)
        if messages[0]["role"] != "system" or _takes_system(self.tokenizer, template):
            return messages
        self.folded += 1
        system, rest = messages[0]["content"].strip(), [dict(m) for m in messages[1:]]
        user = next(m for m in rest if m["role"] == "user")
        user["content"] = f"{system}\n\n{user['content']}" if system else user["content"]
        return rest


@lru_cache(maxsize=16)
def _takes_system(tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    """Some templates refuse a system turn, some drop it without a word."""
    probe = [{"role": "system", "content": PROBE}, {"role": "user", "content": "x"}]
    try:
        return PROBE in _apply(tokenizer, probe)
    except WRPOError:
        return False


@lru_cache(maxsize=16)
def _around_response(tokenizer: PreTrainedTokenizerBase, template: str) -> tuple[str, str, str]:
    """What the template writes before a response, after it up to the end token, and that token.

    An empty thought before a response is left out: nothing was sampled after it. Control tokens
    there, such as a channel's, cannot be left out and are refused.
    """
    special = {*tokenizer.all_special_tokens, *map(str, tokenizer.get_added_vocab())}
    user, said = {"role": "user", "content": "x"}, {"role": "assistant", "content": PROBE}
    start, whole = _apply(tokenizer, [user]), _apply(tokenizer, [user, said], ask=False)
    shared = start.rstrip()
    if not whole.startswith(shared) or PROBE not in whole:
        what = "renders the prompt differently when a response follows, or drops the response"
        raise WRPOError(f"the chat template {what}; use a template that keeps both")
    between, after = whole.removeprefix(shared).split(PROBE, 1)
    before = between.removeprefix(start.removeprefix(shared))
    if any(token in before for token in special):
        what = f"writes {before!r} before a response, which the response's text does not hold"
        raise WRPOError(f"the chat template {what}; use one that needs no such header")
    before = "" if before.strip() else before
    found = [(after.find(token), -len(token), token) for token in special if token in after]
    if not found and tokenizer.eos_token is None:
        raise WRPOError("the tokenizer has no eos token to end responses with; set eos_token")
    at, _, end = min(found, default=(0, 0, str(tokenizer.eos_token)))  # the first special token
    return before, after[:at], end


def _apply(tokenizer: PreTrainedTokenizerBase, messages: Messages, ask: bool = True) -> str:
    how = {"tokenize": False, "add_generation_prompt": ask}
    roles = ", ".join(m.get("role", "?") for m in messages)
    with explained(f"the chat template cannot render the roles ({roles})", "change the prompt"):
        return str(tokenizer.apply_chat_template(messages, **how))


def _token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@dataclass(frozen=True)
class Rendered:
    """Token ids of one prompt and each of its responses, and what was done to them."""

    prompt_ids: list[int]
    response_ids: list[list[int]]
    cut: list[bool]  # whether the prompt and each response lost tokens
    folded: int  # 1 where the system turn went into the user turn


def render(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    responses: list[str],
    max_length: int | None = None,
    max_prompt_length: int | None = None,
) -> Rendered:
    """Token ids of a prompt and its responses, each of which ends with exactly one end token.

    Text that went through no chat template is one user turn. Where prompt plus a response exceed
    ``max_length``, the prompt is cut first, from the left, to ``max_prompt_length``; then each
    response on its own, from the right.

    :raises WRPOError: where the template cannot render the prompt, the prompt leaves no room, or
        the tokenizer merges prompt and response so that neither can be told from the other.
    """
    renderer, start = Renderer(tokenizer), str(prompt)
    if not is_rendered(prompt):
        start = _apply(tokenizer, renderer.fit(as_messages(prompt, "the prompt")))
    before, after, end = _around_response(tokenizer, str(tokenizer.chat_template))
    own_ends = re.compile(rf"(?:{re.escape(end)}\s*)+\Z")
    texts = [before + own_ends.sub("", text).removeprefix(before) + after for text in responses]
    prompt_ids = _token_ids(tokenizer, start)
    response_ids = [_cut(tokenizer, start, prompt_ids, text + end) for text in texts]
    kept, left = prompt_ids, max(map(len, response_ids), default=0)
    if max_length is not None and len(prompt_ids) + left > max_length:
        kept = prompt_ids[-(max_prompt_length or len(prompt_ids)) :]
        left = max_length - len(kept)
    if left < 1 and responses:
        what = f"{len(kept)} tokens leaves no room for a response in max_length {max_length}"
        raise WRPOError(f"a prompt of {what}; raise it or lower max_prompt_length")
    cut = [len(kept) < len(prompt_ids), *(len(ids) > left for ids in response_ids)]
    return Rendered(kept, [ids[:left] for ids in response_ids], cut, renderer.folded)


def _cut(
    tokenizer: PreTrainedTokenizerBase, start: str, prompt_ids: list[int], response: str
) -> list[int]:
    """The response's ids after the prompt's own, which are what sampling starts from.

    Where a token would span both, the response is tokenised alone, or behind a line feed
    (SentencePiece puts a space before a text of its own), whichever decodes to the same.
    """
    whole = _token_ids(tokenizer, start + response)
    if whole[: len(prompt_ids)] == prompt_ids:
        return whole[len(prompt_ids) :]
    line = _token_ids(tokenizer, "\n")
    behind = _token_ids(tokenizer, "\n" + response)
    for ids in (_token_ids(tokenizer, response), behind[len(line) :]):
        if tokenizer.decode(prompt_ids + ids) == tokenizer.decode(whole):
            return ids
    what = "merges the end of the prompt with the start of a response"
    raise WRPOError(f"the tokenizer {what}; use a chat template that ends in a token of its own")


class Truncation(Counter[str]):
    """Counts of rows, of prompts and responses (by field) that were cut, and of rows folded."""

    def add(self, rendered: Rendered, fields: list[str]) -> None:
        """Count one rendered row whose responses are named by ``fields``."""
        cut = dict(zip(["prompt", *fields], rendered.cut, strict=True))
        self["rows"] += 1
        self.update({**cut, "folded": rendered.folded})

    def report(self) -> str:
        """One line for the log."""
        cut = [f"{name} {n}" for name, n in self.items() if n and name not in ("rows", "folded")]
        where = f"truncated in {self['rows']} rows"
        folded = f"; the system turn of {self['folded']} prompts put into the user turn"
        said = f"{where}: {', '.join(cut)}" if cut else f"nothing {where}"
        return said + folded * bool(self["folded"])
