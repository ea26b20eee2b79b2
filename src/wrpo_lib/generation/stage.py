"""The two stages that cost most, sampling and scoring, from files to files.

An engine is any callable from requests to responses, a scorer one from rows of responses to rows
with their rewards; both answer in any order. A second run makes only the missing rows, with the
settings recorded in ``<name>.run.json`` and the same prompts and texts (``made`` is their hash).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from wrpo_lib.chat import Messages
from wrpo_lib.errors import WRPOError
from wrpo_lib.io import Row, Store, parse_row, write_json
from wrpo_lib.records import provenance


@dataclass(frozen=True)
class Sampling:
    """How to sample; temperature 0 is greedy. Other seeds follow from ``seed`` and the keys."""

    n: int = 5  # section 4.1, as the next two
    temperature: float = 0.8
    top_p: float = 0.95
    max_tokens: int = 4096  # the SimPO pipeline (inferred; the paper is silent)
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.n, self.max_tokens) < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise WRPOError(f"{self} is impossible: correct n, max_tokens, temperature or top_p")
        if self.temperature == 0 and self.n != 1:
            raise WRPOError(f"greedy decoding (temperature 0) gives one response, not {self.n}")

    def seed_of(self, key: str, sample: int) -> int:
        """The seed for sample number ``sample`` of ``key``, below 2**31."""
        digest = hashlib.sha256(f"{self.seed}|{sample}|{key}".encode("utf-8", "replace")).digest()
        return int.from_bytes(digest[:4], "big") >> 1


@dataclass(frozen=True)
class Request:
    """A request for response number ``sample`` to the conversation ``key``."""

    key: str
    messages: Messages
    sampling: Sampling
    sample: int = 0

    @property
    def seed(self) -> int:
        """The seed of this response, where it gets one of its own."""
        return self.sampling.seed_of(self.key, self.sample)


@dataclass(frozen=True)
class Response:
    """One response, or why there is none (``error``).

    ``n_tokens`` counts the end token and those of a ``thought`` before the text (None: a server did
    not say); ``finish_reason`` is ``stop``, ``length`` (the token limit) or what a server says.
    """

    key: str
    sample: int
    text: str
    n_tokens: int | None
    finish_reason: str
    seed: int
    error: str | None = None
    thought: str = ""

    def row(self) -> dict[str, Any]:
        """The fields of a row of responses that are the response's own."""
        left_out = {"key", "error"} | (set() if self.thought else {"thought"})
        return {name: held for name, held in asdict(self).items() if name not in left_out}


Engine = Callable[[Iterable[Request]], Iterator[Response]]
Scorer = Callable[[Iterable[Row]], Iterator[tuple[Row, float]]]
T = TypeVar("T")
KEY = ("prompt_id", "model", "sample")
MAX_FAILURES = 200  # without a success, after which sampling stops


def windows(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of ``size``, the last of what is left."""
    source = iter(items)
    while found := list(islice(source, size)):
        yield found


def _missing(store: Store, counts: Counter[str], wanted: Iterable[tuple[Row, T]]) -> Iterator[T]:
    """Of (row, item) the items whose row is not in the store yet; the others are counted."""
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


def _made_of(of: Any) -> str:
    """A short hash of a prompt, or of a prompt and its response."""
    return hashlib.sha256(json.dumps(of).encode()).hexdigest()[:12]


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

    ``settings`` go into the run record and must be the same when the run goes on; ``n`` may grow;
    ``total`` responses are expected. Returns how many were ``made``, ``kept`` (finished before),
    ``empty``, ``truncated`` and with a ``thought``. Failed ones are an error at the end.
    """
    counts, heads, failures = Counter[str](), dict[str, Row](), list[str]()
    with Store(out, KEY) as store:
        keep_record(out, {"model": model, **asdict(sampling), **(settings or {})}, free="n")

        def wanted() -> Iterator[tuple[Row, Request]]:
            for prompt_id, messages in prompts:
                head = {"prompt_id": prompt_id, "prompt": messages, "model": model}
                heads[prompt_id] = head = {**head, "made": _made_of(messages)}
                for k in range(sampling.n):
                    yield {**head, "sample": k}, Request(prompt_id, messages, sampling, k)

        responses = engine(_missing(store, counts, wanted()))
        for made in tqdm(responses, "responses", total, initial=len(store.keys), mininterval=5):
            if made.error:
                failures.append(f"prompt_id {made.key!r}: {made.error}")
                if len(failures) == MAX_FAILURES and not counts["made"]:
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
        raise WRPOError(f"{what}; {kept}: fix the cause and run again for the rest")
    return counts


def score_responses(
    rows: Iterable[Row],
    scorer: Scorer,
    reward_model: str,
    out: Path,
    *,
    total: int | None = None,
    settings: dict[str, Any] | None = None,
) -> Counter[str]:
    """Each row with its ``reward`` and ``reward_model``, appended to ``out`` (JSONL).

    An empty or blank response gets no reward and no row; a reward that is no finite number stops
    the run. Arguments and counts are those of :func:`sample_responses`.
    """
    counts = Counter[str]()
    with Store(out, KEY) as store:
        keep_record(out, {"reward_model": reward_model, **(settings or {})})

        def wanted() -> Iterator[tuple[Row, Row]]:
            for row in rows:
                counts["truncated"] += row.get("finish_reason") == "length"
                counts["empty"] += not row["text"].strip()
                if row["text"].strip():
                    made = {**row, "made": _made_of([row.get("prompt"), row["text"]])}
                    yield made, made

        scored = scorer(_missing(store, counts, wanted()))
        for row, reward in tqdm(scored, "rewards", total, initial=len(store.keys), mininterval=5):
            store.append({**row, "reward_model": reward_model, "reward": reward})
            counts["made"] += 1
    return counts


def keep_record(out: Path, settings: dict[str, Any], free: str = "") -> None:
    """Write the run record of ``out``, if the one there has the same settings but for ``free``."""
    path, now = out.with_suffix(".run.json"), json.loads(json.dumps(settings))
    if path.is_file() and out.is_file() and out.stat().st_size:  # else there is nothing to mix with
        before = parse_row(path.read_bytes(), str(path)).get("settings", {})
        for name in sorted(now.keys() & before.keys() - {free}):
            if before[name] != now[name] and "" not in (before[name], now[name]):  # "": not known
                what = f"{out} was made with {name} {before[name]!r}, not {now[name]!r}"
                raise WRPOError(f"{what}; choose another file or delete it")
    write_json(path, {"settings": now, **provenance()})
