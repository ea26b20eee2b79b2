"""A small study with known effects, in the files that the study writes."""

from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from wrpo_lib.analysis.report import world_rules
from wrpo_lib.nano.judge import judged
from wrpo_lib.nano.runner import for_development
from wrpo_lib.nano.world import LETTERS, OWN_WORDINGS, SOURCE_WORDINGS, Prompt, nano_recipe
from wrpo_lib.nano.world import SKILLS as NAMES
from wrpo_lib.paper import Plan, read_plan
from wrpo_lib.records import write_results

SKILLS = dict(enumerate("AAABBBCCCDDD"))
MODELS = ("target", "target_sft", "dpo_off", "target_dpo_on", "dpo_on", "wrpo")


def product(**levels: Any) -> pd.DataFrame:
    """A row for each combination of the levels."""
    return pd.MultiIndex.from_product(levels.values(), names=levels).to_frame(index=False)


def outcomes(level: Mapping[str, float], seeds: tuple[int, ...]) -> pd.DataFrame:
    """Eight samples of every arm are right at its own rate, moved a little in each world.

    All arms of a world share the prompts' difficulty and the random numbers, as in the study.
    """
    rng, rows = np.random.default_rng(0), []
    for seed in seeds:
        hard, shared = rng.normal(0, 0.15, 48), rng.random((48, 8))
        for arm, mean in level.items():
            rate = np.clip(mean + hard + rng.normal(0, 0.01), 0, 1)
            right = shared < rate[:, None]
            own = {"arm": arm, "seed": seed, "prompt": range(48), "n": 8, "right": right.sum(1)}
            own |= {"greedy": (rate > 0.5) * 1, "any5": right[:, :5].any(1) * 1}
            own |= {"style": rng.binomial(8, 0.3, 48), "length": 48 + rng.integers(0, 9, 48)}
            rows.append(pd.DataFrame({**own, "repeats": rng.binomial(8, 0.02, 48)}))
    made = pd.concat(rows, ignore_index=True)
    made["skill"] = made["prompt"] % len(SKILLS)
    made["class"] = made["skill"].map(SKILLS)
    return made.astype({"arm": "category", "class": "category"})


def write_study(root: Path, level: Mapping[str, float], plan: Plan | None = None) -> None:
    """Write ``results/nano`` and ``results/development`` below ``root``; other arms have 0.5."""
    plan, rng, recipe = plan or read_plan(), np.random.default_rng(1), nano_recipe()
    seeds, tuned = plan.seeds, recipe["development"]["seeds"]
    tests = [claim.test for claim in plan.claims if claim.test]
    named = [arm for test in tests if test.of != "logp" for arm in test.arms()]
    named += [f"map_{k}1_{arm}" for k in ("dose", "noise") for arm in ("wrpo", "dpo_on")]
    arms = list(dict.fromkeys(["target", *named]))
    spent = {"train_seconds": 20.0, "cpu_seconds": 40.0, "tokens_generated": 9000}
    costs = product(arm=arms, seed=seeds).assign(pairs=640, models_held=1, **spent)
    costs["diverged"] = (costs["arm"] == "wrpo_a90") & (costs["seed"] == seeds[0])
    greedy = product(arm=arms, seed=seeds, prompt=(0, 7))
    greedy["prompt_text"] = "skill" + greedy["prompt"].astype(str) + " abcd"
    # source responses some nats below the model's own
    nats = product(seed=seeds, model=MODELS, whose=("source", "own"), response=range(20))
    nats["logp"] = rng.normal(nats["whose"].map({"source": -8.0, "own": -3.0}))
    sources = product(seed=seeds, source=[f"source_{k}" for k in range(1, 7)])
    sources["share"] = rng.dirichlet(np.ones(6) * 8, len(seeds)).ravel()
    room = dict.fromkeys([*world_rules(), "target_greedy", "sft_sampled"], 0.5)
    said = answers(recipe["evaluation"]["models"], seeds, rng)
    tables = {
        "outcomes.parquet": outcomes({arm: level.get(arm, 0.5) for arm in arms}, seeds),
        "dynamics.csv.gz": dynamics([a for a in arms if not a.startswith("target")], seeds),
        "deviation.csv.gz": nats.assign(tokens=6, right=1),
        "arms": costs,
        "responses.csv.gz": greedy.assign(response="d c b a", right=1, **{"class": "A"}),
        "answers.csv.gz": said,
        "judged.csv.gz": judged(said, recipe["evaluation"]),
        "sources": sources.assign(right=0.9, reward=0.8),
        "headroom": product(seed=seeds).assign(**room),
    }
    record = {"commit": "0123456789ab", "seeds": list(seeds), "seconds": 1200, "world": recipe}
    development = {"headroom": product(seed=tuned).assign(**room), "grid": grid(recipe, rng)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WRPO_HOME", str(root))
        write_results("development", development, {"seeds": tuned})
        write_results("nano", tables, record | {"plan": plan.sha256})


def dynamics(arms: list[str], seeds: tuple[int, ...]) -> pd.DataFrame:
    """Rewards that grow with the step; a wider margin for the hybrid."""
    rng = np.random.default_rng(2)
    rows = product(arm=arms, seed=seeds, step=range(0, 41, 2), split=("train", "heldout"))
    slope = rows["arm"].map({"dpo_hybrid": 3.0, "dpo_on": 1.0}).fillna(2.0) * rows["step"] / 40
    for name, share in {"reward_ws": 1.0, "reward_wt": 0.5, "reward_l": -0.5}.items():
        rows[name] = share * slope + rng.normal(0, 0.05, len(rows))
    rows["margin"] = rows["reward_ws"] - rows["reward_l"]
    rows["alpha"] = rows["source_share"] = rows["step"] / 80
    return rows.assign(accuracy=0.5 + rows["step"] / 100, accuracy_wt=0.7, loss=0.6)


def grid(recipe: dict[str, Any], rng: np.random.Generator) -> pd.DataFrame:
    """Every arm of the grids on the development seeds, at about 0.6; DPO-on gains 0.2."""
    rows = []
    for seed in recipe["development"]["seeds"]:
        right = 0.4 + rng.normal(0, 0.01)
        rows.append({"seed": seed, "sampled": right, "arm": "target_sft", "method": "target_sft"})
        for name, arm in for_development(recipe)["arms"].items():
            row = {"seed": seed, "sampled": right + 0.2 + rng.normal(0, 0.01), "arm": name}
            row |= {"method": name.partition("/")[0], "alpha": arm.get("alpha", 0.0)}
            settings = recipe["forms"][arm.get("form", "dpo")] | arm.get("settings", {})
            rows.append(row | settings)
    return pd.DataFrame(rows).assign(greedy=0.5)


def answers(models: list[str], seeds: tuple[int, ...], rng: np.random.Generator) -> pd.DataFrame:
    """Greedy answers to four prompts of every skill, right half of the time."""
    strings, rows = ["".join(letters) for letters in permutations(LETTERS, 4)], []
    for seed in seeds:
        for k, letters in enumerate(rng.choice(strings, 48, replace=False)):
            prompt = Prompt(sorted(NAMES)[k % 12], letters)
            for arm in models:
                wording = rng.choice(SOURCE_WORDINGS if arm.startswith("source") else OWN_WORDINGS)
                right = rng.random() < 0.5
                said = wording.format(prompt.answer if right else letters)
                rows.append((arm, seed, k, prompt.text, SKILLS[k % 12], said, int(right)))
    columns = ["arm", "seed", "prompt", "prompt_text", "class", "response", "right"]
    return pd.DataFrame(rows, columns=columns)
