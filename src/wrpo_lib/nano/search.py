"""The search for learning rate and beta: one grid, the same for every method, on its own seed.

Scores are quality of samples on the validation split of a seed that is not reported, so nothing
that is reported was looked at. The rule, fixed beforehand: the setting with the highest mean over
the searched methods serves all methods.
"""

from __future__ import annotations

import time
from itertools import product
from pathlib import Path
from typing import Any

from wrpo_lib.io import read_rows, write_rows
from wrpo_lib.nano import study
from wrpo_lib.nano.world import World, load_model, open_world

SEED = 100
METHODS = ("dpo_on", "dpo_hybrid", "wrpo")
LEARNING_RATES = (1e-4, 3e-4, 1e-3)
BETAS = (0.1, 0.5, 1.0, 2.0)


def score_setting(world: World, method: str, learning_rate: float, beta: float) -> Path:
    """Train one setting and score its samples on the validation split; kept on disk."""
    name = f"{method}-lr{learning_rate:g}-beta{beta:g}"
    path = world.folder / "search" / f"{name}.jsonl"
    if path.is_file():
        return path
    from wrpo_lib.quadruples import read_quadruples
    from wrpo_lib.recipes import load_recipe
    from wrpo_lib.training.run import train

    recipe = load_recipe("nano", method, learning_rate=learning_rate, beta=beta)
    data = read_quadruples(study.quadruples(world, recipe.start_from, recipe.rejected_from))
    model, tokenizer = load_model(study.policy_dir(world, recipe.start_from))
    log = world.folder / "search" / name
    train(recipe, model, tokenizer, data, log, seed=world.seed, **study.QUIET)
    options = dict(world.recipe["sampling"])
    rows = study.first_turns(model, tokenizer, world.splits().validation, seed=0, **options)
    scores = [row["quality"] for row in rows]
    result = {
        "seed": world.seed,
        "method": method,
        "learning_rate": learning_rate,
        "beta": beta,
        "quality": sum(scores) / len(scores),
        "n": len(scores),
    }
    write_rows([result], path)
    return path


def make_search(workers: int = 2) -> None:
    """Run the search (finished settings are kept) and write ``results/nano-search``."""
    import pandas as pd

    from wrpo_lib.records import commit, write_results

    def say(line: str) -> None:
        print(line, flush=True)

    start, made_at = time.perf_counter(), commit()
    world = open_world(SEED)
    study.run_preparation([world], workers, say)
    grid = list(product(METHODS, LEARNING_RATES, BETAS))
    jobs: list[Any] = [
        (f"search {m}, learning rate {lr:g}, beta {b:g}", score_setting, (world, m, lr, b))
        for m, lr, b in grid
    ]
    study.in_parallel(jobs, workers, say)
    table = pd.DataFrame([read_rows(score_setting(world, *setting))[0] for setting in grid])
    means = table.groupby(["learning_rate", "beta"])["quality"].mean()
    learning_rate, beta = means.idxmax()
    chosen = {"learning_rate": float(learning_rate), "beta": float(beta)}
    record = {
        "seeds": [SEED],
        "chosen": chosen,
        "commit": made_at,
        "seconds": round(time.perf_counter() - start),
    }
    folder = write_results("nano-search", {"search": table}, record)
    print(f"wrote {folder}; chosen {chosen}")
