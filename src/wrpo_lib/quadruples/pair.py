"""Choosing by reward which response of each prompt is y_ws, y_wt and y_l (paper section 3.2).

y_ws is the response with the highest reward among all responses of all sources, y_wt the best and
y_l the worst of the target's own samples; ties: ``TIE_RULE`` (the paper is silent; ours). A first
pass over files of responses checks every row and keeps numbers only (about 40 bytes per row); a
second one fetches the few rows whose text is wanted.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wrpo_lib.errors import WRPOError, explained
from wrpo_lib.io import Row, iter_rows, parse_row, write_json, write_rows
from wrpo_lib.quadruples.schema import as_written, require_one
from wrpo_lib.records import provenance

KEY = ["prompt_id", "model", "sample"]
COUNTS = [(name, "i4") for name in (*KEY, "length", "file", "row")]
NUMBERS = np.dtype([*COUNTS, ("truncated", "?"), ("reward", "f8")])
OWN = {"target_chosen", "rejected"}  # the roles that the target's samples play
TIE_RULE = "equal rewards: model name in alphabetical order, then the lowest sample number"
PAIRS = {
    "quadruples": ["source_chosen", "target_chosen", "rejected"],
    "dpo-on": ["target_chosen", "rejected"],
    "dpo-hybrid": ["source_chosen", "rejected"],
    "dpo-off": ["source_chosen", "source_rejected"],
    "sft": ["source_chosen"],
}
"""What is written -> its roles; the last two are the preferred and the dispreferred one."""


def draw_split(prompt_ids: Iterable[str], seed: int) -> dict[str, Any]:
    """``seed``, ``sft`` and ``preference``: a random third of the ids for SFT (paper section 4.1).

    Each part is in the order drawn, by the set of ids and ``seed`` alone.
    """
    ids = sorted(set(prompt_ids))
    drawn = [ids[i] for i in np.random.default_rng(seed).permutation(len(ids))]
    cut = round(len(ids) / 3)
    return {"seed": seed, "sft": drawn[:cut], "preference": drawn[cut:]}


@dataclass(frozen=True)
class ResponseTable:
    """Numbers of responses: ``prompt_id``, ``model``, ``sample``, ``reward`` (or NaN), ``length``
    in characters, ``truncated`` (by the token limit), ``file`` (from 0) and ``row`` (from 1)."""

    frame: pd.DataFrame
    files: Sequence[Path | list[Row]]

    def fetch(self, positions: Iterable[int]) -> dict[int, Row]:
        """The whole rows at ``positions``, by position; each file is read once."""
        wanted = self.frame.loc[sorted(set(positions))]
        found: dict[int, Row] = {}
        for k, file in enumerate(self.files):
            here = wanted.index[wanted["file"] == k]
            at = dict.fromkeys(wanted.loc[here, "row"])  # in the file's order
            rows = iter_rows(file, at) if isinstance(file, Path) else (file[n - 1] for n in at)
            found |= dict(zip(here, rows, strict=True))
        return found


def read_responses(files: Sequence[Path | list[Row]], scored: bool = True) -> ResponseTable:
    """The numbers of all responses in ``files``; with ``scored`` each needs a reward.

    :raises WRPOError: naming file and row for the first that is malformed, that repeats a
        prompt_id, model and sample, or whose prompt_id had another prompt or reward model before.
    """
    models, asked = dict[str, int](), dict[str, tuple[int, Any, Any]]()
    names = [str(file) if isinstance(file, Path) else "the responses" for file in files]

    def numbers() -> Iterator[tuple[Any, ...]]:
        for k, file in enumerate(files):
            rows = iter_rows(file) if isinstance(file, Path) else file
            for number, row in enumerate(rows, 1):
                require_one(row, "rewards" if scored else "responses", names[k], number)
                first = len(asked), row["prompt"], row.get("reward_model")
                at, prompt, judge = asked.setdefault(row["prompt_id"], first)
                where = f"{names[k]}, row {number}, field"
                if row["prompt"] != prompt and as_written(row["prompt"]) != as_written(prompt):
                    what = "is another one than before under this id; rename it"
                    raise WRPOError(f"{where} 'prompt': {what}")
                if scored and judge and row.get("reward_model") != judge:
                    what = f"{judge!r} scored this prompt before; score all rows with one model"
                    raise WRPOError(f"{where} 'reward_model': {what}")
                model = models.setdefault(row["model"], len(models))
                length, cut = len(row["text"].strip()), row.get("finish_reason") == "length"
                reward = row["reward"] if scored else np.nan
                yield at, model, row["sample"], length, k, number, cut, reward

    frame = pd.DataFrame(np.fromiter(numbers(), NUMBERS))
    if frame.empty:
        raise WRPOError(f"{', '.join(names)}: no rows; sample responses first")
    frame["prompt_id"] = pd.Categorical.from_codes(frame["prompt_id"], list(asked))
    named = pd.Categorical.from_codes(frame["model"], list(models))
    frame["model"] = named.reorder_categories(sorted(models))
    for _, row in frame[frame.duplicated(KEY)].iterrows():
        what = f"sample {row['sample']} of {row['model']!r} for prompt {row['prompt_id']!r}"
        where = f"{names[row['file']]}, row {row['row']}"
        raise WRPOError(f"{where}: {what} repeats an earlier row; remove one")
    return ResponseTable(frame, files)


@dataclass(frozen=True)
class Pairing:
    """What to pair and what to leave out.

    ``target``: the model whose samples give y_wt and y_l (``sft`` and ``dpo-off`` need none);
    ``sources``: the models that may give y_ws, every other one if empty (Tables 4 and 9); ``rank``:
    2 for the second best source response (Table 9); ``dispreferred``: also the worst source
    response (Table 10); ``rejected_from="source"``: that one in place of y_l, for DPO-off (paper
    Figure 1; inferred).

    A prompt is left out when its preferred and dispreferred response have the same reward or text,
    or differ in reward by less than ``min_gap``. An empty response is never chosen, nor with
    ``drop_truncated`` one that the token limit cut.
    """

    target: str | None = None
    pairs: str = "quadruples"
    sources: tuple[str, ...] = ()
    rank: int = 1
    dispreferred: bool = False
    min_gap: float = 0.0
    drop_truncated: bool = False
    rejected_from: str = "target"

    def __post_init__(self) -> None:
        if self.pairs not in PAIRS:
            raise WRPOError(f"cannot pair {self.pairs!r}; choose one of {', '.join(PAIRS)}")
        if not (self.target or OWN.isdisjoint(self.roles)):
            raise WRPOError(f"pairing {self.pairs} needs the target's name; give --target MODEL")
        if self.target in self.sources:
            raise WRPOError(f"{self.target!r} is target and source; take it out of --sources")

    @property
    def roles(self) -> list[str]:
        """The roles whose texts a row holds, the preferred and the dispreferred one last."""
        if self.pairs != "quadruples":
            return PAIRS[self.pairs]
        if self.rejected_from == "source":
            return ["target_chosen", *PAIRS["dpo-off"]]
        return ["source_rejected"] * self.dispreferred + PAIRS["quadruples"]


def best(responses: pd.DataFrame, rank: int = 1, lowest: bool = False) -> pd.DataFrame:
    """The response with the highest reward of each prompt, by prompt_id; ties: ``TIE_RULE``.

    ``rank`` 2 takes the second best and so on; prompts with fewer responses are left out.
    """
    by = ["prompt_id", "reward", "model", "sample"]
    ranked = responses.sort_values(by, ascending=[True, lowest, True, True])
    return ranked.groupby("prompt_id", observed=True).nth(rank - 1).set_index("prompt_id")


def build_rows(
    table: ResponseTable, pairing: Pairing, asked: list[str] | None = None
) -> tuple[list[Row], dict[str, int]]:
    """Rows for the prompts ``asked`` (all, by id, if None), in that order, and what was counted.

    Counts are ``prompts``, ``kept``, and how many were left out for which reason. Only the chosen
    texts are ever in memory.
    """
    frame, found = table.frame, dict[str, pd.Series]()
    models = sorted(frame["model"].unique())
    own = [] if OWN.isdisjoint(pairing.roles) else [pairing.target]
    names = pairing.sources or [name for name in models if name != pairing.target]
    for name in (*names, *own):
        if name not in models:
            raise WRPOError(f"no response of {name!r} in the files; they have {', '.join(models)}")
    usable = (frame["length"] > 0) & ~(pairing.drop_truncated & frame["truncated"])
    positions = frame[usable].reset_index(names="position")
    for role in {"source_chosen", *pairing.roles}:
        group = positions[positions["model"].isin(names if role.startswith("source") else own)]
        rank = pairing.rank if role == "source_chosen" else 1
        found[role] = best(group, rank, lowest=role.endswith("rejected"))["position"]

    ids = sorted(frame["prompt_id"].unique()) if asked is None else asked
    roles = pd.DataFrame(found).reindex(ids)
    reasons, compared = {"missing": roles.isna().any(axis=1)}, pairing.roles[-2:]
    if len(compared) == 2:
        better, worse = (roles[role].map(frame["reward"]) for role in compared)
        reasons |= {"tied": better <= worse, "small_gap": better - worse < pairing.min_gap}
    reason = np.select(list(reasons.values()), list(reasons), default="")  # the first that holds
    kept = roles.loc[reason == "", pairing.roles].astype(int)
    responses = table.fetch(kept.to_numpy().ravel().tolist())
    said = [{role: responses[at] for role, at in row.items()} for row in kept.to_dict("records")]
    whole = [row for row in said if len({row[r]["text"] for r in compared}) == len(compared)]
    counts = {"prompts": len(roles), "kept": len(whole), "tied": 0, "missing": 0}
    counts |= {"identical": len(said) - len(whole), **Counter(reason[reason != ""].tolist())}
    return [_row(row, pairing) for row in whole], counts


def _row(said: dict[str, Row], pairing: Pairing) -> Row:
    """A quadruple, an SFT row (prompt and y_ws), or a pair in TRL's conversational format."""
    first, *_ = said.values()
    row = {"prompt_id": first["prompt_id"], "prompt": as_written(first["prompt"])}
    if pairing.pairs.startswith("dpo"):
        for name, response in zip(("chosen", "rejected"), said.values(), strict=True):
            row[name] = [{"role": "assistant", "content": response["text"]}]
            row |= {f"{name}_model": response["model"], f"{name}_reward": float(response["reward"])}
        return row
    if pairing.roles[-1] == "source_rejected":
        said["rejected"] = said.pop("source_rejected")
    for role, response in said.items():
        row |= {role: response["text"], f"{role}_reward": float(response["reward"])}
        if role.startswith("source"):
            row[f"{role.removesuffix('_chosen')}_model"] = response["model"]
    return row


def write_pairs(files: list[Path], out: Path, pairing: Pairing, split: Path | None = None) -> str:
    """Pair the scored responses of ``files`` into ``out``, and write ``<out>.report.json``.

    The prompts are the part that ``pairing`` is for of the one recorded in the file ``split``, or
    all by their ids. Returns the counts of :func:`build_rows` in one line.
    """
    part, seed, asked = "all", None, None
    if split:
        part = "sft" if pairing.pairs == "sft" else "preference"
        with explained(f"{split} is no recorded split", "draw one with `wrpo data split`"):
            held = parse_row(split.read_bytes(), str(split))
            seed, asked = held["seed"], held[part]
    rows, counts = build_rows(read_responses(files), pairing, asked)
    said = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in counts.items() if n)
    if not rows:
        raise WRPOError(f"{', '.join(map(str, files))}: no prompt can be paired ({said})")
    write_rows(rows, out)
    won = Counter(row.get("source_model") or row["chosen_model"] for row in rows)
    record = {
        "pairing": asdict(pairing),
        "tie_rule": TIE_RULE,
        "files": [str(file) for file in files],
        "part": part,
        "seed": seed,
        **counts,
        "chosen_from": dict(won.most_common()) if "source_chosen" in pairing.roles else {},
        "provenance": provenance(),
    }
    whole = out.with_suffix("") if out.suffix.lower() == ".gz" else out
    write_json(whole.with_suffix(".report.json"), record)
    return said


def build_quadruples(
    prompts: dict[str, list[dict[str, str]]],
    sources: pd.DataFrame,
    target: pd.DataFrame,
    **options: Any,
) -> tuple[list[Row], dict[str, int]]:
    """Pair scored responses held in data frames, as :func:`build_rows` does with those of files.

    ``prompts`` maps prompt_id to chat messages; ``sources`` and ``target`` have a row per response
    (prompt_id, model, sample, text, reward); ``options`` are fields of :class:`Pairing`.
    """
    held = [*sources.to_dict("records"), *target.to_dict("records")]
    rows = [{**row, "prompt": prompts[row["prompt_id"]]} for row in held]
    pairing = Pairing(target["model"].iloc[0], **options)
    return build_rows(read_responses([rows]), pairing, list(prompts))
