"""Published numbers of the three benchmarks, the packages that made them, and what moves them.

AlpacaEval's package joins the difficulty by row position: its numbers are ours with positions as
ids.
"""

import importlib
import warnings
from pathlib import Path
from typing import Any

import evalica
import numpy as np
import pandas as pd
import pytest
import sklearn

from wrpo_lib.analysis.statistics import mean_interval
from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.forms import MODEL_FIRST, instruction, read_judgements
from wrpo_lib.evaluation.judging import read_logprobs
from wrpo_lib.evaluation.scores import CS, arena_hard, length_controlled, win_rate, with_points
from wrpo_lib.io import read_rows

FUSECHAT = "FuseChat-Llama-3.1-8B-Instruct"
BATTLES = "eval/arena_hard_v01_battles_gpt-4-0613.jsonl.gz"
LC = "length_controlled_winrate"


def by_position(judged: pd.DataFrame) -> pd.DataFrame:
    return judged.assign(question_id=range(len(judged)))


@pytest.fixture(scope="module")
def side(shared: Path) -> pd.DataFrame:
    return pd.read_csv(shared / "eval" / "df_gamed.csv")


@pytest.fixture(scope="module")
def models(shared: Path) -> dict[str, pd.DataFrame]:
    """Published judgements of 44 models."""
    table = pd.read_csv(shared / "eval" / "alpacaeval2_annotations.csv.gz")
    names = {"len_model": "length_model", "len_baseline": "length_baseline"}
    table = table.rename(columns=names).assign(baseline="gpt4_1106_preview")
    return dict(list(table.assign(question_id=table["index"]).groupby("model")))


def test_all_published_models(
    shared: Path, models: dict[str, pd.DataFrame], side: pd.DataFrame, alpaca_package: Any
) -> None:
    published = pd.read_csv(shared / "eval" / "alpacaeval2_published.csv").set_index("model")
    name = "leaderboards/data_AlpacaEval_2/weighted_alpaca_eval_gpt4_turbo_leaderboard.csv"
    leaderboard = pd.read_csv(Path(alpaca_package.__file__).parent / name, index_col=0)
    assert len(published) == len(models) == 44
    for model, judged in models.items():
        ours, theirs, counts = win_rate(judged), published.loc[model], leaderboard.loc[model]
        for field in ("win_rate", "standard_error", "discrete_win_rate"):
            assert ours[field] == pytest.approx(theirs[field], abs=1e-9)
        for field in ("n_wins", "n_wins_base", "n_draws", "n_total"):
            assert ours[field] == counts[field]
        # where judgements are missing, the published length counts the unjudged outputs too
        assert abs(ours["avg_length"] - theirs.avg_length) <= 805 - ours["n_total"]
        if model == "gpt4_1106_preview":
            assert length_controlled(judged, side)[LC] == 50
            continue
        c = float(CS[np.abs(np.log(CS / theirs.cv_selected_C)).argmin()])  # published: 6 decimals
        given = length_controlled(by_position(judged), side, C=c)
        assert given[LC] == pytest.approx(theirs[LC], abs=1e-8)
        if not np.isnan(theirs.lc_standard_error):
            assert given["lc_standard_error"] == pytest.approx(theirs.lc_standard_error, abs=1e-8)
        if model.startswith("FuseChat"):  # each takes 50 fits
            chosen = length_controlled(by_position(judged), side)
            assert chosen[LC] == pytest.approx(theirs[LC], abs=0.16)


def test_the_join_by_instruction_survives_missing_and_shuffled_rows(
    models: dict[str, pd.DataFrame], side: pd.DataFrame
) -> None:
    full = models["claude-2"]
    whole = length_controlled(full, side, C=CS[5])[LC]
    for judged in (full.drop(full.index[[2, 10]]), full.sample(frac=1, random_state=0)):
        assert length_controlled(judged, side, C=CS[5])[LC] == pytest.approx(whole, abs=0.15)
    holed = models["text_davinci_001"]  # published, two of 805 rows missing
    both = (length_controlled(rows, side, C=CS[5])[LC] for rows in (by_position(holed), holed))
    assert np.subtract(*both) > 2
    strange = full.assign(question_id=full["index"] + 700)
    with pytest.raises(WRPOError, match="700 of 805 judgements have no instruction difficulty"):
        length_controlled(strange, side)


def test_order_index_and_preferences_are_the_packages(shared: Path, alpaca_package: Any) -> None:
    """Upstream's seeded order, and with it our reading of two tokens over published judgements."""
    rows = read_rows(shared / "alpaca_eval" / "gpt4_1106_preview.json.gz")
    texts = [row["instruction"] for row in rows]
    choose = alpaca_package.utils.random_seeded_choice
    switched = [choose(f"is_switched_outputs{t}0", choices=[False, True]) for t in texts]
    orders = [MODEL_FIRST if model_first else "baseline first" for model_first in switched]
    assert [instruction(t) for t in texts] == list(enumerate(orders))
    assert sum(switched) == 406
    judged = pd.read_csv(shared / "eval" / "alpacaeval2_annotations.csv.gz")
    judged = judged.dropna(subset=["logprob_m", "logprob_M", "preference"])
    assert len(judged) > 10_000
    for row in judged.sample(5000, random_state=0).itertuples():
        listed = [{"token": t, "logprob": getattr(row, f"logprob_{t}")} for t in "mM"]
        body = {"choices": [{"logprobs": {"content": [{"top_logprobs": listed}]}}]}
        found, _ = read_logprobs(body)
        assert isinstance(found, float)
        ours = 3 - found if switched[row.index] else found
        assert ours == pytest.approx(row.preference, abs=1e-6)


@pytest.mark.parametrize("change", ["three rows missing", "shuffled"])
def test_the_package_computes_the_same(
    shared: Path, models: dict[str, pd.DataFrame], side: pd.DataFrame, change: str
) -> None:
    order = np.random.default_rng(0).permutation(805)
    if change == "three rows missing":
        order = np.delete(np.arange(805), [3, 300, 600])
    published = read_rows(shared / "eval" / f"alpacaeval2_annotations_{FUSECHAT}.json.gz")
    annotations = pd.DataFrame([published[i] for i in order])
    module = importlib.import_module("alpaca_eval.metrics.glm_winrate")

    def package(**fit: float) -> dict[str, float]:
        glm = {**module.GLM_INFO["length_controlled_v1"], "kwargs": fit}
        how = {"save_weights_dir": None, "glm_info": glm}
        found: dict[str, float] = module.get_length_controlled_winrate(annotations, **how)
        return found

    with (
        warnings.catch_warnings(),
        sklearn.config_context(),  # it sets sklearn's global options
        pytest.MonkeyPatch.context() as patch,
    ):
        warnings.simplefilter("ignore")
        file = shared / "eval" / "df_gamed.csv"  # its one download
        patch.setattr(module, "hf_hub_download", lambda **_: str(file))
        theirs, by_folds = package(n_splits=0, C=CS[5]), package(n_splits=5)
    mine = by_position(models[FUSECHAT].iloc[order])
    ours = length_controlled(mine, side, C=CS[5]) | win_rate(mine)
    for field in (LC, "lc_standard_error"):
        assert ours[field] == pytest.approx(theirs[field], abs=1e-8)
    for field in ("win_rate", "standard_error", "discrete_win_rate", "n_wins", "n_draws"):
        assert ours[field] == pytest.approx(theirs[field], abs=1e-9)
    # the choice of C hangs on differences in the last digits where large values tie
    assert length_controlled(mine, side)[LC] == pytest.approx(by_folds[LC], abs=0.01)


def test_both_orders_weigh_as_much_as_one(
    models: dict[str, pd.DataFrame], side: pd.DataFrame
) -> None:
    once = models[FUSECHAT].assign(order="baseline first")
    twice = pd.concat([once, once.assign(order="model first")])
    a, b = (win_rate(r) | length_controlled(r, side, C=CS[5]) for r in (once, twice))
    assert a[LC] == pytest.approx(b[LC], abs=0.02)
    assert b["n_duplicates"] == 0
    assert a["interval"].low == pytest.approx(b["interval"].low, abs=1e-9)


def test_gpt4_0613_and_both_intervals(shared: Path) -> None:
    judged = read_judgements("arena-hard", shared / BATTLES)
    found = arena_hard(judged)
    assert found["score"] == pytest.approx(37.9019, abs=5e-5)
    assert (found["n_total"], found["n_ties"], found["n_questions"]) == (1244, 173, 500)
    assert found["interval"].high - found["score"] == pytest.approx(3.9, abs=0.15)
    # published -2.30/+2.46, the quantiles of 100 resamples of unclustered rows
    naive = mean_interval(with_points(judged)["points"])
    assert naive.high - found["score"] == pytest.approx(2.38, abs=0.25)
    # the weighted mean is the Bradley-Terry win rate
    rows = pd.read_json(shared / BATTLES, lines=True)
    winners = {"model_a": evalica.Winner.X, "model_b": evalica.Winner.Y, "tie": evalica.Winner.Draw}
    sides = rows["model_a"], rows["model_b"], rows["winner"].map(winners).tolist()
    fit = evalica.bradley_terry(*sides, tolerance=1e-12, limit=1000)
    a, b = fit.scores["gpt-4-0613"], fit.scores["gpt-4-0314"]
    assert 100 * a / (a + b) == pytest.approx(found["score"], abs=1e-4)
