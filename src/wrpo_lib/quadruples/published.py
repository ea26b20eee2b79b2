"""Published data in their own formats, as response rows or quadruples.

What is recognised, by the fields of a row: quadruples, the official format of SLIT-AI/WRPO, the
SimPO pipeline's rows (``prompt``, ``all_generated_responses``, ``all_rm_scores``), alpaca_eval's
output files (``instruction``, ``output``, ``generator``), TRL preference pairs, SFT rows, and rows
of responses or rewards.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import SUFFIXES, iter_rows
from wrpo_lib.quadruples.official import from_official
from wrpo_lib.quadruples.schema import RESPONSES

MIRROR = "WRPO_DATA"
"""Environment variable: a folder that holds ``<owner>/<name>/*`` instead of the hub."""


class Published(NamedTuple):
    """A data set on the hub: its revision, whose responses it holds and what scored them."""

    revision: str | None
    model: str | None
    reward_model: str | None


PUBLISHED = {
    "princeton-nlp/llama3-ultrafeedback-armorm": Published(
        "9d189bae5856a823f3708d2c2bc4dbb43c90eb11",
        "meta-llama/Meta-Llama-3-8B-Instruct",
        "RLHFlow/ArmoRM-Llama3-8B-v0.1",
    ),
    # the paper's source responses; its revision and columns could not be looked up offline, so
    # none is pinned and the rows are recognised by their fields or refused
    "AALF/ultrafeedback_wrpo": Published(None, None, "RLHFlow/ArmoRM-Llama3-8B-v0.1"),
}


def kind_of(row: dict[str, Any], where: str) -> str:
    """The format of a row, by its fields; ``where`` names it in the error for an unknown one."""
    fields = set(row)
    if "all_generated_responses" in fields:
        return "simpo"
    if {"instruction", "output"} <= fields:
        return "alpaca_eval"
    if "source_chosen" in fields and not fields & {"target_chosen", "rejected"}:
        return "sft"
    if fields & {"source_chosen", "target_chosen"}:
        return "quadruples"
    if "chosen" in fields:
        chosen = row["chosen"]
        one = isinstance(chosen, str) or (isinstance(chosen, list) and len(chosen) == 1)
        return "pairs" if one or "chosen_model" in fields else "official"
    if fields & {"text", "model", "sample"}:
        return "rewards" if "reward" in fields else "responses"
    known = "quadruples, responses, rewards, the official, SimPO or alpaca_eval format"
    raise WRPOError(f"{where}: the fields {', '.join(sorted(fields))} are of no known format "
                    f"({known}); rename them")  # fmt: skip


def prompt_hash(text: str) -> str:
    """sha256 of a prompt's text, as UltraFeedback's prompt ids are; ours where there is none."""
    return hashlib.sha256(text.encode()).hexdigest()


def as_responses(
    rows: Iterable[dict[str, Any]],
    where: str,
    model: str | None = None,
    reward_model: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of the SimPO or alpaca_eval format as response rows, with rewards if there are any.

    ``model`` names whose responses they are where the rows do not say. A prompt that occurs again
    under the same model gets the next sample numbers.
    """
    seen: Counter[tuple[str, str]] = Counter()
    for number, row in enumerate(rows, 1):
        here = f"{where}, row {number}"
        kind = kind_of(row, here)
        split = {"simpo": _simpo, "alpaca_eval": _alpaca_eval}.get(kind)
        if split is None:
            raise WRPOError(f"{here}: is of the {kind} format; give responses")
        for response in split(row, here, model, reward_model):
            key = (response["prompt_id"], response["model"])
            yield {**response, "sample": seen[key]}
            seen[key] += 1


def _alpaca_eval(
    row: dict[str, Any], here: str, model: str | None, reward_model: str | None
) -> Iterator[dict[str, Any]]:
    for name in ("instruction", "output"):
        if not isinstance(row.get(name), str):
            raise WRPOError(f"{here}, field {name!r}: missing or not text; complete it")
    generator = model or row.get("generator")
    if not isinstance(generator, str):
        raise WRPOError(f"{here}, field 'generator': missing; name the model with --model")
    yield _response(row["instruction"], prompt_hash(row["instruction"]), generator, row["output"])


def _simpo(
    row: dict[str, Any], here: str, model: str | None, reward_model: str | None
) -> Iterator[dict[str, Any]]:
    """One row of the SimPO pipeline (princeton-nlp/SimPO, on_policy_data_gen)."""
    prompt, texts = row.get("prompt"), row["all_generated_responses"]
    if not isinstance(prompt, str):
        raise WRPOError(f"{here}, field 'prompt': missing or not text; complete it")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise WRPOError(
            f"{here}, field 'all_generated_responses': not a list of texts; complete it"
        )
    rewards = row.get("all_rm_scores")
    if rewards is not None and len(rewards) != len(texts):
        raise WRPOError(f"{here}: {len(texts)} responses but {len(rewards)} scores; complete them")
    name = model or row.get("model") or row.get("generator")
    if not isinstance(name, str):
        raise WRPOError(f"{here}: says not whose responses these are; name the model with --model")
    prompt_id = row.get("prompt_id") or prompt_hash(prompt)
    for k, text in enumerate(texts):
        response = _response(prompt, prompt_id, name, text)
        if rewards is not None:
            response |= {"reward_model": reward_model or "unknown", "reward": rewards[k]}
        yield response


def _response(prompt: str, prompt_id: str, model: str, text: str) -> dict[str, Any]:
    message = {"role": "user", "content": prompt}
    return {"prompt_id": prompt_id, "prompt": [message], "model": model, "sample": 0, "text": text}


def as_quadruples(rows: Iterable[dict[str, Any]], where: str) -> Iterator[dict[str, Any]]:
    """Quadruples, or rows of the official format, as quadruples."""
    for number, row in enumerate(rows, 1):
        known = any(name in row for name in RESPONSES[:2])
        yield row if known else from_official(row, f"{where}, row {number}")


def hub_rows(
    name: str, split: str = "train", revision: str | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of a data set on the hub, streamed, at a pinned revision.

    ``$WRPO_DATA/<owner>/<name>/`` is read instead if that variable is set: every file there whose
    name has ``split`` in it.
    """
    if folder := os.environ.get(MIRROR):
        yield from _mirror_rows(Path(folder) / name, split)
        return
    pinned = PUBLISHED[name].revision if name in PUBLISHED else None
    if not (revision := revision or pinned):
        raise WRPOError(f"no revision of {name} is pinned; give --revision COMMIT (see its page on "
                        f"the hub), or set {MIRROR} to a folder that holds it")  # fmt: skip
    from datasets import load_dataset

    try:
        yield from load_dataset(name, split=split, revision=revision, streaming=True)
    except (OSError, ValueError) as error:  # no network, unknown split, unknown revision
        reason = str(error).splitlines()[0]
        raise WRPOError(
            f"cannot load {name} from the hub ({reason}); check the network, the split and the "
            f"revision, or set {MIRROR} to a folder that holds it"
        ) from error


def _mirror_rows(folder: Path, split: str) -> Iterator[dict[str, Any]]:
    kinds = SUFFIXES
    files = sorted(p for p in folder.rglob("*") if p.name.endswith(kinds) and split in p.name)
    if not files:
        raise WRPOError(f"{folder} has no {split!r} file ({', '.join(kinds)}); put it there or "
                        f"unset {MIRROR}")  # fmt: skip
    for path in files:
        yield from iter_rows(path)
