"""Rows that other tools write, checked and brought into the form of our own."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import AfterValidator, BaseModel, Field, TypeAdapter
from typing_extensions import TypedDict

from wrpo_lib.evaluation.verdicts import BASELINE_FIRST, MODEL_FIRST
from wrpo_lib.io import Row
from wrpo_lib.replies import join_parts


class Turn(BaseModel):
    """A turn of Arena-Hard's older answers."""

    content: str


class Choice(BaseModel):
    """FastChat's answer, turn by turn."""

    turns: list[str | Turn]


class Final(BaseModel):
    """Arena-Hard's content of an assistant's message."""

    answer: str


class Message(BaseModel):
    """A message of Arena-Hard's answers."""

    role: str
    content: str | list[Any] | Final


def _answered(messages: list[Message]) -> list[Message]:
    if not messages or messages[-1].role != "assistant":
        raise ValueError("the last message must be the assistant's")
    return messages


class Played(BaseModel):
    """A game of Arena-Hard's."""

    score: str | None = None


class Upstream(TypedDict, total=False):
    """What fields that other tools write, and our ``prompt_id``, hold where a row has them."""

    prompt_id: Annotated[str, Field(pattern=r"^[^/ ]+ [^/ ]+/[^/]+/[0-9]+$")]
    choices: Annotated[list[Choice], Field(min_length=1)]
    messages: Annotated[list[Message], AfterValidator(_answered)]
    instruction: str
    output_1: str
    output_2: str
    annotator: str | None
    judge: str | tuple[str, str]
    games: list[Played | None]
    winner: str


UPSTREAM = TypeAdapter(Upstream)


def answers(row: Row) -> list[Row]:
    """FastChat's and Arena-Hard's answers have a list of turns, or of messages; ours say what they
    answer in ``prompt_id``."""
    if "prompt_id" in row:
        of, question, turn = row["prompt_id"].split("/")
        benchmark, version = of.split(" ")
        names = {"benchmark": benchmark, "version": version, "question_id": question}
        return [{**row, **names, "turn": turn}]
    if "choices" in row:
        texts = [t["content"] if isinstance(t, dict) else t for t in row["choices"][0]["turns"]]
    elif "messages" in row:
        said = row["messages"][-1]["content"]
        texts = [said["answer"] if isinstance(said, dict) else join_parts(said)]
    else:
        return [row]
    return [{**row, "turn": turn, "text": text} for turn, text in enumerate(texts, 1)]


@cache
def instructions() -> dict[str, tuple[int, str]]:
    """Of AlpacaEval-2 by key: what :func:`instruction` returns."""
    rows = pd.read_csv(Path(__file__).with_name("alpaca_eval_instructions.csv"), dtype=str)
    order = rows["model_first"].map({"1": MODEL_FIRST, "0": BASELINE_FIRST})
    return dict(zip(rows["sha256"], zip(map(int, rows["index"]), order, strict=True), strict=True))


def instruction(text: str) -> tuple[int | str, str]:
    """The index of one of AlpacaEval-2's instructions, and the order that upstream's seeded choice
    gave it (the model first in 406 of 805); of others a key, and no order."""
    key = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]
    return instructions().get(key, (key, ""))


def alpaca(row: Row) -> list[Row]:
    """alpaca-eval's annotations; they name no version, which the instruction tells."""
    if "generator_2" not in row:
        return [row]
    index, order = instruction(row["instruction"])
    judge = template = annotator = row.get("annotator") or ""
    if annotator == "weighted_alpaca_eval_gpt4_turbo":
        judge, template = "gpt-4-1106-preview", "alpaca_eval_clf"
    found = {"model": row["generator_2"], "baseline": row["generator_1"], "question_id": index}
    found |= {"judge": judge, "template": template, "version": "2" if order else ""}
    found |= {"metric": "weighted" if annotator.startswith("weighted") else "verdict"}
    found |= {"length_model": len(row["output_2"]), "length_baseline": len(row["output_1"])}
    return [found | {"order": order, "preference": row["preference"]}]


def mt_bench(row: Row) -> list[Row]:
    """FastChat's ``judge`` is a judge and a template."""
    if isinstance(row.get("judge"), list):
        row["judge"], row["template"] = row["judge"]
    return [row]


def arena(row: Row) -> list[Row]:
    """Arena-Hard's judgements of two games, or its battles.

    Battles are a row for each unit of weight, and both games name the baseline model_a, so that
    which game it was is lost: all are written as games that show the baseline first.
    """
    if "games" in row:
        labels = [(game or {}).get("score") for game in row["games"]]
        row["version"] = "v0.1"
        return [{**row, "game": n, "verdict": label} for n, label in enumerate(labels, 1)]
    if "model_a" not in row:
        return [row]
    won = {"model_a": "A>B", "model_b": "B>A", "tie": "A=B", "tie (bothbad)": "A=B"}
    found = {"model": row["model_b"], "baseline": row["model_a"], "judge": row.get("judge", "")}
    found |= {"version": "v0.1", "metric": "battles", "question_id": row["question_id"]}
    return [found | {"game": 1, "verdict": won.get(row["winner"])}]
