"""What each benchmark asks and how: questions, judge prompts, settings, baselines, decoding.

Real versions read upstream's files through :mod:`wrpo_lib.evaluation.assets`. The version ``nano``
is ours: a few dozen testbed questions and short judge prompts that come with the package, so that
everything runs with nothing downloaded. Scores of different versions are never comparable.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.assets import fetch
from wrpo_lib.evaluation.mt_bench import REFERENCED
from wrpo_lib.evaluation.prompts import Template, from_chatml, from_system_and_user
from wrpo_lib.io import iter_rows

OWN = Path(__file__).with_name("nano")
# FastChat, temperature_config; other categories 0.7
TEMPERATURES = {
    **dict.fromkeys(("writing", "roleplay"), 0.7),
    **dict.fromkeys(("extraction", "math", "coding", "reasoning"), 0.0),
    **dict.fromkeys(("stem", "humanities"), 0.1),
}
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

    ``templates`` by purpose (:meth:`template`), ``judge_settings``: fields of the judge's request,
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
    return VERSIONS[name][version](name, version)


def _read_yaml(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def _alpaca(name: str, version: str) -> Benchmark:
    path = fetch("alpaca_eval_2/baseline_gpt4_1106_preview.json")
    questions = tuple(
        Question(i, row["dataset"], (row["instruction"],), dataset=row["dataset"])
        for i, row in enumerate(iter_rows(path))
    )
    text = fetch("alpaca_eval_2/judge_template.txt").read_text(encoding="utf-8")
    (config,) = _read_yaml(fetch("alpaca_eval_2/judge_config.yaml")).values()
    settings = ("max_tokens", "temperature", "logprobs", "top_logprobs")
    return Benchmark(
        name,
        version,
        questions,
        {"": from_chatml("alpaca_eval_clf", text)},
        {k: config["completions_kwargs"][k] for k in settings},
        {"": "gpt4_1106_preview"},
        {"gpt4_1106_preview": path},
    )


def _mt_bench(name: str, version: str) -> Benchmark:
    """``version`` says whose reference answers the judge sees for math, reasoning and coding."""
    model = "gpt-4-0125-preview" if version == "0125-references" else "gpt-4"
    references = {
        row["question_id"]: tuple(row["choices"][0]["turns"])
        for row in iter_rows(fetch(f"mt_bench/references_{model}.jsonl"))
    }
    questions = []
    for row in iter_rows(fetch("mt_bench/questions.jsonl")):
        own = references[row["question_id"]] if row["category"] in REFERENCED else ()
        questions.append(Question(row["question_id"], row["category"], tuple(row["turns"]), own))
    prompts = {row["name"]: row for row in iter_rows(fetch("mt_bench/judge_prompts.jsonl"))}
    templates = {}
    for mode, plain, math in (
        ("single", "single-v1", "single-math-v1"),
        ("pair", "pair-v2", "pair-math-v1"),
    ):
        for purpose, stem in ((mode, plain), (f"{mode}-reference", math)):
            for turn, suffix in ((1, ""), (2, "-multi-turn")):
                row = prompts[stem + suffix]
                templates[f"{purpose}-{turn}"] = from_system_and_user(
                    row["name"], row["system_prompt"], row["prompt_template"]
                )
    settings = {"temperature": 0, "max_tokens": 2048}  # FastChat, run_judge_single
    return Benchmark(name, version, tuple(questions), templates, settings)


def _arena(
    version: str,
    questions: tuple[Question, ...],
    config: dict[str, Any],
    templates: dict[str, Template],
    baselines: dict[str, str],
) -> Benchmark:
    folder = f"arena_hard_{version}"
    files = {m: fetch(f"{folder}/baseline_{m}.jsonl") for m in sorted(set(baselines.values()))}
    settings = {k: config[k] for k in ("temperature", "max_tokens")}
    return Benchmark("arena-hard", version, questions, templates, settings, baselines, files)


def _arena_v01(name: str, version: str) -> Benchmark:
    config = _read_yaml(fetch("arena_hard_v0.1/judge_config.yaml"))
    questions = tuple(
        Question(row["question_id"], row["category"], tuple(t["content"] for t in row["turns"]))
        for row in iter_rows(fetch("arena_hard_v0.1/questions.jsonl"))
    )
    (user,) = config["prompt_template"]
    template = from_system_and_user("arena-hard-v0.1", config["system_prompt"], user)
    return _arena(version, questions, config, {"": template}, {"": config["baseline_model"]})


def _arena_v2(name: str, version: str) -> Benchmark:
    config = _read_yaml(fetch("arena_hard_v2.0/judge_config.yaml"))
    code = fetch("arena_hard_v2.0/judge_utils.py").read_text(encoding="utf-8")
    questions = tuple(
        Question(row["uid"], row["category"], (row["prompt"],))
        for row in iter_rows(fetch("arena_hard_v2.0/questions.jsonl"))
    )
    user = config["prompt_template"]
    # our names of the placeholders: one builder for both versions
    names = {"QUESTION": "question_1", "ANSWER_A": "answer_1", "ANSWER_B": "answer_2"}
    for theirs, ours in names.items():
        user = user.replace("{" + theirs + "}", "{" + ours + "}")
    wanted = {q.category for q in questions}
    own = {k: v for k, v in constants(code)["JUDGE_SETTINGS"].items() if k in wanted}
    templates = {
        category: from_system_and_user(f"arena-hard-v2.0-{category}", v["system_prompt"], user)
        for category, v in own.items()
    }
    baselines = {category: v["baseline"] for category, v in own.items()}
    return _arena(version, questions, config, templates, baselines)


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


def _own(name: str, version: str) -> Benchmark:
    questions = tuple(
        Question(row["question_id"], row["category"], tuple(row["turns"]))
        for row in iter_rows(OWN / "questions.jsonl")
        if row["benchmark"] == name
    )
    own = _read_yaml(OWN / "templates.yaml")[name]
    templates = {
        purpose: from_system_and_user(
            f"nano-{name}-{purpose or 'pair'}", row["system"], row["user"]
        )
        for purpose, row in own["templates"].items()
    }
    found = Benchmark(name, version, questions, templates, own["settings"])
    if name == "mt-bench":
        return found
    found.baselines[""] = "nano-baseline"
    found.baseline_files["nano-baseline"] = OWN / f"baseline-{name}.jsonl"
    return found


VERSIONS = {
    "alpaca-eval": {"nano": _own, "2": _alpaca},
    "mt-bench": {"nano": _own, "0125-references": _mt_bench, "original-references": _mt_bench},
    "arena-hard": {"nano": _own, "v0.1": _arena_v01, "v2.0": _arena_v2},
}
"""Benchmark -> version -> its loader; MT-Bench's differ in the reference answers the judge sees."""
