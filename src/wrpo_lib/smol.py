"""Quadruples of real text, by the stages of ``wrpo sample``, ``score`` and ``pair``.

The target is SmolLM2-135M-Instruct, sampled here; the sources are published responses of real
models to AlpacaEval's prompts; the reward is sentence BLEU against those of one more model. The
published texts are under CC BY-NC: they stay in ``runs/smol``, ``results/smol`` has numbers only.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from sacrebleu.metrics import BLEU

from wrpo_lib.analysis.statistics import mean_interval, proportion_interval
from wrpo_lib.errors import WRPOError
from wrpo_lib.generation import stage
from wrpo_lib.generation.engines import make_engine
from wrpo_lib.generation.stage import Engine, Sampling
from wrpo_lib.io import Row, file_hash, iter_rows, parse_row, write_rows
from wrpo_lib.models import load_tokenizer, packaged_weights
from wrpo_lib.quadruples import Pairing, ResponseTable, build_rows, read_prompts, read_responses
from wrpo_lib.quadruples.convert import open_rows
from wrpo_lib.quadruples.schema import RESPONSES
from wrpo_lib.records import project_root, write_results

TARGET, REFERENCE, SEED = "target", "gpt4_1106_preview.json.gz", 0
STAGES = ("sources", "target", "scored")
SAMPLING = Sampling(max_tokens=128)  # the paper's, but for what a CPU makes in minutes


def run(
    folder: Path,
    published: Path,
    engine: Engine,
    weights: str,
    prompts: int = 120,
    sampling: Sampling = SAMPLING,
) -> ResponseTable:
    """All stages, whose finished rows are kept in ``folder``; returns the scored responses.

    ``published``: folder of alpaca_eval's outputs, each a source but ``REFERENCE``; the prompts are
    drawn from those that all files answer once.
    """
    reference, files = published / REFERENCE, sorted(published.glob("*.json.gz"))
    references = {row["prompt_id"]: row["text"] for row in open_rows(reference)[1]}
    given, own, scored = (folder / f"{name}.jsonl" for name in STAGES)
    hashes = {path.name: file_hash(path) for path in files}
    stage.keep_record(given, {"published": hashes, "prompts": prompts, "seed": SEED})
    if not given.is_file():
        sources = [path for path in files if path != reference]
        rows = [row for path in sources for row in open_rows(path)[1]]
        answers = Counter(row["prompt_id"] for row in rows)
        whole = sorted(i for i, n in answers.items() if n == len(sources) and i in references)
        if len(whole) < prompts:
            what = f"{len(whole)} prompts that every file answers once, not {prompts}"
            raise WRPOError(f"{published} has {what}; add prompts to the files that lack them")
        drawn = set(random.Random(SEED).sample(whole, prompts))
        kept = (row for row in rows if row["prompt_id"] in drawn)
        write_rows(({**row, "model": f"source-{row['model']}"} for row in kept), given)

    asked = read_prompts(given), engine, TARGET, sampling, own
    stage.sample_responses(*asked, settings={"weights": weights})
    metric = BLEU(effective_order=True)
    metric.sentence_score("a", ["a"])  # its signature exists after a first score

    def bleu(rows: Iterable[Row]) -> Iterator[tuple[Row, float]]:
        for row in rows:
            yield row, metric.sentence_score(row["text"], [references[row["prompt_id"]]]).score

    name, known = f"bleu|{metric.get_signature()}", {"references": file_hash(reference)}
    for path in (given, own):
        stage.score_responses(iter_rows(path), bleu, name, scored, settings=known)
    return read_responses([scored])


def result_tables(
    table: ResponseTable, rows: list[Row], count: Callable[[str], int]
) -> dict[str, pd.DataFrame]:
    """Numbers of responses, quadruples and models; ``count`` counts a text's tokens."""
    responses = pd.DataFrame(table.fetch(table.frame.index).values())
    quadruples = pd.DataFrame(rows)
    truncated = set(responses.query("finish_reason == 'length'")["text"])
    texts = [(responses, "text", ""), *((quadruples, role, f"{role}_") for role in RESPONSES)]
    for frame, column, name in texts:
        frame[f"{name}n_tokens"] = frame[column].map(count)
        frame[f"{name}truncated"] = frame[column].isin(truncated)
        frame["prompt_id"] = frame["prompt_id"].str[:12]
    models, n = [], len(quadruples)
    for name, own in responses.groupby("model"):
        row: dict[str, Any] = {"source": name, "n": n}
        if name != TARGET:  # how often it gives y_ws
            won = int((quadruples["source_model"] == name).sum())
            row |= proportion_interval(won, n).spread("share")
        row |= mean_interval(own["reward"], own["prompt_id"]).spread("reward")
        models.append({**row, "truncated": own["truncated"].mean()})
    numbers = ["prompt_id", "model", "sample", "reward", "n_tokens", "truncated"]
    return {
        "rewards": responses[numbers],
        "quadruples": quadruples.drop(columns=["prompt", *RESPONSES]),
        "sources": pd.DataFrame(models),
    }


def make_results(published: Path) -> Path:
    """Run the study (finished rows are kept) and write ``results/smol``."""
    model, folder = packaged_weights(), project_root() / "runs" / "smol"
    table = run(folder, published, make_engine("transformers", str(model)), file_hash(model))
    rows, counts = build_rows(table, Pairing(target=TARGET))
    tokenizer = load_tokenizer(str(model))
    stages = [parse_row((folder / f"{n}.run.json").read_bytes(), n) for n in STAGES]
    record = {
        "what": "quadruples of real text: a sampled target, published responses of the sources",
        "target": model.name,
        "sampled": stages[1],
        "reward": stages[2]["settings"],
        "reference": REFERENCE.removesuffix(".json.gz"),
        **stages[0]["settings"],
        "pairing": counts,
    }
    tables = result_tables(table, rows, lambda text: len(tokenizer.tokenize(text)))
    return write_results("smol", tables, record)
