"""The nano study's tracked results: tables drawn from the finished runs."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.nano import study
from wrpo_lib.nano.world import World, open_world
from wrpo_lib.recipes import load_recipe, read_yaml, recipe_path

if TYPE_CHECKING:
    import pandas as pd

SHOWN_QUADRUPLES = 400
SHOWN_REWARDS = 400
DYNAMICS = ("step", "alpha", "loss", "rewards/source_chosen", "rewards/target_chosen",
            "rewards/fused", "rewards/rejected", "rewards/margins", "rewards/accuracies",
            "rewards/source_accuracies", "rewards/target_accuracies", "logps/source_chosen",
            "logps/target_chosen", "logps/rejected", "grad_norm", "learning_rate")  # fmt: skip


def everyone(world: World) -> list[str]:
    """Every model of the study, in the order of the tables."""
    return [*world.sources, study.TARGET, study.TARGET_SFT, *study.METHODS]


def score_rows(world: World, name: str) -> list[dict[str, Any]]:
    """First-turn scores of a model: greedy, mean of samples, best of five."""
    answers = study.answers(world, name)
    greedy = answers[answers["decoding"] == "greedy"]
    sampled = answers[answers["decoding"] == "sampled"]
    chosen = sampled.loc[sampled.groupby("prompt_id")["quality"].idxmax()]
    rows = []
    for decoding, found in (("greedy", greedy), ("sampled", sampled), ("best_of_5", chosen)):
        rows.append(
            {
                "seed": world.seed,
                "model": name,
                "decoding": decoding,
                "n_prompts": found["prompt_id"].nunique(),
                "n": len(found),
                "quality": found["quality"].mean(),
                "exact": found["exact"].mean(),
                "check": found["check"].mean(),
                "characters": found["text"].str.len().mean(),
            }
        )
    return rows


def skill_rows(world: World, name: str) -> list[dict[str, Any]]:
    """Greedy scores of a model by skill."""
    answers = study.answers(world, name)
    greedy = answers[answers["decoding"] == "greedy"]
    groups = greedy.groupby(greedy["prompt_id"].str.split("-").str[0])
    return [
        {"seed": world.seed, "model": name, "skill": skill, "n": len(found),
         "quality": found["quality"].mean(), "exact": found["exact"].mean()}
        for skill, found in groups
    ]  # fmt: skip


def answer_table(world: World) -> pd.DataFrame:
    """Greedy and two-turn answers of every model: what a judge reads."""
    import pandas as pd

    found = pd.concat([study.answers(world, name) for name in everyone(world)])
    kept = found[found["decoding"] != "sampled"]
    return kept[["model", "decoding", "prompt_id", "turn", "text", "quality", "exact"]]


def source_rows(world: World) -> list[dict[str, Any]]:
    """Each source's share of prompts won (Table 1), rewards and length."""
    from wrpo_lib.quadruples.pair import best

    responses = study.source_responses(world)
    wins = best(responses)["model"].value_counts()
    rows = []
    for name in world.sources:
        own = responses[responses["model"] == name]
        model = json.loads((world.model_dir(name) / "pretraining.json").read_text())
        rows.append(
            {
                "seed": world.seed,
                "source": name,
                "parameters": model["parameters"],
                "vocabulary": model["vocabulary"],
                "wins": int(wins.get(name, 0)),
                "n": int(wins.sum()),
                "share": wins.get(name, 0) / wins.sum(),
                "reward": own["reward"].mean(),
                "characters": own["text"].str.len().mean(),
            }
        )
    return rows


def reward_table(world: World) -> pd.DataFrame:
    """A random sample of scored responses of every sampled model, for one picture."""
    import pandas as pd

    preference = study.sft_and_preference(world)[1]
    tables = [study.responses(world, s, world.splits().train) for s in world.sources]
    tables += [study.responses(world, n, preference) for n in (study.TARGET, study.TARGET_SFT)]
    drawn = [t.sample(SHOWN_REWARDS, random_state=world.seed) for t in tables]
    table = pd.concat(drawn).assign(seed=world.seed, characters=lambda d: d["text"].str.len())
    return table[["seed", "model", "prompt_id", "sample", "reward", "characters", "n_tokens"]]


def quadruple_table(world: World) -> pd.DataFrame:
    """Quadruples that WRPO was trained on, as they are on disk but for the messages."""
    import pandas as pd

    from wrpo_lib.io import read_rows

    rows = read_rows(study.quadruples(world, study.TARGET_SFT))[:SHOWN_QUADRUPLES]
    return pd.DataFrame(
        [{"seed": world.seed, **r, "prompt": r["prompt"][-1]["content"]} for r in rows]
    )


def pairing_rows(world: World) -> list[dict[str, Any]]:
    """What pairing kept for each kind of training data."""
    recipes = [load_recipe("nano", m) for m in study.METHODS]
    kinds = sorted({(r.start_from, r.rejected_from) for r in recipes})
    return [
        {
            "seed": world.seed,
            "samples_of": a,
            "rejected_from": b,
            **study.pairing_report(world, a, b),
        }
        for a, b in kinds
    ]


def dynamics_rows(world: World) -> list[dict[str, Any]]:
    """Training dynamics of every method."""
    return [
        {"seed": world.seed, "method": m, **{k: row[k] for k in DYNAMICS}}
        for m in study.METHODS
        for row in study.dynamics(world, m)
    ]


def deviation_rows(world: World) -> list[dict[str, Any]]:
    """Log-probabilities of source and own responses before and after training (Figure 1)."""
    return [
        {"seed": world.seed, **row}
        for p in study.DEVIATION_POLICIES
        for row in study.deviation(world, p)
    ]


def result_tables(worlds: list[World]) -> dict[str, pd.DataFrame]:
    """All tables of the study."""
    import pandas as pd

    def gather(rows_of: Any) -> pd.DataFrame:
        return pd.DataFrame([row for w in worlds for row in rows_of(w)])

    def by_model(rows_of: Any) -> pd.DataFrame:
        return gather(lambda w: [row for name in everyone(w) for row in rows_of(w, name)])

    return {
        "scores": by_model(score_rows),
        "skills": by_model(skill_rows),
        "sources": gather(source_rows),
        "pairing": gather(pairing_rows),
        "dynamics": gather(dynamics_rows),
        "deviation": gather(deviation_rows),
        "rewards": pd.concat([reward_table(w) for w in worlds]),
        "quadruples": pd.concat([quadruple_table(w) for w in worlds]),
        **{f"answers_seed{w.seed}": answer_table(w) for w in worlds},
    }


def make_results(seeds: list[int] | None = None, workers: int = 2) -> None:
    """Run the nano study (finished stages are kept) and write ``results/nano``."""
    from wrpo_lib.figures.map import write_figure_map
    from wrpo_lib.records import commit, write_results

    recipe = read_yaml(recipe_path("nano", "world"))
    seeds = seeds or list(recipe["seeds"])
    if len(seeds) < 2:
        raise WRPOError("intervals over seeds need at least two; name two or more seeds")
    start, made_at = time.perf_counter(), commit()
    worlds = [open_world(seed) for seed in seeds]
    study.run_study(worlds, workers, lambda line: print(line, flush=True))
    recipes = {m: load_recipe("nano", m).training for m in ("sft", *study.METHODS)}
    record = {
        "seeds": seeds,
        "commit": made_at,
        "seconds": round(time.perf_counter() - start),
        "workers": workers,
        "world": recipe,
        "training": recipes,
    }
    folder = write_results("nano", result_tables(worlds), record)
    write_figure_map(seeds)
    print(f"wrote {folder}")
