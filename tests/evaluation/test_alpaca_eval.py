"""AlpacaEval-2: published numbers, the package that made them, and what moves them.

Upstream joins the difficulty by row position: its numbers are ours with positions as ids.
"""

from __future__ import annotations

import gzip
import importlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.alpaca_eval import (
    CS,
    length_controlled,
    win_rate,
)
from wrpo_lib.evaluation.forms import instruction

FUSECHAT = "FuseChat-Llama-3.1-8B-Instruct"


def by_position(judged: pd.DataFrame) -> pd.DataFrame:
    return judged.assign(question_id=range(len(judged)))


@pytest.fixture(scope="module")
def side(shared: Path) -> pd.DataFrame:
    return pd.read_csv(shared / "eval" / "df_gamed.csv")


@pytest.fixture(scope="module")
def rows(shared: Path) -> pd.DataFrame:
    """Published judgements of 44 models."""
    table = pd.read_csv(shared / "eval" / "alpacaeval2_annotations.csv.gz")
    names = {"len_model": "length_model", "len_baseline": "length_baseline"}
    return table.rename(columns=names).assign(
        question_id=table["index"], baseline="gpt4_1106_preview"
    )


@pytest.fixture(scope="module")
def published(shared: Path) -> pd.DataFrame:
    return pd.read_csv(shared / "eval" / "alpacaeval2_published.csv").set_index("model")


@pytest.fixture(scope="module")
def leaderboard(alpaca_package: Any) -> pd.DataFrame:
    """The alpaca-eval package's own table, which also has the counts."""
    name = "leaderboards/data_AlpacaEval_2/weighted_alpaca_eval_gpt4_turbo_leaderboard.csv"
    return pd.read_csv(Path(alpaca_package.__file__).parent / name, index_col=0)


def test_win_rate_error_and_counts_of_all_published_models(
    rows: pd.DataFrame, published: pd.DataFrame, leaderboard: pd.DataFrame
) -> None:
    assert len(published) == 44
    for model, judged in rows.groupby("model"):
        ours, theirs, counts = win_rate(judged), published.loc[model], leaderboard.loc[model]
        assert ours["win_rate"] == pytest.approx(theirs.win_rate, abs=1e-9)
        assert ours["standard_error"] == pytest.approx(theirs.standard_error, abs=1e-9)
        assert ours["discrete_win_rate"] == pytest.approx(theirs.discrete_win_rate, abs=1e-9)
        found = (ours["n_wins"], ours["n_wins_base"], ours["n_draws"], ours["n_total"])
        assert found == (counts.n_wins, counts.n_wins_base, counts.n_draws, counts.n_total)
        assert ours["avg_length"] is not None
        # where judgements are missing, the published length counts the unjudged outputs too
        assert abs(ours["avg_length"] - theirs.avg_length) <= 805 - ours["n_total"]


def test_length_control_of_all_published_models(
    rows: pd.DataFrame, published: pd.DataFrame, side: pd.DataFrame
) -> None:
    for model, judged in rows.groupby("model"):
        theirs = published.loc[model]
        if model == "gpt4_1106_preview":
            assert length_controlled(judged, side)["length_controlled_winrate"] == 50
            continue
        c = float(CS[np.abs(np.log(CS / theirs.cv_selected_C)).argmin()])  # published: 6 decimals
        given = length_controlled(by_position(judged), side, C=c)
        chosen = length_controlled(by_position(judged), side)
        truth = theirs.length_controlled_winrate
        assert given["length_controlled_winrate"] == pytest.approx(truth, abs=1e-8)
        assert chosen["length_controlled_winrate"] == pytest.approx(truth, abs=0.16)
        if not np.isnan(theirs.lc_standard_error):
            assert given["lc_standard_error"] == pytest.approx(theirs.lc_standard_error, abs=1e-8)


def test_the_join_by_instruction_survives_missing_and_shuffled_rows(
    rows: pd.DataFrame, side: pd.DataFrame
) -> None:
    full = rows[rows["model"] == "claude-2"]
    whole = length_controlled(full, side, C=CS[5])["length_controlled_winrate"]
    for judged in (full.drop(full.index[[2, 10]]), full.sample(frac=1, random_state=0)):
        found = length_controlled(judged, side, C=CS[5])
        assert found["length_controlled_winrate"] == pytest.approx(whole, abs=0.15)
    holed = rows[rows["model"] == "text_davinci_001"]  # published, two of 805 rows missing
    joined, moved = (
        length_controlled(judged, side, C=CS[5])["length_controlled_winrate"]
        for judged in (holed, by_position(holed))
    )
    assert moved - joined > 2


def _package_lc(
    annotations: list[dict[str, Any]], side_file: Path, **fit: float
) -> dict[str, float]:
    """What alpaca-eval itself computes, its one download answered from a file."""
    module = importlib.import_module("alpaca_eval.metrics.glm_winrate")
    glm = {**module.GLM_INFO["length_controlled_v1"], "kwargs": fit}
    with (
        warnings.catch_warnings(),
        sklearn.config_context(),  # it sets sklearn's global options
        pytest.MonkeyPatch.context() as patch,
    ):
        warnings.simplefilter("ignore")
        patch.setattr(module, "hf_hub_download", lambda **_: str(side_file))
        found: dict[str, float] = module.get_length_controlled_winrate(
            pd.DataFrame(annotations), save_weights_dir=None, glm_info=glm
        )
    return found


def test_order_and_index_of_instructions_are_the_packages(
    shared: Path, alpaca_package: Any
) -> None:
    path = shared / "alpaca_eval" / "gpt4_1106_preview.json.gz"
    texts = [row["instruction"] for row in json.loads(gzip.decompress(path.read_bytes()))]
    choose = alpaca_package.utils.random_seeded_choice
    theirs = [choose(f"is_switched_outputs{t}0", choices=[False, True]) for t in texts]
    orders = ["model first" if switched else "baseline first" for switched in theirs]
    assert [instruction(t) for t in texts] == list(enumerate(orders))
    assert sum(theirs) == 406


@pytest.mark.parametrize("change", ["as published", "three rows missing", "shuffled"])
def test_the_package_computes_the_same(
    shared: Path, rows: pd.DataFrame, side: pd.DataFrame, change: str, alpaca_package: Any
) -> None:
    path = shared / "eval" / f"alpacaeval2_annotations_{FUSECHAT}.json.gz"
    order = np.arange(805)
    if change == "three rows missing":
        order = np.delete(order, [3, 300, 600])
    elif change == "shuffled":
        order = np.random.default_rng(0).permutation(order)
    annotations = json.loads(gzip.decompress(path.read_bytes()))
    annotations = [annotations[i] for i in order]
    mine = rows[rows["model"] == FUSECHAT].iloc[order]
    side_file = shared / "eval" / "df_gamed.csv"
    theirs = _package_lc(annotations, side_file, n_splits=0, C=CS[5])
    ours = length_controlled(by_position(mine), side, C=CS[5])
    for field in ("length_controlled_winrate", "lc_standard_error"):
        assert ours[field] == pytest.approx(theirs[field], abs=1e-8)
    # the choice of C hangs on differences in the last digits where large values tie
    theirs = _package_lc(annotations, side_file, n_splits=5)
    ours = length_controlled(by_position(mine), side)
    assert ours["length_controlled_winrate"] == pytest.approx(
        theirs["length_controlled_winrate"], abs=0.01
    )
    counted = win_rate(mine)
    for field in ("win_rate", "standard_error", "discrete_win_rate", "n_wins", "n_draws"):
        assert counted[field] == pytest.approx(theirs[field], abs=1e-9)


def test_both_orders_weigh_as_much_as_one(rows: pd.DataFrame, side: pd.DataFrame) -> None:
    once = rows[rows["model"] == FUSECHAT].assign(order="baseline first")
    twice = pd.concat([once, once.assign(order="model first")])
    a, b = (length_controlled(r, side, C=CS[5]) for r in (once, twice))
    assert a["length_controlled_winrate"] == pytest.approx(b["length_controlled_winrate"], abs=0.02)
    assert win_rate(twice)["n_duplicates"] == 0
    assert win_rate(once)["interval"].low == pytest.approx(
        win_rate(twice)["interval"].low, abs=1e-9
    )


def test_rows_of_another_benchmark_version_are_refused(
    rows: pd.DataFrame, side: pd.DataFrame
) -> None:
    strange = rows[rows["model"] == FUSECHAT].assign(question_id=lambda d: d["index"] + 700)
    with pytest.raises(WRPOError, match="700 of 805 judgements have no instruction difficulty"):
        length_controlled(strange, side)
