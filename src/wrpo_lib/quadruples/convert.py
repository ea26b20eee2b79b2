"""Published data in their own formats, as response rows or quadruples, and the official one out.

Recognised by the fields of a row: quadruples; the official format of SLIT-AI/WRPO, where order
carries the meaning (``chosen`` is [source response, target response], ``rejected`` is [target
response]); the SimPO pipeline's rows (``prompt``, ``all_generated_responses``, ``all_rm_scores``);
alpaca_eval's outputs (``instruction``, ``output``, ``generator``); TRL preference pairs; SFT rows;
rows of responses or rewards.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import Row
from wrpo_lib.quadruples.schema import RESPONSES, require


def kind_of(row: Row, where: str) -> str:
    """The format of a row, by its fields; ``where`` names it in the error for an unknown one."""
    fields = set(row)
    if "all_generated_responses" in fields:
        return "simpo"
    if {"instruction", "output"} <= fields:
        return "alpaca_eval"
    if fields & {"source_chosen", "target_chosen"}:
        return "quadruples" if fields & {"target_chosen", "rejected"} else "sft"
    if "chosen" in fields:
        two = isinstance(row["chosen"], list) and len(row["chosen"]) != 1
        return "official" if two and "chosen_model" not in fields else "pairs"
    if fields & {"text", "model", "sample"}:
        return "rewards" if "reward" in fields else "responses"
    raise WRPOError(f"{where}: the fields {', '.join(sorted(fields))} are of no known format")


def prompt_hash(text: str) -> str:
    """sha256 of a prompt's text, as UltraFeedback's prompt ids are; ours where there is none."""
    return hashlib.sha256(text.encode()).hexdigest()


def as_responses(
    rows: Iterable[Row], where: str, model: str | None = None, reward_model: str = "unknown"
) -> Iterator[Row]:
    """Rows of the SimPO or alpaca_eval format as response rows, with rewards if there are any.

    ``model`` names whose responses they are where the rows do not say. A prompt that occurs again
    under the same model gets the next sample numbers.
    """
    seen: Counter[tuple[str, str]] = Counter()
    for number, row in enumerate(rows, 1):
        here = f"{where}, row {number}"
        kind = kind_of(row, here)
        if kind not in ("simpo", "alpaca_eval"):
            raise WRPOError(f"{here}: is of the {kind} format; give responses")
        require(row, number, kind, where)
        prompt = row["prompt"] if kind == "simpo" else row["instruction"]
        texts = row["all_generated_responses"] if kind == "simpo" else [row["output"]]
        rewards, name = row.get("all_rm_scores"), model or row.get("generator")
        if rewards and len(rewards) != len(texts):
            raise WRPOError(f"{here}: {len(texts)} responses, {len(rewards)} scores; complete them")
        if not name:
            raise WRPOError(f"{here}: says not whose responses these are; name them with --model")
        prompt_id = row.get("prompt_id") or prompt_hash(prompt)
        for k, text in enumerate(texts):
            yield {
                "prompt_id": prompt_id,
                "prompt": [{"role": "user", "content": prompt}],
                "model": name,
                "sample": seen[prompt_id, name],
                "text": text,
                **({"reward_model": reward_model, "reward": rewards[k]} if rewards else {}),
            }
            seen[prompt_id, name] += 1


def from_official(row: Row) -> Row:
    """A row that is of the ``official`` kind as a quadruple. Other fields are kept."""
    texts = [message.get("content") for message in (*row["chosen"], *row["rejected"])]
    rest = {k: v for k, v in row.items() if k not in ("chosen", "rejected")}
    if isinstance(row.get("prompt"), dict):
        rest["prompt"] = [row["prompt"]]
    return {**rest, **dict(zip(RESPONSES, texts, strict=True))}


def to_official(row: Row) -> Row:
    """A quadruple as an official row; a one-message prompt becomes that message."""
    source, target, rejected = ({"role": "assistant", "content": row[k]} for k in RESPONSES)
    made = {k: v for k, v in row.items() if k not in RESPONSES}
    made |= {"chosen": [source, target], "rejected": [rejected]}
    if isinstance(row["prompt"], list) and len(row["prompt"]) == 1:
        made["prompt"] = row["prompt"][0]
    return made
