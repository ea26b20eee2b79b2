"""From published, scored source responses to the files that a profile's recipes name.

The paper's own are AALF/ultrafeedback_wrpo: five responses of each of ten sources to the prompts of
UltraFeedback. princeton-nlp/llama3-ultrafeedback-armorm has five of Llama-3-8B-Instruct, with
ArmoRM's scores, which can teach a smaller target. Neither has been downloaded in this project;
``tests/quadruples/test_prepare.py`` runs on small files of the same forms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wrpo_lib.errors import WRPOError, explained
from wrpo_lib.io import Row, write_json, write_rows
from wrpo_lib.quadruples.convert import open_rows, prompt_hash
from wrpo_lib.quadruples.pair import Pairing, summary, write_pairs
from wrpo_lib.quadruples.prompts import make_split, read_prompts
from wrpo_lib.quadruples.responses import read_responses
from wrpo_lib.quadruples.schema import IMPORTED, as_written
from wrpo_lib.recipes import load_recipe

PUBLISHED = "AALF/ultrafeedback_wrpo"


def download(name: str, revision: str | None = None) -> list[Path]:
    """The training files of a data set on the hub, in its cache."""
    from huggingface_hub import snapshot_download

    hint = f"look at https://huggingface.co/datasets/{name} and the network, or give --file"
    kinds = [f"*{suffix}" for suffix in (".parquet", ".jsonl", ".jsonl.gz", ".json")]
    asked: dict[str, Any] = {"repo_type": "dataset", "revision": revision, "allow_patterns": kinds}
    with explained(f"cannot download the data set {name!r}", hint):
        folder = Path(snapshot_download(name, **asked))
    for kind in kinds:  # one form, where a data set comes in several
        if files := [path for path in sorted(folder.rglob(kind)) if "test" not in path.name]:
            return files
    raise WRPOError(f"the data set {name!r} has no file of rows; give --file FILE instead")


def distinct(
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
            if "reward" not in row:
                what = "has no reward; run `wrpo score` on the file and give what it writes"
                raise WRPOError(f"{file}, row {number}: {what}")
            key = row["prompt_id"], row["model"], row["sample"]
            asked = prompt_hash(repr(as_written(row["prompt"])))
            again = key in seen or first.setdefault(asked, key[0]) != key[0]
            counts["repeated" if again else "kept"] += 1
            if not again:
                seen.add(key)
                yield row


def prepare(
    profile: str, files: list[Path], model: str = "", reward_model: str = "unknown", seed: int = 42
) -> dict[str, str]:
    """Write what the recipes of ``profile`` read, and what the stages before WRPO need.

    Beside the recipes' files: ``source_rewards.jsonl.gz``, every response once; ``split.json``, a
    third of the prompts for SFT and the rest, drawn by ``seed``; ``prompts.jsonl``, those of the
    rest, for the target to answer. Returns each path with what it holds. Quadruples need the
    target's own samples, so ``wrpo pair`` writes them.
    """
    sft, off = (Path(str(load_recipe(profile, name).data)) for name in ("sft", "dpo_off"))
    folder, counts = sft.parent, Counter[str]()
    rewards = folder / "source_rewards.jsonl.gz"
    write_rows(distinct(files, model, reward_model, counts), rewards)
    asked = dict(read_prompts(rewards))
    split = make_split(asked, seed)
    write_json(folder / "split.json", vars(split))
    rest = [{"prompt_id": i, "prompt": asked[i]} for i in split.preference]
    write_rows(rest, folder / "prompts.jsonl")
    table = read_responses([rewards])
    made = write_pairs(table, sft, Pairing(pairs="sft"), split, "sft")
    found = {
        str(rewards): f"{counts['kept']} responses, {counts['repeated']} repeated ones left out",
        str(folder / "prompts.jsonl"): f"{len(rest)} prompts for the target to answer",
        str(sft): f"best source responses: {summary(made)}",
    }
    if len(table) > len(asked):  # more than one response to a prompt
        made = write_pairs(table, off, Pairing(pairs="dpo-off"), split, "preference")
        found[str(off)] = f"pairs of source responses: {summary(made)}"
    return found
