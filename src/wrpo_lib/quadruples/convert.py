"""Published data in their own formats, as response rows or quadruples, and the official one out.

Recognised by the fields of a row: quadruples; the official format of SLIT-AI/WRPO, where order
carries the meaning (``chosen`` is [source response, target response], ``rejected`` is [target
response]); the SimPO pipeline's rows (``prompt``, ``all_generated_responses``, ``all_rm_scores``);
alpaca_eval's outputs (``instruction``, ``output``, ``generator``); TRL preference pairs; SFT rows;
rows of responses or rewards.
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
from wrpo_lib.quadruples.schema import RESPONSES

Row = dict[str, Any]
FIELDS = {
    "simpo": ("prompt", "all_generated_responses"),
    "alpaca_eval": ("instruction", "output"),
}
"""Fields of the prompt and of the response or responses."""
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


def kind_of(row: Row, where: str) -> str:
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
    raise WRPOError(
        f"{where}: the fields {', '.join(sorted(fields))} are of no known format (quadruples, "
        "responses, rewards, the official, SimPO or alpaca_eval format); rename them"
    )


def prompt_hash(text: str) -> str:
    """sha256 of a prompt's text, as UltraFeedback's prompt ids are; ours where there is none."""
    return hashlib.sha256(text.encode()).hexdigest()


def as_responses(
    rows: Iterable[Row], where: str, model: str | None = None, reward_model: str | None = None
) -> Iterator[Row]:
    """Rows of the SimPO or alpaca_eval format as response rows, with rewards if there are any.

    ``model`` names whose responses they are where the rows do not say. A prompt that occurs again
    under the same model gets the next sample numbers.
    """
    seen: Counter[tuple[str, str]] = Counter()
    for number, row in enumerate(rows, 1):
        here = f"{where}, row {number}"
        kind = kind_of(row, here)
        if kind not in FIELDS:
            raise WRPOError(f"{here}: is of the {kind} format; give responses")
        asked, said = FIELDS[kind]
        prompt, rewards = row.get(asked), row.get("all_rm_scores")
        texts = row[said] if kind == "simpo" else [row[said]]
        if not isinstance(texts, list) or not all(isinstance(t, str) for t in (prompt, *texts)):
            raise WRPOError(f"{here}, fields {asked!r} and {said!r}: not texts; complete them")
        if rewards is not None and len(rewards) != len(texts):
            raise WRPOError(f"{here}: {len(texts)} responses, {len(rewards)} scores; complete them")
        name = model or row.get("generator") or row.get("model")
        if not isinstance(name, str):
            raise WRPOError(f"{here}: says not whose responses these are; name them with --model")
        prompt_id = row.get("prompt_id") or prompt_hash(str(prompt))
        for k, text in enumerate(texts):
            response = {
                "prompt_id": prompt_id,
                "prompt": [{"role": "user", "content": prompt}],
                "model": name,
                "sample": seen[prompt_id, name],
                "text": text,
            }
            if rewards is not None:
                response |= {"reward_model": reward_model or "unknown", "reward": rewards[k]}
            seen[prompt_id, name] += 1
            yield response


def as_quadruples(rows: Iterable[Row], where: str) -> Iterator[Row]:
    """Quadruples, or rows of the official format, as quadruples."""
    for number, row in enumerate(rows, 1):
        known = any(name in row for name in RESPONSES[:2])
        yield row if known else from_official(row, f"{where}, row {number}")


def from_official(row: Row, where: str = "official row") -> Row:
    """An official row as a quadruple; ``where`` names it in errors. Other fields are kept."""
    prompt = row.get("prompt")
    texts = [*_contents(row, "chosen", 2, where), *_contents(row, "rejected", 1, where)]
    return {
        "prompt_id": row.get("prompt_id"),
        "prompt": [prompt] if isinstance(prompt, dict) else prompt,
        **dict(zip(RESPONSES, texts, strict=True)),
        **{k: v for k, v in row.items() if k not in ("prompt_id", "prompt", "chosen", "rejected")},
    }


def _contents(row: Row, field: str, count: int, where: str) -> list[str]:
    messages = row.get(field)
    if not isinstance(messages, list) or len(messages) != count:
        raise WRPOError(
            f"{where}, field {field!r}: needs a list of {count} message(s); complete it"
        )
    texts = [m.get("content") if isinstance(m, dict) else None for m in messages]
    if not all(isinstance(text, str) for text in texts):
        raise WRPOError(f"{where}, field {field!r}: a message has no text content; add it")
    return [str(text) for text in texts]


def to_official(row: Row) -> Row:
    """A quadruple as an official row; a one-message prompt becomes that message."""
    prompt = row["prompt"]
    source, target, rejected = ({"role": "assistant", "content": row[k]} for k in RESPONSES)
    known = ("prompt_id", "prompt", *RESPONSES)
    return {
        "prompt_id": row["prompt_id"],
        "prompt": prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else prompt,
        "chosen": [source, target],
        "rejected": [rejected],
        **{k: v for k, v in row.items() if k not in known},
    }


def hub_rows(name: str, split: str = "train", revision: str | None = None) -> Iterator[Row]:
    """The rows of a data set on the hub, streamed, at a pinned revision.

    ``$WRPO_DATA/<owner>/<name>/`` is read instead if that variable is set: every file there whose
    name has ``split`` in it.
    """
    if folder := os.environ.get(MIRROR):
        found = (Path(folder) / name).rglob(f"*{split}*")
        if not (files := sorted(path for path in found if path.name.endswith(SUFFIXES))):
            raise WRPOError(
                f"{folder}/{name} has no {split!r} file; put it there or unset {MIRROR}"
            )
        for path in files:
            yield from iter_rows(path)
        return
    pinned = PUBLISHED[name].revision if name in PUBLISHED else None
    if not (revision := revision or pinned):
        raise WRPOError(
            f"no revision of {name} is pinned; give --revision COMMIT (see its page on the hub), "
            f"or set {MIRROR} to a folder that holds it"
        )
    from datasets import load_dataset

    try:
        yield from load_dataset(name, split=split, revision=revision, streaming=True)
    except (OSError, ValueError) as error:  # no network, unknown split, unknown revision
        reason = str(error).splitlines()[0]
        raise WRPOError(
            f"cannot load {name} from the hub ({reason}); check the network, the split and the "
            f"revision, or set {MIRROR} to a folder that holds it"
        ) from error
