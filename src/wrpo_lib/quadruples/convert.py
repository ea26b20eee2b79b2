"""Published data in their own forms, as what our stages read; the official form out.

They are the SimPO pipeline's rows (``prompt``, ``all_generated_responses``, ``all_rm_scores``);
alpaca_eval's outputs (``instruction``, ``output``, ``generator``); the official format of
SLIT-AI/WRPO, where order carries the meaning (``chosen`` is [source response, target response],
``rejected`` is [target response]); and pairs whose sides are whole conversations, as in
UltraFeedback-binarized, SimPO's data or ShareGPT.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from wrpo_lib.chat import Messages, as_messages
from wrpo_lib.errors import WRPOError, explained
from wrpo_lib.io import Row, iter_rows, write_json, write_rows
from wrpo_lib.quadruples.pair import Pairing, Split, write_pairs
from wrpo_lib.quadruples.schema import (
    IMPORTED,
    RESPONSES,
    as_turns,
    as_written,
    kind_of,
    require,
    validate_quadruples,
)
from wrpo_lib.recipes import load_recipe

PUBLISHED = "AALF/ultrafeedback_wrpo"
"""The paper's source responses on the hub: five of each of ten sources, not downloaded here yet."""


def open_rows(
    file: Path, model: str = "", reward_model: str = "unknown"
) -> tuple[str, Iterable[Row]]:
    """The form of a file, by its first row, and its rows in the kind that we use.

    ``model`` says whose responses they are (default: the rows' ``generator``). Rows are checked,
    but for responses in our kind, which ``read_responses`` checks.
    """
    where, rows = str(file), iter_rows(file)
    first = next(rows, None)
    if first is None:
        raise WRPOError(f"{file} has no rows; write at least one")
    form, rows = kind_of(first), chain([first], rows)
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
    for problem in validate_quadruples(held, kind):
        raise WRPOError(problem.sentence(where))
    return form, held


def prompt_hash(text: str) -> str:
    """sha256 of a prompt's text, as UltraFeedback's prompt ids are; ours where there is none."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_prompts(path: Path) -> Iterator[tuple[str, Messages]]:
    """(prompt_id, messages) of every row, one at a time; other fields are ignored.

    Text that went through a chat template is refused, since every model has its own. A repeated id
    is an error, but for the same prompt in a file of responses.
    """
    seen: dict[str, Messages] = {}
    for number, row in enumerate(iter_rows(path), 1):
        require(row, number, "prompts", str(path))
        messages = as_messages(row["prompt"], f"{path}, row {number}")
        first = seen.setdefault(row["prompt_id"], messages)
        if first is messages:
            yield row["prompt_id"], messages
        elif "sample" not in row or first != messages:
            what = f"{row['prompt_id']!r} stands in an earlier row already; make ids unique"
            raise WRPOError(f"{path}, row {number}, field 'prompt_id': {what}")


def _as_responses(rows: Iterable[Row], where: str, model: str, reward_model: str) -> Iterator[Row]:
    """Rows of the SimPO or alpaca_eval form as response rows, with rewards if there are any.

    A prompt that occurs again under the same model gets the next sample numbers.
    """
    seen: Counter[tuple[str, str]] = Counter()
    for number, row in enumerate(rows, 1):
        prompt = row.get("instruction", row.get("prompt"))
        texts = row.get("all_generated_responses", [row.get("output")])
        rewards, name = row.get("all_rm_scores"), model or row.get("generator")
        lists = isinstance(texts, list) and isinstance(rewards or texts, list)
        if not lists or len(rewards or texts) != len(texts):
            what = "as many scores as responses are needed; complete the lists"
            raise WRPOError(f"{where}, row {number}: {what}")
        prompt_id = row.get("prompt_id") or prompt_hash(str(prompt))
        for k, text in enumerate(texts):
            made = {"prompt_id": prompt_id, "prompt": as_written(prompt), "model": name}
            made |= {"sample": seen[str(prompt_id), str(name)], "text": text}
            if rewards:
                made |= {"reward_model": reward_model, "reward": rewards[k]}
            require(made, number, "rewards" if rewards else "responses", where)
            yield made
            seen[str(prompt_id), str(name)] += 1


def _as_pair(row: Row, where: str) -> Row:
    """A preference pair of whole conversations as TRL's: the last turns are the responses.

    :raises WRPOError: where the turns before a response are not the prompt.
    """
    made = {name: value for name, value in row.items() if name != "conversations"}
    prompt = row.get("prompt", row.get("conversations"))
    asked = [] if prompt is None else as_turns(prompt)
    for side in ("chosen", "rejected"):
        *before, said = as_turns(row.get(side) or "")
        if not asked or (isinstance(prompt, str) and before[-1:] == asked):
            asked = before  # a prompt as text is the last question of what came before
        if before not in ([], asked) or said["role"] != "assistant":
            what = "is no conversation of the prompt and an assistant's response; correct the row"
            raise WRPOError(f"{where}, field {side!r}: {what}")
        made[side] = [said]
    return {**made, "prompt": asked}


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


def download(name: str) -> list[Path]:
    """The training files of a data set on the hub, in its cache."""
    from huggingface_hub import snapshot_download

    hint = f"look at https://huggingface.co/datasets/{name} and the network, or give a file"
    kinds = [f"*{suffix}" for suffix in (".parquet", ".jsonl", ".jsonl.gz", ".json")]
    with explained(f"cannot download the data set {name!r}", hint):
        folder = Path(snapshot_download(name, repo_type="dataset", allow_patterns=kinds))
    for kind in kinds:  # one form, where a data set comes in several
        if files := [path for path in sorted(folder.rglob(kind)) if "test" not in path.name]:
            return files
    raise WRPOError(f"the data set {name!r} has no file of rows; give a file instead")


def _distinct(
    files: list[Path], model: str, reward_model: str, counts: Counter[str]
) -> Iterator[Row]:
    """Scored responses of ``files``, each once, and each prompt under the first of its ids."""
    first: dict[str, str] = {}
    seen: set[tuple[str, str, int]] = set()
    for file in files:
        form, rows = open_rows(file, model, reward_model)
        if IMPORTED.get(form, form) not in ("responses", "rewards"):
            raise WRPOError(f"{file} holds {form}, not responses; give a file of source responses")
        for number, row in enumerate(rows, 1):
            require(row, number, "rewards", str(file))
            key = row["prompt_id"], row["model"], row["sample"]
            asked = prompt_hash(repr(as_written(row["prompt"])))
            again = key in seen or first.setdefault(asked, key[0]) != key[0]
            counts["repeated" if again else "kept"] += 1
            if not again:
                seen.add(key)
                yield row


def prepare(
    profile: str, files: list[Path], model: str = "", reward_model: str = "unknown", seed: int = 42
) -> list[str]:
    """Write what the recipes of ``profile`` read, and what the stages before WRPO need.

    Beside the recipes' files: ``source_rewards.jsonl.gz``, every response of ``files`` (default:
    the paper's data set) once; ``split.json``, a third of the prompts for SFT and the rest, drawn
    by ``seed``; ``prompts.jsonl``, those of the rest, for the target to answer. Returns a line on
    each. Quadruples need the target's own samples, so ``wrpo pair`` writes them.
    """
    sft, off = (Path(str(load_recipe(profile, name).data)) for name in ("sft", "dpo_off"))
    rewards, prompts = (sft.with_name(n) for n in ("source_rewards.jsonl.gz", "prompts.jsonl"))
    counts = Counter[str]()
    write_rows(_distinct(files or download(PUBLISHED), model, reward_model, counts), rewards)
    asked = dict(read_prompts(rewards))
    split = Split.draw(asked, seed)
    write_json(sft.with_name("split.json"), vars(split))
    write_rows(({"prompt_id": i, "prompt": asked[i]} for i in split.preference), prompts)
    said = [
        f"{rewards}: {counts['kept']} responses, {counts['repeated']} repeated ones left out",
        f"{prompts}: {len(split.preference)} prompts for the target to answer",
        f"{sft}: best source responses: {write_pairs([rewards], sft, Pairing(pairs='sft'), split)}",
    ]
    with suppress(WRPOError):  # one response to each prompt gives no pairs
        made = write_pairs([rewards], off, Pairing(pairs="dpo-off"), split)
        said.append(f"{off}: pairs of source responses: {made}")
    return said
