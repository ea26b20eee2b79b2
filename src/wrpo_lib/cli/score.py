"""``wrpo score``: rewards of responses."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wrpo_lib.cli.generate import Counts, refuse_suffix
from wrpo_lib.cli.workers import score_spread, workers_of
from wrpo_lib.errors import WRPOError
from wrpo_lib.io import file_hash

if TYPE_CHECKING:
    from wrpo_lib.generation.rewards import Scorer


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
    batch_tokens: Annotated[int, typer.Option(help="tokens a batch, padding included")] = 16384,
    max_length: Annotated[int | None, typer.Option(help="tokens; default: the model's")] = None,
    workers: Annotated[int, typer.Option(help="processes of a Ray cluster; 0: this one")] = 0,
    ray: Annotated[str, typer.Option(help="address of a running cluster; default: start one")] = "",
    gpus: Annotated[float, typer.Option(help="GPUs a worker asks for")] = 0,
    worker_batch: Annotated[int, typer.Option(help="rows a worker takes at a time")] = 256,
) -> None:
    """Give every response of FILES a reward; only missing ones are made."""
    _score(SimpleNamespace(**locals()))


def _score(o: SimpleNamespace) -> None:
    from wrpo_lib.generation.stage import score_responses
    from wrpo_lib.io import iter_rows

    refuse_suffix(o.out)
    if sum([bool(o.reward_model), o.bleu is not None, o.nano]) != 1:
        raise WRPOError("choose one reward: --reward-model MODEL, --bleu REFERENCES or --nano")
    totals = [_count_responses(path) for path in o.files]
    name, settings = o.reward_model or _name_of(o.bleu), _settings(o)
    if o.workers:
        spread = workers_of(o.workers, o.ray, o.gpus, o.worker_batch)
        score_spread(o.files, partial(_scorer, o), name, o.out, spread, settings)
        return
    scorer, counts = _scorer(o), Counts()
    for path, total in zip(o.files, totals, strict=True):
        counts += score_responses(
            iter_rows(path), scorer, name, o.out, where=str(path), total=total, settings=settings
        )
    typer.echo(_scored(o.out, counts, scorer))


def _count_responses(path: Path) -> int:
    """The number of rows; anything wrong with them is said before a model is loaded."""
    from wrpo_lib.quadruples import read_responses

    return len(read_responses([path], scored=False))


def _settings(o: SimpleNamespace) -> dict[str, Any]:
    """What must stay the same while a file grows, beside the reward model's name."""
    if o.reward_model:
        return {"revision": o.revision, "dtype": o.dtype, "max_length": o.max_length}
    return {} if o.bleu is None else {"references": file_hash(o.bleu)}


def _scorer(o: SimpleNamespace) -> Scorer:
    if not o.reward_model:
        return _programmatic(o.bleu)
    from wrpo_lib.generation.rewards import load_reward_model

    return load_reward_model(
        o.reward_model, o.revision, o.trust_remote_code, o.dtype,
        batch_tokens=o.batch_tokens, max_length=o.max_length,
    )  # fmt: skip


def _programmatic(bleu: Path | None) -> Scorer:
    """The scorer of a reward without a model."""
    if bleu is None:
        from wrpo_lib.nano.reward import score_rows

        return score_rows
    from wrpo_lib.generation.rewards import Bleu, read_references

    return Bleu(read_references(bleu))


def _name_of(bleu: Path | None) -> str:
    return "nano" if bleu is None else str(getattr(_programmatic(bleu), "name", "bleu"))


def _scored(out: Path, counts: Counts, scorer: Scorer) -> str:
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
