"""Rows of a file to token ids, for preference training and SFT alike, and to batches."""

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
from wrpo_lib.io import read_rows
from wrpo_lib.quadruples.schema import RESPONSES, as_written, side_text, validate_quadruples
from wrpo_lib.recipes import Recipe
from wrpo_lib.training.config import training_arguments

REF_LOGPS = ("ref_chosen_logps", "ref_rejected_logps")
"""Columns that TRL's reference pass adds, (B, chosen responses) and (B, rejected responses)."""

logger = get_logger(__name__)


def responses(args: Any) -> tuple[str, ...]:
    """The responses that a run reads: y_ws for SFT, those it computes otherwise."""
    return getattr(args, "responses", ("source_chosen",))


def load_data(recipe: Recipe, data: str | None = None) -> Dataset:
    """The rows of a file of quadruples, validated as far as the recipe reads them.

    SFT needs ``prompt`` and ``source_chosen``. A recipe that reads one preferred response (DPO,
    IPO, SimPO) also takes TRL's preference pairs, ``prompt``, ``chosen``, ``rejected``.

    :raises WRPOError: for the first thing wrong, with file, row and field.
    """
    data = data or recipe.data
    if not data:
        raise WRPOError(f"{recipe.where} names no data; pass --data (JSONL or parquet)")
    rows = read_rows(data)
    wanted = responses(training_arguments(recipe, recipe.output_dir))
    kind = "sft" if recipe.stage == "sft" else "quadruples"
    columns = {name: name for name in wanted}
    if len(wanted) == 2 and "chosen" in rows[0]:
        kind, columns = "pairs", {wanted[0]: "chosen", "rejected": "rejected"}
    read = {"prompt", *columns.values()} | ({"prompt_id"} if kind == "quadruples" else set())
    for problem in validate_quadruples(rows, kind):
        if problem.field.partition(".")[0] in read:
            raise WRPOError(problem.sentence(data))
    made = []
    for number, row in enumerate(rows, 1):
        texts = {name: side_text(row.get(column)) for name, column in columns.items()}
        name = str(row.get("prompt_id") or f"row {number}")
        made.append({"prompt_id": name, "prompt": as_written(row["prompt"]), **texts})
    return Dataset.from_list(made, on_mixed_types="use_json")


def tokenize(
    dataset: Dataset, tokenizer: Any, fields: tuple[str, ...], args: Any, name: str
) -> tuple[Dataset, Truncation]:
    """Rows of ``prompt_id``, ``prompt_ids`` and ``<field>_ids``; what was cut or folded, logged.

    :raises WRPOError: for a missing column, a bad prompt or response or a prompt that leaves no
        room for one, with its row, and where every response is cut.
    """
    if missing := {"prompt", *fields} - set(dataset.column_names):
        raise WRPOError(f"the {name} data lack the column {min(missing)!r}; add it")
    limits = (args.max_length, getattr(args, "max_prompt_length", None))
    rows, found = [], Truncation()
    for number, row in enumerate(dataset, 1):
        texts = [row[field] for field in fields]
        try:
            if empty := [k for k in fields if not isinstance(row[k], str) or not row[k].strip()]:
                raise WRPOError(f"field {empty[0]!r} is empty; correct or remove the row")
            made = render(tokenizer, row["prompt"], texts, *limits)
        except WRPOError as error:
            raise WRPOError(f"the {name} data, row {number}: {error}") from error
        found.add(made, list(fields))
        known = {
            "prompt_id": row.get("prompt_id") or f"row {number}",
            "prompt_ids": made.prompt_ids,
        }
        ids = zip(fields, made.response_ids, strict=True)
        rows.append(known | {f"{field}_ids": response for field, response in ids})
    if min(found[field] for field in fields) == len(rows):
        what = f"every response of the {name} data is longer than max_length {limits[0]} allows"
        raise WRPOError(f"{what}, so no response would be seen to its end; raise max_length")
    log = logger.warning if found.total() > len(rows) else logger.info
    log(f"{name} data: {found.report()}")
    return Dataset.from_list(rows), found


def keep_on_disk(rows: Dataset, args: Any) -> Dataset:
    """The same rows, read from a folder that their content and the precision name.

    TRL caches the reference pass beside the data set's file, under a fingerprint of data and model.
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

    Returns ``lengths`` (B, R) in tokens; R·B padded rows or, with ``share_prompt``, one packed row
    (:mod:`wrpo_lib.packing`); ``prompt_id``; the reference's log-probabilities where there are any.
    More than ``micro_batch_tokens`` come as ``parts``, batches each with its ``share`` of the rows.
    """

    responses: tuple[str, ...] = RESPONSES
    share_prompt: bool = False
    micro_batch_tokens: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate ``rows``."""
        sizes = []
        for row in rows:
            lengths = [len(row[f"{name}_ids"]) for name in self.responses]
            prompts = 1 if self.share_prompt else len(lengths)
            sizes.append(sum(lengths) + prompts * len(row["prompt_ids"]))
        groups = [rows[part] for part in packing.split_by_tokens(sizes, self.micro_batch_tokens)]
        if len(groups) == 1:
            return self._batch(rows)
        parts = [{**self._batch(group), "share": len(group) / len(rows)} for group in groups]
        names = [name for name in ("lengths", *REF_LOGPS) if name in parts[0]]
        return {n: torch.cat([part[n] for part in parts]) for n in names} | {"parts": parts}

    def _batch(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        prompts = [row["prompt_ids"] for row in rows]
        responses = [[row[f"{name}_ids"] for name in self.responses] for row in rows]
        lengths = torch.tensor([[len(ids) for ids in of_row] for of_row in responses])
        arrange = packing.pack if self.share_prompt else packing.pad
        # lengths first: accelerate counts examples by it
        batch = {"lengths": lengths, **arrange(prompts, responses)}
        known = [name for name in REF_LOGPS if name in rows[0]]
        batch |= {name: torch.tensor([row[name] for row in rows]) for name in known}
        return batch | {"prompt_id": [row.get("prompt_id") for row in rows]}
