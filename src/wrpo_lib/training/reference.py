"""Reference log-probabilities, computed once and kept: log πref(y|x) does not change in training.

A value is kept under a hash of the token ids of x and y, so under everything that makes them: text,
chat template, tokenizer, truncation. A file holds the values of one reference: its first line names
the hash of the model's weights, the precision and the way of computing. A change of any of these
leads to another key or another file, so no old value is ever taken for a new one; sweeps over
alpha, beta or the objective find every value there. Rows are appended batch by batch: a kill loses
at most the batch it falls into.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, tqdm
from filelock import FileLock
from torch.utils.data import DataLoader
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils.logging import is_progress_bar_enabled

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import Store
from wrpo_lib.training.collator import PROMPT_IDS, ids_columns

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset
    from torch import Tensor

HEADER = "reference"
"""Key of a file's first line."""


def model_hash(model: Any) -> str:
    """sha256 of a reference's weights: names, types, values.

    Of a model with adapters the base model, and the adapter ``ref`` where there is one, count: with
    the adapter in training switched off the weights are the base model's, and so is the hash.
    """
    adapters = set(getattr(model, "peft_config", {})) - {"ref"}
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    found = hashlib.sha256()
    for name, tensor in sorted(base.state_dict(keep_vars=True).items()):
        parts = name.split(".")
        if adapters & set(parts) or not isinstance(tensor, torch.Tensor):
            continue
        name = ".".join(p for p in parts if p not in ("base_layer", "original_module"))
        with _whole(tensor):
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            found.update(f"{name} {flat.dtype} {tuple(tensor.shape)}".encode())
            found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()


def _whole(tensor: Tensor) -> AbstractContextManager[Any]:
    """ZeRO-3 keeps a shard of every weight; bring the whole one here for a moment."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([tensor])


def text_key(prompt_ids: list[int], response_ids: list[int]) -> str:
    """Hash of the token ids of a prompt and a response."""
    found = hashlib.sha256(np.asarray(prompt_ids, dtype=np.int64).tobytes())
    found.update(b"|")
    found.update(np.asarray(response_ids, dtype=np.int64).tobytes())
    return found.hexdigest()[:32]


@contextmanager
def open_cache(where: Path, identity: dict[str, str]) -> Iterator[Store]:
    """The file of the reference that ``identity`` describes; a second process waits for the first.

    ``where`` is a folder, or a file that ends in ``.jsonl``.

    :raises WRPOError: where the file holds another reference's values, or is no such file.
    """
    named = where.suffix == ".jsonl"
    digest = hashlib.sha256(repr(sorted(identity.items())).encode()).hexdigest()[:16]
    path = where if named else where / f"reference-{digest}.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WRPOError(
            f"{path.parent} cannot be made ({error.strerror}); choose another ref_cache_dir"
        ) from error
    with FileLock(f"{path}.lock"), Store(path, ("key",)) as store:
        header = next(iter(store), None)
        if header is None:
            store.append({"key": HEADER, **identity})
        elif header.get("key") != HEADER:
            raise WRPOError(f"{path} holds no reference log-probabilities; choose another file")
        elif other := [name for name, value in identity.items() if header.get(name) != value]:
            raise WRPOError(
                f"{path} holds the log-probabilities of another reference (its {other[0]} differs)"
                "; give a folder, or the file of this one"
            )
        yield store


def reference_logps(
    dataset: Dataset,
    name: str,
    responses: tuple[str, ...],
    compute: Callable[[dict[str, Any]], Tensor],
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
    accelerator: Accelerator,
    store: Store | None,
    batch_size: int,
) -> np.ndarray:
    """(rows, R) reference log-probabilities of a tokenised data set, from the cache or computed.

    ``compute`` gives a batch's, (B, R). Missing values are computed in the batches that a fresh
    pass would make, so a killed pass and an undisturbed one end with the same numbers. The main
    process alone has the ``store``; the others hear from it, so no disk need be shared.
    """
    keys = _keys(dataset, responses)
    wanted = {key for row in keys for key in row}
    known = {r["key"]: r["logp"] for r in store or () if r["key"] in wanted}
    known = broadcast_object_list([known])[0]
    missing: list[int] = []
    for start in range(0, len(keys), step := batch_size * accelerator.num_processes):
        rows = range(start, min(start + step, len(keys)))
        if any(key not in known for row in rows for key in keys[row]):
            missing += rows
    if missing:
        loader = accelerator.prepare(
            DataLoader(dataset.select(missing), batch_size=batch_size, collate_fn=collate)
        )
        place = iter(missing)
        bar = {"desc": f"Reference log-probabilities, {name} data", "leave": False}
        for batch in tqdm(loader, disable=not is_progress_bar_enabled(), **bar):
            values = accelerator.gather_for_metrics(compute(batch)).float().cpu().numpy()
            for logps, row in zip(values, place, strict=False):
                _keep(keys[row], logps, known, store, f"row {row + 1} of the {name} data")
    return np.array([[known[key] for key in row] for row in keys])


def _keys(dataset: Dataset, responses: tuple[str, ...]) -> list[list[str]]:
    columns = ids_columns(responses)
    return [
        [text_key(row[PROMPT_IDS], row[name]) for name in columns]
        for row in dataset.select_columns([PROMPT_IDS, *columns])
    ]


def _keep(
    keys: list[str], logps: np.ndarray, known: dict[str, float], store: Store | None, where: str
) -> None:
    for key, logp in zip(keys, logps.tolist(), strict=True):
        if not np.isfinite(logp):
            raise WRPOError(
                f"the reference gives {where} a log-probability of {logp}; check the model and its "
                "precision"
            )
        if key not in known:
            known[key] = logp
            if store is not None:
                store.append({"key": key, "logp": logp})
