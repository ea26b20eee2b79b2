"""From rows of text to rows of token ids, for preference training and SFT alike."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate import PartialState
from accelerate.logging import get_logger
from datasets import Dataset, load_from_disk

from wrpo_lib.chat import Truncation, render
from wrpo_lib.errors import WRPOError
from wrpo_lib.quadruples.schema import row_problems

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = get_logger(__name__)


def check_columns(dataset: Any, fields: tuple[str, ...], name: str) -> None:
    """A map-style data set with rows, a prompt and the responses ``fields``."""
    if not isinstance(dataset, Dataset):
        kind = type(dataset).__name__
        raise WRPOError(f"the {name} data is a {kind}; give a datasets.Dataset of quadruples")
    for column in ("prompt", *fields):
        if column not in dataset.column_names:
            raise WRPOError(f"the {name} data lack the column {column!r}; give whole quadruples")
    if len(dataset) == 0:
        raise WRPOError(f"the {name} data have no rows; give at least one quadruple")


def tokenize(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    fields: tuple[str, ...],
    *,
    max_length: int | None,
    max_prompt_length: int | None,
    num_proc: int | None,
    name: str,
) -> tuple[Dataset, Truncation]:
    """Rows of ``prompt_id``, ``prompt_ids`` and ``<field>_ids``, and what was cut, logged too.

    Never from a cache: its key could not see a change in how we render.

    :raises WRPOError: for a bad prompt or response or a prompt that leaves no room for one, with
        its row, and where every response is cut; ``name`` says which data.
    """
    check_columns(dataset, fields, name)
    rows = dataset.map(
        _tokenize_row,
        with_indices=True,
        fn_kwargs={
            "tokenizer": tokenizer,
            "fields": fields,
            "limits": (max_length, max_prompt_length),
            "name": name,
        },
        remove_columns=dataset.column_names,
        num_proc=num_proc,
        load_from_cache_file=False,
        desc=f"Rendering the {name} data",
    )
    counts = np.array(rows["counted"][:]).sum(axis=0).tolist()
    found = dict(zip(("folded", "prompt", *fields), counts, strict=True))
    truncation = Truncation({"rows": len(rows), **found})
    if min(found[field] for field in fields) == len(rows):
        raise WRPOError(
            f"every response of the {name} data is longer than max_length {max_length} allows, so "
            "no response would be seen to its end; raise max_length"
        )
    log = logger.warning if any(counts) else logger.info
    log(f"{name} data: {truncation.report()}")
    return rows.remove_columns("counted"), truncation


def _tokenize_row(
    row: dict[str, Any],
    index: int,
    tokenizer: PreTrainedTokenizerBase,
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
    folder = Path(args.ref_cache_dir or Path(args.output_dir) / "reference")
    digest = hashlib.sha256(repr((args.bf16, args.fp16)).encode())
    for name in sorted(name for name in rows.column_names if name.endswith("_ids")):
        for chunk in rows.data.column(name).chunks:
            digest.update(chunk.value_lengths().to_numpy(zero_copy_only=False))
            digest.update(chunk.flatten().to_numpy())
    path = folder / digest.hexdigest()[:16]
    with PartialState().main_process_first():
        if not (path / "state.json").is_file():
            rows.save_to_disk(path)
    return load_from_disk(str(path))
