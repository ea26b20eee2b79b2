"""The two stages that cost most, sampling and scoring, from files to files.

Finished rows are kept whatever happens, and a second run makes only the missing ones. Beside each
file lies ``<name>.run.json`` with the settings it was made with; other settings do not mix with it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from wrpo_lib.chat import Messages
from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.request import Engine, Request, Sampling
from wrpo_lib.generation.rewards import Scorer
from wrpo_lib.io import Row, Store, write_json
from wrpo_lib.quadruples.schema import row_problems
from wrpo_lib.records import provenance

KEY = ("prompt_id", "model", "sample")
WINDOW = 1024  # rows scored between two looks at the file
HOPELESS = 200  # failures in a row after which going on is pointless
Counts = Counter[str]


def sample_responses(
    prompts: Iterable[tuple[str, Messages]],
    engine: Engine,
    model: str,
    sampling: Sampling,
    out: Path,
    *,
    total: int | None = None,
    settings: dict[str, Any] | None = None,
) -> Counts:
    """Responses of ``model`` to each prompt, appended to ``out`` (JSONL); returns counts.

    ``total`` is the number of prompts, for the progress bar; ``settings`` goes into the run record
    and must be the same when the run goes on. More samples per prompt (``n``) may be asked for
    later. Counted are ``made``, ``kept`` (finished before), ``empty``, ``truncated`` (ended by the
    token limit) and ``failed``. Some failed, or all empty, is a
    :class:`~wrpo_lib.errors.WRPOError` at the end, with everything finished in the file.
    """
    counts, waiting, first, in_a_row = Counts(), dict[str, Messages](), "", 0
    with Store(out, KEY) as store:
        keep_record(out, {"model": model, **asdict(sampling), **(settings or {})}, free=("n",))
        done = set(store.keys())

        def missing() -> Iterator[Request]:
            for prompt_id, messages in prompts:
                todo = [k for k in range(sampling.n) if (prompt_id, model, k) not in done]
                counts["kept"] += sampling.n - len(todo)
                if todo:
                    waiting[prompt_id] = messages
                    yield Request(prompt_id, messages, sampling, tuple(todo))

        for made in progress(engine(missing()), counts, total and total * sampling.n, "responses"):
            if made.error is not None:
                first = first or f"prompt_id {made.key!r}: {made.error}"
                counts["failed"] += 1
                in_a_row += 1
                if in_a_row == HOPELESS:
                    break
                continue
            row = {"prompt_id": made.key, "prompt": waiting[made.key], "model": model}
            store.append(row | made.row())
            in_a_row = 0
            counts["made"] += 1
            counts["empty"] += not made.text.strip()
            counts["truncated"] += made.finish_reason == "length"
    _refuse_useless(counts, model, out, first)
    return counts


def _refuse_useless(counts: Counts, model: str, out: Path, first: str) -> None:
    """Say it where responses failed, the first of them for ``first``, or where all are empty."""
    if counts["failed"]:
        raise WRPOError(
            f"{counts['failed']} responses failed, the first for {first}; the {counts['made']} "
            f"made are kept in {out}: mend the cause and run again for the rest"
        )
    if counts["made"] and counts["empty"] == counts["made"]:
        raise WRPOError(
            f"{model} returned nothing but empty text ({counts['made']} responses, kept in {out}); "
            "check its chat template and end token, then delete the file and sample again"
        )


def score_responses(
    rows: Iterable[Row],
    scorer: Scorer,
    reward_model: str,
    out: Path,
    *,
    where: str = "responses",
    total: int | None = None,
    settings: dict[str, Any] | None = None,
    window: int = WINDOW,
) -> Counts:
    """Each row with its ``reward`` and ``reward_model``, appended to ``out`` (JSONL).

    An empty or blank response gets no reward and no row: it must never be chosen, and what a
    reward model says of nothing means nothing. ``window`` rows are handed to the scorer at a time.
    Counted are ``made``, ``kept``, ``empty`` and ``truncated`` (ended by the token limit, and
    scored like any other). A reward that is no finite number stops the run and names its row.
    """
    with Store(out, KEY) as store:
        keep_record(out, {"reward_model": reward_model, **(settings or {})})
        counts = Counts()
        unscored = progress(_unscored(rows, store, counts, where), counts, total, "rewards")
        while batch := list(islice(unscored, window)):
            for position, reward in scorer(batch):
                row = {**batch[position], "reward_model": reward_model, "reward": reward}
                store.append(row)
                counts["made"] += 1
    return counts


def _unscored(rows: Iterable[Row], store: Store, counts: Counts, where: str) -> Iterator[Row]:
    """Rows that need a reward; bad ones and repeated ones are refused."""
    done = set(store.keys())
    seen: set[tuple[Any, ...]] = set()
    for number, row in enumerate(rows, 1):
        for problem in row_problems(row, number, "responses"):
            raise WRPOError(problem.sentence(where))
        key = tuple(row[name] for name in KEY)
        if key in seen:
            raise WRPOError(
                f"{where}, row {number}: sample {key[2]} of {key[1]!r} for prompt_id {key[0]!r} "
                "stands in an earlier row already; remove one"
            )
        seen.add(key)
        counts["truncated"] += row.get("finish_reason") == "length"
        if not row["text"].strip():
            counts["empty"] += 1
        elif key in done:
            counts["kept"] += 1
        else:
            yield row


def keep_record(out: Path, settings: dict[str, Any], free: tuple[str, ...] = ()) -> None:
    """Write the run record of ``out``, or check that the one there has the same settings.

    Settings named in ``free`` may differ from run to run.
    """
    path = out.with_name(f"{out.name.removesuffix('.jsonl')}.run.json")
    now = json.loads(json.dumps(settings))  # as it will be read back: tuples are lists
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise WRPOError(f"{path} is no run record; delete it or choose another file") from error
        for name in sorted({*before, *now} - set(free)):
            if before.get(name) != now.get(name):
                raise WRPOError(
                    f"{out} was made with {name} {before.get(name)!r}, not {now.get(name)!r}; "
                    "choose another file or delete it"
                )
    write_json(path, {"settings": now, **provenance()})


def progress(items: Iterable[Any], counts: Counts, total: int | None, unit: str) -> Iterator[Any]:
    """A bar with what was finished before, the rate and the time to go, on stderr."""
    from tqdm import tqdm

    pause = 0.5 if sys.stderr.isatty() else 30.0
    with tqdm(total=total, unit=f" {unit}", mininterval=pause, dynamic_ncols=True) as bar:
        kept = 0
        for item in items:
            bar.update(counts["kept"] - kept + 1)
            kept = counts["kept"]
            yield item
