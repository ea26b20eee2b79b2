"""The judge calls a benchmark needs: one request for each question, turn, order and sample."""

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
from wrpo_lib.evaluation.verdicts import BASELINE_FIRST, MODEL_FIRST
from wrpo_lib.io import Row

OPTIONS = {
    "order": ("both", "upstream"),
    "metric": ("logprobs", "text"),
    "mode": ("single", "pair"),
}


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
        for name, known in OPTIONS.items():
            if getattr(self, name) not in known:
                raise WRPOError(
                    f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}"
                )
        several = (self.benchmark.name, self.metric) == ("alpaca-eval", "text")
        if self.samples < 1 or (self.samples > 1 and not several):
            raise WRPOError(
                f"samples is {self.samples}; give 1, or more for alpaca-eval with --metric text"
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
        dropped = ("logprobs", "top_logprobs") if self.metric == "text" else ()
        return {k: v for k, v in self.benchmark.judge_settings.items() if k not in dropped}

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

    row: Row
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
        return benchmark, {model: Answers(file, benchmark) for model, file in files.items()}
    answers = Answers(path, benchmark)
    if len(answers.models()) != 1:
        raise WRPOError(f"{path} holds {len(answers.models())} models; a baseline is one model")
    (model,) = answers.models()
    return replace(benchmark, baselines={"": model}), {model: answers}


def calls(
    plan: JudgingPlan, answers: Answers, model: str, baselines: dict[str, Answers]
) -> Iterator[Call]:
    """Every call for one model, question by question; unanswered turns are skipped."""
    for question in plan.benchmark.questions:
        for turn in range(1, len(question.turns) + 1):
            texts = answers.texts(model, question, turn)
            if texts is None:
                continue
            if plan.pairwise:
                yield from _pair(plan, question, model, texts, baselines)
            else:
                yield _single(plan, question, model, texts)


def _single(plan: JudgingPlan, question: Question, model: str, texts: list[str]) -> Call:
    template, row = _start(plan, question, model, texts)
    values = {**_asked(question), "answer": texts[0]}
    values |= {f"answer_{turn}": text for turn, text in enumerate(texts, 1)}
    return _call(plan, template, values, {**row, "game": 0})


def _pair(
    plan: JudgingPlan,
    question: Question,
    model: str,
    ours: list[str],
    baselines: dict[str, Answers],
) -> Iterator[Call]:
    baseline = plan.benchmark.baseline(question)
    theirs = baselines[baseline].texts(baseline, question, len(ours))
    if theirs is None:
        raise WRPOError(
            f"the baseline {baseline!r} has no answer to question {question.question_id!r}; "
            "complete its file"
        )
    template, row = _start(plan, question, model, ours)
    row |= {"baseline": baseline, "length_baseline": len(theirs[-1])}
    identical = plan.benchmark.name == "alpaca-eval" and ours == theirs
    for game, order in _orders(plan, question):
        values = _asked(question)
        shown = (theirs, ours) if order == BASELINE_FIRST else (ours, theirs)
        for number, side, texts in zip((1, 2), "ab", shown, strict=True):
            names = (f"output_{number}", f"answer_{number}", f"answer_{side}")
            values |= dict.fromkeys(names, texts[0])
            values |= {f"answer_{side}_{turn}": text for turn, text in enumerate(texts, 1)}
        for sample in range(1 if identical else plan.samples):
            placed = {**row, "order": order, "game": game, "sample": sample}
            yield _call(plan, template, values, placed, identical)


def _orders(plan: JudgingPlan, question: Question) -> list[tuple[int, str]]:
    """Game numbers and orders; in FastChat's first game the model is A, elsewhere the baseline."""
    if plan.benchmark.name == "mt-bench":
        return [(1, MODEL_FIRST), (2, BASELINE_FIRST)]
    games = [(1, BASELINE_FIRST), (2, MODEL_FIRST)]
    if plan.benchmark.name == "alpaca-eval" and plan.order == "upstream":
        from wrpo_lib.evaluation.alpaca_eval import is_switched

        return [games[is_switched(question.turns[0])]]
    return games


def _asked(question: Question) -> dict[str, str]:
    """What a question gives to a template, under all names that upstream's templates use."""
    values = {"instruction": question.turns[0], "question": question.turns[0]}
    values |= {f"question_{i}": text for i, text in enumerate(question.turns, 1)}
    return values | {f"ref_answer_{i}": text for i, text in enumerate(question.references, 1)}


def _start(
    plan: JudgingPlan, question: Question, model: str, texts: list[str]
) -> tuple[Template, Row]:
    """The template for the last of ``texts``, and the start of its row."""
    turn = len(texts)
    template = plan.benchmark.template(question, turn, plan.mode)
    return template, {
        "benchmark": plan.benchmark.name,
        "version": plan.benchmark.version,
        "question_id": question.question_id,
        "category": question.category,
        "turn": turn,
        "model": model,
        "judge": plan.judge,
        "template": template.name,
        "template_sha256": template.sha256,
        "settings": plan.settings,
        "metric": plan.metric_name,
        "length_model": len(texts[-1]),
    }


def _call(
    plan: JudgingPlan, template: Template, values: dict[str, str], row: Row, identical: bool = False
) -> Call:
    messages, neutralised = template.fill(values)
    body = {"model": plan.judge, "messages": messages, **plan.settings}
    if plan.samples > 1:
        body["seed"] = row["sample"]
    request = request_hash(body, row["model"], row["question_id"], row["game"])
    return Call(
        {"request": request, **row, "neutralised": neutralised}, None if identical else body
    )
