"""``WRPOTrainer``: TRL's ``DPOTrainer`` with three responses a prompt and a rising alpha.

What we lean on in TRL is public (``compute_loss``, ``compute_ref_log_probs``, a collator of our
own) but for three private methods that prepare data; ``tests/training/test_contract.py`` fails
when TRL changes any of them.
"""

from __future__ import annotations

import copy
import logging
from contextlib import nullcontext
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import DPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from wrpo_lib.errors import WRPOError
from wrpo_lib.objective import (
    Objective,
    alpha_at,
    wrpo_ipo_loss,
    wrpo_loss,
    wrpo_simpo_loss,
)
from wrpo_lib.quadruples.rendering import Truncation, render
from wrpo_lib.training.collator import RESPONSES, WRPOCollator
from wrpo_lib.training.config import WRPOConfig
from wrpo_lib.training.dynamics import DynamicsCallback

logger = logging.getLogger(__name__)

IDS = ("prompt_ids", *(f"{name}_ids" for name in RESPONSES))
REFERENCE = tuple(f"ref_{name}_logps" for name in RESPONSES)


class WRPOTrainer(DPOTrainer):
    """Train on quadruples (x, y_ws, y_wt, y_l).

    ``train_dataset`` and ``eval_dataset`` have the columns ``prompt``, ``source_chosen``,
    ``target_chosen``, ``rejected`` (see :mod:`wrpo_lib.quadruples`). The reference is
    ``ref_model`` if given; the base model when training an adapter; a frozen copy of a model
    passed as an instance; the same checkpoint loaded again for a model passed by name. With
    ``precompute_ref_log_probs`` it is computed once before training and not kept. The SimPO form
    has none.
    """

    _tag_names = ("trl", "wrpo")
    _name = "WRPO"
    _paper = {  # noqa: RUF012 - TRL reads a class attribute
        "title": "Weighted-Reward Preference Optimization for Implicit Model Fusion",
        "id": "2412.03187",
        "citation": (
            "@inproceedings{yang2025weightedreward,\n"
            "    title     = {{Weighted-Reward Preference Optimization for Implicit Model Fusion}},\n"
            "    author    = {Ziyi Yang and Fanqi Wan and Longguang Zhong and Tianyuan Shi and "
            "Xiaojun Quan},\n"
            "    year      = 2025,\n"
            "    booktitle = {The Thirteenth International Conference on Learning Representations},\n"
            "}"
        ),
    }

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        ref_model: PreTrainedModel | None = None,
        args: WRPOConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        **kwargs: Any,
    ) -> None:
        args = args or WRPOConfig("WRPO")
        if processing_class is None:
            raise WRPOError("WRPOTrainer needs the model's tokenizer; pass processing_class")
        _require_pad_token(processing_class)
        self.truncation: dict[str, Truncation] = {}
        if args.objective == "simpo":
            args.precompute_ref_log_probs = True  # TRL then loads no reference; ours computes none
        in_memory = isinstance(model, PreTrainedModel) and peft_config is None
        if ref_model is None and in_memory and not args.precompute_ref_log_probs:
            ref_model = copy.deepcopy(model).eval().requires_grad_(False)
        kwargs.setdefault(
            "data_collator",
            WRPOCollator(processing_class.pad_token_id, args.pad_to_multiple_of),
        )
        super().__init__(
            model=model,
            ref_model=ref_model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            peft_config=peft_config,
            **kwargs,
        )
        if args.dynamics_file:
            self.add_callback(DynamicsCallback(args.dynamics_file))

    def alpha(self) -> float:
        """The fusion coefficient of the next update; in evaluation, of the last state."""
        args, state = self.args, self.state
        return alpha_at(args.alpha_schedule, state.global_step, state.max_steps, args.alpha)

    # --- data -----------------------------------------------------------------------------

    def _prepare_dataset(
        self, dataset: Dataset, processing_class: Any, args: WRPOConfig, dataset_name: str
    ) -> Dataset:
        """Render and tokenise; already tokenised data pass through. Truncation is counted."""
        if not isinstance(dataset, Dataset):
            raise WRPOError(f"the {dataset_name} data is a {type(dataset).__name__}, not a Dataset")
        if set(IDS) <= set(dataset.column_names):
            return dataset
        for name in ("prompt", *RESPONSES):
            if name not in dataset.column_names:
                raise WRPOError(f"the {dataset_name} data lack the column {name!r}; give quadruples")

        def tokenize(row: dict[str, Any]) -> dict[str, Any]:
            texts = [row[name] for name in RESPONSES]
            rendered = render(
                processing_class, row["prompt"], texts, args.max_length, args.max_prompt_length
            )
            truncation.add(rendered, list(RESPONSES))
            return dict(zip(IDS, (rendered.prompt_ids, *rendered.response_ids), strict=True))

        truncation = self.truncation[dataset_name] = Truncation()
        rows = dataset.map(tokenize, remove_columns=dataset.column_names, load_from_cache_file=False)
        logger.info("%s data: %s", dataset_name, truncation.report())
        return rows

    def _set_signature_columns_if_needed(self) -> None:
        """The columns a batch is made of."""
        if self._signature_columns is None:
            self._signature_columns = [*IDS, *REFERENCE]

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Add the reference log-probabilities of all three responses as columns."""
        if self.args.objective == "simpo" or set(REFERENCE) <= set(dataset.column_names):
            return dataset
        loader = self.accelerator.prepare(
            DataLoader(dataset, batch_size=batch_size, collate_fn=self.data_collator, shuffle=False)
        )
        found: list[list[Tensor]] = [[], [], []]
        model = self.ref_model or self.model
        for batch in loader:
            logps = self.accelerator.gather_for_metrics(self.compute_ref_log_probs(model, batch))
            for column, values in zip(found, logps, strict=True):
                column.append(values.cpu())
        for column_name, column in zip(REFERENCE, found, strict=True):
            dataset = dataset.add_column(column_name, torch.cat(column).tolist())
        return dataset

    # --- loss -----------------------------------------------------------------------------

    def _response_logps(self, model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Summed log-probabilities of y_ws, y_wt, y_l, each (B,)."""
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        output = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            use_cache=False,
            labels=labels,
            fused_lm_head=True,
        )
        logps: tuple[Tensor, ...] = output.log_probs.sum(dim=1).chunk(3)  # (3B,) -> 3 x (B,)
        return logps

    def compute_ref_log_probs(
        self, model: Any, inputs: dict[str, Tensor]
    ) -> tuple[Tensor, ...]:
        """Reference log-probabilities of y_ws, y_wt, y_l, each (B,), without gradient."""
        base = nullcontext()
        if self.ref_model is None and isinstance(self.model, PeftModel):
            unwrapped = self.accelerator.unwrap_model(self.model)
            base = use_adapter(unwrapped, "ref" if "ref" in unwrapped.peft_config else None)
        checkpointing = disable_gradient_checkpointing(
            self.model, self.args.gradient_checkpointing_kwargs
        )
        with torch.no_grad(), checkpointing, base, self.accelerator.autocast():
            return self._response_logps(model, inputs)

    def _objective(
        self,
        policy: tuple[Tensor, ...],
        reference: tuple[Tensor, ...] | None,
        lengths: tuple[Tensor, ...],
        alpha: float,
    ) -> Objective:
        args = self.args
        if args.objective == "simpo":
            return wrpo_simpo_loss(*policy, *lengths, alpha=alpha, beta=args.beta, gamma=args.gamma)
        assert reference is not None
        if args.objective == "ipo":
            return wrpo_ipo_loss(*policy, *reference, alpha=alpha, tau=args.tau)
        return wrpo_loss(*policy, *reference, alpha=alpha, beta=args.beta)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """The mean WRPO loss of a batch; logs alpha, rewards, accuracies and log-probabilities."""
        policy = self._response_logps(model, inputs)
        reference: tuple[Tensor, ...] | None = None
        if self.args.objective != "simpo":
            if self.precompute_ref_logps:
                reference = tuple(inputs[name] for name in REFERENCE)
            else:
                reference = self.compute_ref_log_probs(self.ref_model or model, inputs)
        lengths = tuple(inputs["completion_mask"].sum(dim=1).to(policy[0].dtype).chunk(3))
        alpha = self.alpha()
        result = self._objective(policy, reference, lengths, alpha)
        self._record(result, policy, inputs, alpha)
        loss = result.losses.mean()
        if not return_outputs:
            return loss
        with torch.no_grad():  # only a compute_metrics of the user's own asks for logits
            keys = ("input_ids", "attention_mask")
            return loss, model(**{k: inputs[k] for k in keys}, use_cache=False)

    def _record(
        self,
        result: Objective,
        policy: tuple[Tensor, ...],
        inputs: dict[str, Tensor],
        alpha: float,
    ) -> None:
        """Add a batch's metrics; TRL averages them over the logging interval."""
        mode = "train" if self.model.training else "eval"
        source, target, fused, rejected = result.rewards
        values = {
            "rewards/source_chosen": source,
            "rewards/target_chosen": target,
            "rewards/fused": fused,
            "rewards/rejected": rejected,
            "rewards/margins": fused - rejected,
            "rewards/accuracies": (fused > rejected).float(),
            "rewards/source_accuracies": (source > rejected).float(),
            "rewards/target_accuracies": (target > rejected).float(),
            **{f"logps/{n}": p.detach() for n, p in zip(RESPONSES, policy, strict=True)},
        }
        metrics = self._metrics[mode]
        metrics["alpha"].append(alpha)
        for name, value in values.items():
            metrics[name].append(self.accelerator.gather_for_metrics(value).mean().item())
        if mode == "train":
            tokens = self.accelerator.gather_for_metrics(inputs["attention_mask"].sum())
            self._total_train_tokens += int(tokens.sum().item())
        metrics["num_tokens"] = [self._total_train_tokens]


def _require_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Padding is masked, so the end token may serve; without either there is nothing to use."""
    if tokenizer.pad_token is not None:
        return
    if tokenizer.eos_token is None:
        raise WRPOError("the tokenizer has neither a pad nor an eos token; set tokenizer.pad_token")
    logger.warning("the tokenizer has no pad token; its eos token pads (padding is masked)")
    tokenizer.pad_token = tokenizer.eos_token
