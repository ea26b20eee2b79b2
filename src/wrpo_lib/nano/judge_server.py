"""The testbed's judge behind HTTP: a local OpenAI-compatible server with known biases.

It reads the real judge prompts of the three benchmarks (and the testbed's own), recognises the
protocol and the answers in them, and replies as the judge of :mod:`wrpo_lib.nano.judge` would: one
token with log-probabilities (AlpacaEval-2), an Arena-Hard label or a rating (MT-Bench). Every draw
depends on the texts alone, so a repeated request gets the same reply. Answers to testbed tasks are
judged by their true quality, other texts by one drawn from their hash.
"""

from __future__ import annotations

import http.server
import json
import re
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.special import expit

from wrpo_lib.nano.judge import Judge, verdict
from wrpo_lib.nano.reward import quality
from wrpo_lib.nano.tasks import ALPHABET, SKILLS, Task

MODEL = "nano-judge"
_INSTRUCTION = re.compile(rf"^({'|'.join(SKILLS)}) : ([{ALPHABET}](?: [{ALPHABET}])*)$")
_FOLLOW_UP = re.compile(rf"^now ({'|'.join(SKILLS)}) it$")


@cache
def _forms() -> list[tuple[str, int, re.Pattern[str]]]:
    """Protocol, turn and pattern of each known prompt."""
    found = []
    text = Path(__file__).with_name("judge_prompts.yaml").read_text("utf-8")
    for row in yaml.safe_load(text):
        named = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.*?)", re.escape(row["prompt"]))
        found.append((row["protocol"], row["turn"], re.compile(named, re.DOTALL)))
    return found


@dataclass(frozen=True)
class Seen:
    """What a prompt shows: ``b`` is empty where a single answer is graded."""

    protocol: str
    turn: int
    question: str
    second: str = ""
    a: str = ""
    b: str = ""


def recognise(prompt: str) -> Seen | None:
    """The protocol, questions and answers in a judge prompt; None for a prompt it does not know."""
    for protocol, turn, pattern in _forms():
        if found := pattern.search(prompt):
            texts = found.groupdict()
            return Seen(protocol, turn, **{k: v for k, v in texts.items() if k.strip("_")})
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
    quality_a = true_quality(seen, seen.a)
    if seen.protocol == "mt":
        return f"A short reason. {judge.rated(quality_a, seen.a, key)}", None
    gap = quality_a - true_quality(seen, seen.b)
    for_a = judge.latent(gap, len(seen.a) - len(seen.b), False, key)
    if seen.protocol == "alpaca":
        return _one_token(float(expit(for_a)))
    return f"A short reason. My final verdict is: [[{verdict(for_a)}]]", None


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
    return 200, {
        "id": f"nano-{zlib.crc32(json.dumps(body, sort_keys=True).encode()):08x}",
        "object": "chat.completion",
        "created": 0,
        "model": f"{MODEL}-seed{judge.seed}",
        "choices": [choice],
        "usage": {**usage, "total_tokens": sum(usage.values())},
    }


Responder = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 512


def make_server(responder: Responder, port: int = 0, latency: float = 0.0) -> _Server:
    """A server of ``responder`` on 127.0.0.1, to be started with its ``serve_forever()``.

    ``port`` 0 takes a free one; ``latency`` seconds pass before each reply, as a model would need.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one packet
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, reply = responder(body)
            time.sleep(latency)
            content = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return _Server(("127.0.0.1", port), Handler)
