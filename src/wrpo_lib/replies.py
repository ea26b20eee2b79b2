"""What a model said: the answer apart from the thought, and a server's failures told from answers.

Thoughts stand in the text (``<think>``), beside it (``reasoning_content``) or in parts of a list.
"""

import re
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from wrpo_lib.errors import WRPOError

_OPEN = re.compile(r"\s*(<think(?:ing)?>|\[THINK\])")
_CLOSE = re.compile(r"</think(?:ing)?>|\[/THINK\]")
FAILED = ("error", "content_filter")  # reasons to finish that make a reply a failure
LIKE_A_KEY = re.compile(r"\b(sk|key|hf|gsk|xai)[-_][\w*.-]{6,}")


def split_thought(text: str) -> tuple[str, str]:
    """(thought, answer) of a text; a thought that never ends leaves no answer.

    It stands at the beginning, or ends in a lone closing mark. Later marks are the answer's own.
    """
    opened, closed = _OPEN.match(text), _CLOSE.search(text)
    if closed:
        start = opened.end() if opened else 0
        return text[start : closed.start()].strip(), text[closed.end() :].lstrip()
    return (text[opened.end() :].strip(), "") if opened else ("", text)


class Said(NamedTuple):
    """An answer; ``thought`` is what was reasoned before it, ``tokens`` those of both."""

    text: str
    thought: str = ""
    finish_reason: str = "stop"
    tokens: int | None = None


class _Part(BaseModel):
    type: str = "text"
    text: str | None = None


class _Message(BaseModel):
    content: str | list[_Part] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    error: Any = None


def read_reply(body: dict[str, Any]) -> Said:
    """The answer in a chat completion; a :class:`WRPOError` in the server's own words for an error
    in the body or the choice, a content filter, an empty answer, or no chat completion."""
    if body.get("error") or not body.get("choices"):
        raise WRPOError(f"the server reports a failure: {_words(body.get('error'))}")
    try:
        choice = _Choice.model_validate(body["choices"][0])
    except (ValidationError, LookupError, TypeError) as error:
        raise WRPOError(f"the reply is no chat completion ({type(error).__name__})") from error
    message, reason = choice.message, choice.finish_reason or "stop"
    if choice.error or reason in FAILED:
        raise WRPOError(f"the server reports {reason!r}: {_words(choice.error)}")
    content = message.content or ""
    if isinstance(content, list):
        content = "".join(part.text or "" for part in content if part.type == "text")
    thought, answer = split_thought(content)
    thought = message.reasoning_content or message.reasoning or thought
    answer = answer or message.refusal or ""
    if not answer.strip():
        cut = thought or content.strip()  # a mark alone is the start of a thought
        why = "nothing but a thought; raise max_tokens" if cut else "an empty text"
        raise WRPOError(f"the server answered with {why} (finish_reason {reason!r})")
    usage = body.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return Said(answer, thought, reason, tokens if isinstance(tokens, int) else None)


def _words(error: Any) -> str:
    """What a server says of its failure, on one line, without what looks like a key."""
    if isinstance(error, dict):
        error = f"{error.get('message')} ({error.get('code')})"
    return LIKE_A_KEY.sub("***", " ".join(str(error or "no reason is given").split()))[:300]
