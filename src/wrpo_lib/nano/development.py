"""What is settled on development seeds: whether a world has room for fusion, the methods' settings.

No reported seed enters here. ``results/development`` has every run of the grids.
"""

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch

from wrpo_lib.nano.arms import Stage, outcomes
from wrpo_lib.nano.batch import PAD, score
from wrpo_lib.nano.rules import KNOBS, rank_correlation

NEEDED = ("target", "target_sft", "sft_true")


def headroom(stage: Stage) -> pd.DataFrame:
    """What the rules ask, a row per world; it needs the sources and ``NEEDED``."""
    arms = [*stage.sources, *NEEDED]
    found = pd.concat([outcomes(stage, name) for name in arms])
    found["sampled"] = found["right"] / found["n"]
    exact = found.groupby(["seed", "arm"])[["greedy", "sampled"]].mean().unstack("arm")
    of_b = found[found["class"] == "B"].groupby(["seed", "arm"])[["sampled", "any5"]].mean()
    of_b = of_b.unstack("arm")
    greedy = exact["greedy"]
    table = pd.DataFrame(
        {
            "target_greedy": greedy["target"],
            "sft_greedy": greedy["target_sft"],
            "sft_sampled": exact["sampled"]["target_sft"],
            "source_lead": greedy[stage.sources].min(axis=1) - greedy["target"],
            "b_pass5": of_b["any5"]["target_sft"],
            "b_learnable": of_b["sampled"]["sft_true"] - of_b["sampled"]["target_sft"],
        }
    )
    return table.join(_of_pairs(stage)).reset_index()


def _of_pairs(stage: Stage) -> pd.DataFrame:
    """Columns of :func:`headroom` that are of the preference prompts' responses."""
    pool, model = stage.pool("preference", "target_sft"), stage.model("target_sft")
    sigma, n = stage.recipe["reward"]["sigma"], len(stage.worlds)
    ws, wt = (pool.best([names] * n, sigma) for names in (stage.sources, ["target_sft"]))
    right = np.take_along_axis(pool.quality, ws.numpy()[..., None], -1)[..., 0] == 1
    b = [[w.classes[p.skill] == "B" for p in w.splits["preference"]] for w in stage.worlds]
    rows = {"ws": pool.rows(ws), "wt": pool.rows(wt)}
    logps = {k: score(model.params, x, model.prompt, model.shape.heads) for k, x in rows.items()}
    tokens = {k: (x[..., model.prompt :] != PAD).sum((1, 2)) for k, x in rows.items()}
    truth, rewards = pool.quality, pool.rewards(sigma)
    return pd.DataFrame(
        {
            "b_source_right": [r[of_b].mean() for r, of_b in zip(right, b, strict=True)],
            "gap_nats": (logps["wt"] - logps["ws"]).mean(1).numpy(),
            "length_ratio": (tokens["ws"] / tokens["wt"]).numpy(),
            "rank_correlation": list(map(rank_correlation, truth, rewards)),
        },
        index=pd.Index([w.seed for w in stage.worlds], name="seed"),
    )


def grid(recipe: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Arms of the grids: learning rate by β (or τ), as many points for every method; then α."""
    found, asked, arms = {}, recipe["development"], recipe["arms"]
    for arm, values in asked["grid"].items():
        spec = arms[arm] | ({"alpha": asked["grid_alpha"]} if arm.startswith("wrpo") else {})
        knob = KNOBS[spec.get("form", "dpo")]
        for rate, value in product(values["learning_rate"], values[knob]):
            settings = spec.get("settings", {}) | {"learning_rate": rate, knob: value}
            found[f"{arm}/{rate:g}/{value:g}"] = spec | {"settings": settings}
    return found | {f"alpha/{a:g}": arms["wrpo"] | {"alpha": a} for a in asked["alpha"]}


def for_development(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe with the arms of the grids, and what δ and the rules need, in place of its own."""
    arms = {name: recipe["arms"][name] for name in ("dpo_on", "sft_true")}
    return recipe | {"arms": arms | grid(recipe), "seeds": recipe["development"]["seeds"]}


def develop(stage: Stage) -> dict[str, pd.DataFrame]:
    """The rules' table, and the exactness of every arm of the grids, a row per arm and world."""
    torch.set_num_threads(1)
    arms, rows = stage.arms, []
    stage.make(["target", *stage.sources, "target_sft", *arms])
    for name in ("target_sft", *arms):
        answered = outcomes(stage, name)
        answered["right"] /= answered["n"]
        means = answered.groupby("seed")[["greedy", "right"]].mean().reset_index()
        how = {"alpha": arms[name].alpha, **arms[name].settings} if name in arms else {}
        rows.append(means.assign(arm=name, method=name.partition("/")[0], **how))
    return {
        "headroom": headroom(stage),
        "grid": pd.concat(rows, ignore_index=True).rename(columns={"right": "sampled"}),
    }
