"""The testbed's judge behind HTTP: a local OpenAI-compatible server with known biases.

It reads the real judge prompts of the three benchmarks (and the testbed's own), recognises the
protocol and the answers in them, and replies as the judge of :mod:`wrpo_lib.nano.judge` would: one
token with log-probabilities (AlpacaEval-2), an Arena-Hard label, a rating or a pairwise verdict
(MT-Bench). Every draw depends on the texts alone, so a repeated request gets the same reply.
Answers to testbed tasks are judged by their true quality, other texts by one drawn from their hash.
"""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from wrpo_lib.nano.judge import Judge, verdict
from wrpo_lib.nano.reward import quality
from wrpo_lib.nano.tasks import ALPHABET, SKILLS, Task

MODEL = "nano-judge"
_TEXT = r"(?P<{}>.*?)"
_INSTRUCTION = re.compile(rf"^({'|'.join(SKILLS)}) : ([{ALPHABET}](?: [{ALPHABET}])*)$")
_FOLLOW_UP = re.compile(rf"^now ({'|'.join(SKILLS)}) it$")


def _pattern(protocol: str, turn: int, text: str) -> tuple[str, int, re.Pattern[str]]:
    """A prompt's form, written with ``{question}``, ``{a}``, ``{b}``, ``{first}`` for its texts."""
    parts = re.split(r"\{(\w+)\}", text)
    seen: set[str] = set()
    regex = ""
    for i, part in enumerate(parts):
        if i % 2 == 0:
            regex += re.escape(part)
        else:
            regex += f"(?P={part})" if part in seen else _TEXT.format(part)
            seen.add(part)
    return protocol, turn, re.compile(regex, re.DOTALL)


FORMS = [
    _pattern("alpaca", 1, '"instruction": """{question}""",\n}'
             '{_}"model_identifier": "m",\n        "output": """{a}"""\n    },\n'
             '{__}"model_identifier": "M",\n        "output": """{b}"""\n    }\n}'),
    _pattern("arena", 1, "<|User Prompt|>\n{question}\n\n"
             "<|The Start of Assistant A's Answer|>\n{a}\n"
             "<|The End of Assistant A's Answer|>\n\n<|The Start of Assistant B's Answer|>\n{b}\n"
             "<|The End of Assistant B's Answer|>"),
    _pattern("mt-pair", 1, "[User Question]\n{question}\n\n[The Start of {_}"
             "[The Start of Assistant A's Answer]\n{a}\n[The End of Assistant A's Answer]\n\n"
             "[The Start of Assistant B's Answer]\n{b}\n[The End of Assistant B's Answer]"),
    _pattern("mt-pair", 1, "[User Question]\n{question}\n\n"
             "[The Start of Assistant A's Answer]\n{a}\n[The End of Assistant A's Answer]\n\n"
             "[The Start of Assistant B's Answer]\n{b}\n[The End of Assistant B's Answer]"),
    _pattern("mt-pair", 2, "<|The Start of Assistant A's Conversation with User|>\n\n### User:\n"
             "{question}\n\n### Assistant A:\n{_}\n\n### User:\n{second}\n\n"
             "### Assistant A:\n{a}\n\n"
             "<|The End of Assistant A's Conversation with User|>\n\n\n"
             "<|The Start of Assistant B's Conversation with User|>\n\n### User:\n{__}\n\n"
             "### Assistant B:\n{___}\n\n### User:\n{____}\n\n### Assistant B:\n{b}\n\n"
             "<|The End of Assistant B's Conversation with User|>"),
    _pattern("mt", 2, "<|The Start of Assistant A's Conversation with User|>\n\n### User:\n"
             "{question}\n\n### Assistant A:\n{_}\n\n### User:\n{second}\n\n"
             "### Assistant A:\n{a}\n\n"
             "<|The End of Assistant A's Conversation with User|>"),
    _pattern("mt", 1, "[Question]\n{question}\n\n[The Start of Reference Answer]{_}"
             "[The Start of Assistant's Answer]\n{a}\n[The End of Assistant's Answer]"),
    _pattern("mt", 1, "[Question]\n{question}\n\n"
             "[The Start of Assistant's Answer]\n{a}\n[The End of Assistant's Answer]"),
    _pattern("alpaca", 1, "[instruction]\n{question}\n[end of instruction]\n[answer m]\n{a}\n"
             "[end of answer m]\n[answer M]\n{b}\n[end of answer M]"),
    _pattern("arena", 1, "[prompt]\n{question}\n[end of prompt]\n[answer A]\n{a}\n"
             "[end of answer A]\n[answer B]\n{b}\n[end of answer B]"),
    _pattern("mt", 2, "[question 1]\n{question}\n[end of question 1]{_}[question 2]\n{second}\n"
             "[end of question 2]\n[answer 2]\n{a}\n[end of answer 2]"),
    _pattern("mt", 1, "[question 1]\n{question}\n[end of question 1]\n[answer 1]\n{a}\n"
             "[end of answer 1]"),
]  # fmt: skip
"""The judge prompts it knows, the longer form of two before the shorter."""


@dataclass(frozen=True)
class Seen:
    """What a prompt shows: ``b`` is empty where a single answer is graded."""

    protocol: str
    turn: int
    question: str
    second: str
    a: str
    b: str


def recognise(prompt: str) -> Seen | None:
    """The protocol, questions and answers in a judge prompt; None for a prompt it does not know."""
    for protocol, turn, pattern in FORMS:
        if found := pattern.search(prompt):
            texts = found.groupdict()
            names = ("question", "second", "a", "b")
            return Seen(protocol, turn, *(texts.get(n) or "" for n in names))
    return None


def true_quality(seen: Seen, text: str) -> float:
    """Quality of an answer: computed for a testbed task, else uniform in [0, 1] by its hash."""
    if found := _INSTRUCTION.match(seen.question.strip()):
        then = _FOLLOW_UP.match(seen.second.strip())
        task = Task(found.group(1), found.group(2).replace(" ", ""), then and then.group(1))
        return quality(task, text, seen.turn)
    return float(np.random.default_rng(zlib.crc32(text.encode())).uniform())


def reply(seen: Seen, judge: Judge) -> tuple[str, list[dict[str, Any]] | None]:
    """The judge's text and, for AlpacaEval-2, its log-probabilities of the first token."""
    key = (seen.protocol, seen.turn, seen.question, seen.a, seen.b)
    if seen.protocol == "mt":
        noise = judge.rng(*key).standard_normal()
        score = judge.rating(true_quality(seen, seen.a), len(seen.a), noise)
        return f"A short reason. Rating: [[{score}]]", None
    gap = true_quality(seen, seen.a) - true_quality(seen, seen.b)
    for_a = judge.latent(gap, len(seen.a) - len(seen.b), False, key)
    if seen.protocol == "alpaca":
        return _one_token(float(expit(for_a)))
    label = verdict(for_a)
    if seen.protocol == "mt-pair":
        label = "C" if label == "A=B" else label.replace(">", "")[0]
    return f"A short reason. My final verdict is: [[{label}]]", None


def _one_token(p: float) -> tuple[str, list[dict[str, Any]]]:
    """m with probability ``p`` among other tokens of little weight; the likeliest is the text."""
    weights = {"m": 0.98 * p, "M": 0.98 * (1 - p), "Both": 0.01, "The": 0.006, "I": 0.004}
    ranked = sorted(weights.items(), key=lambda item: -item[1])
    listed = [
        {"token": t, "logprob": float(np.log(max(w, 1e-300))), "bytes": list(t.encode())}
        for t, w in ranked
    ]
    return ranked[0][0], [{**listed[0], "top_logprobs": listed}]


def respond(body: dict[str, Any], judge: Judge) -> tuple[int, dict[str, Any]]:
    """HTTP status and JSON body for one ``POST /v1/chat/completions``."""
    if body.get("model") != MODEL:
        what = f"The model `{body.get('model')}` does not exist; this server has `{MODEL}`"
        return 404, {"error": {"message": what, "type": "invalid_request_error", "code": "model"}}
    messages = body.get("messages") or [{}]
    seen = recognise(str(messages[-1].get("content", "")))
    text, tokens = ("I cannot tell.", None) if seen is None else reply(seen, judge)
    characters = sum(len(str(m.get("content", ""))) for m in messages)
    usage = {"prompt_tokens": characters // 4, "completion_tokens": max(1, len(text) // 4)}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "length" if body.get("max_tokens") == 1 else "stop",
        "logprobs": {"content": tokens} if tokens and body.get("logprobs") else None,
    }
    key = json.dumps(body, sort_keys=True).encode()
    return 200, {
        "id": f"nano-{zlib.crc32(key):08x}", "object": "chat.completion", "created": 0,
        "model": f"{MODEL}-seed{judge.seed}", "choices": [choice],
        "usage": {**usage, "total_tokens": sum(usage.values())},
    }  # fmt: skip


Responder = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]


async def serve(
    responder: Responder,
    port: int = 0,
    latency: float = 0.0,
    started: Callable[[int], None] = print,
) -> None:
    """Serve ``responder`` on 127.0.0.1 until cancelled; ``port`` 0 takes a free one.

    ``latency`` seconds pass before each reply, as a model would need; ``started`` gets the port.
    """
    from tornado import httpserver, netutil, web

    class Completions(web.RequestHandler):
        async def post(self) -> None:
            status, answer = responder(json.loads(self.request.body))
            await asyncio.sleep(latency)
            self.set_status(status)
            self.write(answer)

    class Models(web.RequestHandler):
        def get(self) -> None:
            self.write({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    routes = [("/v1/chat/completions", Completions), ("/v1/models", Models)]
    application = web.Application(routes, log_function=lambda handler: None)
    sockets = netutil.bind_sockets(port, "127.0.0.1")
    server = httpserver.HTTPServer(application)
    server.add_sockets(sockets)
    started(sockets[0].getsockname()[1])
    try:
        await asyncio.Event().wait()
    finally:
        server.stop()
