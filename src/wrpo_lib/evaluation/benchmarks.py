"""What each benchmark asks and how: questions, judge prompts, settings, baselines, decoding.

Real versions read upstream's files through :mod:`wrpo_lib.evaluation.assets`. The version ``nano``
is ours: a few dozen testbed questions and short judge prompts that come with the package, so that
everything runs with nothing downloaded. Scores of different versions are never comparable.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.assets import fetch, open_plain
from wrpo_lib.evaluation.prompts import Template, from_chatml, from_system_and_user

OWN = Path(__file__).with_name("nano")
VERSIONS = {
    "alpaca-eval": ("nano", "2"),
    "mt-bench": ("nano", "0125-references", "original-references"),
    "arena-hard": ("nano", "v0.1", "v2.0"),
}
"""Benchmark -> its versions; MT-Bench's differ in the reference answers the judge sees."""

REFERENCED = ("math", "reasoning", "coding")  # FastChat, NEED_REF_CATS
# FastChat, temperature_config; other categories 0.7
TEMPERATURES = {
    "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0,
    "reasoning": 0.0, "stem": 0.1, "humanities": 0.1,
}  # fmt: skip
MAX_TOKENS = 4096  # the SimPO project's limit, whose numbers the paper reuses


@dataclass(frozen=True)
class Question:
    """One question: an id as upstream has it, its turns, and reference answers if there are any.

    AlpacaEval-2 has no ids; its position in the official order (0 to 804) is one.
    """

    question_id: int | str
    category: str
    turns: tuple[str, ...]
    references: tuple[str, ...] = ()
    dataset: str = ""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark in one version.

    ``templates`` by purpose (:func:`template`), ``judge_settings``: fields of the judge's request,
    ``baselines``: category -> model (the category ``""`` stands for all), ``baseline_files``:
    model -> file of its answers.
    """

    name: str
    version: str
    questions: tuple[Question, ...]
    templates: dict[str, Template]
    judge_settings: dict[str, Any]
    baselines: dict[str, str] = field(default_factory=dict)
    baseline_files: dict[str, Path] = field(default_factory=dict)

    def baseline(self, question: Question) -> str:
        """The model that a question's answers are compared with."""
        return self.baselines.get(question.category) or self.baselines[""]

    def temperature(self, question: Question) -> float:
        """Sampling temperature of the answers.

        AlpacaEval-2 0.9 and Arena-Hard greedy (the SimPO project; the paper is silent), MT-Bench
        by category (FastChat).
        """
        if self.name == "mt-bench":
            return TEMPERATURES.get(question.category, 0.7)
        return 0.9 if self.name == "alpaca-eval" else 0.0

    def template(self, question: Question, turn: int = 1, mode: str = "single") -> Template:
        """The judge prompt for a question; MT-Bench has eight, by mode, reference and turn."""
        if self.name == "mt-bench":
            reference = "-reference" if question.references else ""
            return self.templates[f"{mode}{reference}-{turn}"]
        return self.templates.get(question.category) or self.templates[""]


def load(name: str, version: str = "nano") -> Benchmark:
    """A benchmark by name and version; unknown ones list what there is."""
    if name not in VERSIONS:
        raise WRPOError(f"unknown benchmark {name!r}; choose one of {', '.join(VERSIONS)}")
    if version not in VERSIONS[name]:
        known = ", ".join(VERSIONS[name])
        raise WRPOError(f"{name} has no version {version!r}; choose one of {known}")
    if version == "nano":
        return _own(name)
    if name == "alpaca-eval":
        return _alpaca()
    if name == "mt-bench":
        return _mt_bench(version)
    return _arena_v01() if version == "v0.1" else _arena_v2()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with open_plain(path) as file:
        yield from (json.loads(line) for line in file if line.strip())


def _read_yaml(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def _alpaca() -> Benchmark:
    path = fetch("alpaca_eval_2/baseline_gpt4_1106_preview.json")
    with open_plain(path) as file:
        rows = json.load(file)
    questions = tuple(
        Question(i, row["dataset"], (row["instruction"],), dataset=row["dataset"])
        for i, row in enumerate(rows)
    )
    config = _read_yaml(fetch("alpaca_eval_2/judge_config.yaml"))
    kept = ("max_tokens", "temperature", "logprobs", "top_logprobs")
    settings = next(iter(config.values()))["completions_kwargs"]
    text = fetch("alpaca_eval_2/judge_template.txt").read_text(encoding="utf-8")
    return Benchmark(
        "alpaca-eval", "2", questions, {"": from_chatml("alpaca_eval_clf", text)},
        {k: settings[k] for k in kept}, {"": "gpt4_1106_preview"}, {"gpt4_1106_preview": path},
    )  # fmt: skip


def _mt_bench(version: str) -> Benchmark:
    model = "gpt-4-0125-preview" if version == "0125-references" else "gpt-4"
    references = {
        row["question_id"]: tuple(row["choices"][0]["turns"])
        for row in _lines(fetch(f"mt_bench/references_{model}.jsonl"))
    }
    questions = tuple(
        Question(
            row["question_id"], row["category"], tuple(row["turns"]),
            references[row["question_id"]] if row["category"] in REFERENCED else (),
        )
        for row in _lines(fetch("mt_bench/questions.jsonl"))
    )  # fmt: skip
    prompts = {row["name"]: row for row in _lines(fetch("mt_bench/judge_prompts.jsonl"))}
    names = {"single": ("single-v1", "single-math-v1"), "pair": ("pair-v2", "pair-math-v1")}
    templates = {}
    for mode, (plain, math) in names.items():
        for reference, stem in (("", plain), ("-reference", math)):
            for turn, suffix in ((1, ""), (2, "-multi-turn")):
                row = prompts[stem + suffix]
                templates[f"{mode}{reference}-{turn}"] = from_system_and_user(
                    row["name"], row["system_prompt"], row["prompt_template"]
                )
    # FastChat, run_judge_single
    return Benchmark(
        "mt-bench", version, questions, templates, {"temperature": 0, "max_tokens": 2048}
    )


def _arena_v01() -> Benchmark:
    config = _read_yaml(fetch("arena_hard_v0.1/judge_config.yaml"))
    questions = tuple(
        Question(row["question_id"], row["category"], tuple(t["content"] for t in row["turns"]))
        for row in _lines(fetch("arena_hard_v0.1/questions.jsonl"))
    )
    user = config["prompt_template"][0]
    return Benchmark(
        "arena-hard", "v0.1", questions,
        {"": from_system_and_user("arena-hard-v0.1", config["system_prompt"], user)},
        {k: config[k] for k in ("temperature", "max_tokens")},
        {"": config["baseline_model"]},
        {config["baseline_model"]: fetch("arena_hard_v0.1/baseline_gpt-4-0314.jsonl")},
    )  # fmt: skip


def _arena_v2() -> Benchmark:
    config = _read_yaml(fetch("arena_hard_v2.0/judge_config.yaml"))
    code = fetch("arena_hard_v2.0/judge_utils.py").read_text(encoding="utf-8")
    by_category = constants(code)["JUDGE_SETTINGS"]
    questions = tuple(
        Question(row["uid"], row["category"], (row["prompt"],))
        for row in _lines(fetch("arena_hard_v2.0/questions.jsonl"))
    )
    # our names of the placeholders: one builder for both versions
    names = {"QUESTION": "question_1", "ANSWER_A": "answer_1", "ANSWER_B": "answer_2"}
    user = config["prompt_template"]
    for theirs, ours in names.items():
        user = user.replace("{" + theirs + "}", "{" + ours + "}")
    wanted = {q.category for q in questions}
    return Benchmark(
        "arena-hard", "v2.0", questions,
        {c: from_system_and_user(f"arena-hard-v2.0-{c}", by_category[c]["system_prompt"], user)
         for c in sorted(wanted)},
        {k: config[k] for k in ("temperature", "max_tokens")},
        {c: by_category[c]["baseline"] for c in sorted(wanted)},
        {model: fetch(f"arena_hard_v2.0/baseline_{model}.jsonl")
         for model in sorted({by_category[c]["baseline"] for c in wanted})},
    )  # fmt: skip


def constants(code: str) -> dict[str, Any]:
    """The constants that a Python file assigns, read from its text without running it."""
    found: dict[str, Any] = {}

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            return found[node.id]
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            return {value(k): value(v) for k, v in pairs if k is not None}
        return ast.literal_eval(node)

    for node in ast.parse(code).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = value(node.value)
    return found


def _own(name: str) -> Benchmark:
    questions = tuple(
        Question(row["question_id"], row["category"], tuple(row["turns"]),
                 tuple(row.get("references", ())))
        for row in _lines(OWN / "questions.jsonl") if row["benchmark"] == name
    )  # fmt: skip
    rows = _read_yaml(OWN / "templates.yaml")[name]
    templates = {
        purpose: from_system_and_user(f"nano-{name}-{purpose or 'pair'}", row["system"],
                                      row["user"])
        for purpose, row in rows["templates"].items()
    }  # fmt: skip
    files = {} if name == "mt-bench" else {"nano-baseline": OWN / f"baseline-{name}.jsonl"}
    baselines = {} if name == "mt-bench" else {"": "nano-baseline"}
    return Benchmark(name, "nano", questions, templates, rows["settings"], baselines, files)
