"""Building quadruples from scored responses (paper section 3.2).

For a prompt x: y_ws is the response with the highest reward among all responses of all sources,
y_wt the best and y_l the worst of the target's own samples.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    import pandas as pd

SCORED = ("prompt_id", "model", "sample", "text", "reward")


@dataclass(frozen=True)
class PairingReport:
    """What pairing did with the prompts it was given."""

    prompts: int
    kept: int
    tied: int
    missing: int

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)


def _scored(responses: pd.DataFrame, what: str) -> pd.DataFrame:
    missing = [c for c in SCORED if c not in responses.columns]
    if missing:
        raise WRPOError(f"{what} responses lack the column {missing[0]!r}; score them first")
    bad = responses.index[responses["reward"].isna()]
    if len(bad):
        raise WRPOError(f"{what} responses, row {int(bad[0]) + 1}: reward is NaN; score it again")
    return responses.reset_index(drop=True)


def best(responses: pd.DataFrame) -> pd.DataFrame:
    """The row with the highest reward of each prompt, indexed by prompt_id; ties: the first row."""
    rows = responses.loc[responses.groupby("prompt_id", sort=False)["reward"].idxmax()]
    return rows.set_index("prompt_id")


def worst(responses: pd.DataFrame) -> pd.DataFrame:
    """The row with the lowest reward of each prompt, indexed by prompt_id; ties: the first row."""
    rows = responses.loc[responses.groupby("prompt_id", sort=False)["reward"].idxmin()]
    return rows.set_index("prompt_id")


def build_quadruples(
    prompts: dict[str, list[dict[str, str]]],
    sources: pd.DataFrame,
    target: pd.DataFrame,
    rejected_from: str = "target",
) -> tuple[list[dict[str, Any]], PairingReport]:
    """Pair scored responses into quadruples.

    ``prompts`` maps prompt_id to chat messages; ``sources`` and ``target`` have a row a response
    (prompt_id, model, sample, text, reward). ``rejected_from="source"`` takes y_l from the sources
    instead, which gives DPO-off its pairs (paper Figure 1; how its pairs are chosen is inferred).
    Prompts whose chosen and rejected response tie in text or reward carry no preference and are
    left out and counted (the paper is silent; ours).
    """
    if rejected_from not in ("target", "source"):
        raise WRPOError(f"rejected_from is {rejected_from!r}; choose 'target' or 'source'")
    sources, target = _scored(sources, "source"), _scored(target, "target")
    source_best, target_best = best(sources), best(target)
    lost = worst(target if rejected_from == "target" else sources)
    preferred = target_best if rejected_from == "target" else source_best
    rows, tied, missing = [], 0, 0
    for prompt_id, messages in prompts.items():
        if prompt_id not in source_best.index or prompt_id not in target_best.index:
            missing += 1
            continue
        ws, wt, yl = source_best.loc[prompt_id], target_best.loc[prompt_id], lost.loc[prompt_id]
        winner = preferred.loc[prompt_id]
        if winner["text"] == yl["text"] or winner["reward"] <= yl["reward"]:
            tied += 1
            continue
        rows.append(
            {
                "prompt_id": prompt_id,
                "prompt": messages,
                "source_chosen": ws["text"],
                "target_chosen": wt["text"],
                "rejected": yl["text"],
                "source_model": ws["model"],
                "source_chosen_reward": float(ws["reward"]),
                "target_chosen_reward": float(wt["reward"]),
                "rejected_reward": float(yl["reward"]),
            }
        )
    return rows, PairingReport(len(prompts), len(rows), tied, missing)


def split_prompts(
    prompt_ids: list[str], seed: int, share: float = 1 / 3
) -> tuple[list[str], list[str]]:
    """A random ``share`` for SFT, the rest for preference optimisation (paper section 4.1)."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(len(prompt_ids))
    cut = round(len(prompt_ids) * share)
    first, rest = sorted(order[:cut]), sorted(order[cut:])
    return [prompt_ids[i] for i in first], [prompt_ids[i] for i in rest]
