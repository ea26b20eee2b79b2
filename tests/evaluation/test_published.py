"""The tracked numbers of published judgements are what the judgements give."""

from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

from wrpo_lib.evaluation.forms import read_judgements
from wrpo_lib.evaluation.summary import PUBLISHED as FILES
from wrpo_lib.evaluation.summary import SIDE, make_published, numbers, summarise
from wrpo_lib.io import file_hash
from wrpo_lib.records import read_results, read_run


def test_the_judgements_are_those_of_the_record_and_no_text_is_tracked(shared: Path) -> None:
    record = read_run("published")["judgements"]
    assert record == {file: file_hash(shared / file) for file in (*FILES.values(), SIDE)}
    for name in (*FILES, "detectable"):
        texts = read_results("published", name).select_dtypes("object")
        assert texts.map(lambda v: len(str(v)) < 50).all(axis=None)


@pytest.mark.parametrize("benchmark", ["mt-bench", "arena-hard"])
def test_tables_without_refits_are_reproduced(shared: Path, benchmark: str) -> None:
    name = benchmark.replace("-", "_")
    found = summarise(benchmark, read_judgements(benchmark, shared / FILES[name]))
    table = pd.read_csv(StringIO(pd.DataFrame(map(numbers, found)).to_csv(index=False)))
    tracked = read_results("published", name)
    pd.testing.assert_frame_equal(table, tracked, rtol=1e-5, check_dtype=False)


@pytest.mark.slow
def test_everything_is_made_again(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_results("published", "alpaca_eval2").set_index("model")
    monkeypatch.setenv("WRPO_HOME", str(tmp_path))
    assert make_published(shared, replicates=20).is_relative_to(tmp_path)
    again = read_results("published", "alpaca_eval2").set_index("model")
    for column in ("win_rate", "standard_error", "position_effect", "length_effect"):
        assert again[column].to_list() == pytest.approx(before[column].to_list(), nan_ok=True)
    assert (again["lc_interval"] - before["lc_interval"]).abs().max() < 0.16
