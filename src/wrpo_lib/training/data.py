"""From rows of text to rows of token ids, for preference training and SFT alike."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.logging import get_logger
from datasets import Dataset, load_from_disk

from wrpo_lib.chat import Truncation, render
from wrpo_lib.errors import WRPOError
from wrpo_lib.quadruples.schema import row_problems

logger = get_logger(__name__)


def tokenize(
    dataset: Dataset, tokenizer: Any, fields: tuple[str, ...], args: Any, name: str
) -> tuple[Dataset, Truncation]:
    """Rows of ``prompt_id``, ``prompt_ids`` and ``<field>_ids``, and what was cut, logged too.

    ``args`` has the limits; ``name`` says which data. Never from a cache: its key could not see a
    change in how we render.

    :raises WRPOError: for a missing column, a bad prompt or response or a prompt that leaves no
        room for one, with its row, and where every response is cut.
    """
    for column in ("prompt", *fields):
        if column not in dataset.column_names or len(dataset) == 0:
            raise WRPOError(f"the {name} data lack the column {column!r} or any row; give them")
    limits = (args.max_length, getattr(args, "max_prompt_length", None))
    rows = dataset.map(
        _tokenize_row,
        with_indices=True,
        fn_kwargs={"tokenizer": tokenizer, "fields": fields, "limits": limits, "name": name},
        remove_columns=dataset.column_names,
        num_proc=args.dataset_num_proc,
        load_from_cache_file=False,
        desc=f"Rendering the {name} data",
    )
    counts = zip(*rows["counted"][:], strict=True)
    found = dict(zip(("folded", "prompt", *fields), map(sum, counts), strict=True))
    truncation = Truncation({"rows": len(rows), **found})
    if min(found[field] for field in fields) == len(rows):
        raise WRPOError(
            f"every response of the {name} data is longer than max_length {limits[0]} allows, so "
            "no response would be seen to its end; raise max_length"
        )
    log = logger.warning if any(found.values()) else logger.info
    log(f"{name} data: {truncation.report()}")
    return rows.remove_columns("counted"), truncation


def _tokenize_row(
    row: dict[str, Any],
    index: int,
    tokenizer: Any,
    fields: tuple[str, ...],
    limits: tuple[int | None, int | None],
    name: str,
) -> dict[str, Any]:
    for problem in row_problems(row, index + 1):
        if problem.field in ("prompt", *fields):
            raise WRPOError(problem.sentence(f"the {name} data"))
    try:
        made = render(tokenizer, row["prompt"], [row[field] for field in fields], *limits)
    except WRPOError as error:
        raise WRPOError(f"the {name} data, row {index + 1}: {error}") from error
    ids = zip(fields, made.response_ids, strict=True)
    return {
        "prompt_id": str(row.get("prompt_id") or f"row {index + 1}"),
        "prompt_ids": made.prompt_ids,
        **{f"{field}_ids": response for field, response in ids},
        "counted": [made.folded, made.prompt_truncated, *made.response_truncated],
    }


def keep_on_disk(rows: Dataset, args: Any) -> Dataset:
    """The same rows, read from a folder that their token ids and the precision name.

    TRL caches the reference pass beside the data set's own file, under a fingerprint of data and
    model; in memory there is no such file. Runs over alpha, beta or the objective find it there.
    """
    digest = hashlib.sha256(repr((args.bf16, args.fp16)).encode())
    for name in sorted(name for name in rows.column_names if name.endswith("_ids")):
        for chunk in rows.data.column(name).chunks:
            digest.update(chunk.value_lengths().to_numpy(zero_copy_only=False))
            digest.update(chunk.flatten().to_numpy())
    folder = Path(args.ref_cache_dir or Path(args.output_dir) / "reference")
    path = folder / digest.hexdigest()[:16]
    with PartialState().main_process_first():
        if not (path / "state.json").is_file():
            rows.save_to_disk(path)
    return load_from_disk(str(path))
