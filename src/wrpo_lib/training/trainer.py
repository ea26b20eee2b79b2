"""``WRPOTrainer``: TRL's ``DPOTrainer`` with three responses a prompt and a rising alpha.

What we lean on in TRL is public (``compute_loss``, ``compute_ref_log_probs``, a collator of our
own) but for three private methods that prepare data; ``tests/training/test_contract.py`` fails
when TRL changes any of them.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate.logging import get_logger
from datasets import Dataset
from peft import PeftConfig, PeftModel
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import DPOTrainer
from trl.models import prepare_deepspeed
from trl.trainer.utils import use_adapter

from wrpo_lib.errors import WRPOError
from wrpo_lib.objective import (
    Objective,
    alpha_at,
    wrpo_ipo_loss,
    wrpo_loss,
    wrpo_simpo_loss,
)
from wrpo_lib.quadruples.rendering import Truncation
from wrpo_lib.quadruples.schema import RESPONSES
from wrpo_lib.training.collator import PROMPT_IDS, REF_LOGPS, RESPONSE_IDS, WRPOCollator
from wrpo_lib.training.config import WRPOConfig
from wrpo_lib.training.data import check_columns, tokenize
from wrpo_lib.training.dynamics import DynamicsCallback

logger = get_logger(__name__)

IDS = (PROMPT_IDS, *RESPONSE_IDS)


class WRPOTrainer(DPOTrainer):
    """Train on quadruples (x, y_ws, y_wt, y_l).

    ``train_dataset`` and ``eval_dataset`` have the columns ``prompt``, ``source_chosen``,
    ``target_chosen``, ``rejected`` (see :mod:`wrpo_lib.quadruples`). What was truncated is counted
    in ``truncation``, by data set.

    The reference is the model as it is given: ``ref_model`` if passed; the base model, adapter
    off, when an adapter is trained; a frozen copy of a model passed as an instance, so that it
    need not exist on disk (under ZeRO-3, where it cannot be copied, TRL loads its path again); the
    same checkpoint loaded a second time for a model passed by name. With
    ``precompute_ref_log_probs`` it is used once before training and not kept. The SimPO form has
    none. To resume, build the trainer with the same initial model and call
    ``train(resume_from_checkpoint=...)``.

    Metrics, batch means in training and, with the prefix ``eval_``, in evaluation: ``alpha``,
    ``rewards/{source_chosen,target_chosen,fused,rejected,margins}``, ``rewards/accuracies`` (fused
    against rejected), ``rewards/{source,target}_accuracies`` (against rejected), and
    ``logps/{source_chosen,target_chosen,rejected}``. Evaluation takes alpha as it stands at that
    step, so evaluation losses of different steps are of different objectives; compare rewards.

    :raises WRPOError: for missing columns or texts, a tokenizer that can neither pad nor end a
        response, messages without a chat template, a reference model for SimPO.
    """

    args: WRPOConfig
    _signature_columns: Any
    _precompute_engine: Any
    _tag_names = ["trl", "wrpo"]  # noqa: RUF012 - TRL reads class attributes
    _name = "WRPO"
    _paper = {  # noqa: RUF012
        "title": "Weighted-Reward Preference Optimization for Implicit Model Fusion",
        "id": "2412.03187",
        "citation": """\
@inproceedings{yang2025weightedreward,
    title     = {{Weighted-Reward Preference Optimization for Implicit Model Fusion}},
    author    = {Ziyi Yang and Fanqi Wan and Longguang Zhong and Tianyuan Shi and Xiaojun Quan},
    year      = 2025,
    booktitle = {The Thirteenth International Conference on Learning Representations},
}""",
    }

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        ref_model: PreTrainedModel | None = None,
        args: WRPOConfig | None = None,
        *,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        **kwargs: Any,
    ) -> None:
        args = args or WRPOConfig("WRPO")
        if not isinstance(processing_class, PreTrainedTokenizerBase):
            raise WRPOError("WRPOTrainer needs the model's tokenizer; pass it as processing_class")
        _require_pad_token(processing_class)
        if not set(IDS) <= set(getattr(train_dataset, "column_names", [])):
            check_columns(train_dataset, RESPONSES, "train")
        self.truncation: dict[str, Truncation] = {}
        precompute = args.precompute_ref_log_probs
        if args.objective == "simpo":
            if ref_model is not None:
                raise WRPOError("the SimPO form has no reference; leave ref_model out")
            args.precompute_ref_log_probs = True  # so that TRL loads no reference
        elif ref_model is None and not precompute and peft_config is None:
            ref_model = _frozen_copy(model)
        multiple = args.pad_to_multiple_of  # an int or None once the arguments are built
        kwargs.setdefault("data_collator", WRPOCollator(processing_class.pad_token_id, multiple))
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
        if args.objective == "simpo":  # nothing was precomputed, see _precompute_ref_logps
            args.precompute_ref_log_probs, self.precompute_ref_logps = precompute, False
        if args.dynamics_file:
            self.add_callback(DynamicsCallback(args.dynamics_file))

    def alpha(self) -> float:
        """The fusion coefficient α(t) of the next update, t optimiser steps being done.

        All micro-batches of an accumulated step share it, and a resumed run goes on with it.
        """
        args, state = self.args, self.state
        return alpha_at(args.alpha_schedule, state.global_step, state.max_steps, args.alpha)

    # --- data -----------------------------------------------------------------------------

    def _prepare_dataset(
        self,
        dataset: Dataset,
        processing_class: PreTrainedTokenizerBase,
        args: WRPOConfig,
        dataset_name: str,
    ) -> Dataset:
        """Render and tokenise quadruples, count what is cut; tokenised data pass through."""
        if isinstance(dataset, Dataset) and set(IDS) <= set(dataset.column_names):
            return dataset
        rows, self.truncation[dataset_name] = tokenize(
            dataset,
            processing_class,
            RESPONSES,
            max_length=args.max_length,
            max_prompt_length=args.max_prompt_length,
            num_proc=args.dataset_num_proc,
            name=dataset_name,
        )
        return rows

    def _set_signature_columns_if_needed(self) -> None:
        """The columns a batch is made of."""
        if self._signature_columns is None:
            self._signature_columns = [*IDS, *REF_LOGPS]

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Add the reference log-probabilities of all three responses as columns."""
        if self.args.objective == "simpo" or set(REF_LOGPS) <= set(dataset.column_names):
            return dataset
        model: Any = self.ref_model if self.ref_model is not None else self.model
        if self.ref_model is None and self.is_deepspeed_enabled:  # as TRL: gathers ZeRO-3's shards
            if self._precompute_engine is None:
                self._precompute_engine = prepare_deepspeed(model, self.accelerator)
            model = self._precompute_engine
        loader = self.accelerator.prepare(
            DataLoader(dataset, batch_size=batch_size, collate_fn=self.data_collator)
        )
        found = []
        for batch in loader:
            logps = torch.stack(self.compute_ref_log_probs(model, batch), dim=1)  # (B, 3)
            found.append(self.accelerator.gather_for_metrics(logps).cpu())
        for column, values in zip(REF_LOGPS, torch.cat(found).unbind(dim=1), strict=True):
            dataset = dataset.add_column(column, values.tolist())
        return dataset

    # --- loss -----------------------------------------------------------------------------

    def _forward(self, model: Any, inputs: dict[str, Tensor], **kwargs: Any) -> Any:
        """TRL's fused LM head: log-probabilities of response tokens (3B, T-1), 0 elsewhere."""
        return model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100),
            use_cache=False,
            fused_lm_head=True,
            **kwargs,
        )

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Reference log-probabilities of y_ws, y_wt, y_l, each (B,), without gradient."""
        base: AbstractContextManager[Any] = nullcontext()
        if self.ref_model is None and isinstance(self.model, PeftModel):
            unwrapped = self.accelerator.unwrap_model(self.model)
            base = use_adapter(unwrapped, "ref" if "ref" in unwrapped.peft_config else None)
        with torch.no_grad(), base, self.accelerator.autocast():
            return _sum_responses(self._forward(model, inputs))

    def _reference(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        if self.precompute_ref_logps:
            return tuple(inputs[name] for name in REF_LOGPS)
        model = self.ref_model if self.ref_model is not None else self.model
        return self.compute_ref_log_probs(model, inputs)

    def _objective(
        self, policy: tuple[Tensor, ...], inputs: dict[str, Tensor], alpha: float
    ) -> Objective:
        args = self.args
        if args.objective == "simpo":
            lengths = inputs["completion_mask"].sum(dim=1).to(policy[0].dtype).chunk(3)
            return wrpo_simpo_loss(*policy, *lengths, alpha=alpha, beta=args.beta, gamma=args.gamma)
        reference = self._reference(inputs)
        if args.objective == "ipo":
            return wrpo_ipo_loss(*policy, *reference, alpha=alpha, tau=args.tau)
        return wrpo_loss(*policy, *reference, alpha=alpha, beta=args.beta)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The mean WRPO loss of a batch; records the metrics of the class's description."""
        router = {"output_router_logits": True} if self.aux_loss_enabled else {}
        outputs = self._forward(model, inputs, **router)
        policy = _sum_responses(outputs)
        alpha = self.alpha()
        result = self._objective(policy, inputs, alpha)
        self._record(result, policy, inputs, alpha)
        loss = result.losses.mean()
        if self.aux_loss_enabled:  # mixture-of-experts load balancing, as TRL adds it
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss
        if not return_outputs:
            return loss
        with torch.no_grad():  # only a compute_metrics of the user's own asks for logits
            keys = ("input_ids", "attention_mask")
            return loss, model(**{key: inputs[key] for key in keys}, use_cache=False)

    def _record(
        self, result: Objective, policy: tuple[Tensor, ...], inputs: dict[str, Tensor], alpha: float
    ) -> None:
        """Add a batch's metrics; TRL averages them over the logging interval."""
        source, target, fused, rejected = result.rewards
        values = {
            "rewards/source_chosen": source,
            "rewards/target_chosen": target,
            "rewards/fused": fused,
            "rewards/rejected": rejected,
            "rewards/margins": fused - rejected,
            "rewards/accuracies": fused > rejected,
            "rewards/source_accuracies": source > rejected,
            "rewards/target_accuracies": target > rejected,
            **{f"logps/{n}": p.detach() for n, p in zip(RESPONSES, policy, strict=True)},
        }
        table = torch.stack([value.float() for value in values.values()], dim=1)  # (B, K)
        means = self.accelerator.gather_for_metrics(table).mean(dim=0).tolist()
        mode = "train" if self.model is not None and self.model.training else "eval"
        metrics = self._metrics[mode]
        metrics["alpha"].append(alpha)
        for name, mean in zip(values, means, strict=True):
            metrics[name].append(mean)
        if mode == "train":
            tokens = self.accelerator.gather_for_metrics(inputs["attention_mask"].sum())
            self._total_train_tokens += int(tokens.sum().item()) // self._tp_size
        metrics["num_tokens"] = [self._total_train_tokens]


def _sum_responses(outputs: Any) -> tuple[Tensor, ...]:
    """log π(y|x) of y_ws, y_wt, y_l, each (B,): the rows' order is the collator's."""
    logps: tuple[Tensor, ...] = outputs.log_probs.sum(dim=1).chunk(3)
    return logps


def _frozen_copy(model: Any) -> PreTrainedModel | None:
    """The model as it stands, for a reference; None where TRL finds one (names, adapters, ZeRO-3).

    The copy drops a ``forward`` that an earlier trainer put on the instance: it is bound to the
    original, whose weights are about to change.
    """
    if not isinstance(model, PreTrainedModel) or is_deepspeed_zero3_enabled():
        return None
    reference = copy.deepcopy(model)
    if not hasattr(reference, "_hf_hook"):
        reference.__dict__.pop("forward", None)
    return reference.eval().requires_grad_(False)


def _require_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Padding is masked, so the end token may serve; without either there is nothing to use."""
    if tokenizer.pad_token is not None:
        return
    if tokenizer.eos_token is None:
        raise WRPOError("the tokenizer has neither a pad nor an eos token; set tokenizer.pad_token")
    logger.warning("the tokenizer has no pad token; its eos token pads (padding is masked)")
    tokenizer.pad_token = tokenizer.eos_token
