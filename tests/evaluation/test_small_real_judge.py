"""A real small model as the judge: ``transformers serve`` with SmolLM2-135M-Instruct.

``WRPO_RECORD=1`` writes ``results/judge-smollm2`` again, without texts of others.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from local_server import TRANSFORMERS, serving

from wrpo_lib.evaluation.benchmarks import Benchmark, load, read_answers
from wrpo_lib.evaluation.forms import Texts
from wrpo_lib.evaluation.judging import KEY, Plan, Run
from wrpo_lib.io import Store, file_hash, read_rows, write_json
from wrpo_lib.models import load_causal_lm
from wrpo_lib.nano.world import read_prompt
from wrpo_lib.records import project_root, provenance
from wrpo_lib.server import Server

pytestmark = pytest.mark.slow

NAME = "SmolLM2-135M-Instruct"
PAIRS, LIMIT = 6, 128  # pairs of AlpacaEval-2; tokens of a reply with an explanation


@pytest.fixture(scope="module")
def served(smollm2_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of ``transformers serve`` with SmolLM2, whose weights a package carries."""
    pytest.importorskip("uvicorn", reason="needs transformers[serving]")
    home = tmp_path_factory.mktemp("served")
    model, tokenizer = load_causal_lm(str(smollm2_file), dtype="float32")
    model.is_quantized, model.hf_quantizer = False, None  # dequantised already
    del model.config.quantization_config
    model.save_pretrained(home / NAME)
    tokenizer.save_pretrained(home / NAME)
    with serving([*TRANSFORMERS, "serve", NAME, "--device", "cpu"], home) as url:
        yield url


def judge(
    url: str, folder: Path, bench: Benchmark, model: str, texts: Texts, metric: str = "logprobs"
) -> list[dict[str, Any]]:
    """The rows that judging a model's answers writes."""
    out, path = folder / f"{bench.name}-{metric}.jsonl", bench.baseline
    baseline = next(iter(read_answers(path, bench).items())) if path else None
    with Store(out, KEY) as store:
        run = Run(store, Server(url, connections=2, timeout=300, retries=1))
        run(Plan(bench, NAME, metric=metric).calls(model, texts, baseline))
    return read_rows(out)


def first_pairs(shared: Path) -> tuple[Benchmark, str, Texts]:
    """The shortest real pairs of AlpacaEval-2, so that the small model's context holds them."""
    bench = load("alpaca-eval", "2")
    path = shared / "alpaca_eval" / "Meta-Llama-3-8B-Instruct.json.gz"
    ((name, model),) = read_answers(path, bench).items()
    assert bench.baseline is not None
    (base,) = read_answers(bench.baseline, bench).values()
    differ = [key for key in model if model[key] != base[key]]
    few = sorted(differ, key=lambda key: len(model[key]) + len(base[key]))[:PAIRS]
    return bench, name, {key: model[key] for key in few}


def references() -> tuple[Benchmark, str, Texts]:
    """MT-Bench's reference answers to three questions, judged without showing them twice."""
    bench = load("mt-bench", "0125-references")
    few = tuple(q for q in bench.questions if q.references)[3:30:10]
    texts = {(q.question_id, t): q.references[t - 1] for q in few for t in (1, 2)}
    plain = tuple(replace(q, references=()) for q in few)
    short = {**bench.judge_settings, "max_tokens": LIMIT}
    return replace(bench, questions=plain, judge_settings=short), "gpt-4-0125-preview", texts


def nano_pairs() -> tuple[Benchmark, str, Texts]:
    """Right answers against the testbed's baseline, half of which is wrong."""
    bench = load("arena-hard")
    few = [(q.question_id, read_prompt(q.turns[0])) for q in bench.questions[:4]]
    texts = {(name, 1): f"it is {prompt.answer}." for name, prompt in few}
    short = {**bench.judge_settings, "max_tokens": LIMIT}
    return replace(bench, judge_settings=short), "right", texts


def kept(row: dict[str, Any]) -> dict[str, Any]:
    """What the record keeps of a judgement: of a long reply, which may copy texts, the hash."""
    names = ("benchmark", "version", "question_id", "turn", "model", "baseline", "order", "judge")
    names += ("template", "template_sha256", "settings", "metric", "usage", "status", "problem")
    reply = row["judgment"] or ""
    whole = len(reply) <= 20 or row["version"] == "nano"
    found = {name: row[name] for name in names if row.get(name) is not None}
    found |= {"reply_characters": len(reply), "reply": reply if whole else None}
    return found | {"reply_sha256": hashlib.sha256(reply.encode()).hexdigest()}


def test_a_real_small_model_has_been_the_judge(
    served: str, shared: Path, tmp_path: Path, smollm2_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRPO_ASSETS", str(shared))
    rows = judge(served, tmp_path, *first_pairs(shared))
    rows += judge(served, tmp_path, *first_pairs(shared), metric="text")
    rows += judge(served, tmp_path, *references())
    rows += judge(served, tmp_path, *nano_pairs())
    assert all(row["status"] in ("ok", "unreadable") for row in rows), rows
    # this server gives no log-probabilities: said after 8 replies, instead of 12 empty rows
    weighted = [row for row in rows if row["metric"] == "weighted"]
    assert {row["problem"] for row in weighted} == {"log-probabilities missing"}
    counts: dict[str, dict[str, Any]] = {}
    for row in rows:
        nothing: dict[str, Any] = {"calls": 0, "verdicts": 0, "problems": Counter()}
        kind = counts.setdefault(f"{row['benchmark']}, {row['metric']}", nothing)
        kind["calls"] += 1
        kind["verdicts"] += row["status"] == "ok"
        kind["problems"].update([row["problem"]] if row["problem"] else [])
    found = {
        "judge": NAME,
        "server": "transformers serve",
        "weights": smollm2_file.name,
        "weights_sha256": file_hash(smollm2_file),
        "counts": counts,
        **provenance(),
        "judgements": [kept(r) for r in rows],
    }
    path = project_root() / "results" / "judge-smollm2" / "judgements.json"
    if os.environ.get("WRPO_RECORD") == "1":
        write_json(path, found)
    record = json.loads(path.read_text())
    assert record["weights_sha256"] == found["weights_sha256"]
    calls = [{name: kind["calls"] for name, kind in of["counts"].items()} for of in (found, record)]
    assert calls[0] == calls[1]
