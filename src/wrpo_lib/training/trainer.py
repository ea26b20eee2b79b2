"""``WRPOTrainer``, TRL's ``DPOTrainer`` with two chosen responses and a rising alpha, and SFT.

TRL loads, wraps, caches the reference, trains, resumes and saves; here quadruples are rendered,
log-probabilities computed with shared prompts, and :mod:`wrpo_lib.objective` applied.
"""

import os
from contextlib import nullcontext
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import DPOTrainer, SFTConfig, SFTTrainer
from trl.trainer.utils import use_adapter

from wrpo_lib import sharing
from wrpo_lib.errors import WRPOError
from wrpo_lib.objective import FORMS, Objective, alpha_at
from wrpo_lib.quadruples.schema import RESPONSES
from wrpo_lib.training.inputs import REF_LOGPS, WRPOCollator, WRPOConfig, keep_on_disk, tokenize

logger = get_logger(__name__)


class WRPOTrainer(DPOTrainer):
    """Train on quadruples (x, y_ws, y_wt, y_l): see :mod:`wrpo_lib.quadruples`.

    ``truncation`` counts what was cut, by data set; ``shares_prompts`` says whether prompts are
    computed once. The reference is the model as it is given, the base model where an adapter is
    trained, or ``ref_model``; SimPO has none.

    Metrics, in evaluation with the prefix ``eval_``: ``alpha``, ``logps/`` and ``rewards/`` of each
    response, ``rewards/{fused,margins}``, ``rewards/accuracies`` (fused against rejected) and
    ``rewards/{source,target}_accuracies`` (against rejected).

    :raises WRPOError: for bad rows; in training, for a loss that is not finite.
    """

    args: WRPOConfig
    _tag_names = ["trl", "wrpo"]  # noqa: RUF012 - TRL reads class attributes
    _name = "WRPO"
    _paper = {  # noqa: RUF012
        "title": "Weighted-Reward Preference Optimization for Implicit Model Fusion",
        "id": "2412.03187",
    }

    def __init__(self, model: Any, ref_model: Any = None, *, args: WRPOConfig, **own: Any) -> None:
        args.remove_unused_columns = False  # rows hold nothing but what the collator reads
        self.responses = args.responses
        self.truncation: dict[str, Any] = {}
        self.shares_prompts: bool | None = None  # decided when the models are in place
        adapted = own.get("peft_config") is not None or isinstance(model, PeftModel)
        fsdp = bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP") == "true"
        if args.micro_batch_tokens and (fsdp or args.deepspeed_plugin is not None):
            raise WRPOError("FSDP and DeepSpeed run in lockstep; set micro_batch_tokens to null")
        if adapted and fsdp:
            args.precompute_ref_log_probs = False  # no process has the whole base model before
        if not adapted and ref_model is None:  # TRL would load one from disk in every other case
            args.precompute_ref_log_probs = True
        collator = WRPOCollator(self.responses, micro_batch_tokens=args.micro_batch_tokens)
        super().__init__(model, ref_model, args, data_collator=collator, **own)
        keep_adapters_in_float32(self.model)
        self._choose_forward()
        if args.objective == "simpo":  # nothing was computed, see _precompute_ref_logps
            self.precompute_ref_logps = False

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: WRPOConfig, dataset_name: str
    ) -> Dataset:
        """Render and tokenise quadruples, count what is cut; tokenised data pass through."""
        if "prompt_ids" in dataset.column_names:
            return dataset
        rows, self.truncation[dataset_name] = tokenize(
            dataset, processing_class, self.responses, args, dataset_name
        )
        return keep_on_disk(rows, args) if args.precompute_ref_log_probs else rows

    def _choose_forward(self) -> None:
        """Decide, once and before the first forward pass, whether prompts are shared."""
        if self.shares_prompts is not None:
            return
        wish = self.args.share_prompt
        obstacle = "it is turned off" if wish == "false" else share(self)
        if obstacle and wish == "true":
            raise WRPOError(f"prompts cannot be shared: {obstacle}; set share_prompt to auto")
        if obstacle and wish == "auto":
            logger.warning(f"prompts are not shared: {obstacle}; every response gets its own row")
        self.shares_prompts = self.data_collator.share_prompt = obstacle is None

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        if self.args.objective == "simpo":  # has no reference
            return dataset
        self._choose_forward()
        return super()._precompute_ref_logps(dataset, name, batch_size)

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Reference log-probabilities without gradient: (B, chosen responses), (B, rejected)."""
        adapter: Any = nullcontext()
        if self.ref_model is None and isinstance(self.model, PeftModel):
            unwrapped = self.accelerator.unwrap_model(self.model)
            adapter = use_adapter(unwrapped, "ref" if "ref" in unwrapped.peft_config else None)
        with torch.no_grad(), adapter, self.accelerator.autocast():
            logps, _ = sharing.response_logps(model, inputs)
        chosen = sum("rejected" not in name for name in self.responses)
        return logps[:, :chosen], logps[:, chosen:]

    def training_step(self, model: Any, inputs: dict[str, Any], *more: Any) -> Tensor:
        """Forward and backward passes of a batch, or of each of its parts in turn."""
        *others, last = inputs.get("parts", [inputs])
        alone = self.accelerator.no_sync(model) if others else nullcontext()
        with alone:  # processes may have different numbers of parts, and meet in the last
            losses = [super(WRPOTrainer, self).training_step(model, p, *more) for p in others]
        return torch.stack([*losses, super().training_step(model, last, *more)]).sum()

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean WRPO loss of a batch, or a part's share of it; records the metrics."""
        args, router = self.args, {"output_router_logits": True} if self.aux_loss_enabled else {}
        logps, outputs = sharing.response_logps(model, inputs, **router)  # (B, R)
        if args.objective == "simpo":
            other = inputs["lengths"].to(logps.dtype)
        elif self.precompute_ref_logps:
            other = torch.cat([inputs[name] for name in REF_LOGPS], dim=1)
        else:
            reference = self.ref_model if self.ref_model is not None else self.model
            other = torch.cat(self.compute_ref_log_probs(reference, inputs), dim=1)

        form, fields = FORMS[args.objective]
        options: dict[str, Any] = {name: getattr(args, name) for name in fields}
        when = args.alpha_schedule, self.state.global_step, self.state.max_steps
        options["alpha"] = alpha_at(*when, args.alpha)
        tensors = []
        for kind, columns in (("policy", logps), ("ref", other)):  # other: reference, or lengths
            values: dict[str, Any] = dict(zip(self.responses, columns.unbind(1), strict=True))
            values.setdefault("source_chosen", values.get("target_chosen"))  # where its weight is 0
            values.setdefault("target_chosen", values["source_chosen"])
            tensors += [values[name] for name in RESPONSES]
            if args.alpha_rejected:
                options[f"{kind}_dispreferred"] = values["source_rejected"]
                options["alpha_rejected"] = alpha_at(*when, args.alpha_rejected)
        result = form(*tensors, **options)
        self._record(result, options["alpha"], logps.detach(), inputs)

        loss = result.losses.mean()
        if self.aux_loss_enabled:  # mixture-of-experts load balancing, as TRL adds it
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss
        loss = loss * inputs.get("share", 1.0)
        return (loss, outputs) if return_outputs else loss

    def _record(self, result: Objective, alpha: float, logps: Tensor, inputs: Any) -> None:
        """Add each example's metrics; TRL averages them over the logging interval."""
        mode = "train" if self.model.training else "eval"
        if mode == "train" and not torch.isfinite(result.losses).all():
            bad = [inputs["prompt_id"][k] for k in (~torch.isfinite(result.losses)).nonzero()[:8]]
            step = f"in step {self.state.global_step + 1}, for the prompts {', '.join(bad)}"
            remedy = "look at these rows or lower the learning rate, then go on from a checkpoint"
            raise WRPOError(f"the loss is not finite {step}; {remedy}")
        source, target, fused, rejected = result.rewards
        values = {f"logps/{name}": logps[:, k] for k, name in enumerate(self.responses)}
        for name, reward in (("source", source), ("target", target)):
            if f"{name}_chosen" in self.responses:
                values[f"rewards/{name}_chosen"] = reward
                values[f"rewards/{name}_accuracies"] = reward > rejected
        values |= {"rewards/fused": fused, "rewards/rejected": rejected}
        values |= {"rewards/margins": fused - rejected, "rewards/accuracies": fused > rejected}
        table = self.accelerator.gather_for_metrics(torch.stack([*values.values()], dim=1).float())
        for name, column in zip(values, table.T.tolist(), strict=True):
            self._metrics[mode][name] += column
        self._metrics[mode]["alpha"].append(alpha)
        if mode == "train":
            mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
            tokens = self.accelerator.gather_for_metrics(mask.sum())
            self._total_train_tokens += int(tokens.sum().item()) // self._tp_size
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]


def share(trainer: Any) -> str | None:
    """Enable prompt sharing on a trainer's models; the reason why not, or None."""
    unwrapped = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(unwrapped, PeftModel) and unwrapped.active_peft_config.is_prompt_learning:
        return "the adapter puts tokens of its own before the prompt"
    if trainer.args.torch_compile:
        return "torch_compile would compile anew for the lengths of every row"
    if trainer.aux_loss_enabled:
        return "the router loss of a mixture of experts counts every token of every row"
    policy = unwrapped.get_base_model() if isinstance(unwrapped, PeftModel) else unwrapped
    backend = getattr(trainer.args, "share_prompt_backend", "auto")  # SFT has no choice
    trial = not is_deepspeed_zero3_enabled()
    found = sharing.obstacle(policy, trainer.args.max_length, backend, trial)
    found = broadcast_object_list([found])[0]  # others may hold empty weights
    if found is None:
        sharing.enable(policy, backend)
        if getattr(trainer, "ref_model", None) is not None:  # a reference is as the policy
            sharing.enable(trainer.accelerator.unwrap_model(trainer.ref_model), backend)
    return found


def keep_adapters_in_float32(model: Any) -> None:
    """Undo TRL's bfloat16 for those of a quantised base: updates of 5e-6 would round to nothing."""
    for parameter in model.parameters():
        if isinstance(model, PeftModel) and parameter.requires_grad:
            parameter.data = parameter.data.float()


def sft_trainer(model: Any, args: SFTConfig, *, processing_class: Any, **kwargs: Any) -> SFTTrainer:
    """TRL's ``SFTTrainer`` on (x, y_ws), loss on the response only, before WRPO (section 4.1).

    Also takes quadruples, rendered as in preference training; ``truncation`` counts rows that lose
    their end. With ``args.packing`` (``bfd``) a block of rows needs no mask.

    :raises WRPOError: for a missing column or an empty text, with its row.
    """
    args.completion_only_loss, truncation = True, {}
    for name in ("train_dataset", "eval_dataset"):
        if (data := kwargs.get(name)) is not None:
            what, fields = name.removesuffix("_dataset"), ("source_chosen",)
            made, truncation[what] = tokenize(data, processing_class, fields, args, what)
            rows = []
            for prompt, response in zip(made["prompt_ids"], made["source_chosen_ids"], strict=True):
                mask = [0] * len(prompt) + [1] * len(response)
                rows.append({"input_ids": prompt + response, "completion_mask": mask})
            kwargs[name] = Dataset.from_list(rows)
    trainer = SFTTrainer(model, args, processing_class=processing_class, **kwargs)
    trainer.truncation = truncation
    keep_adapters_in_float32(trainer.model)
    if trainer.padding_free and share(trainer) is None:
        collate = trainer.data_collator

        def with_branches(rows: list[dict[str, Any]]) -> dict[str, Any]:
            """TRL's batch of packed rows, (1, T), and where each ends: no (T, T) mask is needed."""
            batch = collate(rows)
            lengths = batch["cu_seq_lens_q"].diff().tolist()
            return {**batch, "branches": sharing.Branches(tuple((n, ()) for n in lengths))}

        trainer.data_collator = with_branches
    return trainer
