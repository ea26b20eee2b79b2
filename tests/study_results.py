"""A small study with known effects, in the files that the study writes."""

from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from wrpo_lib.nano.judge import judged
from wrpo_lib.nano.runner import for_development
from wrpo_lib.nano.world import LETTERS, OWN_WORDINGS, RULES, SOURCE_WORDINGS, Prompt, nano_recipe
from wrpo_lib.nano.world import SKILLS as NAMES
from wrpo_lib.paper import Plan, read_plan
from wrpo_lib.records import write_results

SKILLS = dict(enumerate("AAABBBCCCDDD"))
SAMPLES = 8
MODELS = ("target", "target_sft", "dpo_off", "target_dpo_on", "dpo_on", "wrpo")


def plan_arms(plan: Plan) -> list[str]:
    """Every arm that a test on held-out prompts names."""
    tests = [claim.test for claim in plan.claims if claim.test]
    named = [arm for test in tests if test.of != "logp" for arm in test.arms()]
    named += [f"map_{k}1_{arm}" for k in ("dose", "noise") for arm in ("wrpo", "dpo_on")]
    return list(dict.fromkeys(["target", *named]))


def product(**levels: Any) -> pd.DataFrame:
    """A row for each combination of the levels."""
    return pd.MultiIndex.from_product(levels.values(), names=levels).to_frame(index=False)


def outcomes(
    level: Mapping[str, float],
    seeds: tuple[int, ...],
    prompts: int = 48,
    spread: float = 0.01,
    rng: np.random.Generator | None = None,
) -> pd.DataFrame:
    """Every arm's samples are right at its own rate, moved by ``spread`` in each world.

    All arms of a world share the prompts' difficulty and the random numbers, as in the study.
    """
    rng, rows = rng or np.random.default_rng(0), []
    for seed in seeds:
        hard, shared = rng.normal(0, 0.15, prompts), rng.random((prompts, SAMPLES))
        for arm, mean in level.items():
            rate = np.clip(mean + hard + rng.normal(0, spread), 0, 1)
            right = shared < rate[:, None]
            own = {"arm": arm, "seed": seed, "prompt": range(prompts), "n": SAMPLES}
            own |= {"greedy": (rate > 0.5).astype(int), "right": right.sum(1)}
            own |= {"any5": right[:, :5].any(1).astype(int)}
            own |= {"style": rng.binomial(SAMPLES, 0.3, prompts)}
            own |= {"length": SAMPLES * 6 + rng.integers(0, 9, prompts)}
            rows.append(pd.DataFrame({**own, "repeats": rng.binomial(SAMPLES, 0.02, prompts)}))
    made = pd.concat(rows, ignore_index=True)
    made["skill"] = made["prompt"] % len(SKILLS)
    made["class"] = made["skill"].map(SKILLS)
    return made.astype({"arm": "category", "class": "category"})


def dynamics(arms: list[str], seeds: tuple[int, ...], rng: np.random.Generator) -> pd.DataFrame:
    """Rewards that grow with the step; a wider margin for the hybrid."""
    rows = product(arm=arms, seed=seeds, step=range(0, 41, 2), split=("train", "heldout"))
    slope = rows["arm"].map({"dpo_hybrid": 3.0, "dpo_on": 1.0}).fillna(2.0) * rows["step"] / 40
    for name, share in {"reward_ws": 1.0, "reward_wt": 0.5, "reward_l": -0.5}.items():
        rows[name] = share * slope + rng.normal(0, 0.05, len(rows))
    rows["margin"] = rows["reward_ws"] - rows["reward_l"]
    rows["alpha"] = rows["source_share"] = rows["step"] / 80
    return rows.assign(accuracy=0.5 + rows["step"] / 100, accuracy_wt=0.7, loss=0.6)


def deviation(seeds: tuple[int, ...], rng: np.random.Generator) -> pd.DataFrame:
    """Source responses some nats below the model's own."""
    rows = product(seed=seeds, model=MODELS, whose=("source", "own"), response=range(20))
    nats = rng.normal(rows["whose"].map({"source": -8.0, "own": -3.0}))
    return rows.assign(logp=nats, tokens=6, right=1)


def write_study(root: Path, level: Mapping[str, float], plan: Plan | None = None) -> None:
    """Write ``results/nano`` and ``results/development`` below ``root``.

    Arms without a level have 0.5.
    """
    plan, rng = plan or read_plan(), np.random.default_rng(1)
    arms, recipe, seeds = plan_arms(plan), nano_recipe(), plan.seeds
    trained = [arm for arm in arms if not arm.startswith(("source", "target"))]
    spent = {"train_seconds": 20.0, "cpu_seconds": 40.0, "tokens_generated": 9000}
    costs = product(arm=arms, seed=seeds).assign(pairs=640, models_held=1, **spent)
    costs["diverged"] = (costs["arm"] == "wrpo_a90") & (costs["seed"] == seeds[0])
    said = answers(recipe["evaluation"]["models"], seeds, rng)
    greedy = product(arm=arms, seed=seeds, prompt=(0, 7))
    greedy["prompt_text"] = "skill" + greedy["prompt"].astype(str) + " abcd"
    tables = {
        "outcomes.parquet": outcomes({arm: level.get(arm, 0.5) for arm in arms}, seeds),
        "dynamics.csv.gz": dynamics(trained, seeds, rng),
        "deviation.csv.gz": deviation(seeds, rng),
        "arms": costs,
        "responses.csv.gz": greedy.assign(response="d c b a", right=1, **{"class": "A"}),
        "answers.csv.gz": said,
        "judged.csv.gz": judged(said, recipe["evaluation"]),
        "sources": shares(seeds, rng),
        "headroom": headroom(seeds, rng),
    }
    record = {"commit": "0123456789ab", "seeds": list(seeds), "seconds": 1200, "world": recipe}
    tuned = tuple(recipe["development"]["seeds"])
    development = {"headroom": headroom(tuned, rng), "grid": grid(recipe, rng)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WRPO_HOME", str(root))
        write_results("development", development, {"seeds": list(tuned)})
        write_results("nano", tables, record | {"plan": plan.sha256})


def grid(recipe: dict[str, Any], rng: np.random.Generator) -> pd.DataFrame:
    """Every arm of the grids on the development seeds, at about 0.6; DPO-on gains 0.2."""
    arms = for_development(recipe)["arms"]
    rows = []
    for seed in recipe["development"]["seeds"]:
        right = 0.4 + rng.normal(0, 0.01)
        rows.append({"seed": seed, "sampled": right, "arm": "target_sft", "method": "target_sft"})
        for name, arm in arms.items():
            settings = recipe["forms"][arm.get("form", "dpo")] | arm.get("settings", {})
            row = {"seed": seed, "sampled": right + 0.2 + rng.normal(0, 0.01), "arm": name}
            row |= {"method": name.partition("/")[0], "alpha": arm.get("alpha", 0.0)}
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


def headroom(seeds: tuple[int, ...], rng: np.random.Generator) -> pd.DataFrame:
    """What the rules of the world ask."""
    names = [*RULES, "target_greedy", "sft_sampled"]
    return pd.DataFrame(rng.random((len(seeds), len(names))), columns=names).assign(seed=seeds)


def shares(seeds: tuple[int, ...], rng: np.random.Generator) -> pd.DataFrame:
    """The share of prompts that each source wins."""
    rows = []
    for seed in seeds:
        share = rng.dirichlet(np.ones(6) * 8)
        rows += [(seed, f"source_{k + 1}", value, 0.9, 0.8) for k, value in enumerate(share)]
    return pd.DataFrame(rows, columns=["seed", "source", "share", "right", "reward"])
