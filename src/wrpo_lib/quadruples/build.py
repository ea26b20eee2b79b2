"""Building quadruples, preference pairs and SFT rows, with a report of how they came about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wrpo_lib.chat import prompt_problems
from wrpo_lib.errors import WRPOError
from wrpo_lib.io import write_json, write_rows
from wrpo_lib.quadruples.pair import TIE_RULE, Pairing, choose, left_out
from wrpo_lib.quadruples.responses import KEY, ResponseTable
from wrpo_lib.quadruples.split import Split
from wrpo_lib.records import provenance

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class PairingReport:
    """What pairing did with the prompts it was given."""

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
    pairing: Pairing,
    asked: list[str] | None = None,
    excluded: Iterable[str] = (),
) -> tuple[list[dict[str, Any]], PairingReport]:
    """Rows for the prompts ``asked`` (all, by id, if None), in that order, and their report.

    ``excluded`` prompts are left out and counted. Only the chosen texts are ever in memory.
    """
    roles = choose(table.frame, pairing).reindex(table.prompts if asked is None else asked)
    reasons = left_out(roles, table.frame, pairing, excluded)
    report = PairingReport(len(roles), dropped=Counter(reasons[reasons != ""].tolist()))
    kept = roles.loc[reasons == "", pairing.written].astype(int)
    responses = table.fetch(kept.to_numpy().ravel().tolist())
    rows = []
    preferred, lost = pairing.roles
    for positions in kept.to_dict("records"):
        said = {name: responses[at] for name, at in positions.items()}
        same = lost and said[preferred]["text"] == said[lost]["text"]
        if same and not pairing.keep_identical:
            report.dropped["identical"] += 1
            continue
        report.winners[said[preferred]["model"]] += 1
        if {"source_chosen", "rejected"} <= said.keys():
            low = said["source_chosen"]["reward"] <= said["rejected"]["reward"]
            report.source_not_above_rejected += low
        rows.append(_row(said, pairing))
    report.kept = len(rows)
    return rows, report


def _row(said: dict[str, dict[str, Any]], pairing: Pairing) -> dict[str, Any]:
    """A quadruple, an SFT row (prompt and y_ws), or a pair in TRL's conversational format."""
    preferred, lost = pairing.roles
    row = {"prompt_id": said[preferred]["prompt_id"], "prompt": said[preferred].get("prompt")}
    if pairing.pairs not in ("quadruples", "sft"):
        for name, response in (("chosen", said[preferred]), ("rejected", said[lost])):
            row[name] = [{"role": "assistant", "content": response["text"]}]
            row |= {f"{name}_model": response["model"], f"{name}_reward": float(response["reward"])}
        return row
    named = {"rejected" if role == lost else role: response for role, response in said.items()}
    row |= {name: response["text"] for name, response in named.items()}
    row["source_model"] = named["source_chosen"]["model"]
    if "source_rejected" in named:
        row["source_rejected_model"] = named["source_rejected"]["model"]
    return row | {f"{name}_reward": float(r["reward"]) for name, r in named.items()}


def write_pairs(
    table: ResponseTable,
    out: Path,
    pairing: Pairing,
    split: Split | None = None,
    part: str = "all",
    excluded: Iterable[str] = (),
) -> PairingReport:
    """Pair the responses of ``table`` into ``out``, and write ``<out>.report.json``.

    The prompts are ``part`` of a recorded ``split`` in its order, or without one all prompts by
    their ids. Nothing is left at ``out`` when a prompt is malformed or nothing can be paired.
    """
    rows, report = build_rows(table, pairing, split.part(part) if split else None, excluded)
    for row in rows:
        for what in prompt_problems(row["prompt"]):
            raise WRPOError(
                f"prompt {row['prompt_id']!r}, field 'prompt': {what}; pairing takes it from the "
                "chosen responses"
            )
    if not rows:
        files = ", ".join(map(str, table.files))
        raise WRPOError(f"{files}: {report.sentence()}; nothing to write")
    write_rows(rows, out)
    record = {
        "pairing": asdict(pairing),
        "tie_rule": TIE_RULE,
        "files": [str(path) for path in table.files],
        "responses": len(table),
        "empty": int((table.frame["length"] == 0).sum()),
        "truncated": int(table.frame["truncated"].sum()),
        "part": part,
        "split": {"seed": split.seed, "share": split.share} if split else None,
        **report.as_dict(),
        "dropped": dict(report.dropped),
        "chosen_from": dict(report.winners.most_common()),
        "source_not_above_rejected": report.source_not_above_rejected,
        "provenance": provenance(),
    }
    stem = out.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".parquet")
    write_json(out.with_name(f"{stem}.report.json"), record)
    return report


def build_quadruples(
    prompts: dict[str, list[dict[str, str]]],
    sources: pd.DataFrame,
    target: pd.DataFrame,
    rejected_from: str = "target",
    **options: Any,
) -> tuple[list[dict[str, Any]], PairingReport]:
    """Pair scored responses held in data frames into quadruples.

    ``prompts`` maps prompt_id to chat messages; ``sources`` and ``target`` have a row per response
    (prompt_id, model, sample, text, reward). ``rejected_from="source"`` takes y_l from the sources
    instead, which gives DPO-off its pairs (paper Figure 1; how its pairs are chosen is inferred).
    ``options`` are fields of :class:`Pairing`. Prompts whose preferred and dispreferred response
    tie in text or reward carry no preference and are left out and counted (the paper is silent;
    ours).
    """
    import pandas as pd

    sources, target = _scored(sources, "source"), _scored(target, "target")
    names = sorted(set(target["model"]))
    if len(names) != 1:
        raise WRPOError(f"the target's responses are of {', '.join(names)}; give one model's")
    frame = pd.concat([sources, target], ignore_index=True)
    frame["length"] = frame["text"].str.len().where(frame["text"].str.strip() != "", 0)
    frame["truncated"] = False
    pairing = Pairing(target=names[0], rejected_from=rejected_from, **options)
    rows, report = build_rows(ResponseTable(frame), pairing, list(prompts))
    return [{**row, "prompt": prompts[row["prompt_id"]]} for row in rows], report


def _scored(responses: pd.DataFrame, what: str) -> pd.DataFrame:
    columns = [*KEY, "text", "reward"]
    for name in columns:
        if name not in responses:
            raise WRPOError(f"{what} responses lack the column {name!r}; score them first")
    bad = np.flatnonzero(responses["reward"].isna())
    if len(bad):
        raise WRPOError(f"{what} responses, row {bad[0] + 1}: reward is NaN; score it again")
    return responses[columns]
