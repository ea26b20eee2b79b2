"""From rows of text to token ids, for preference training and SFT alike, and to batches."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.logging import get_logger
from datasets import Dataset, load_from_disk

from wrpo_lib import packing
from wrpo_lib.chat import Truncation, render
from wrpo_lib.errors import WRPOError
from wrpo_lib.quadruples.schema import RESPONSES

REF_LOGPS = ("ref_chosen_logps", "ref_rejected_logps")
"""Columns that TRL's reference pass adds, (B, chosen responses) and (B, rejected responses)."""

logger = get_logger(__name__)


def tokenize(
    dataset: Dataset, tokenizer: Any, fields: tuple[str, ...], args: Any, name: str
) -> tuple[Dataset, Truncation]:
    """Rows of ``prompt_id``, ``prompt_ids`` and ``<field>_ids``; what was cut or folded, logged.

    :raises WRPOError: for a missing column, a bad prompt or response or a prompt that leaves no
        room for one, with its row, and where every response is cut.
    """
    for column in ("prompt", *fields):
        if column not in dataset.column_names or len(dataset) == 0:
            raise WRPOError(f"the {name} data lack the column {column!r} or any row; give them")
    limits = (args.max_length, getattr(args, "max_prompt_length", None))
    rows, found = [], Truncation()
    for number, row in enumerate(dataset, 1):
        texts, where = [row[field] for field in fields], f"the {name} data, row {number}"
        for field, text in zip(fields, texts, strict=True):
            if not isinstance(text, str) or not text.strip():
                raise WRPOError(f"{where}, field {field!r}: is empty; correct or remove the row")
        try:
            made = render(tokenizer, row["prompt"], texts, *limits)
        except WRPOError as error:
            raise WRPOError(f"{where}: {error}") from error
        found.add(made, list(fields))
        ids = zip(fields, made.response_ids, strict=True)
        known = {"prompt_id": row.get("prompt_id") or f"row {number}"}
        known["prompt_ids"] = made.prompt_ids
        rows.append(known | {f"{field}_ids": response for field, response in ids})
    if min(found[field] for field in fields) == len(rows):
        what = f"every response of the {name} data is longer than max_length {limits[0]} allows"
        raise WRPOError(f"{what}, so no response would be seen to its end; raise max_length")
    log = logger.warning if found.total() > len(rows) else logger.info
    log(f"{name} data: {found.report()}")
    return Dataset.from_list(rows), found


def keep_on_disk(rows: Dataset, args: Any) -> Dataset:
    """The same rows, read from a folder that their content and the precision name.

    TRL caches the reference pass beside the data set's own file, under a fingerprint of data and
    model; in memory there is no such file. Runs over alpha, beta or the objective find it there.
    """
    digest = hashlib.sha256(repr((args.bf16, args.fp16)).encode())
    for row in rows:
        digest.update(repr(row).encode())
    folder = Path(args.ref_cache_dir or Path(args.output_dir) / "reference")
    path = folder / digest.hexdigest()[:16]
    with PartialState().main_process_first():
        if not (path / "dataset_info.json").is_file():  # the last of its files to be written
            rows.save_to_disk(path)
    return load_from_disk(str(path))


@dataclass
class WRPOCollator:
    """Collate B rows with ``prompt_ids`` and ``<response>_ids`` of the R ``responses``.

    Returns ``lengths`` (B, R), response tokens with the end token; what the model reads, R·B padded
    rows or, with ``share_prompt``, one packed row (:mod:`wrpo_lib.packing`); ``prompt_id`` and the
    reference's log-probabilities where the rows have them. Rows of more than ``micro_batch_tokens``
    in all come as ``parts``, batches each with its ``share`` of the rows.
    """

    responses: tuple[str, ...] = RESPONSES
    share_prompt: bool = False
    micro_batch_tokens: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate ``rows``."""
        sizes = [self._size(row) for row in rows]
        groups = [rows[part] for part in packing.split_by_tokens(sizes, self.micro_batch_tokens)]
        if len(groups) == 1:
            return self._batch(rows)
        parts = [{**self._batch(group), "share": len(group) / len(rows)} for group in groups]
        names = [name for name in ("lengths", *REF_LOGPS) if name in parts[0]]
        return {n: torch.cat([part[n] for part in parts]) for n in names} | {"parts": parts}

    def _size(self, row: dict[str, Any]) -> int:
        """Tokens of an example."""
        lengths = [len(row[f"{name}_ids"]) for name in self.responses]
        return sum(lengths) + len(row["prompt_ids"]) * (1 if self.share_prompt else len(lengths))

    def _batch(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        prompts = [row["prompt_ids"] for row in rows]
        responses = [[row[f"{name}_ids"] for name in self.responses] for row in rows]
        lengths = torch.tensor([[len(ids) for ids in of_row] for of_row in responses])
        arrange = packing.pack if self.share_prompt else packing.pad
        # lengths first: accelerate counts examples by it
        batch = {"lengths": lengths, **arrange(prompts, responses)}
        for name in REF_LOGPS:
            if name in rows[0]:
                batch[name] = torch.tensor([row[name] for row in rows])
        return batch | {"prompt_id": [row.get("prompt_id") for row in rows]}
