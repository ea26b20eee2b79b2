"""What a recipe sets and names: hyperparameters, adapter, model, rows and batches of token ids."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.logging import get_logger
from datasets import Dataset, load_from_disk
from peft import LoraConfig
from transformers import BitsAndBytesConfig
from trl import DPOConfig, SFTConfig

from wrpo_lib import models, sharing
from wrpo_lib.chat import Truncation, render
from wrpo_lib.errors import WRPOError
from wrpo_lib.io import read_rows
from wrpo_lib.objective import FORMS, SCHEDULES
from wrpo_lib.quadruples.schema import RESPONSES, as_written, side_text, validate_quadruples
from wrpo_lib.recipes import Recipe, checked

logger = get_logger(__name__)

REF_LOGPS = ("ref_chosen_logps", "ref_rejected_logps")
"""Columns that TRL's reference pass adds, (B, chosen responses) and (B, rejected responses)."""
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "loss_type": ("sigmoid", ["sigmoid"]),  # `objective` says the form
    **dict.fromkeys(("loss_weights", "ld_alpha", "pad_token"), (None,)),
    "pad_to_multiple_of": ("auto", None),
    **dict.fromkeys(("use_weighting", "padding_free", "sync_ref_model"), (False,)),
    "f_divergence_type": ("reverse_kl",),
    "label_smoothing": (0.0,),
    "truncation_mode": ("keep_start",),
    "train_sampling_strategy": ("random", "sequential"),  # others need one length per row
}
"""Parent fields that WRPO gives no other meaning to, with the values they may have."""
CHOICES = {"objective": tuple(FORMS), "alpha_schedule": SCHEDULES, **UNSUPPORTED}
CHOICES |= {"share_prompt": ("auto", "true", "false"), "share_prompt_backend": sharing.BACKENDS}


@dataclass
class WRPOConfig(DPOConfig):
    """Arguments of :class:`~wrpo_lib.training.WRPOTrainer`, with those of TRL's ``DPOConfig``.

    Higher ``beta`` and ``tau`` keep the policy closer to the reference; in the simpo form, which
    has none, ``beta`` sharpens. Where a prompt and a response exceed ``max_length`` tokens, the
    prompt is cut to its last ``max_prompt_length``, then each response to what is left. Defaults
    are the paper's for the DPO form.

    :raises WRPOError: for a value or an option of the parent that has no meaning here.
    """

    objective: str = "dpo"  # form of the loss
    alpha: float = 0.1  # Table 6; weight of the source response at the end of the schedule
    alpha_schedule: str = "linear"  # section 4.1
    beta: float = 0.01  # Table 6
    tau: float = 0.01  # Table 6, IPO
    gamma: float = 0.0  # Table 6, the target margin of SimPO
    max_length: int | None = 2048  # section 4.1
    max_prompt_length: int | None = 1800  # section 4.1
    learning_rate: float = 3e-7  # Table 6
    lr_scheduler_type: str = "cosine"  # section 4.1
    warmup_steps: float = 0.1  # section 4.1; below 1 a share of all steps
    num_train_epochs: float = 1.0  # section 4.1
    seed: int = 42  # section 4.1; data order and initialisation
    logging_steps: float = 1  # ours: the dynamics are a result
    activation_checkpointing: bool | None = True  # official config, as TRL's default
    alpha_rejected: float = 0.0  # ours; weight of source_rejected, for Table 10
    score_unused: bool = True  # ours; False skips a response whose weight is always 0
    share_prompt: str | bool = "auto"  # ours; auto: where the model can; true: or an error
    share_prompt_backend: str = "auto"  # ours; see wrpo_lib.sharing
    micro_batch_tokens: int | None = None  # ours; of one forward pass; more are split
    precompute_ref_log_probs: bool = True  # ours: once, not in every step
    ref_cache_dir: str | None = None  # ours; where reference log-probabilities go, or output_dir

    def __post_init__(self) -> None:
        """Reject values without a meaning before anything is loaded."""
        self.share_prompt = str(self.share_prompt).lower()  # YAML gives true and false as such
        for name, known in CHOICES.items():
            if (value := vars(self)[name]) not in known:
                choices = ", ".join(map(str, known))
                raise WRPOError(f"{name} is {value!r}, which WRPO cannot use; choose {choices}")
        for name in ("alpha", "alpha_rejected"):
            if not 0.0 <= vars(self)[name] <= 1.0:
                raise WRPOError(f"{name} is {vars(self)[name]}, outside [0, 1]; lower it")
        if self.micro_batch_tokens is not None and self.micro_batch_tokens < 1:
            raise WRPOError("micro_batch_tokens is below 1; raise it, or leave it out (null)")
        if self.alpha_rejected and self.objective != "dpo":
            raise WRPOError("alpha_rejected belongs to the dpo form; set it to 0")
        super().__post_init__()

    @property
    def responses(self) -> tuple[str, ...]:
        """Names of the responses that a run computes, chosen ones first."""
        names = [*RESPONSES, *(["source_rejected"] if self.alpha_rejected else [])]
        if not self.score_unused and self.alpha == 0:
            names.remove("source_chosen")
        if not self.score_unused and self.alpha == 1 and self.alpha_schedule == "constant":
            names.remove("target_chosen")
        return tuple(names)


def training_arguments(recipe: Recipe, output_dir: Path) -> Any:
    """``SFTConfig`` or ``WRPOConfig`` of a recipe."""
    cuda = torch.cuda.is_available()
    values = {"seed": 42, "report_to": "none", "logging_steps": 1, "bf16": False}  # section 4.1
    values |= {"dataloader_pin_memory": cuda, "activation_checkpointing": False}
    values["use_cpu"] = not cuda
    kind: Any = SFTConfig if recipe.stage == "sft" else WRPOConfig
    own = checked(kind, recipe.training, recipe.where, "training.")
    args = kind(**{**values, **own, "output_dir": str(output_dir)})
    if args.n_gpu > 1:  # transformers would wrap the model in DataParallel; accelerate has better
        args._n_gpu = 1
    return args


def lora_config(recipe: Recipe) -> LoraConfig | None:
    """peft's configuration of a recipe's ``lora``; None for full fine-tuning."""
    if recipe.lora:
        values = checked(LoraConfig, recipe.lora, recipe.where, "lora.")
        return LoraConfig(**{"task_type": "CAUSAL_LM", **values})
    return None


def load_model(recipe: Recipe) -> Any:
    """The model, ready to train, with the recipe's ``load`` and ``quantization``."""
    options: dict[str, Any] = dict(recipe.load)
    if recipe.quantization:  # every process holds the whole model, on its own GPU
        options["device_map"] = {"": PartialState().local_process_index}
        options["quantization_config"] = BitsAndBytesConfig(**recipe.quantization)
    return models.load_trainable(recipe.model or "", **options)


def responses(args: Any) -> tuple[str, ...]:
    """The responses that a run reads: y_ws for SFT, those it computes otherwise."""
    return getattr(args, "responses", ("source_chosen",))


def load_data(recipe: Recipe, data: str | None = None) -> Dataset:
    """The rows of a file of quadruples, validated as far as the recipe reads them.

    SFT needs ``prompt`` and ``source_chosen``. A recipe that reads one preferred response (DPO,
    IPO, SimPO) also takes TRL's preference pairs, ``prompt``, ``chosen``, ``rejected``.

    :raises WRPOError: for the first thing wrong, with file, row and field.
    """
    data = data or recipe.data
    if not data:
        raise WRPOError(f"{recipe.where} names no data; pass --data (JSONL or parquet)")
    rows = read_rows(data)
    wanted = responses(training_arguments(recipe, recipe.output_dir))
    kind = "sft" if recipe.stage == "sft" else "quadruples"
    columns = {name: name for name in wanted}
    if len(wanted) == 2 and "chosen" in rows[0]:
        kind, columns = "pairs", {wanted[0]: "chosen", "rejected": "rejected"}
    read = {"prompt", *columns.values()} | ({"prompt_id"} if kind == "quadruples" else set())
    for problem in validate_quadruples(rows, kind):
        if problem.field.partition(".")[0] in read:
            raise WRPOError(problem.sentence(data))
    made = []
    for number, row in enumerate(rows, 1):
        texts = {name: side_text(row.get(column)) for name, column in columns.items()}
        name = str(row.get("prompt_id") or f"row {number}")
        made.append({"prompt_id": name, "prompt": as_written(row["prompt"]), **texts})
    return Dataset.from_list(made, on_mixed_types="use_json")


def tokenize(
    dataset: Dataset, tokenizer: Any, fields: tuple[str, ...], args: Any, name: str
) -> tuple[Dataset, Truncation]:
    """Rows of ``prompt_id``, ``prompt_ids`` and ``<field>_ids``; what was cut or folded, logged.

    :raises WRPOError: for a missing column, a row that cannot be rendered, or every response cut.
    """
    if missing := {"prompt", *fields} - set(dataset.column_names):
        raise WRPOError(f"the {name} data lack the column {min(missing)!r}; add it")
    limits = (args.max_length, getattr(args, "max_prompt_length", None))
    rows, found = [], Truncation()
    for number, row in enumerate(dataset, 1):
        texts = [row[field] for field in fields]
        try:
            if empty := [k for k in fields if not isinstance(row[k], str) or not row[k].strip()]:
                raise WRPOError(f"field {empty[0]!r} is empty; correct or remove the row")
            made = render(tokenizer, row["prompt"], texts, *limits)
        except WRPOError as error:
            raise WRPOError(f"the {name} data, row {number}: {error}") from error
        found.add(made, list(fields))
        key, ids = row.get("prompt_id") or f"row {number}", made.response_ids
        known = {f"{field}_ids": own for field, own in zip(fields, ids, strict=True)}
        rows.append({"prompt_id": key, "prompt_ids": made.prompt_ids, **known})
    if min(found[field] for field in fields) == len(rows):
        what = f"every response of the {name} data is longer than max_length {limits[0]} allows"
        raise WRPOError(f"{what}, so no response would be seen to its end; raise max_length")
    log = logger.warning if found.total() > len(rows) else logger.info
    log(f"{name} data: {found.report()}")
    return Dataset.from_list(rows), found


def keep_on_disk(rows: Dataset, args: Any) -> Dataset:
    """The same rows, read from a folder that their content and the precision name.

    TRL caches the reference pass beside the data set's file, under a fingerprint of data and model.
    """
    digest = hashlib.sha256(repr((args.bf16, args.fp16)).encode())
    for row in rows:
        digest.update(repr(row).encode())
    folder = Path(args.ref_cache_dir or Path(args.output_dir) / "reference")
    path = folder / digest.hexdigest()[:16]
    with PartialState().main_process_first():
        if not (path / "dataset_info.json").is_file():  # the last of its files to be written
            rows.save_to_disk(path)
    return load_from_disk(str(path))


def split_by_tokens(sizes: Sequence[int], budget: int | None) -> list[slice]:
    """Consecutive slices of at most ``budget`` tokens, at least one example; one without budget."""
    starts, held = [0], 0
    for number, size in enumerate(sizes):
        if budget and held + size > budget and number > starts[-1]:
            starts, held = [*starts, number], 0
        held += size
    return [slice(*ends) for ends in pairwise([*starts, len(sizes)])]


@dataclass
class WRPOCollator:
    """Collate B rows with ``prompt_ids`` and ``<response>_ids`` of the R ``responses``.

    Returns ``lengths`` (B, R) in tokens; R·B padded rows or, with ``share_prompt``, one packed row
    (:mod:`wrpo_lib.sharing`); ``prompt_id``; the reference's log-probabilities where there are any.
    More than ``micro_batch_tokens`` come as ``parts``, batches each with its ``share`` of the rows.
    """

    responses: tuple[str, ...] = RESPONSES
    share_prompt: bool = False
    micro_batch_tokens: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate ``rows``."""
        copies = ["prompt"] * (1 if self.share_prompt else len(self.responses))
        sizes = [sum(len(row[f"{k}_ids"]) for k in (*copies, *self.responses)) for row in rows]
        known = [name for name in REF_LOGPS if name in rows[0]]
        parts: list[dict[str, Any]] = []
        for part in split_by_tokens(sizes, self.micro_batch_tokens):
            prompts = [row["prompt_ids"] for row in rows[part]]
            responses = [[row[f"{name}_ids"] for name in self.responses] for row in rows[part]]
            lengths = torch.tensor([[len(ids) for ids in of_row] for of_row in responses])
            arrange = sharing.pack if self.share_prompt else sharing.pad
            # lengths first: accelerate counts examples by it
            batch = {"lengths": lengths, **arrange(prompts, responses)}
            batch |= {name: torch.tensor([row[name] for row in rows[part]]) for name in known}
            batch["prompt_id"] = [row.get("prompt_id") for row in rows[part]]
            parts.append({**batch, "share": len(prompts) / len(rows)})
        if len(parts) == 1:
            return parts[0]
        whole = {k: torch.cat([part[k] for part in parts]) for k in ("lengths", *known)}
        return {**whole, "parts": parts}
