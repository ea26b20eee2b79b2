"""``wrpo score``: rewards of responses."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from wrpo_lib.cli.generate import Counts, GPUs, Ray, WorkerBatch, Workers, cluster, refuse_suffix
from wrpo_lib.errors import WRPOError
from wrpo_lib.io import file_hash, iter_rows


def register(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command()(score)


def score(
    files: Annotated[list[Path], typer.Argument(help="responses")],
    out: Annotated[Path, typer.Option(help="rewards, .jsonl; a run that was cut goes on")],
    reward_model: Annotated[str, typer.Option(help="hub id or folder, one output a row")] = "",
    bleu: Annotated[
        Path | None, typer.Option(help="references (responses, alpaca_eval): sentence BLEU")
    ] = None,
    nano: Annotated[bool, typer.Option(help="the nano testbed's programmatic reward")] = False,
    revision: Annotated[str | None, typer.Option(help="commit of the model on the hub")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option(help="run code that comes with the model (ArmoRM); needs --revision")
    ] = False,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16, float32")] = "auto",
    batch_tokens: Annotated[int, typer.Option(help="tokens per batch, padding included")] = 16384,
    max_length: Annotated[int | None, typer.Option(help="tokens; default: the model's")] = None,
    workers: Workers = 0,
    ray: Ray = "",
    gpus: GPUs = None,
    worker_batch: WorkerBatch = 256,
) -> None:
    """Give every response of FILES a reward; only missing ones are made."""
    _score(SimpleNamespace(**locals()))


def _score(o: SimpleNamespace) -> None:
    from wrpo_lib.generation import stage
    from wrpo_lib.generation.cluster import SCORED_AT_ONCE, OnCluster
    from wrpo_lib.quadruples import read_responses

    refuse_suffix(o.out)
    if sum([bool(o.reward_model), o.bleu is not None, o.nano]) != 1:
        raise WRPOError("choose one reward: --reward-model MODEL, --bleu REFERENCES or --nano")
    totals = [len(read_responses([path], scored=False)) for path in o.files]
    counts, window = Counts(), stage.WINDOW
    scorer: Any = None if o.workers and o.reward_model else _scorer(o)
    name = o.reward_model or getattr(scorer, "name", "nano")
    if o.workers:
        place = cluster(o, needs_gpu=bool(o.reward_model))
        scorer, window = OnCluster(partial(_scorer, o), place, scores=True), SCORED_AT_ONCE
    for path, total in zip(o.files, totals, strict=True):
        counts += stage.score_responses(
            iter_rows(path),
            scorer,
            name,
            o.out,
            where=str(path),
            total=total,
            settings=_settings(o),
            window=window,
        )
    typer.echo(_scored(o.out, counts, scorer))


def _settings(o: SimpleNamespace) -> dict[str, Any]:
    """What must stay the same while a file grows, beside the reward model's name."""
    if o.reward_model:
        return {"revision": o.revision, "dtype": o.dtype, "max_length": o.max_length}
    return {} if o.bleu is None else {"references": file_hash(o.bleu)}


def _scorer(o: SimpleNamespace) -> Any:
    from wrpo_lib.generation.rewards import Bleu, load_reward_model, read_references
    from wrpo_lib.nano.reward import score_rows

    if o.bleu is not None:
        return Bleu(read_references(o.bleu))
    if o.nano:
        return score_rows
    return load_reward_model(
        o.reward_model,
        o.revision,
        o.trust_remote_code,
        o.dtype,
        batch_tokens=o.batch_tokens,
        max_length=o.max_length,
    )


def _scored(out: Path, counts: Counts, scorer: Any) -> str:
    cut, folded = getattr(scorer, "cut", 0), getattr(scorer, "folded", 0)
    notes = [
        f"{counts['empty']} empty responses have none" if counts["empty"] else "",
        f"{counts['truncated']} responses ended by the token limit" if counts["truncated"] else "",
        f"{cut} conversations cut from the left" if cut else "",
        f"the system turn of {folded} put into the user turn" if folded else "",
        f"{counts['kept']} were there already" if counts["kept"] else "",
    ]
    said = "".join(f"; {note}" for note in notes if note)
    return f"{out}: made {counts['made']} rewards{said}"
