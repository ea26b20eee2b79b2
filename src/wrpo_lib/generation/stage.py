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
from wrpo_lib.records import provenance

KEY = ("prompt_id", "model", "sample")
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
        keep_record(out, {"model": model, **asdict(sampling), **(settings or {})}, free="n")
        done = set(store.keys())

        def missing() -> Iterator[Request]:
            for prompt_id, messages in prompts:
                waiting[prompt_id] = messages
                for k in range(sampling.n):
                    if (prompt_id, model, k) in done:
                        counts["kept"] += 1
                    else:
                        yield Request(prompt_id, messages, sampling, k)

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
    if first:
        raise WRPOError(
            f"{counts['failed']} responses failed, the first for {first}; the {counts['made']} "
            f"made are kept in {out}: mend the cause and run again for the rest"
        )
    if 0 < counts["made"] == counts["empty"]:
        raise WRPOError(
            f"{model} returned nothing but empty text ({counts['made']} responses, kept in {out}); "
            "check its chat template and end token, then delete the file and sample again"
        )
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
) -> Counts:
    """Each row with its ``reward`` and ``reward_model``, appended to ``out`` (JSONL).

    An empty or blank response gets no reward and no row: it must never be chosen, and what a
    reward model says of nothing means nothing. ``window`` rows are handed to the scorer at a time.
    Counted are ``made``, ``kept``, ``empty`` and ``truncated`` (ended by the token limit, and
    scored like any other). A reward that is no finite number stops the run and names its row.
    """
    counts = Counts()
    with Store(out, KEY) as store:
        keep_record(out, {"reward_model": reward_model, **(settings or {})})
        done = set(store.keys())

        def missing() -> Iterator[Row]:
            for row in rows:
                counts["truncated"] += row.get("finish_reason") == "length"
                if not row["text"].strip():
                    counts["empty"] += 1
                elif tuple(row[name] for name in KEY) in done:
                    counts["kept"] += 1
                else:
                    yield row

        unscored = progress(missing(), counts, total, "rewards")
        while batch := list(islice(unscored, window)):
            for position, reward in scorer(batch):
                store.append({**batch[position], "reward_model": reward_model, "reward": reward})
                counts["made"] += 1
    return counts


def keep_record(out: Path, settings: dict[str, Any], free: str = "") -> None:
    """Write the run record of ``out``, or check that the one there has the same settings.

    The setting ``free`` may differ from run to run.
    """
    path = out.with_name(f"{out.name.removesuffix('.jsonl')}.run.json")
    now = json.loads(json.dumps(settings))  # as it will be read back: tuples are lists
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise WRPOError(f"{path} is no run record; delete it or choose another file") from error
        for name in sorted(now.keys() - {free}):
            if before.get(name) != now[name]:
                raise WRPOError(
                    f"{out} was made with {name} {before.get(name)!r}, not {now[name]!r}; "
                    "choose another file or delete it"
                )
    write_json(path, {"settings": now, **provenance()})


def progress(items: Iterable[Any], counts: Counts, total: int | None, unit: str) -> Iterator[Any]:
    """A bar with what was finished before, the rate and the time to go, on stderr."""
    from tqdm import tqdm

    pause, kept = (0.5 if sys.stderr.isatty() else 30.0), 0
    with tqdm(total=total, unit=f" {unit}", mininterval=pause, dynamic_ncols=True) as bar:
        for item in items:
            bar.update(counts["kept"] - kept + 1)
            kept = counts["kept"]
            yield item
