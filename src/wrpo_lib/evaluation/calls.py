"""The judge calls a benchmark needs: one request for each question, turn, order and sample.

Calls are made one at a time from texts on disk, so memory does not grow with the answers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.answers import Answers
from wrpo_lib.evaluation.benchmarks import Benchmark, Question
from wrpo_lib.evaluation.prompts import Template

ORDERS = ("both", "upstream")
METRICS = ("logprobs", "text")
MODES = ("single", "pair")
BASELINE_FIRST, MODEL_FIRST = "baseline first", "model first"


@dataclass(frozen=True)
class JudgingPlan:
    """How to judge.

    ``order``: ``both`` judges each pair twice with the answers swapped; ``upstream`` as the
    benchmark's own tool does (AlpacaEval-2: one seeded random order; the others swap anyway).
    ``metric`` (AlpacaEval-2): ``logprobs`` weighs the first token's probabilities, ``text`` takes
    the verdict that was written, ``samples`` times. ``mode`` (MT-Bench): ``single`` or ``pair``.
    """

    benchmark: Benchmark
    judge: str
    order: str = "both"
    metric: str = "logprobs"
    samples: int = 1
    mode: str = "single"

    def __post_init__(self) -> None:
        options = (("order", ORDERS), ("metric", METRICS), ("mode", MODES))
        for name, known in options:
            if getattr(self, name) not in known:
                raise WRPOError(
                    f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}"
                )
        if self.samples < 1:
            raise WRPOError(f"samples is {self.samples}; give at least 1")
        if self.samples > 1 and (self.benchmark.name, self.metric) != ("alpaca-eval", "text"):
            raise WRPOError(
                f"samples is {self.samples}; only alpaca-eval with --metric text takes several"
            )
        if self.mode == "pair" and "pair-1" not in self.benchmark.templates:
            raise WRPOError(
                f"{self.benchmark.name} {self.benchmark.version} has no pairwise prompts; "
                "use --mode single"
            )

    @property
    def pairwise(self) -> bool:
        """Whether answers are compared with a baseline's."""
        return self.benchmark.name != "mt-bench" or self.mode == "pair"

    @property
    def settings(self) -> dict[str, Any]:
        """Fields of the request beside model and messages."""
        settings = dict(self.benchmark.judge_settings)
        if self.benchmark.name == "alpaca-eval" and self.metric == "text":
            for name in ("logprobs", "top_logprobs"):
                settings.pop(name, None)
        return settings

    @property
    def metric_name(self) -> str:
        """What a row's number is; numbers of different metrics are never averaged together."""
        if self.benchmark.name == "alpaca-eval":
            return "weighted" if self.metric == "logprobs" else f"verdict of {self.samples} samples"
        return "verdict" if self.pairwise else "score"


@dataclass(frozen=True)
class Call:
    """One judgement to make: ``row`` says of what; ``body`` is the request.

    ``body`` is None where no judge is needed because the two answers are the same text.
    """

    row: dict[str, Any]
    body: dict[str, Any] | None


def request_hash(body: Mapping[str, Any], *identity: Any) -> str:
    """sha256 of the whole request (judge, prompt with its texts, settings) and of what it is for.

    Two models, or two orders of identical outputs, may come to the same request and are still two
    judgements.
    """
    return hashlib.sha256(json.dumps([body, *identity], sort_keys=True).encode()).hexdigest()


def open_baselines(
    benchmark: Benchmark, path: Path | None = None
) -> tuple[Benchmark, dict[str, Answers]]:
    """The baselines' answers by model, and the benchmark they belong to.

    ``path`` replaces the benchmark's own baseline; it must hold one model.
    """
    if path is None:
        files = benchmark.baseline_files
        return benchmark, {m: _only(Answers(f, benchmark), m) for m, f in files.items()}
    answers = Answers(path, benchmark)
    if len(answers.models()) != 1:
        raise WRPOError(f"{path} holds {len(answers.models())} models; a baseline is one model")
    model = answers.models()[0]
    return replace(benchmark, baselines={"": model}), {model: answers}


def _only(answers: Answers, model: str) -> Answers:
    if model not in answers.models():
        raise WRPOError(f"{answers.path} holds no answers of {model!r}; fetch the asset again")
    return answers


def calls(
    plan: JudgingPlan, answers: Answers, model: str, baselines: dict[str, Answers]
) -> Iterator[Call]:
    """Every call for one model, question by question; unanswered turns are skipped."""
    for question in plan.benchmark.questions:
        for turn in range(1, len(question.turns) + 1):
            texts = _texts(answers, model, question, turn)
            if texts is None:
                continue
            if not plan.pairwise:
                yield from _single(plan, question, turn, model, texts)
                continue
            name = plan.benchmark.baseline(question)
            theirs = _texts(baselines[name], name, question, turn)
            if theirs is None:
                raise WRPOError(
                    f"the baseline {name!r} has no answer to question {question.question_id!r}; "
                    "complete its file"
                )
            yield from _pair(plan, question, turn, model, name, texts, theirs)


def _texts(answers: Answers, model: str, question: Question, turn: int) -> list[str] | None:
    """Answers of all turns up to ``turn``; None if one is missing."""
    found = [answers.text(model, question, t + 1) for t in range(turn)]
    return None if None in found else [str(t) for t in found]


def _single(
    plan: JudgingPlan, question: Question, turn: int, model: str, texts: list[str]
) -> Iterator[Call]:
    template = plan.benchmark.template(question, turn, "single")
    values = {**_asked(question), "answer": texts[0]}
    values |= {f"answer_{i}": text for i, text in enumerate(texts, 1)}
    row = {**_identity(plan, question, turn, model, template), "game": 0,
           "length_model": len(texts[-1])}  # fmt: skip
    yield _call(plan, template, values, row)


def _pair(
    plan: JudgingPlan, question: Question, turn: int, model: str, baseline: str,
    ours: list[str], theirs: list[str],
) -> Iterator[Call]:  # fmt: skip
    template = plan.benchmark.template(question, turn, "pair")
    row = {
        **_identity(plan, question, turn, model, template),
        "baseline": baseline, "length_model": len(ours[-1]), "length_baseline": len(theirs[-1]),
    }  # fmt: skip
    for game, order in _orders(plan, question):
        shown = (theirs, ours) if order == BASELINE_FIRST else (ours, theirs)
        values = _asked(question)
        for i in (0, 1):
            side = "ab"[i]
            values |= {f"output_{i + 1}": shown[i][0], f"answer_{i + 1}": shown[i][0],
                       f"answer_{side}": shown[i][0]}  # fmt: skip
            values |= {f"answer_{side}_{t}": text for t, text in enumerate(shown[i], 1)}
        placed = {**row, "order": order, "game": game}
        if plan.benchmark.name == "alpaca-eval" and ours == theirs:
            yield _call(plan, template, values, {**placed, "identical": True})
            continue
        for sample in range(plan.samples):
            yield _call(plan, template, values, {**placed, "sample": sample})


def _orders(plan: JudgingPlan, question: Question) -> list[tuple[int, str]]:
    """Game numbers and orders; in FastChat's first game the model is A, elsewhere the baseline."""
    orders = [BASELINE_FIRST, MODEL_FIRST]
    if plan.benchmark.name == "mt-bench":
        orders.reverse()
    games = list(enumerate(orders, 1))
    if plan.benchmark.name == "alpaca-eval" and plan.order == "upstream":
        from wrpo_lib.evaluation.alpaca_eval import is_switched

        return [games[is_switched(question.turns[0])]]
    return games


def _asked(question: Question) -> dict[str, str]:
    values = {"instruction": question.turns[0], "question": question.turns[0]}
    values |= {f"question_{i}": text for i, text in enumerate(question.turns, 1)}
    return values | {f"ref_answer_{i}": text for i, text in enumerate(question.references, 1)}


def _identity(
    plan: JudgingPlan, question: Question, turn: int, model: str, template: Template
) -> dict[str, Any]:
    return {
        "benchmark": plan.benchmark.name, "version": plan.benchmark.version,
        "question_id": question.question_id, "category": question.category, "turn": turn,
        "model": model, "judge": plan.judge, "template": template.name,
        "template_sha256": template.sha256, "settings": plan.settings,
        "metric": plan.metric_name,
    }  # fmt: skip


def _call(
    plan: JudgingPlan, template: Template, values: dict[str, str], row: dict[str, Any]
) -> Call:
    messages, neutralised = template.fill(values)
    body = {"model": plan.judge, "messages": messages, **plan.settings}
    if plan.samples > 1:
        body["seed"] = row.get("sample", 0)
    identity = (row["model"], row["question_id"], row["game"])
    row = {"request": request_hash(body, *identity), **row, "neutralised": neutralised}
    return Call(row, None if row.get("identical") else body)
