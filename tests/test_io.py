"""Files of rows: all spellings are read, faults are one sentence, kills lose nothing."""

import codecs
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import Store, iter_rows, read_rows, write_json, write_rows

ROWS = [{"id": "é", "n": 1}, {"id": "b", "more": {"deep": ["東京"]}}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
LIST = json.dumps(ROWS).encode()
BOM = codecs.BOM_UTF8


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("r.jsonl", LINES),
        ("r.ndjson", LINES.replace(b"\n", b"\r\n")),
        ("R.JSONL", BOM + LINES + b"\n"),
        ("r.JSONL.gz", gzip.compress(BOM + LINES, mtime=0)),
        ("r.json", BOM + LIST),
        ("r.json.GZ", gzip.compress(LIST, mtime=0)),
    ],
)
def test_every_spelling_is_read(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert read_rows(tmp_path / name) == ROWS


@pytest.mark.parametrize("kind", [pa.string_view(), pa.binary()])
def test_every_kind_of_parquet_is_read(tmp_path: Path, kind: Any) -> None:
    more = pa.array([{"day": 1}, None], pa.struct([("day", pa.date32())]))
    ids = pa.array(["é", "b"]).cast(kind)
    pq.write_table(pa.table({"id": ids, "more": more}), tmp_path / "r.parquet")
    rows = [{"id": "é", "more": {"day": "1970-01-02"}}, {"id": "b", "more": None}]
    assert read_rows(tmp_path / "r.parquet") == rows


@pytest.mark.parametrize("suffix", ["jsonl", "ndjson.gz", "PARQUET"])
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str) -> None:
    """Fields that only later rows have included."""
    write_rows(iter(ROWS), tmp_path / f"r.{suffix}")
    found = read_rows(tmp_path / f"r.{suffix}")
    assert [{k: v for k, v in row.items() if v is not None} for row in found] == ROWS
    assert [path.name for path in tmp_path.iterdir()] == [f"r.{suffix}"]


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("r.jsonl", LINES.decode().encode("utf-16"), "line 1: .*not JSON in UTF-8"),
        ("r.jsonl", b'{"id": ' + b"[" * 10**5, "line 1: not JSON"),
        ("r.jsonl", b"null\n" + LINES, "line 1: not a JSON object"),
        ("r.jsonl.gz", gzip.compress(LINES, mtime=0)[:-20], "damaged, copy it again"),
        ("r.parquet", LINES, "damaged, copy it again"),
        ("r.json", b'{"a": 1}', "not a JSON list"),
        ("r.csv", LINES, "unknown kind of file; use"),
    ],
)
def test_a_fault_is_one_sentence(tmp_path: Path, name: str, data: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(WRPOError, match=rf"{name}.*{sentence}"):
        list(iter_rows(tmp_path / name))


def test_half_a_character_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"id": "a \\ud83d"}\n' * 2)
    assert read_rows(tmp_path / "r.jsonl") == [{"id": "a ?"}] * 2
    write_rows([{"id": "\ud83d"}], tmp_path / "r.jsonl")
    assert read_rows(tmp_path / "r.jsonl") == [{"id": "?"}]


@pytest.mark.parametrize("odd", [["a", 1], [{}], [10**30]])
def test_a_failed_write_leaves_the_old_file_whole(tmp_path: Path, odd: list[Any]) -> None:
    path = tmp_path / "r.parquet"
    write_rows(ROWS, path)
    before = path.read_bytes()
    with pytest.raises(WRPOError, match=r"r\.parquet cannot be written"):
        write_rows([{"id": value} for value in odd], path)
    with pytest.raises(WRPOError, match=r"in a file cannot be written"):
        write_json(path / "in a file", {})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


# --- stores --------------------------------------------------------------------------------------

KEY = ("prompt_id", "sample")


def row(k: int, text: str = "a b") -> dict[str, Any]:
    return {"prompt_id": f"p{k}", "sample": 0, "text": text}


def filled(path: Path, n: int = 3) -> Path:
    with Store(path, KEY) as store:
        for k in range(n):
            store.append(row(k))
    return path


def test_rows_and_keys_there_and_back_by_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    with Store(path, KEY) as store:
        store.append(row(0, "ä \n ' \" 東京 \ud83d"))
        store.append(row(1))
        assert [r["prompt_id"] for r in store] == ["p0", "p1"]
        with pytest.raises(WRPOError, match="wait for the process that writes it"):
            Store(path, KEY)
    with Store(path, KEY) as store:
        assert store.keys == {("p0", 0), ("p1", 0)}
        assert next(iter(store))["text"] == "ä \n ' \" 東京 ?"  # half an emoji
        with pytest.raises(WRPOError, match="the row prompt_id 'p0', sample 0 repeats"):
            store.append(row(0))
        with pytest.raises(WRPOError, match=r"\('p5', 0\) for .* cannot be written"):
            store.append({**row(5), "reward": float("nan")})
        assert len(list(store)) == 2


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(min_value=0, max_value=300))
def test_a_file_cut_anywhere_loses_the_last_line_only(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "rows.jsonl"
    path.unlink(missing_ok=True)
    data = filled(path).read_bytes()
    cut = min(cut, len(data))
    path.write_bytes(data[:cut])
    ends = [len(b"".join(data.splitlines(True)[: k + 1])) for k in range(3)]
    whole = sum(cut >= end - 1 for end in ends)
    with Store(path, KEY) as store:
        assert store.keys == {(f"p{k}", 0) for k in range(whole)}
        for k in range(whole, 3):
            store.append(row(k))
    assert path.read_bytes() == data


P0, P1 = (json.dumps(row(k)) + "\n" for k in (0, 1))


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("r.jsonl", P0 + "{broken\n" + P1, "line 2: not JSON"),
        ("r.jsonl", P0 + '{"prompt_id": "p7"}\n' + P1, "line 2, field 'sample': missing"),
        ("r.jsonl", P0 + P0, "line 2: the row prompt_id 'p0', sample 0 repeats"),
        ("notes.txt", "this line matters", "unknown kind of file"),
        ("other.jsonl", '{"id": 1}\n{"id": 2, "te', "line 1, field 'prompt_id': missing"),
    ],
)
def test_any_other_fault_is_named_and_the_file_stays(
    tmp_path: Path, name: str, text: str, sentence: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(WRPOError, match=rf"{name}.*{sentence}"):
        Store(tmp_path / name, KEY)
    assert (tmp_path / name).read_text() == text
