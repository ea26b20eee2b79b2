"""What is an answer, what is thought, what is a failure: replies as servers really give them."""

from typing import Any

import pytest

from wrpo_lib.errors import WRPOError
from wrpo_lib.replies import Said, read_reply, split_thought


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("Blue lake.", "", "Blue lake."),
        ("<think>\nshort\n</think>\n\nBlue lake.", "short", "Blue lake."),
        ("Okay, [[3]]?\n</think>\n\nGood. [[8]]", "Okay, [[3]]?", "Good. [[8]]"),
        ("[THINK]hm[/THINK]Blue", "hm", "Blue"),
        ("<think>never ends [[2]]", "never ends [[2]]", ""),
        ("<think></think>x", "", "x"),
        ("Write `<think>` first.", "", "Write `<think>` first."),
    ],
)
def test_the_answer_is_what_follows_the_thought(text: str, thought: str, answer: str) -> None:
    assert split_thought(text) == (thought, answer)


def body(content: Any, finish: Any = "stop", **message: Any) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": content, **message}}
    return {"choices": [{**choice, "finish_reason": finish}], "usage": {"completion_tokens": 5}}


LIST = [{"type": "text", "text": "Blue "}, {"type": "text", "text": "lake."}]
THINKING = [
    {"type": "thinking", "thinking": [{"text": "[[2]]"}]},
    {"type": "text", "text": "[[9]]"},
]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (body("Blue."), Said("Blue.", "", "stop", 5)),
        (body(LIST), Said("Blue lake.", "", "stop", 5)),
        (body(THINKING), Said("[[9]]", "", "stop", 5)),
        (body("Blue.", "length", reasoning_content="hm"), Said("Blue.", "hm", "length", 5)),
        (body(None, refusal="I cannot."), Said("I cannot.", "", "stop", 5)),
        ({**body("Blue.", None), "usage": {"completion_tokens": "many"}}, Said("Blue.")),
    ],
)
def test_replies_are_read(reply: dict[str, Any], said: Said) -> None:
    assert read_reply(reply) == said


FAILED = {"code": 502, "message": "Upstream provider\nfailed"}


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        ({"choices": None, "error": {"code": 429, "message": "Slow"}}, r"failure: Slow \(429\)"),
        ({"choices": []}, "no reason is given"),
        (body("half a", "error"), "reports 'error'"),
        ({"choices": [{"message": {"content": ""}, "error": FAILED}]}, "Upstream provider failed"),
        (body("", "content_filter"), "content_filter"),
        (body(""), "an empty text"),
        (body("<think>hm", "length"), "raise max_tokens"),
        (body(" <think>\n", "length"), "nothing but a thought; raise max_tokens"),
        ({"error": {"message": "no key sk-abcdef123456"}}, r"failure: no key \*\*\*"),
        (body(None, reasoning_content="hm"), "nothing but a thought"),
        ({"choices": [7]}, "no chat completion"),
        ({"choices": [{"message": {"content": 7}}]}, "no chat completion"),
    ],
)
def test_a_failure_inside_200_is_a_failure(reply: dict[str, Any], sentence: str) -> None:
    with pytest.raises(WRPOError, match=sentence):
        read_reply(reply)
