"""The two stages that cost most, sampling and scoring, from files to files.

Finished rows are kept whatever happens, and a second run makes only the missing ones. Beside each
file lies ``<name>.run.json`` with the settings it was made with; other settings do not mix with it,
nor rows that were made of another prompt or text (``made`` is its hash).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from wrpo_lib.chat import Messages
from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.local import Scorer
from wrpo_lib.generation.request import Engine, Request, Sampling
from wrpo_lib.io import Row, Store, parse_row, write_json
from wrpo_lib.records import provenance

T = TypeVar("T")
KEY = ("prompt_id", "model", "sample")
HOPELESS = 200  # failures and nothing else, after which going on is pointless


def made_of(of: Any) -> str:
    """A short hash of a prompt, or of a prompt and its response."""
    return hashlib.sha256(json.dumps(of).encode()).hexdigest()[:12]


def missing(store: Store, counts: Counter[str], wanted: Iterable[tuple[Row, T]]) -> Iterator[T]:
    """Of (row, item) the items whose row is not in the store yet; the others are counted.

    :raises WRPOError: for a row that was made of something else.
    """
    kept = {tuple(row[name] for name in KEY): row.get("made") for row in store}
    for row, item in wanted:
        key = tuple(row[name] for name in KEY)
        if key not in kept:
            yield item
        elif kept[key] not in (None, row["made"]):
            what = f"{store.path} has {key} made of another prompt or text than the one given"
            raise WRPOError(f"{what}; choose another file or delete it")
        else:
            counts["kept"] += 1


def sample_responses(
    prompts: Iterable[tuple[str, Messages]],
    engine: Engine,
    model: str,
    sampling: Sampling,
    out: Path,
    *,
    total: int | None = None,
    settings: dict[str, Any] | None = None,
) -> Counter[str]:
    """Responses of ``model`` to each prompt, appended to ``out`` (JSONL).

    ``settings`` go into the run record and must be the same when the run goes on, but for ``n``:
    more samples may be asked for later. ``total`` responses are expected. Returns how many were
    ``made``, ``kept`` (finished before), ``empty``, ``truncated`` and with a ``thought``.

    :raises WRPOError: at the end, if some failed.
    """
    counts, heads, failures = Counter[str](), dict[str, Row](), list[str]()
    with Store(out, KEY) as store:
        keep_record(out, {"model": model, **asdict(sampling), **(settings or {})}, free="n")

        def wanted() -> Iterator[tuple[Row, Request]]:
            for prompt_id, messages in prompts:
                head = {"prompt_id": prompt_id, "prompt": messages, "model": model}
                heads[prompt_id] = {**head, "made": made_of(messages)}
                for k in range(sampling.n):
                    request = Request(prompt_id, messages, sampling, k)
                    yield {**heads[prompt_id], "sample": k}, request

        responses = engine(missing(store, counts, wanted()))
        for made in tqdm(responses, "responses", total, initial=len(store.keys()), mininterval=5):
            if made.error:
                failures.append(f"prompt_id {made.key!r}: {made.error}")
                if len(failures) == HOPELESS and not counts["made"]:
                    break
                continue
            store.append({**heads[made.key], **made.row()})
            counts["made"] += 1
            counts["empty"] += not made.text.strip()
            counts["truncated"] += made.finish_reason == "length"
            counts["thought"] += bool(made.thought)
    if failures:
        what = f"{len(failures)} responses failed, the first for {failures[0]}"
        kept = f"the {counts['made']} made are kept in {out}"
        raise WRPOError(f"{what}; {kept}: mend the cause and run again for the rest")
    return counts


def score_responses(
    rows: Iterable[Row],
    scorer: Scorer,
    reward_model: str,
    out: Path,
    *,
    total: int | None = None,
    settings: dict[str, Any] | None = None,
    window: int = 1024,
) -> Counter[str]:
    """Each row with its ``reward`` and ``reward_model``, appended to ``out`` (JSONL).

    An empty or blank response gets no reward and no row: it must never be chosen, and what a
    reward model says of nothing means nothing. ``window`` rows are handed to the scorer at a time.
    Counted as in :func:`sample_responses`. A reward that is no finite number stops the run.
    """
    counts = Counter[str]()
    with Store(out, KEY) as store:
        keep_record(out, {"reward_model": reward_model, **(settings or {})})

        def wanted() -> Iterator[tuple[Row, Row]]:
            for row in rows:
                counts["truncated"] += row.get("finish_reason") == "length"
                counts["empty"] += not row["text"].strip()
                if row["text"].strip():
                    made = {**row, "made": made_of([row.get("prompt"), row["text"]])}
                    yield made, made

        def scored() -> Iterator[Row]:
            source = missing(store, counts, wanted())
            while batch := list(islice(source, window)):
                for position, reward in scorer(batch):
                    yield {**batch[position], "reward_model": reward_model, "reward": reward}

        for row in tqdm(scored(), "rewards", total, initial=len(store.keys()), mininterval=5):
            store.append(row)
            counts["made"] += 1
    return counts


def keep_record(out: Path, settings: dict[str, Any], free: str = "") -> None:
    """Write the run record of ``out``, or check that the one there has the same settings.

    The setting ``free`` may differ from run to run; one that is "" is not known.
    """
    path = out.with_name(f"{out.name.removesuffix('.jsonl')}.run.json")
    now = json.loads(json.dumps(settings))  # as it will be read back: tuples are lists
    if path.is_file() and out.stat().st_size:  # without rows there is nothing to mix with
        before = parse_row(path.read_bytes(), str(path)).get("settings", {})
        for name in sorted(now.keys() & before.keys() - {free}):
            if before[name] != now[name] and "" not in (before[name], now[name]):
                what = f"{out} was made with {name} {before[name]!r}, not {now[name]!r}"
                raise WRPOError(f"{what}; choose another file or delete it")
    write_json(path, {"settings": now, **provenance()})
