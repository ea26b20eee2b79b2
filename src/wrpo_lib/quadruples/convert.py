"""Published data in their own forms, as what our stages read; the official form out.

They are the SimPO pipeline's rows (``prompt``, ``all_generated_responses``, ``all_rm_scores``);
alpaca_eval's outputs (``instruction``, ``output``, ``generator``); the official format of
SLIT-AI/WRPO, where order carries the meaning (``chosen`` is [source response, target response],
``rejected`` is [target response]); and pairs of whole conversations (UltraFeedback-binarized,
ShareGPT).
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from wrpo_lib.chat import Messages, as_messages
from wrpo_lib.errors import WRPOError, explained
from wrpo_lib.io import Row, iter_rows, write_json, write_rows
from wrpo_lib.quadruples.pair import Pairing, draw_split, write_pairs
from wrpo_lib.quadruples.schema import (
    IMPORTED,
    RESPONSES,
    as_turns,
    as_written,
    kind_of,
    require,
    require_one,
)
from wrpo_lib.recipes import load_recipe

PUBLISHED = "AALF/ultrafeedback_wrpo"  # the paper's source responses, not downloaded here yet


def open_rows(
    file: Path, model: str = "", reward_model: str = "unknown"
) -> tuple[str, Iterable[Row]]:
    """The form of a file, by its first row, and its rows in the kind that we use.

    ``model`` says whose responses they are (default: the rows' ``generator``). Rows are checked,
    but for responses in our kind, which ``read_responses`` checks.
    """
    where, rows, first = str(file), iter_rows(file), next(iter_rows(file), None)
    if first is None:
        raise WRPOError(f"{file} has no rows; write at least one")
    form = kind_of(first)
    if form is None:
        names = ", ".join(sorted(first))
        raise WRPOError(f"{file}, row 1: the fields {names} are of no known form; rename them")
    if form in ("responses", "rewards"):
        return form, rows
    kind = IMPORTED.get(form, form)
    if kind == "responses":
        return form, _as_responses(rows, where, model, reward_model)
    if form in IMPORTED:
        convert = from_official if form == "official" else _as_pair
        rows = (convert(row, f"{where}, row {n}") for n, row in enumerate(rows, 1))
    held = list(rows)
    require(held, kind, where)
    return form, held


def read_prompts(path: Path) -> Iterator[tuple[str, Messages]]:
    """(prompt_id, messages) of every row, one at a time; other fields are ignored.

    Text that went through a chat template is refused, since every model has its own. A repeated id
    is an error, but for the same prompt in a file of responses.
    """
    seen: dict[str, Messages] = {}
    for number, row in enumerate(iter_rows(path), 1):
        require_one(row, "prompts", str(path), number)
        messages = as_messages(row["prompt"], f"{path}, row {number}")
        first = seen.setdefault(row["prompt_id"], messages)
        if first is messages:
            yield row["prompt_id"], messages
        elif "sample" not in row or first != messages:
            what = f"{row['prompt_id']!r} repeats an earlier row; make ids unique"
            raise WRPOError(f"{path}, row {number}, field 'prompt_id': {what}")


def _as_responses(rows: Iterable[Row], where: str, model: str, reward_model: str) -> Iterator[Row]:
    """Rows of the SimPO or alpaca_eval form as response rows, with rewards if there are any.

    A prompt without an id gets the sha256 of its text, as UltraFeedback's ids are.
    """
    for number, row in enumerate(rows, 1):
        prompt = row.get("instruction", row.get("prompt"))
        texts = row.get("all_generated_responses", [row.get("output")])
        rewards = row.get("all_rm_scores")
        lists = isinstance(texts, list) and isinstance(rewards or texts, list)
        if not lists or len(rewards or texts) != len(texts):
            what = "as many scores as responses are needed; complete the lists"
            raise WRPOError(f"{where}, row {number}: {what}")
        head = {"prompt_id": row.get("prompt_id") or sha256(str(prompt).encode()).hexdigest()}
        head |= {"prompt": as_written(prompt), "model": model or row.get("generator")}
        for k, text in enumerate(texts):
            made = {**head, "sample": k, "text": text}
            if rewards:
                made |= {"reward_model": reward_model, "reward": rewards[k]}
            require_one(made, "rewards" if rewards else "responses", where, number)
            yield made


def _as_pair(row: Row, where: str) -> Row:
    """A preference pair of whole conversations as TRL's: the last turns are the responses. ShareGPT
    has the turns before them apart, as ``conversations``."""
    before = as_turns(row.get("conversations") or [])
    *asked, won = [*before, *as_turns(row.get("chosen") or "")]
    *same, lost = [*before, *as_turns(row.get("rejected") or "")]
    if asked != same or {won["role"], lost["role"]} != {"assistant"}:
        what = "are no conversations that differ in the last response alone; correct the row"
        raise WRPOError(f"{where}: 'chosen' and 'rejected' {what}")
    return {**row, "prompt": asked, "chosen": [won], "rejected": [lost]}


def from_official(row: Row, where: str = "the row") -> Row:
    """An official row as a quadruple; other fields are kept, ``where`` names it in errors."""
    if kind_of(row) != "official":
        raise WRPOError(f"{where}: two chosen and one rejected assistant turn are needed; add them")
    made = {name: value for name, value in row.items() if name != "chosen"}
    for name, turn in zip(RESPONSES, as_turns([*row["chosen"], *row["rejected"]]), strict=True):
        made[name] = turn["content"]
    return {**made, "prompt": as_written(row.get("prompt"))}


def to_official(row: Row) -> Row:
    """A quadruple as an official row; a one-message prompt becomes that message."""
    source, target, rejected = ({"role": "assistant", "content": row[k]} for k in RESPONSES)
    rest = {name: value for name, value in row.items() if name not in RESPONSES}
    prompt = as_written(row["prompt"])
    asked = prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else prompt
    return {**rest, "prompt": asked, "chosen": [source, target], "rejected": [rejected]}


def download() -> list[Path]:
    """The training files of the paper's source responses, in the hub's cache."""
    from huggingface_hub import snapshot_download

    hint = f"look at https://huggingface.co/datasets/{PUBLISHED} and the network, or give a file"
    kinds = [f"*{suffix}" for suffix in (".parquet", ".jsonl", ".jsonl.gz", ".json")]
    with explained(f"cannot download the data set {PUBLISHED!r}", hint):
        folder = Path(snapshot_download(PUBLISHED, repo_type="dataset", allow_patterns=kinds))
    for kind in kinds:  # one form, where a data set comes in several
        if files := [path for path in sorted(folder.rglob(kind)) if "test" not in path.name]:
            return files
    raise WRPOError(f"the data set {PUBLISHED!r} has no file of rows; give a file instead")


def prepare(
    profile: str, files: list[Path], model: str = "", reward_model: str = "unknown", seed: int = 42
) -> list[str]:
    """Write what the recipes of ``profile`` read, and what the stages before WRPO need.

    Beside the recipes' files: ``source_rewards.jsonl.gz``, every response of ``files`` (default:
    the paper's data set) once; ``split.json``, drawn by ``seed``; ``prompts.jsonl``, those that the
    target is to answer. Returns a line on each.
    """
    sft, off = (Path(str(load_recipe(profile, name).data)) for name in ("sft", "dpo_off"))
    rewards, prompts = (sft.with_name(n) for n in ("source_rewards.jsonl.gz", "prompts.jsonl"))
    counts, seen = Counter[str](), set[tuple[Any, ...]]()

    def distinct() -> Iterator[Row]:
        for file in files or download():
            form, rows = open_rows(file, model, reward_model)
            if IMPORTED.get(form, form) not in ("responses", "rewards"):
                what = "not responses; give a file of source responses"
                raise WRPOError(f"{file} holds {form}, {what}")
            for number, row in enumerate(rows, 1):
                require_one(row, "rewards", str(file), number)
                key = row["prompt_id"], row["model"], row["sample"]
                counts["repeated" if key in seen else "kept"] += 1
                if key not in seen:
                    seen.add(key)
                    yield row

    write_rows(distinct(), rewards)
    asked = dict(read_prompts(rewards))
    drawn, split = draw_split(asked, seed), sft.with_name("split.json")
    write_json(split, drawn)
    write_rows(({"prompt_id": i, "prompt": asked[i]} for i in drawn["preference"]), prompts)
    said = [
        f"{rewards}: {counts['kept']} responses, {counts['repeated']} repeated ones left out",
        f"{prompts}: {len(drawn['preference'])} prompts for the target to answer",
        f"{sft}: best source responses: {write_pairs([rewards], sft, Pairing(pairs='sft'), split)}",
    ]
    with suppress(WRPOError):  # one response to each prompt gives no pairs
        made = write_pairs([rewards], off, Pairing(pairs="dpo-off"), split)
        said.append(f"{off}: pairs of source responses: {made}")
    return said
