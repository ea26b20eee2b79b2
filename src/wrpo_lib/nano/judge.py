"""The testbed's judge: true quality seen through known biases (ours).

A logistic judge with a quality weight, a position bias, a length bias and noise. It answers in the
forms of the three benchmarks, so the same statistics run on its judgements and on real ones, and
their corrections can be held against the truth. Judging is a pure function of the tracked answers,
so the judgements are made again wherever they are needed instead of being stored.

Behind HTTP it is a local OpenAI-compatible server that reads the benchmarks' real judge prompts.
Answers to testbed tasks are judged by their true quality, other texts by one drawn from their hash.
Every draw depends on texts and names alone, so a repeated request gets the same reply.
"""

from __future__ import annotations

import http.server
import json
import re
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy.special import expit

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation import alpaca_eval, verdicts
from wrpo_lib.nano.reward import quality
from wrpo_lib.nano.tasks import ALPHABET, SKILLS, Task, task_from_id
from wrpo_lib.records import read_results, read_run

MODEL = "nano-judge"
VERDICTS = tuple(verdicts.FOR_A)  # from strongly for A to strongly for B
EDGES = (2.5, 0.5, -0.5, -2.5)  # of the latent preference for A

_INSTRUCTION = re.compile(rf"({'|'.join(SKILLS)}) : ([{ALPHABET}](?: [{ALPHABET}])*)")
_FOLLOW_UP = re.compile(rf"now ({'|'.join(SKILLS)}) it")
_FORMS = yaml.safe_load(Path(__file__).with_name("judge_prompts.yaml").read_text("utf-8"))


@dataclass(frozen=True)
class Judge:
    """``quality``: logits a unit of quality; ``position``: logits for what is shown second;
    ``length``: logits for ``length_unit`` characters more; ``noise``: s.d. in logits."""

    quality: float = 4.0
    position: float = 0.35  # published judgements: models score 8.6 points higher when shown second
    length: float = 0.5
    noise: float = 0.5
    seed: int = 0
    length_unit: float = 20.0  # characters; real answers need thousands

    def normal(self, *key: object) -> float:
        """The N(0, 1) draw of one judgement."""
        text = "|".join(map(str, (self.seed, *key)))
        return float(np.random.default_rng(zlib.crc32(text.encode())).standard_normal())

    def prefers(self, quality: Any, length: Any, second: Any, noise: Any) -> Any:
        """Preference in logits by the differences and N(0, 1) ``noise``; scalars or arrays."""
        position = np.where(second, self.position, -self.position)
        liked = self.quality * quality + self.length * length / self.length_unit + position
        return liked + self.noise * noise

    def rating(self, quality: Any, length: Any, noise: Any) -> Any:
        """A whole score from 1 to 10 for an answer of ``length`` characters, N(0, 1) ``noise``."""
        usual = 2 * self.length_unit
        longer = self.length * (length - usual) / usual
        score = 2.0 + 5.5 * quality + longer + self.noise * noise
        return np.clip(np.round(score), 1, 10).astype(int)


def verdict(for_a: float) -> str:
    """Arena-Hard's label for a latent preference for A, in logits."""
    return VERDICTS[sum(for_a < edge for edge in EDGES)]


def _both_orders(
    answers: pd.DataFrame, baseline: str, judge: Judge, protocol: str, orders: tuple[Any, Any]
) -> pd.DataFrame:
    """First answers beside the baseline's, once an order: ``logit``, the preference for the model.

    In the first of ``orders`` the baseline is shown first.
    """
    columns = ["prompt_id", "model", "quality", "length", "text"]
    first = answers[answers["turn"] == 1].assign(length=lambda d: d["text"].str.len())[columns]
    base = first[first["model"] == baseline].drop(columns="model")
    if base.empty:
        raise WRPOError(f"the baseline {baseline!r} has no answers; answer with it first")
    rest = first[first["model"] != baseline]
    both = rest.merge(base, on="prompt_id", suffixes=("", "_baseline"), validate="many_to_one")
    both = both.merge(pd.DataFrame({"order": orders}), how="cross")
    keys = both[["prompt_id", "model", "order"]].itertuples(index=False)
    both["logit"] = judge.prefers(
        both["quality"] - both["quality_baseline"],
        both["length"] - both["length_baseline"],
        both["order"] == orders[0],
        np.array([judge.normal(protocol, *key) for key in keys]),
    )
    return both.rename(columns={"prompt_id": "question_id", "length": "length_model"})


def judge_alpaca(answers: pd.DataFrame, baseline: str, judge: Judge) -> pd.DataFrame:
    """AlpacaEval-2's form: preference in [1, 2] for the model, both orders."""
    judged = _both_orders(answers, baseline, judge, "alpaca", ("baseline first", "model first"))
    same = judged["text"] == judged["text_baseline"]
    judged["preference"] = np.where(same, 1.5, 1.0 + expit(judged["logit"]))
    columns = ["question_id", "model", "order", "preference", "length_model", "length_baseline"]
    return judged[columns]


def judge_arena(answers: pd.DataFrame, baseline: str, judge: Judge) -> pd.DataFrame:
    """Arena-Hard's form: two games, positions swapped, five verdicts (game 1: baseline is A)."""
    judged = _both_orders(answers, baseline, judge, "arena", (1, 2))
    for_a = judged["logit"].mask(judged["order"] == 1, -judged["logit"])
    judged = judged.assign(game=judged["order"], verdict=for_a.map(verdict))
    return judged[["question_id", "model", "game", "verdict"]]


def judge_mt_bench(answers: pd.DataFrame, judge: Judge) -> pd.DataFrame:
    """MT-Bench's form: a score from 1 to 10 for each turn, as a reply that holds ``[[x]]``."""
    keys = answers[["prompt_id", "model", "turn"]].itertuples(index=False)
    noise = np.array([judge.normal("mt", *key) for key in keys])
    rated = judge.rating(answers["quality"].to_numpy(), answers["text"].str.len(), noise)
    judged = answers.assign(judgment=[f"Rating: [[{score}]]" for score in rated])
    judged = judged.rename(columns={"prompt_id": "question_id"})
    return judged[["question_id", "turn", "model", "judgment"]]


def judged_rows(answers: pd.DataFrame, models: list[str], baseline: str) -> pd.DataFrame:
    """AlpacaEval-2's form of judgements of greedy answers, as :mod:`wrpo_lib.evaluation.forms`
    reads files."""
    greedy = answers[answers["decoding"] == "greedy"]
    judged = judge_alpaca(greedy[greedy["model"].isin([*models, baseline])], baseline, Judge())
    return judged.assign(
        baseline=baseline, judge="nano judge", version="nano", template="", metric="weighted"
    )


def benchmark_table(profile: str, models: list[str]) -> pd.DataFrame:
    """Scores of ``models`` under the three protocols, a row per seed, protocol and model."""
    run, judge, rows = read_run(profile), Judge(), []
    settings = run["world"]["evaluation"]  # the baselines, how many letters make a prompt hard
    base, arena_base = settings["baseline"], settings["arena_baseline"]
    for seed in run["seeds"]:
        answers = read_results(profile, f"answers_seed{seed}")
        answers = answers[answers["model"].isin([*models, base, arena_base])]
        greedy = answers[answers["decoding"] == "greedy"]
        turns = answers[(answers["decoding"] == "two_turn") & answers["model"].isin(models)]
        letters = greedy["prompt_id"].map(lambda i: len(task_from_id(i).letters))
        hard = greedy[letters >= settings["arena_letters"]]
        forms: dict[str, tuple[pd.DataFrame, Any]] = {
            "alpaca_eval2": (judge_alpaca(greedy, base, judge), alpaca_eval.win_rate),
            "arena_hard": (judge_arena(hard, arena_base, judge), verdicts.arena_hard),
            "mt_bench": (judge_mt_bench(turns, judge), verdicts.mt_bench),
        }
        for benchmark, (judged, summarise) in forms.items():
            for model in models:
                found = summarise(judged[judged["model"] == model])["interval"]
                rows.append((seed, benchmark, model, found.value, found.low, found.high))
    return pd.DataFrame(rows, columns=["seed", "benchmark", "model", "value", "low", "high"])


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
    for form in _FORMS:
        start, *parts = re.split(r"\{(\w+)\}", form["prompt"])  # literals and names in turn
        _, met, rest = prompt.partition(start)
        texts = {}
        for name, literal in zip(parts[::2], parts[1::2], strict=True):
            texts[name], following, rest = rest.partition(literal)
            met = met and following
        if met:
            texts.pop("other", None)
            return Seen(form["protocol"], form["turn"], **texts)
    return None


def true_quality(seen: Seen, text: str) -> float:
    """Quality of an answer: computed for a testbed task, else uniform in [0, 1] by its hash."""
    if found := _INSTRUCTION.fullmatch(seen.question.strip()):
        then = _FOLLOW_UP.fullmatch(seen.second.strip())
        task = Task(found.group(1), found.group(2).replace(" ", ""), then and then.group(1))
        return quality(task, text, seen.turn)
    return float(np.random.default_rng(zlib.crc32(text.encode())).uniform())


def reply(seen: Seen, judge: Judge) -> tuple[str, list[dict[str, Any]] | None]:
    """The judge's text and, for AlpacaEval-2, its log-probabilities of the first token."""
    noise = judge.normal(seen.protocol, seen.turn, seen.question, seen.a, seen.b)
    quality_a = true_quality(seen, seen.a)
    if seen.protocol == "mt":
        rating = judge.rating(quality_a, len(seen.a), noise)
        return f"A short reason. Rating: [[{rating}]]", None
    gap = quality_a - true_quality(seen, seen.b)
    for_a = float(judge.prefers(gap, len(seen.a) - len(seen.b), False, noise))
    if seen.protocol == "arena":
        return f"A short reason. My final verdict is: [[{verdict(for_a)}]]", None
    p = float(expit(for_a))  # of m; other tokens have little weight, the likeliest is the text
    weights = {"m": 0.98 * p, "M": 0.98 * (1 - p), "Both": 0.01, "The": 0.006, "I": 0.004}
    listed: list[dict[str, Any]] = [
        {"token": t, "logprob": float(np.log(max(w, 1e-300))), "bytes": list(t.encode())}
        for t, w in sorted(weights.items(), key=lambda item: -item[1])
    ]
    return listed[0]["token"], [{**listed[0], "top_logprobs": listed}]


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


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 512


Responder = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]


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
