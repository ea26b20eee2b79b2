"""Building quadruples and preference pairs from scored responses (paper section 3.2).

For a prompt x: y_ws is the response with the highest reward among all responses of all sources,
y_wt the best and y_l the worst of the target's own samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from wrpo_lib.errors import WRPOError
from wrpo_lib.quadruples.choose import Pairing, choose, first_of_each, reasons
from wrpo_lib.quadruples.responses import ResponseTable

if TYPE_CHECKING:
    import pandas as pd

SCORED = ("prompt_id", "model", "sample", "text", "reward")
BLOCK = 4096  # prompts whose texts are in memory at a time, where rows can be fetched at will
Fetch = Callable[[np.ndarray], dict[int, dict[str, Any]]]


@dataclass
class PairingReport:
    """What pairing did with the prompts it was given; the counts are complete once all is read."""

    prompts: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    winners: Counter[str] = field(default_factory=Counter)
    source_not_above_rejected: int = 0

    def as_dict(self) -> dict[str, int]:
        """The counts by name: prompts, kept, and why the others were left out."""
        d = self.dropped
        missing = d["missing_source"] + d["missing_target"]
        rest = {k: d[k] for k in ("small_gap", "large_gap", "length_ratio", "excluded") if d[k]}
        tied = {"tied": d["tied"], "identical": d["identical"]}
        return {"prompts": self.prompts, "kept": self.kept, **tied, "missing": missing, **rest}

    def sentence(self) -> str:
        """One line for the terminal."""
        why = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in self.dropped.items() if n)
        return f"{self.kept} of {self.prompts} prompts kept" + (f"; left out: {why}" if why else "")


def build_rows(
    table: ResponseTable,
    fetch: Fetch,
    pairing: Pairing,
    asked: list[str] | None = None,
    excluded: frozenset[str] = frozenset(),
    block: int = BLOCK,
) -> tuple[Iterator[dict[str, Any]], PairingReport]:
    """Rows for the prompts ``asked`` (all, by id, if None), in that order, and their report.

    The rows are made lazily: at most ``block`` prompts have their texts in memory. ``excluded``
    prompts are left out and counted.
    """
    ids = sorted(table.prompts) if asked is None else asked
    report = PairingReport(prompts=len(ids))
    place = {prompt_id: k for k, prompt_id in enumerate(table.prompts)}
    report.dropped["excluded"] = sum(i in excluded for i in ids)
    report.dropped["missing_source"] = sum(i not in place and i not in excluded for i in ids)
    prompts = np.array([place[i] for i in ids if i in place and i not in excluded], int)
    roles = choose(table, pairing)
    left_out = np.zeros(len(table.prompts), bool)
    for reason, mask in reasons(table, pairing, roles).items():
        report.dropped[reason] += int(mask[prompts].sum())
        left_out |= mask
    kept = prompts[~left_out[prompts]]
    chosen = {name: found[kept] for name, found in roles.items()}
    return _rows(table, fetch, pairing, chosen, report, block), report


def _rows(
    table: ResponseTable,
    fetch: Fetch,
    pairing: Pairing,
    roles: dict[str, np.ndarray],
    report: PairingReport,
    block: int,
) -> Iterator[dict[str, Any]]:
    preferred, lost = pairing.roles
    write = _quadruple if pairing.pairs == "quadruples" else _pair
    roles = {name: roles[name] for name in _written(pairing, roles)}
    for start in range(0, len(roles[preferred]), block):
        here = {name: found[start : start + block] for name, found in roles.items()}
        texts = fetch(np.concatenate(list(here.values())))
        for positions in zip(*(found.tolist() for found in here.values()), strict=True):
            said = {name: texts[at] for name, at in zip(here, positions, strict=True)}
            same = lost and said[preferred]["text"] == said[lost]["text"]
            if same and not pairing.keep_identical:
                report.dropped["identical"] += 1
                continue
            report.kept += 1
            report.winners[said[preferred]["model"]] += 1
            if {"source_chosen", "rejected"} <= set(said):
                low = said["source_chosen"]["reward"] <= said["rejected"]["reward"]
                report.source_not_above_rejected += low
            yield write(said, pairing)


def _written(pairing: Pairing, roles: dict[str, np.ndarray]) -> list[str]:
    """The roles whose texts a row needs."""
    if pairing.pairs != "quadruples":
        return [name for name in pairing.roles if name]
    unused = {"rejected"} if pairing.rejected_from == "source" else set()
    return [name for name in roles if name not in unused]


def _quadruple(said: dict[str, dict[str, Any]], pairing: Pairing) -> dict[str, Any]:
    """One row of the quadruple schema."""
    ws, wt = said["source_chosen"], said["target_chosen"]
    yl = said[pairing.roles[1]]
    further = [name for name in said if name.startswith("source_chosen_")]
    if pairing.dispreferred:
        further.append("source_rejected")
    more = {name: said[name]["text"] for name in further}
    more |= {f"{name}_model": said[name]["model"] for name in further}
    more |= {f"{name}_reward": float(said[name]["reward"]) for name in further}
    return {
        "prompt_id": ws["prompt_id"],
        "prompt": ws.get("prompt"),
        "source_chosen": ws["text"],
        "target_chosen": wt["text"],
        "rejected": yl["text"],
        "source_model": ws["model"],
        "source_chosen_reward": float(ws["reward"]),
        "target_chosen_reward": float(wt["reward"]),
        "rejected_reward": float(yl["reward"]),
        **more,
    }


def _pair(said: dict[str, dict[str, Any]], pairing: Pairing) -> dict[str, Any]:
    """One row for SFT (prompt and y_ws), or one of TRL's conversational preference format."""
    preferred, lost = pairing.roles
    won = said[preferred]
    row = {"prompt_id": won["prompt_id"], "prompt": won.get("prompt")}
    if not lost:
        return {**row, "source_chosen": won["text"], "source_model": won["model"],
                "source_chosen_reward": float(won["reward"])}  # fmt: skip
    for name, response in (("chosen", won), ("rejected", said[lost])):
        row[name] = [{"role": "assistant", "content": response["text"]}]
        row[f"{name}_model"] = response["model"]
        row[f"{name}_reward"] = float(response["reward"])
    return row


def _scored(responses: pd.DataFrame, what: str) -> pd.DataFrame:
    missing = [c for c in SCORED if c not in responses.columns]
    if missing:
        raise WRPOError(f"{what} responses lack the column {missing[0]!r}; score them first")
    bad = np.flatnonzero(responses["reward"].isna())
    if len(bad):
        raise WRPOError(f"{what} responses, row {int(bad[0]) + 1}: reward is NaN; score it again")
    return responses.reset_index(drop=True)


def _table(responses: pd.DataFrame) -> ResponseTable:
    """The numbers of a data frame of scored responses."""
    import pandas as pd

    prompt, prompts = pd.factorize(responses["prompt_id"])
    model, models = pd.factorize(responses["model"], sort=True)
    n, text = len(responses), responses["text"]
    return ResponseTable(
        files=[], prompts=list(prompts), models=list(models), prompt=prompt, model=model,
        sample=responses["sample"].to_numpy(int), reward=responses["reward"].to_numpy(float),
        length=text.str.len().where(text.str.strip() != "", 0).to_numpy(int),
        truncated=np.zeros(n, bool),
        file=np.zeros(n, int), row=np.arange(1, n + 1), where=np.arange(n),
    )  # fmt: skip


def best(responses: pd.DataFrame) -> pd.DataFrame:
    """The row with the highest reward of each prompt, indexed by prompt_id; ties: see choose."""
    return _extreme(responses)


def worst(responses: pd.DataFrame) -> pd.DataFrame:
    """The row with the lowest reward of each prompt, indexed by prompt_id; ties: see choose."""
    return _extreme(responses, lowest=True)


def _extreme(responses: pd.DataFrame, lowest: bool = False) -> pd.DataFrame:
    table = _table(responses)
    found = first_of_each(table, np.ones(len(table), bool), lowest)
    return responses.iloc[found].set_index("prompt_id")


def build_quadruples(
    prompts: dict[str, list[dict[str, str]]],
    sources: pd.DataFrame,
    target: pd.DataFrame,
    rejected_from: str = "target",
    **options: Any,
) -> tuple[list[dict[str, Any]], PairingReport]:
    """Pair scored responses held in data frames into quadruples.

    ``prompts`` maps prompt_id to chat messages; ``sources`` and ``target`` have a row a response
    (prompt_id, model, sample, text, reward). ``rejected_from="source"`` takes y_l from the sources
    instead, which gives DPO-off its pairs (paper Figure 1; how its pairs are chosen is inferred).
    ``options`` are fields of :class:`~wrpo_lib.quadruples.choose.Pairing`. Prompts whose preferred
    and dispreferred response tie in text or reward carry no preference and are left out and counted
    (the paper is silent; ours).
    """
    import pandas as pd

    sources, target = _scored(sources, "source"), _scored(target, "target")
    names = sorted(set(target["model"]))
    if len(names) != 1:
        raise WRPOError(f"the target's responses are of {', '.join(names)}; give one model's")
    pairing = Pairing(target=names[0], rejected_from=rejected_from, **options)
    frame = pd.concat([sources[list(SCORED)], target[list(SCORED)]], ignore_index=True)
    records = frame.to_dict("records")
    rows, report = build_rows(
        _table(frame), lambda at: {i: records[i] for i in at.tolist()}, pairing, list(prompts)
    )
    return [{**row, "prompt": prompts[row["prompt_id"]]} for row in rows], report
