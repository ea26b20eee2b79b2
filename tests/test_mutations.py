"""Mutated files of every accepted form at every command that reads one: the right result or one
sentence, never a traceback or a text that changed on the way."""

import copy
import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from commandline import wrpo

from wrpo_lib.errors import WRPOError
from wrpo_lib.recipes import load_recipe
from wrpo_lib.training.inputs import load_data

Row = dict[str, Any]
ODD: list[Any] = [
    *(None, True, 7, -1, 0.5, 10**400, [], {}, [None], {"a": [1, "x"]}, "", " ", "7", "é\u2028x"),
    *("a\ud800b", [{"role": "user"}], [{"role": "user", "content": 7}], [["a"]], "$ERROR$"),
    [{"role": "assistant", "content": "no question"}],
]


def rows_of(k: int) -> dict[str, Row]:
    """Row number k of a file of every form."""
    ask = [{"role": "user", "content": f"question {k} with é"}]
    of = {"prompt_id": f"p{k}", "prompt": ask}
    texts = {name: f"{name} {k}" for name in ("source_chosen", "target_chosen", "rejected")}
    s, t, rejected = ({"role": "assistant", "content": f"{name} {k}"} for name in "stl")
    both = {"chosen": [*ask, s], "rejected": [*ask, rejected]}
    sides = {"chosen": [s, t], "rejected": [rejected]}
    model, sample = "tb"[k // 2 % 2], k % 2
    named = {"prompt_id": f"p{k // 4}", "model": model, "sample": sample}
    asked = {"prompt": [{"role": "user", "content": f"question {k // 4} with é"}]}
    response = {**named, **asked, "text": f"{model} says {sample} to {k // 4}"}
    turns = [{"index": 0, "turns": [f"first {k}", f"second {k}"]}]
    question = ["weave-BGDH-HCFA", "drift-DGAF-EFDA"][k % 2]
    judged = {"generator_1": "gpt4_1106_preview", "generator_2": "m", "preference": 1.2 + k / 9}
    judged |= {"output_1": f"theirs {k}", "output_2": f"ours, longer {k}"}
    judged |= {"instruction": f"q {k}", "annotator": "weighted_alpaca_eval_gpt4_turbo"}
    grade = {"question_id": 81 + k, "model": "m", "judge": ["gpt-4", "single-v1"]}
    game = {"question_id": f"q{k}", "model": "m", "judge": "gpt-4"}
    battle = {"question_id": f"q{k}", "model_a": "gpt-4-0314", "model_b": "m"}
    whose = zip(("human", "gpt", "gpt"), "qsl", strict=True)
    human, *gpt = ({"from": who, "value": f"{what} {k}"} for who, what in whose)
    samples = {"all_generated_responses": ["a", "b"], "all_rm_scores": [0.1, k]}
    return {
        "quadruples": {**of, **texts},
        "official": {**of, "prompt": ask[0], **sides},
        "binarized": {**of, "prompt": ask[0]["content"], **both},
        "sharegpt": {"conversations": [human], "chosen": gpt[0], "rejected": gpt[1]},
        "pairs": {"prompt": ask, "chosen": [s], "rejected": f"l {k}"},
        "simpo": {"prompt": f"q {k}", **samples},
        "outputs": {"instruction": f"q {k}", "output": f"said {k}", "generator": "g"},
        "prompts": of,
        "responses": response,
        "rewards": {**response, "reward": k / 2, "reward_model": "rm"},
        "choices": {"question_id": question, "model_id": "m", "choices": turns},
        "annotations": judged,
        "graded": {**grade, "turn": 1, "score": k + 2},
        "games": {**game, "games": [{"score": "A>B"}, {"score": "B>>A"}]},
        "battles": {**battle, "winner": "model_b"},
    }


CHECK = "data check {f}"
DATA = [CHECK, "data import {f} {o}.jsonl --model m", "data export {f} {o}.jsonl"]
JUDGE = "--answers {f} --judge j --estimate --out {o}.jsonl"
FORMS: dict[str, tuple[int, list[str]]] = {
    "quadruples": (3, [*DATA, "data import {f} {o}.parquet", "train"]),
    "official": (3, DATA),
    "binarized": (3, [*DATA, "train"]),
    "sharegpt": (3, [*DATA, "train"]),
    "pairs": (3, [*DATA, "train"]),
    "simpo": (3, DATA),
    "outputs": (3, [*DATA, f"judge alpaca-eval {JUDGE}"]),
    "prompts": (3, [CHECK, "data split {f} {o}"]),
    "responses": (4, [CHECK, "score {f} --nano --out {o}.jsonl"]),
    "rewards": (8, [CHECK, "pair {f} --target t --out {o}.jsonl"]),
    "choices": (2, [f"judge mt-bench {JUDGE}"]),
    "annotations": (6, ["summarise alpaca-eval {f} --replicates 2"]),
    "graded": (4, ["summarise mt-bench {f}", "agreement mt-bench {f} {g}"]),
    "games": (3, ["summarise arena-hard {f}"]),
    "battles": (3, ["summarise arena-hard {f}"]),
}
"""Form -> how many rows, and the commands that read it."""


def mutate_rows(draw: random.Random, rows: list[Row]) -> list[Row]:
    """One or two fields of the rows, at any depth, dropped, doubled or made odd."""
    rows = copy.deepcopy(rows)
    for _ in range(draw.choice((0, 1, 1, 2))):
        place: Any = draw.choice(rows)
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw.choice(keys)
            if isinstance(place[key], dict | list) and draw.random() < 0.5:
                place = place[key]
                continue
            change = draw.randrange(4)
            if change == 0:
                del place[key]
            elif change == 1 and isinstance(place, dict):
                place["odd field"] = draw.choice(ODD)
            else:
                place[key] = copy.deepcopy(draw.choice(ODD))
            break
    if draw.random() < 0.2:
        rows.insert(draw.randrange(len(rows)), copy.deepcopy(draw.choice(rows)))
    return rows


def mutate_file(draw: random.Random, rows: list[Row]) -> tuple[str, bytes]:
    """Suffix and bytes of a file of the rows in one of the ways in which people's files differ."""
    lines = [json.dumps(row, ensure_ascii=draw.random() < 0.5) for row in rows]
    text = "\n".join(lines) + "\n"
    data = text.encode("utf-8", "surrogatepass")
    cut = draw.randrange(1, len(data))
    flipped = data[:cut] + bytes([draw.randrange(256)]) + data[cut + 1 :]
    kinds: dict[str, tuple[str, bytes]] = {
        "plain": (".jsonl", data),
        "bom": (".jsonl", b"\xef\xbb\xbf" + data),
        "utf-16": (".jsonl", text.encode("utf-16", "surrogatepass")),
        "latin-1": (".jsonl", text.encode("latin-1", "replace")),
        "crlf": (".ndjson", data.replace(b"\n", b"\r\n")),
        "blank line": (".JSONL", data + b"\n"),
        "cut": (".jsonl", data[:cut]),
        "flipped": (".jsonl", flipped),
        "null": (".jsonl", b"null\n" + data),
        "doubled key": (".jsonl", data.replace(b'{"prompt_id"', b'{"prompt_id": 1, "prompt_id"')),
        "list": (".json", f"[{','.join(lines)}]".encode("utf-8", "surrogatepass")),
        "gz": (".jsonl.gz", gzip.compress(data, mtime=0)),
        "cut gz": (".jsonl.gz", gzip.compress(data, mtime=0)[: max(cut % 60, 12)]),
        "empty": (".jsonl", b""),
    }
    return kinds[draw.choice([*kinds, "plain", "plain", "plain", "plain"])]


def texts(value: Any) -> set[str]:
    """Every text in a value of JSON."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return set().union(*map(texts, value))
    return {value} if isinstance(value, str) else set()


def texts_of(lines: str) -> set[str]:
    return texts([json.loads(line) for line in lines.split("\n") if line.strip()])


def invented(source: bytes, made: Path) -> set[str]:
    """Texts of the rows in ``made`` that no row of ``source`` has, but for ids and names."""
    source = gzip.decompress(source) if source[:2] == b"\x1f\x8b" else source
    given = texts_of(source.decode("utf-8-sig", "surrogatepass"))
    plain = {re.sub("[\ud800-\udfff]", "?", text) for text in given}
    new = texts_of(made.read_text("utf-8")) - plain - {"user", "assistant", "m", "unknown", ""}
    return {text for text in new if not re.fullmatch(r"[0-9a-f]{8,64}|row \d+", text)}


def run(capsys: pytest.CaptureFixture[str], seed: int, folder: Path) -> str | None:
    """What went wrong with the mutation of this number, None where nothing did."""
    draw = random.Random(seed)
    form = draw.choice(list(FORMS))
    number, commands = FORMS[form]
    rows = [rows_of(k)[form] for k in range(number)]
    suffix, data = mutate_file(draw, mutate_rows(draw, rows))
    path, good, out = folder / f"{seed}{suffix}", folder / f"{form}.jsonl", folder / f"out{seed}"
    path.write_bytes(data)
    good.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = draw.choice(commands)
    words = command.format(f=path, g=good, o=out).split()
    about = f"{seed}: {form} {suffix} at {command}"
    try:
        code, _, err = train(path) if words == ["train"] else wrpo(capsys, *words)
    except BaseException as error:
        return f"{about}: {type(error).__name__}: {str(error)[:200]}"
    if code == 2 and len(err.strip().split("\n")) == 1:
        return None
    if code != 0:
        return f"{about}: status {code}, {err[-300:]}"
    made = out.with_suffix(".jsonl")
    converts = words[:2] in (["data", "import"], ["data", "export"]) and made.is_file()
    if converts and suffix != ".json" and (new := invented(data, made)):
        return f"{about}: wrote {sorted(new)[:3]}"
    return None


def train(path: Path) -> tuple[int, str, str]:
    """What training reads of a file."""
    try:
        load_data(load_recipe("smol", "dpo_on"), str(path))
    except WRPOError as error:
        return 2, "", str(error)
    return 0, "", ""


@pytest.mark.parametrize("number", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_mutations(number: int, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    faults = [run(capsys, seed, tmp_path) for seed in range(number)]
    assert not "\n".join(filter(None, faults))
