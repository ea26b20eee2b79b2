"""The judge client: every reply kept, nothing asked twice, verdicts read and never guessed."""

import functools
import itertools
import math
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from commandline import Command, wait_until
from local_server import answer_file, judge_at

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation import judging
from wrpo_lib.evaluation.benchmarks import load, read_answers
from wrpo_lib.evaluation.forms import BASELINE_FIRST, best_attempts
from wrpo_lib.evaluation.judging import FIELDS, KEY, NO_LOGPROBS, Plan, Run, read_logprobs
from wrpo_lib.io import Row, Store, iter_rows
from wrpo_lib.nano.judge import MODEL, Judge, respond
from wrpo_lib.server import Server

NANO = functools.partial(respond, judge=Judge())


def chat(text: str) -> tuple[int, Row]:
    """A server's reply."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": None}
    usage = {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010}
    return 200, {"model": "m", "choices": [choice], "usage": usage}


def run(
    url: str,
    folder: Path,
    name: str = "mt-bench",
    answers: Any = None,
    how: Any = (),
    **options: Any,
) -> tuple[Run, list[Row]]:
    """One run of the client into ``folder/judgements.jsonl``, and the rows that count."""
    bench, out = load(name), folder / "judgements.jsonl"
    ((model, texts),) = read_answers(answers or answer_file(name, folder), bench).items()
    baseline = None
    if bench.baseline:
        (baseline,) = read_answers(bench.baseline, bench).items()
    server = Server(url, connections=options.pop("connections", 8), timeout=30, retries=0)
    with Store(out, KEY) as store:
        made = Run(store, server, **options)
        made(Plan(bench, MODEL, **dict(how)).calls(model, texts, baseline))
    return made, [row for _, row in best_attempts((str(out), row) for row in iter_rows(out))]


@pytest.mark.parametrize("name", ["alpaca-eval", "mt-bench", "arena-hard"])
def test_every_call_is_made_once(name: str, tmp_path: Path) -> None:
    asked: list[str] = []
    with judge_at(lambda body: asked.append(str(body)) or NANO(body)) as url:
        (first, _), (second, rows) = (run(url, tmp_path, name) for _ in range(2))
    expected = 2 * len(load(name).questions)  # both orders, two games, or two turns
    assert first.counts["calls"] == expected == len(set(asked)) == len(rows)
    assert first.status == {"ok": expected}
    assert (second.counts["calls"], second.counts["kept"]) == (0, expected)
    needed = {"judge", "served", "template", "template_sha256", "settings", "judgment", "version"}
    needed |= {"usage", "judged", "metric", "request", "attempt", FIELDS[name]}
    assert all(row[field] is not None for row in rows for field in needed)
    if name != "mt-bench":
        assert len({(row["question_id"], row["order"]) for row in rows}) == expected


def test_missing_log_probabilities_end_the_run_with_advice(tmp_path: Path) -> None:
    answers = answer_file("alpaca-eval", tmp_path)
    with judge_at(lambda body: chat("m")) as url:
        stopped, _ = run(url, tmp_path, "alpaca-eval", connections=1)
        text, rows = run(url, tmp_path / "text", "alpaca-eval", answers, how={"metric": "text"})
    assert stopped.stopped == "the first 8 calls all failed: log-probabilities missing"
    assert 8 <= stopped.counts["calls"] <= 10
    assert text.status == {"ok": 2 * len(load("alpaca-eval").questions)}
    assert {row["metric"] for row in rows} == {"verdict"}  # never mixed with weighted
    said = {(row["order"] == BASELINE_FIRST, row["preference"]) for row in rows}
    assert said == {(True, 1.0), (False, 2.0)}


def odd(reply: Any = None, **changes: Any) -> Row:
    """A good reply with something odd in it."""
    body = chat("fine [[7]]")[1]
    return {**body, **changes} if reply is None else {**body, "choices": [reply]}


SPOKEN = {"message": {"content": "fine [[7]]"}}
FAILURE = {"code": 502, "message": "Upstream provider failed"}
FAILED = odd({**SPOKEN, "finish_reason": "error", "error": FAILURE})
ODD_REPLIES = [
    (odd(usage={"prompt_tokens": "many", "completion_tokens": 10**400}), "ok"),
    (odd(usage=["many"], model={"name": "m"}), "ok"),
    (odd({**SPOKEN, "logprobs": "none"}), "ok"),
    (odd({"message": {"content": "[[7]], half a \ud83d"}}), "ok"),
    (odd({"message": {"content": "[[7]] or rather [[8]]"}}), "unreadable"),  # not asked again
    (odd({"message": {"content": {"text": "fine"}}}), "error"),
    (odd(choices="fine [[7]]"), "error"),
    (FAILED, "error"),
    ([], "error"),
    ({"error": {"message": "boom"}}, "error"),  # with status 500
]


def test_no_odd_reply_ends_a_run_and_failures_are_asked_again(tmp_path: Path) -> None:
    replies = itertools.cycle((500 if "boom" in str(b) else 200, b) for b, _ in ODD_REPLIES)
    with judge_at(lambda _: next(replies)) as url:
        first, _ = run(url, tmp_path, connections=1)
    n = 2 * len(load("mt-bench").questions)
    expected = Counter(status for _, status in itertools.islice(itertools.cycle(ODD_REPLIES), n))
    assert first.status == expected
    problems = str(first.problems)
    assert all(words in problems for words in ("two verdicts", "Upstream provider failed", "boom"))
    with judge_at(lambda body: chat("fine [[7]]")) as url:
        again, _ = run(url, tmp_path)
    assert again.status == {"ok": expected["error"]}


def test_other_settings_and_other_answers_are_not_mixed_with_the_judgements(
    tmp_path: Path,
) -> None:
    asked: list[Row] = []
    path = answer_file("mt-bench", tmp_path)
    extra = {"max_tokens": None, "temperature": None, "max_completion_tokens": 9}
    how = {"answers": path, "how": {"extra_body": extra}}
    with judge_at(lambda body: asked.append(body) or chat("fine [[7]]")) as url:
        _, rows = run(url, tmp_path / "extra", **how)
        assert set(asked[-1]) == {"model", "messages", "max_completion_tokens"}
        assert rows[-1]["settings"] == {"max_completion_tokens": 9}
        with pytest.raises(WRPOError, match=r"judged before, but settings differs; choose another"):
            run(url, tmp_path / "extra", answers=path)
        path.write_text(path.read_text().replace("answer to", "another answer to", 1))
        with pytest.raises(WRPOError, match="judged before, but an answer differs"):
            run(url, tmp_path / "extra", **how)


def test_max_cost_stops_and_the_rest_is_made_later(tmp_path: Path) -> None:
    prices = (1.0, 10.0)  # 0.0011 a call, a failed one too
    replies = itertools.cycle([odd(), FAILED])
    with judge_at(lambda _: (200, next(replies))) as url:
        first, _ = run(url, tmp_path, prices=prices, max_cost=0.0065, connections=2)
    with judge_at(lambda _: chat("fine [[7]]")) as url:
        second, _ = run(url, tmp_path, prices=prices)
    assert first.stopped == "--max-cost 0.0065 is reached"
    assert 6 <= first.counts["calls"] <= 8  # at most what was under way
    assert first.cost(first.counts) == pytest.approx(0.0011 * first.counts["calls"])
    assert second.counts["calls"] == 2 * len(load("mt-bench").questions) - first.status["ok"]
    for options in ({}, {"prices": prices, "max_cost": math.nan}, {"prices": (-1.0, 0.0)}):
        with pytest.raises(WRPOError, match="--max-cost"):
            run("http://127.0.0.1:9/v1", tmp_path, **{"max_cost": 1.0, **options})


def test_identical_outputs_tie_and_a_twin_is_judged_like_its_model(tmp_path: Path) -> None:
    bench, nobody = load("alpaca-eval"), "http://127.0.0.1:9/v1"
    made, rows = run(nobody, tmp_path / "same", "alpaca-eval", answers=bench.baseline)
    assert (made.counts["calls"], made.counts["identical"]) == (0, 2 * len(bench.questions))
    assert [row["preference"] for row in rows] == [1.5] * 2 * len(bench.questions)
    path = answer_file("mt-bench", tmp_path)
    with judge_at(NANO) as url:  # the requests of both models are the same
        run(url, tmp_path, answers=path)
        path.write_text(path.read_text().replace('"mine"', '"twin"'))
        _, rows = run(url, tmp_path, answers=path)
    assert Counter(r["model"] for r in rows) == {"mine": 48, "twin": 48}


def test_an_interruption_and_a_kill_lose_and_repeat_nothing(tmp_path: Path) -> None:
    """Ctrl-C, then SIGKILL, in the middle of 96 calls; the next run makes exactly the rest."""
    path, out = answer_file("alpaca-eval", tmp_path), tmp_path / "judgements.jsonl"
    command = ["judge", "alpaca-eval", "--judge", MODEL, "--answers", path, "--out", out]

    def rows_made() -> int:
        return out.read_bytes().count(b"\n") if out.is_file() else 0

    with judge_at(NANO, latency=0.05) as url:
        for how, status, least in ((signal.SIGINT, 130, 10), (signal.SIGKILL, -9, 30)):
            process = Command(tmp_path, *command, "--connections", 2, "--base-url", url)
            wait_until(lambda least=least: rows_made() >= least, process)
            assert process.send(how) == status
            assert "Traceback" not in process.said[1]
        kept = rows_made()
        made, rows = run(url, tmp_path, "alpaca-eval")
    assert 30 <= kept < 96
    assert (made.counts["calls"], made.counts["kept"]) == (96 - kept, kept)
    found = Counter((r["status"], r["order"]) for r in rows)
    assert found == {("ok", "baseline first"): 48, ("ok", "model first"): 48}


def reply(content: Any, top: Any = None) -> dict[str, Any]:
    logprobs = None if top is None else {"content": [{"top_logprobs": top}]}
    choice = {"message": {"content": content}, "logprobs": logprobs}
    return {"choices": [{**choice, "finish_reason": "stop"}]}


def listed(*pairs: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"token": token, "logprob": value} for token, value in pairs]


def test_odd_log_probabilities_are_missing_values() -> None:
    assert read_logprobs(reply("m", listed(("m", -0.01), ("the", None), (["x"], 1)))) == (1.0, None)
    assert read_logprobs(reply("M", listed(("M", -0.3)))) == (2.0, None)
    _, problem = read_logprobs(reply("m", listed(("The", -0.1), ("Both", -3.0))))
    assert problem == "neither m nor M among the log-probabilities"
    tops = [None, [], {"m": -0.1, "M": -3.0}, listed(("m", -0.3), ("M", -1.4), ("m", -9.0))]
    odd = (None, "x", 10**400, float("nan"), float("-inf"))
    for top in [*tops, *(listed(("m", -0.1), ("M", value)) for value in odd)]:
        assert read_logprobs(reply("m", top)) == (None, NO_LOGPROBS)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("alpaca-eval", " M\n", 2.0),
        ("alpaca-eval", "**m**", 1.0),
        ("alpaca-eval", "m or M", "no verdict"),
        ("arena-hard", "My final verdict is [[A>B]]", "A>B"),
        ("arena-hard", "[[A>B]], no: [[B>>A]]", "two verdicts"),
        ("arena-hard", "final: [B>A]", "no verdict"),
        ("arena-hard", "[[A]]", "no verdict"),
        ("mt-bench", "Rating: [[7.5]]", 7.5),
        ("mt-bench", "[[8]], so [[8.0]]", 8.0),
        ("mt-bench", "Rating: [[85]]", "score 85 is outside 1 to 10"),
        ("mt-bench", "Rating: [6], see note 2", 6.0),
    ],
)
def test_written_verdicts(name: str, text: str, expected: Any) -> None:
    value, problem = judging.read_text(name, text)
    assert expected in (value, problem)
    assert (value is None) != (problem is None)


def test_a_thought_is_no_part_of_the_verdict() -> None:
    row = {"benchmark": "mt-bench", "metric": "score"}
    found = judging.read_judgement(row, reply("<think>[[2]]? No, 9.</think>\n\nRating: [[9]]"))
    assert (found["score"], found["problem"], found["thought"]) == (9.0, None, "[[2]]? No, 9.")
    row = {"benchmark": "alpaca-eval", "metric": "weighted", "order": BASELINE_FIRST}
    body = reply("<think>m?</think>M", listed(("m", -20.0), ("M", -21.0)))
    found = judging.read_judgement(row, body)
    assert (found["preference"], found["problem"]) == (None, judging.THOUGHT_FIRST)


def words(name: str, folder: Path, url: str = "http://127.0.0.1:9/v1") -> list[Any]:
    """What `wrpo` is told, but for what a test adds."""
    common = ["judge", name, "--answers", answer_file(name, folder), "--judge", MODEL]
    return [*common, "--base-url", url, "--out", folder / "judgements.jsonl"]


def test_judge_and_summarise_with_the_judge_that_a_command_serves(
    wrpo: Any, tmp_path: Path
) -> None:
    process, output = Command(tmp_path, "nano-judge", "--port", 0), tmp_path / "stdout"
    wait_until(lambda: output.is_file() and "Ctrl-C" in output.read_text(), process)
    (at,) = re.findall(r"http://\S+/v1", output.read_text())
    common = words("mt-bench", tmp_path, at)
    common[3].write_text(common[3].read_text().replace('"answer to', '"$ERROR$", "was": "', 1))
    status, said, _ = wrpo(*common, "--estimate", "--prices", 2, 8)
    assert (status, ", cost 0." in said) == (0, True)
    assert "lacks 1 answers of 'mine'" in said
    assert "46 calls to make" in said  # neither turn of that question
    assert "46 calls made" in wrpo(*common)[1]
    assert "0 calls to make" in wrpo(*common)[1]
    process.send(signal.SIGTERM)
    status, said, _ = wrpo("summarise", "mt-bench", common[-1])
    assert (status, "mine: judge nano-judge, version nano" in said) == (0, True)


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("mmlu", [], "no benchmark 'mmlu' 'nano'; choose one of"),
        ("mt-bench", ["--max-cost", "1"], "--max-cost needs"),
        ("mt-bench", ["--extra-body", '{"max_tokens": "many"}'], "max_tokens are whole numbers"),
        ("mt-bench", ["--extra-body", '{"messages": 5}', "--estimate"], "messages are fixed"),
    ],
)
def test_bad_arguments_are_one_sentence(
    name: str, arguments: list[str], sentence: str, wrpo: Any, tmp_path: Path
) -> None:
    _, _, *rest = words("mt-bench", tmp_path)
    status, _, error = wrpo("judge", name, *rest, *arguments)
    assert (status, error.count("\n"), sentence in error) == (2, 1, True)
