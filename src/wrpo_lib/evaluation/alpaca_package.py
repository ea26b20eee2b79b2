"""AlpacaEval-2 through the alpaca-eval package itself, offline and without touching its files.

The package's annotator, parser and metrics are used; what breaks in today's environment is given
from outside: a stand-in where ``pkg_resources`` is gone, the side file of length control from our
assets, the baseline's outputs, paths for everything that it would write into its own folder. Its
own client is replaced by :mod:`wrpo_lib.server`, and prompts are filled by
:mod:`wrpo_lib.evaluation.prompts`, since the package lets an answer end the judge's turn.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import logging
import sys
import types
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import yaml

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation import verdicts
from wrpo_lib.evaluation.answers import Answers
from wrpo_lib.evaluation.assets import fetch
from wrpo_lib.evaluation.benchmarks import Benchmark
from wrpo_lib.evaluation.calls import request_hash
from wrpo_lib.evaluation.prompts import Template
from wrpo_lib.io import Store, write_atomically, write_json

if TYPE_CHECKING:
    from wrpo_lib.server import Server


@cache
def package() -> types.ModuleType:
    """The imported package; its root-logger level and its warnings at import stay its own.

    setuptools 82 dropped ``pkg_resources``, of which the package needs two functions.
    """
    level = logging.getLogger().level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                importlib.import_module("pkg_resources")
            except ImportError:
                sys.modules["pkg_resources"] = _stand_in()
            return importlib.import_module("alpaca_eval")
    finally:
        logging.getLogger().setLevel(level)


def _stand_in() -> types.ModuleType:
    from packaging.version import parse

    module = types.ModuleType("pkg_resources")
    module.parse_version = parse  # type: ignore[attr-defined]
    module.get_distribution = importlib.metadata.distribution  # type: ignore[attr-defined]
    return module


def is_switched(instruction: str, seed: int = 0) -> bool:
    """Whether upstream shows the model first for this instruction: its own seeded random.

    With its seed, 406 of the 805 instructions are switched.
    """
    choose = package().utils.random_seeded_choice
    return bool(choose(seed=f"is_switched_outputs{instruction}{seed}", choices=[False, True]))


@contextmanager
def _offline_side_file() -> Iterator[None]:
    """The package's length control reads our checked copy instead of asking the hub each time."""
    module = importlib.import_module("alpaca_eval.metrics.glm_winrate")
    path = str(fetch("alpaca_eval_2/df_gamed.csv"))
    patched = mock.patch.object(module, "hf_hub_download", return_value=path)
    with patched, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn 1.9 on what 1.10 will drop
        yield


def _annotator_class(template: Template) -> type:
    """The package's annotator with prompts that no answer can change."""
    base = importlib.import_module("alpaca_eval.annotators.pairwise_evaluator")

    class Single(base.SinglePairwiseAnnotator):  # type: ignore[name-defined]
        def _make_prompts(
            self, df: Any, prompt_template: str | None = None
        ) -> tuple[list[str], Any]:
            names = ("instruction", "output_1", "output_2")
            rows = df[list(names)].itertuples(index=False, name=None)
            filled = (template.fill(dict(zip(names, row, strict=True)))[0] for row in rows)
            return [json.dumps(messages) for messages in filled], df

    class Pairwise(base.PairwiseAnnotator):  # type: ignore[name-defined]
        SingleAnnotator = Single

    return Pairwise


class Completions:
    """The package's completion function over our client, with a store of every reply.

    ``calls`` counts the requests made by this object. Replies that can be read are never asked for
    again; the others stay on record and are asked again by the next run. The package's own cache
    is not used: it knows an annotator by its name only, keeps failures for good and rounds.
    """

    def __init__(self, store: Store, server: Server, judge: str) -> None:
        self.store, self.server, self.judge, self.calls = store, server, judge, 0

    def __call__(self, prompts: list[str], **settings: Any) -> dict[str, list[Any]]:
        """Choices in the order of ``prompts``; one that failed is empty text, so it is missing."""
        from wrpo_lib.server import complete

        bodies = [{"model": self.judge, "messages": json.loads(p), **settings} for p in prompts]
        keys = [request_hash(body) for body in bodies]
        have = self._readable(set(keys))
        wanted = {k: b for k, b in zip(keys, bodies, strict=True) if k not in have}
        tries = Counter(request for request, _ in sorted(self.store.keys()))
        for reply in complete(self.server, wanted.items()):
            self.calls += 1
            problem = reply.error or verdicts.read_logprobs(reply.body or {}).problem
            row = {"request": reply.key, "attempt": tries[reply.key], "problem": problem}
            self.store.append({**row, "body": reply.body})
        have = self._readable(set(keys))
        choices = [self._choice(have.get(key)) for key in keys]
        nothing = [0.0] * len(keys)
        return {
            "completions": [c["text"] for c in choices], "completions_all": choices,
            "price_per_example": nothing, "time_per_example": nothing,
        }  # fmt: skip

    def _readable(self, keys: set[str]) -> dict[str, dict[str, Any]]:
        rows = (row for row in self.store if row["request"] in keys and row["problem"] is None)
        return {row["request"]: row["body"] for row in rows}

    @staticmethod
    def _choice(body: dict[str, Any] | None) -> dict[str, Any]:
        if body is None:
            missing: list[dict[str, Any]] = [
                {"top_logprobs": []}
            ]  # its parser reads this as missing
            return {"text": "", "total_tokens": 0, "logprobs": {"content": missing}}
        total = (body.get("usage") or {}).get("total_tokens", 0)
        return {**body["choices"][0], "text": verdicts.text_of(body), "total_tokens": total}


def evaluate(
    benchmark: Benchmark, answers: Answers, model: str, judge: str, server: Server, out: Path
) -> dict[str, Any]:
    """Judge ``model`` with the package; returns its metrics beside counts.

    ``out`` gets ``annotations.json`` in the package's form, ``metrics.json``, the annotator's
    configuration and the replies that make a second run free. The package joins instruction
    difficulty by row position, so length control needs all instructions in the official order,
    which they are put into here; with missing answers it is left out and said so.
    """
    alpaca = package()
    out.mkdir(parents=True, exist_ok=True)
    template = benchmark.templates[""]
    config, name = _write_config(benchmark, judge, template, out)
    ours, theirs = _outputs(benchmark, answers, model)
    with (
        Store(out / f"replies_{name}.jsonl", ("request", "attempt")) as store,
        _quiet(),
        _offline_side_file(),
    ):
        completions = Completions(store, server, judge)
        complete = not answers.missing(model)
        board, annotations = alpaca.evaluate(
            model_outputs=ours, reference_outputs=theirs, annotators_config=config, name=model,
            output_path=None, precomputed_leaderboard=None, is_cache_leaderboard=False,
            is_return_instead_of_print=True, Annotator=_annotator_class(template),
            fn_metric="get_length_controlled_winrate" if complete else "get_winrate",
            sort_by="win_rate", metric_kwargs={"save_weights_dir": None} if complete else {},
            caching_path=None, fn_completions=completions,
        )  # fmt: skip
    readable = sum(row.get("preference") is not None and row["preference"] == row["preference"]
                   for row in annotations)  # fmt: skip
    metrics = {
        "model": model, "judge": judge, "annotator": name, "template_sha256": template.sha256,
        "alpaca_eval": importlib.metadata.version("alpaca-eval"), "calls": completions.calls,
        "n_questions": len(benchmark.questions), "n_answered": len(ours),
        "n_missing": len(ours) - readable, **_plain(board.loc[model].to_dict()),
    }  # fmt: skip
    write_json(out / "annotations.json", [_plain(row) for row in annotations])
    write_json(out / "metrics.json", metrics)
    return metrics


def _write_config(
    benchmark: Benchmark, judge: str, template: Template, out: Path
) -> tuple[Path, str]:
    """The annotator's configuration and its name, which holds a hash of all that it stands for.

    The package's cache knows an annotator by its name alone.
    """
    settings = benchmark.judge_settings
    content = json.dumps([judge, template.messages, settings], sort_keys=True)
    safe = "".join(c if c.isalnum() or c in "-._" else "-" for c in judge)
    name = f"{safe}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    package_config = yaml.safe_load(fetch("alpaca_eval_2/judge_config.yaml").read_text("utf-8"))
    kept = dict(next(iter(package_config.values())))
    kept.pop("fn_completions")  # ours is handed over as a function
    folder = (out / name).resolve()
    write_json(folder / "template.json", template.messages)  # it insists on a file
    kept |= {"prompt_template": str(folder / "template.json"), "completions_kwargs": settings}
    write_atomically(folder / "configs.yaml", yaml.safe_dump({name: kept}, sort_keys=False))
    return folder / "configs.yaml", name


def _outputs(
    benchmark: Benchmark, answers: Answers, model: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Answers of the model and of the baseline, both in the official order."""
    baseline = benchmark.baselines[""]
    reference = Answers(benchmark.baseline_files[baseline], benchmark)
    pairs = []
    for question in benchmark.questions:
        text = answers.text(model, question)
        if text is not None:
            row = {"dataset": question.dataset, "instruction": question.turns[0]}
            theirs = {**row, "output": reference.text(baseline, question), "generator": baseline}
            pairs.append(({**row, "output": text, "generator": model}, theirs))
    if not pairs:
        raise WRPOError(f"{answers.path} holds no answers of {model!r}; correct the model's name")
    return [ours for ours, _ in pairs], [theirs for _, theirs in pairs]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the package's log lines, one for every step, off the user's screen."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """numpy scalars as Python's, NaN as None, so that the row is JSON."""
    plain = {}
    for key, value in row.items():
        value = value.item() if hasattr(value, "item") else value
        plain[key] = None if isinstance(value, float) and value != value else value
    return plain
