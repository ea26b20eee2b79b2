"""The testbed's judge: the truth seen through known biases (ours).

It answers in the forms of the three benchmarks, so that the statistics for real judgements can be
held against the truth. Behind HTTP it is an OpenAI-compatible server that reads the benchmarks'
real judge prompts. Every draw depends on texts and names alone.
"""

import http.server
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml
from scipy.special import expit, log_expit

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation import scores
from wrpo_lib.nano.world import quality, read_prompt

MODEL = "nano-judge"
VERDICTS = tuple(scores.FOR_A)  # from strongly for A to strongly for B
EDGES = (2.5, 0.5, -0.5, -2.5)  # of the latent preference for A
_FORMS = yaml.safe_load(Path(__file__).with_name("judge_prompts.yaml").read_text("utf-8"))


def normal(*key: object) -> float:
    """The N(0, 1) draw of one judgement."""
    seed = zlib.crc32("|".join(map(str, key)).encode())
    return float(np.random.default_rng(seed).standard_normal())


@dataclass(frozen=True)
class Judge:
    """``quality``: logits per unit of quality; ``position``: logits for what is shown second;
    ``length``: logits for 6 characters more; ``noise``: s.d. in logits."""

    quality: float = 4.0
    position: float = 0.35  # published judgements: models score 8.6 points higher when shown second
    length: float = 0.5
    noise: float = 0.5

    def prefers(self, quality: Any, length: Any, second: Any, noise: Any) -> Any:
        """Preference in logits by the differences and N(0, 1) ``noise``; scalars or arrays."""
        position = np.where(second, self.position, -self.position)
        return self.quality * quality + self.length * length / 6 + position + self.noise * noise

    def rating(self, quality: Any, length: Any, noise: Any) -> Any:
        """A whole score from 1 to 10 for an answer of ``length`` characters, N(0, 1) ``noise``."""
        longer = self.length * (length - 12) / 12  # 12 is usual on nano
        score = 2.0 + 7.0 * quality + longer + self.noise * noise
        return np.clip(np.round(score), 1, 10).astype(int)


JUDGE = Judge()  # of the study and of ``wrpo nano-judge``


def verdict(for_a: float) -> str:
    """Arena-Hard's label for a latent preference for A, in logits."""
    return VERDICTS[sum(for_a < edge for edge in EDGES)]


def _read(answers: pd.DataFrame) -> pd.DataFrame:
    """Tracked answers in the protocols' words: ``model``, ``question_id``, with the truth."""
    names = {"arm": "model", "prompt_text": "question_id", "response": "text"}
    rows = answers.rename(columns=names)[list(names.values())].fillna({"text": ""})
    said = zip(rows["question_id"], rows["text"], strict=True)
    rows["quality"] = [quality(read_prompt(asked), text) for asked, text in said]
    return rows.assign(length=rows["text"].str.len())


def _both_orders(
    answers: pd.DataFrame, baseline: str, judge: Judge, protocol: str, orders: tuple[Any, Any]
) -> pd.DataFrame:
    """Answers beside the baseline's, once in each of ``orders``, of which in the first the baseline
    is shown first, with ``logit``, the preference for the model."""
    rows = _read(answers)
    base = rows[rows["model"] == baseline].drop(columns="model")
    rest, suffixes = rows[rows["model"] != baseline], ("_model", "_baseline")
    both = rest.merge(base, on="question_id", suffixes=suffixes, validate="many_to_one")
    both = both.merge(pd.DataFrame({"order": orders}), how="cross")
    keys = both[["question_id", "model", "order"]].itertuples(index=False)
    both["logit"] = judge.prefers(
        both["quality_model"] - both["quality_baseline"],
        both["length_model"] - both["length_baseline"],
        both["order"] == orders[0],
        np.array([normal(protocol, *key) for key in keys]),
    )
    return both


def judge_alpaca(answers: pd.DataFrame, baseline: str, judge: Judge) -> pd.DataFrame:
    """AlpacaEval-2's form: preference in [1, 2] for the model, both orders. ``answers``: those of
    one world in ``results/nano/answers``, the baseline's among them."""
    judged = _both_orders(answers, baseline, judge, "alpaca", ("baseline first", "model first"))
    same = judged["text_model"] == judged["text_baseline"]
    judged["preference"] = np.where(same, 1.5, 1.0 + expit(judged["logit"]))
    columns = ["question_id", "model", "order", "preference", "length_model", "length_baseline"]
    return judged[columns]


def judge_arena(answers: pd.DataFrame, baseline: str, judge: Judge) -> pd.DataFrame:
    """Arena-Hard's form: two games, positions swapped, five verdicts (game 1: baseline is A). Its
    hard prompts are those of class B."""
    hard = answers[answers["class"] == "B"]
    judged = _both_orders(hard, baseline, judge, "arena", (1, 2))
    for_a = judged["logit"].mask(judged["order"] == 1, -judged["logit"])
    judged = judged.assign(game=judged["order"], verdict=for_a.map(verdict))
    return judged[["question_id", "model", "game", "verdict"]]


def judge_mt_bench(answers: pd.DataFrame, judge: Judge) -> pd.DataFrame:
    """MT-Bench's form: a score from 1 to 10 for each turn; the turns of a question are two prompts
    of one skill."""
    rows = _read(answers)
    skill = rows["question_id"].str.partition(" ")[0]
    place = rows.groupby(["model", skill]).cumcount()
    question = skill + "-" + (place // 2).astype(str)
    keys = rows[["question_id", "model"]].itertuples(index=False)
    noise = np.array([normal("mt", *key) for key in keys])
    score = judge.rating(rows["quality"], rows["length"], noise)
    return rows[["model"]].assign(question_id=question, turn=place % 2 + 1, score=score)


def judged(answers: pd.DataFrame, settings: dict[str, Any]) -> pd.DataFrame:
    """What the judge says of tracked answers: a row per protocol, seed, question and arm, with the
    share of games won or the mean score of the turns. ``settings``: the recipe's evaluation."""
    found = []
    for seed, own in answers.groupby("seed"):
        alpaca = judge_alpaca(own, settings["baseline"], JUDGE)
        arena = scores.with_points(judge_arena(own, settings["arena_baseline"], JUDGE))
        forms = {
            "alpaca_eval": alpaca.assign(value=alpaca["preference"] - 1),
            "arena_hard": arena.assign(value=arena["points"] / 100),
            "mt_bench": judge_mt_bench(own, JUDGE).rename(columns={"score": "value"}),
        }
        for protocol, rows in forms.items():
            means = rows.groupby(["question_id", "model"], as_index=False)["value"].mean()
            found.append(means.assign(protocol=protocol, seed=seed))
    rows = pd.concat(found, ignore_index=True).rename(columns={"model": "arm"})
    return rows[["protocol", "seed", "question_id", "arm", "value"]]


class Seen(NamedTuple):
    """What a prompt shows: ``b`` is empty where a single answer is graded."""

    protocol: str
    turn: int
    question: str
    second: str = ""
    a: str = ""
    b: str = ""


def recognise(prompt: str) -> Seen | None:
    """What a judge prompt shows; None for one that it does not know."""
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


def reply(seen: Seen, judge: Judge) -> tuple[str, list[dict[str, Any]] | None]:
    """The judge's text and, for AlpacaEval-2, its log-probabilities of the first token; quality is
    the truth of a testbed prompt, else uniform in [0, 1] by the text's hash."""
    noise = normal(seen.protocol, seen.turn, seen.question, seen.a, seen.b)
    try:
        prompt = read_prompt(seen.second or seen.question)
        a, b = (quality(prompt, text) for text in (seen.a, seen.b))
    except WRPOError:
        seeds = (zlib.crc32(text.encode()) for text in (seen.a, seen.b))
        a, b = (float(np.random.default_rng(seed).uniform()) for seed in seeds)
    if seen.protocol == "mt":
        return f"Rating: [[{judge.rating(a, len(seen.a), noise)}]]", None
    for_a = float(judge.prefers(a - b, len(seen.a) - len(seen.b), False, noise))
    if seen.protocol == "arena":
        return f"My final verdict is: [[{verdict(for_a)}]]", None
    chances = {"m": float(log_expit(for_a)), "M": float(log_expit(-for_a))}
    likeliest = "m" if for_a >= 0 else "M"
    listed = [{"token": token, "logprob": chance} for token, chance in chances.items()]
    return likeliest, [{"token": likeliest, "top_logprobs": listed}]


def respond(body: dict[str, Any], judge: Judge = JUDGE) -> tuple[int, dict[str, Any]]:
    """HTTP status and JSON body for one ``POST /v1/chat/completions``."""
    asked = [str(message.get("content", "")) for message in body.get("messages") or [{}]]
    seen = recognise(asked[-1])
    text, tokens = ("I cannot tell.", None) if seen is None else reply(seen, judge)
    read, written = len("".join(asked)) // 4, max(1, len(text) // 4)
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "length" if body.get("max_tokens") == 1 else "stop",
        "logprobs": {"content": tokens} if tokens and body.get("logprobs") else None,
    }
    said = {"id": MODEL, "object": "chat.completion", "created": 0, "model": MODEL}
    return 200, {**said, "choices": [choice], "usage": usage}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers requests of a ``ThreadingHTTPServer`` as the judge."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """Reply to one request."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, reply = respond(body)
        content = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Write nothing."""
