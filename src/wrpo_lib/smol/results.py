"""``results/smol``: numbers of the real-text study, without any text.

Fixed before the first run was looked at: who wins y_ws (Wilson intervals), mean reward and length
of each model (t intervals over prompts), whether y_ws is longer than y_wt and y_wt than y_l,
the rank correlation of reward with length (bootstrap over prompts), what two models' responses to
one prompt share, the share that the token limit ended, and what options of pairing change.

Lengths are in tokens of the target's tokenizer, for all models alike, and in characters.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wrpo_lib.analysis.statistics import (
    Estimate,
    bootstrap_interval,
    mean_interval,
    proportion_interval,
)
from wrpo_lib.models import packaged_weights
from wrpo_lib.quadruples import ResponseTable
from wrpo_lib.quadruples.overlap import words
from wrpo_lib.smol.study import TARGET, Study, paired, run

if TYPE_CHECKING:
    import pandas as pd

ROLES = ("source_chosen", "target_chosen", "rejected")
OPTIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "gap of at least 1": {"min_gap": 1.0},
    "gap of at least 3": {"min_gap": 3.0},
    "at most twice as long": {"max_length_ratio": 2.0},
    "no truncated response": {"drop_truncated": True},
    "identical texts kept": {"keep_identical": True},
    "second best source response": {"rank": 2},
}
Count = Callable[[str], int]


def response_table(table: ResponseTable, count: Count) -> pd.DataFrame:
    """A row a scored response; ``text`` is still there and never written."""
    import pandas as pd

    rows = pd.DataFrame(table.fetch(np.arange(len(table))).values())
    return pd.DataFrame(
        {
            "prompt_id": rows["prompt_id"].str[:12],
            "model": rows["model"],
            "sample": rows["sample"],
            "reward": rows["reward"],
            "n_tokens": rows["text"].map(count),
            "characters": rows["text"].str.len(),
            "truncated": rows["finish_reason"] == "length",
            "text": rows["text"],
        }
    )


def quadruple_table(rows: list[dict[str, Any]], responses: pd.DataFrame) -> pd.DataFrame:
    """A row a quadruple: rewards, lengths and truncation of its three responses."""
    import pandas as pd

    told = responses.drop_duplicates(["prompt_id", "text"]).set_index(["prompt_id", "text"])
    made = []
    for row in rows:
        prompt_id = row["prompt_id"][:12]
        found: dict[str, Any] = {"prompt_id": prompt_id, "source_model": row["source_model"]}
        for role in ROLES:
            own = told.loc[(prompt_id, row[role])]
            names = ("n_tokens", "characters", "truncated")
            found[f"{role}_reward"] = row[f"{role}_reward"]
            found |= {f"{role}_{name}": own[name] for name in names}
        made.append(found)
    return pd.DataFrame(made)


def _spread(name: str, found: Estimate) -> dict[str, float]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def source_table(responses: pd.DataFrame, quadruples: pd.DataFrame) -> pd.DataFrame:
    """Of each model: how often it gives y_ws, its mean reward and length, truncated responses."""
    import pandas as pd

    rows = []
    for name in sorted(set(responses["model"])):
        own = responses[responses["model"] == name]
        wins, n = int((quadruples["source_model"] == name).sum()), len(quadruples)
        won = None if name == TARGET else proportion_interval(wins, n)
        rows.append(
            {
                "source": name,
                "wins": None if won is None else wins,
                "n": n,
                **({} if won is None else _spread("share", won)),
                "responses": len(own),
                **_spread("reward", mean_interval(own["reward"], own["prompt_id"])),
                **_spread("n_tokens", mean_interval(own["n_tokens"], own["prompt_id"])),
                "truncated": own["truncated"].mean(),
            }
        )
    return pd.DataFrame(rows).astype({"wins": "Int64"})


def length_table(responses: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation of reward and tokens, over all responses and within a prompt."""
    import pandas as pd

    groups = {"sources": responses["model"] != TARGET, "target": responses["model"] == TARGET}
    rows = []
    for name, chosen in groups.items():
        own = responses[chosen]
        for within in (False, True):
            found = rank_correlation(own, within)
            where = "within a prompt" if within else "over all"
            rows.append({"responses": name, "ranked": where, **_spread("correlation", found),
                         "n": found.n, "prompts": found.n_clusters})  # fmt: skip
    return pd.DataFrame(rows)


def rank_correlation(rows: pd.DataFrame, within: bool) -> Estimate:
    """Spearman's correlation of reward and tokens; ``within`` ranks and centres by prompt."""
    pair = rows[["reward", "n_tokens"]]
    by_prompt = rows["prompt_id"].to_numpy()
    ranks = pair.groupby(by_prompt).rank() if within else pair.rank()
    if within:
        ranks = ranks - ranks.groupby(by_prompt).transform("mean")
    x, y = ranks["reward"].to_numpy(), ranks["n_tokens"].to_numpy()

    def correlation(counts: np.ndarray) -> float:
        a, b = (v - np.average(v, weights=counts) for v in (x, y))
        spread = (counts * a * a).sum() * (counts * b * b).sum()
        return float((counts * a * b).sum() / np.sqrt(spread)) if spread else float("nan")

    return bootstrap_interval(correlation, by_prompt)


def overlap_table(responses: pd.DataFrame) -> pd.DataFrame:
    """What the first responses of two models to one prompt share: word 3-grams (Jaccard), text."""
    import pandas as pd

    first = responses[responses["sample"] == 0]
    texts = first.pivot(index="prompt_id", columns="model", values="text").dropna()
    rewards = first.pivot(index="prompt_id", columns="model", values="reward").loc[texts.index]
    grams = texts.map(trigrams)
    rows = []
    for a, b in combinations(sorted(texts.columns), 2):
        shared = [100 * share(x, y) for x, y in zip(grams[a], grams[b], strict=True)]
        rows.append(
            {
                "first": a,
                "second": b,
                **_spread("shared", mean_interval(shared)),
                "same_text": int((texts[a] == texts[b]).sum()),
                "reward_correlation": rewards[a].corr(rewards[b], method="spearman"),
                "n": len(texts),
            }
        )
    return pd.DataFrame(rows)


def trigrams(text: str) -> frozenset[tuple[str, ...]]:
    """The word 3-grams of a text."""
    found = words(text)
    return frozenset(zip(found, found[1:], found[2:], strict=False))


def share(a: frozenset[Any], b: frozenset[Any]) -> float:
    """Jaccard similarity; 0 where both are empty."""
    return len(a & b) / max(len(a | b), 1)


def option_table(table: ResponseTable, responses: pd.DataFrame) -> pd.DataFrame:
    """What options of pairing keep, and the rewards and lengths of what they keep."""
    import pandas as pd

    rows = []
    for name, options in OPTIONS.items():
        made, counts = paired(table, **options)
        row: dict[str, Any] = {"option": name, **counts}
        if made:
            kept = quadruple_table(made, responses)
            gap = kept["target_chosen_reward"] - kept["rejected_reward"]
            longer = kept["source_chosen_n_tokens"] > kept["target_chosen_n_tokens"]
            row |= {"y_ws_reward": kept["source_chosen_reward"].mean(), "y_wt_gap": gap.mean(),
                    "y_ws_longer": longer.mean()}  # fmt: skip
        rows.append(row)
    counted = ["small_gap", "length_ratio"]
    frame = pd.DataFrame(rows).reindex(columns=list(dict.fromkeys([*rows[0], *counted])))
    return frame.fillna(dict.fromkeys(counted, 0)).astype(dict.fromkeys(counted, int))


def result_tables(table: ResponseTable, count: Count) -> dict[str, pd.DataFrame]:
    """All tables of the study."""
    responses = response_table(table, count)
    quadruples = quadruple_table(paired(table)[0], responses)
    return {
        "rewards": responses.drop(columns="text"),
        "quadruples": quadruples,
        "sources": source_table(responses, quadruples),
        "lengths": length_table(responses),
        "overlap": overlap_table(responses),
        "pairing": option_table(table, responses),
    }


def make_results(study: Study, model: str | None = None) -> Path:
    """Run the study (finished rows are kept) and write ``results/smol``."""
    from wrpo_lib.figures.map import write_figure_map
    from wrpo_lib.generation import TransformersEngine
    from wrpo_lib.io import file_hash
    from wrpo_lib.models import load_causal_lm, load_tokenizer
    from wrpo_lib.records import commit, read_run, write_results

    made_at, place = commit(), model or str(packaged_weights())
    weights = file_hash(Path(place)) if Path(place).is_file() else place
    table = run(study, lambda: TransformersEngine(*load_causal_lm(place)), weights)
    tokenizer = load_tokenizer(place)
    record = {
        "what": "quadruples of real text: a sampled target, published responses of the sources",
        "commit": made_at,
        "target": Path(place).name,
        "weights": weights,
        "sampled": json.loads(study.file(TARGET).with_suffix(".run.json").read_text()),
        "reward": json.loads(study.file("scored").with_suffix(".run.json").read_text())["settings"],
        "reference": study.reference,
        "published": {p.name: file_hash(p) for p in [study.reference_file, *study.source_files]},
        "prompts": study.prompts,
        "seed": study.seed,
    }
    found = result_tables(table, lambda t: len(tokenizer(t, add_special_tokens=False)["input_ids"]))
    folder = write_results("smol", found, record)
    write_figure_map(read_run("nano")["seeds"])
    return folder
