"""``WRPOTrainer``: TRL's ``DPOTrainer`` with three responses a prompt and a rising alpha.

What we lean on in TRL is public (``compute_loss``, ``compute_ref_log_probs``, a collator of our
own) but for three private methods that prepare data; ``tests/training/test_contract.py`` fails
when TRL changes any of them.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather_object
from datasets import Dataset
from peft import PeftConfig, PeftModel
from peft.utils.error import NoMatchingPeftModuleError
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import get_last_checkpoint
from trl import DPOTrainer
from trl.models import prepare_deepspeed
from trl.trainer.utils import use_adapter

from wrpo_lib import sharing
from wrpo_lib.chat import Truncation
from wrpo_lib.errors import WRPOError
from wrpo_lib.objective import (
    WeightedObjective,
    alpha_at,
    weighted_ipo_loss,
    weighted_loss,
    weighted_simpo_loss,
)
from wrpo_lib.training.collator import (
    PROMPT_ID,
    PROMPT_IDS,
    PackedCollator,
    WRPOCollator,
    ids_columns,
    ref_columns,
)
from wrpo_lib.training.config import WRPOConfig
from wrpo_lib.training.data import check_columns, tokenize
from wrpo_lib.training.dynamics import DynamicsCallback
from wrpo_lib.training.forward import prepare_models, response_logps
from wrpo_lib.training.metrics import batch_metrics, n_tokens
from wrpo_lib.training.models import frozen_copy, require_pad_token, will_shard
from wrpo_lib.training.reference import model_hash, open_cache, reference_logps

logger = get_logger(__name__)


class WRPOTrainer(DPOTrainer):
    """Train on quadruples (x, y_ws, y_wt, y_l).

    ``train_dataset`` and ``eval_dataset`` have the columns ``prompt``, ``source_chosen``,
    ``target_chosen``, ``rejected`` (see :mod:`wrpo_lib.quadruples`). What was truncated is counted
    in ``truncation``, by data set.

    The reference is the model as it is given: ``ref_model`` if passed; the base model, adapter
    off, when an adapter is trained; a frozen copy of a model passed as an instance, so that it
    need not exist on disk (under ZeRO-3, where it cannot be copied, TRL loads its path again); the
    same checkpoint loaded a second time for a model passed by name. With
    ``precompute_ref_log_probs``, the default, no second model is made: the reference is computed
    once before training, from the model as it is given, and kept in ``ref_cache_dir`` (adapters
    under FSDP are the exception: there the reference is computed at every step). The SimPO form
    has none. To resume, build the trainer with the same initial model and call
    ``train(resume_from_checkpoint=...)``.

    ``responses`` names what a run computes, as its configuration has it; ``shares_prompts`` says
    whether prompts are computed once for all of them (:mod:`wrpo_lib.sharing`). A ``data_collator``
    of one's own must give padded batches as :class:`~wrpo_lib.training.collator.WRPOCollator` does.

    Metrics, batch means in training and, with the prefix ``eval_``, in evaluation: ``alpha``,
    ``rewards/{source_chosen,target_chosen,fused,rejected,margins}``, ``rewards/accuracies`` (fused
    against rejected), ``rewards/{source,target}_accuracies`` (against rejected), and
    ``logps/{source_chosen,target_chosen,rejected}``. Evaluation takes alpha as it stands at that
    step, so evaluation losses of different steps are of different objectives; compare rewards. A
    ``compute_metrics`` gets the log-probabilities of all ``responses`` as predictions, (rows, R),
    and their lengths in tokens as labels.

    :raises WRPOError: for missing columns or texts, a tokenizer that can neither pad nor end a
        response, messages without a chat template, a reference model for SimPO, responses that are
        all truncated, adapters that match no module, reference values of another model; in
        training, for a loss that is not finite.
    """

    args: WRPOConfig
    shares_prompts: bool | None
    _reference_hash: str | None = None
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
        data_collator: Any = None,
        **kwargs: Any,
    ) -> None:
        args = args or WRPOConfig("WRPO")
        if not isinstance(processing_class, PreTrainedTokenizerBase):
            raise WRPOError("WRPOTrainer needs the model's tokenizer; pass it as processing_class")
        require_pad_token(processing_class)
        self.responses = args.responses()
        if not self._is_tokenised(train_dataset):
            check_columns(train_dataset, self.responses, "train")
        self.truncation: dict[str, Truncation] = {}
        self.shares_prompts: bool | None = None  # decided when the models are in place
        self._collator_given = data_collator is not None
        if will_shard(args) and (peft_config is not None or isinstance(model, PeftModel)):
            # the base model is whole on no device before training; adapter off at every step
            args.precompute_ref_log_probs = False
        precompute = args.precompute_ref_log_probs
        copied = False
        if ref_model is not None and precompute:
            self._reference_hash = model_hash(ref_model)  # before TRL shards it
        if args.objective == "simpo":
            if ref_model is not None:
                raise WRPOError("the SimPO form has no reference; leave ref_model out")
            args.precompute_ref_log_probs = True  # so that TRL loads no reference
        elif ref_model is None and peft_config is None and (will_shard(args) or not precompute):
            ref_model = frozen_copy(model)
            copied = ref_model is not None
        multiple = args.pad_to_multiple_of  # an int or None once the arguments are built
        self._padded = WRPOCollator(processing_class.pad_token_id, multiple, self.responses)
        try:
            super().__init__(
                model=model,
                ref_model=ref_model,
                args=args,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                peft_config=peft_config,
                data_collator=data_collator or self._padded,
                **kwargs,
            )
        except NoMatchingPeftModuleError as error:
            raise WRPOError(f"LoRA has nothing to train: {error}") from error
        self._choose_forward()
        if args.objective == "simpo":  # nothing was precomputed, see _precompute_ref_logps
            args.precompute_ref_log_probs, self.precompute_ref_logps = precompute, False
        elif precompute and copied:
            self.ref_model = None
        self._check_batches()
        if args.dynamics_file:
            self.add_callback(DynamicsCallback(args.dynamics_file))

    def alpha(self) -> float:
        """The fusion coefficient α(t) of the next update, t optimiser steps being done.

        All micro-batches of an accumulated step share it, and a resumed run goes on with it.
        """
        args, state = self.args, self.state
        return alpha_at(args.alpha_schedule, state.global_step, state.max_steps, args.alpha)

    # --- forward --------------------------------------------------------------------------

    def _choose_forward(self) -> None:
        """Decide, once and before the first forward pass, whether responses share their prompt."""
        if self.shares_prompts is not None:
            return
        peft = isinstance(self.model, PeftModel)
        models = [self.model.get_base_model() if peft else self.model]
        if self.ref_model is not None:
            models.append(self.accelerator.unwrap_model(self.ref_model))
        obstacle = None
        if peft and self.model.active_peft_config.is_prompt_learning:
            obstacle = "the adapter puts tokens of its own before the prompt"
        elif self.aux_loss_enabled:
            obstacle = "the router loss of a mixture of experts counts every token of every row"
        elif self._collator_given:
            obstacle = "a data_collator was given"
        elif self.args.share_prompt_backend == "flex" and self.accelerator.device.type == "cpu":
            obstacle = "FlexAttention has no backward pass on CPU"
        self.shares_prompts = prepare_models(models, self.args, obstacle)
        self._head_at_responses = self.args.head_at_responses and not self._collator_given
        if self.shares_prompts:
            old = self._padded
            self.data_collator = PackedCollator(
                old.pad_token_id, old.pad_to_multiple_of, old.responses
            )
        elif any(model.base_model is model for model in models) or (
            peft and self.model.active_peft_config.is_prompt_learning
        ):
            self._head_at_responses = False
        if self._head_at_responses:
            for model in models:
                sharing.enable_head_positions(model)

    def _logps(self, model: Any, inputs: dict[str, Any], **kwargs: Any) -> tuple[Tensor, Any]:
        return response_logps(model, inputs, head_at_responses=self._head_at_responses, **kwargs)

    # --- data -----------------------------------------------------------------------------

    def _is_tokenised(self, dataset: Any) -> bool:
        columns = {PROMPT_IDS, *ids_columns(self.responses)}
        return isinstance(dataset, Dataset) and columns <= set(dataset.column_names)

    def _prepare_dataset(
        self,
        dataset: Dataset,
        processing_class: PreTrainedTokenizerBase,
        args: WRPOConfig,
        dataset_name: str,
    ) -> Dataset:
        """Render and tokenise quadruples, count what is cut; tokenised data pass through."""
        if self._is_tokenised(dataset):
            return dataset
        rows, self.truncation[dataset_name] = tokenize(
            dataset,
            processing_class,
            self.responses,
            max_length=args.max_length,
            max_prompt_length=args.max_prompt_length,
            num_proc=args.dataset_num_proc,
            name=dataset_name,
        )
        return rows

    def _set_signature_columns_if_needed(self) -> None:
        """The columns a batch is made of."""
        if self._signature_columns is None:
            columns = (*ids_columns(self.responses), *ref_columns(self.responses))
            self._signature_columns = [PROMPT_ID, PROMPT_IDS, *columns]

    def _check_batches(self) -> None:
        """Say it where the data do not fill one optimiser step."""
        args, rows = self.args, len(self.train_dataset)
        micro = args.per_device_train_batch_size * args.world_size
        step = micro * args.gradient_accumulation_steps
        if args.dataloader_drop_last and rows < micro:
            raise WRPOError(
                f"the train data have {rows} rows, fewer than the {micro} of one batch, and "
                "dataloader_drop_last leaves out what fills none; lower the batch size"
            )
        if rows < step:
            logger.warning(
                f"the train data have {rows} rows, fewer than the {step} of one step; every step "
                "is an epoch over all of them"
            )

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Add the reference log-probabilities of all responses as columns, from the cache first."""
        columns = ref_columns(self.responses)
        if self.args.objective == "simpo" or set(columns) <= set(dataset.column_names):
            return dataset
        self._choose_forward()
        model: Any = self.ref_model if self.ref_model is not None else self.model
        identity = self._reference_identity()
        if self.ref_model is None and self.is_deepspeed_enabled:  # as TRL: gathers ZeRO-3's shards
            if self._precompute_engine is None:
                self._precompute_engine = prepare_deepspeed(model, self.accelerator)
            model = self._precompute_engine

        def compute(batch: dict[str, Any]) -> Tensor:
            return torch.stack(self.compute_ref_log_probs(model, batch), dim=1)  # (B, R)

        where = Path(self.args.ref_cache_dir or Path(self.args.output_dir) / "reference")
        main = self.accelerator.is_main_process
        with open_cache(where, identity) if main else nullcontext() as store:
            found = reference_logps(dataset, name, self.responses, compute, self.data_collator,
                                    self.accelerator, store, batch_size)  # fmt: skip
        for column, values in zip(columns, found.T, strict=True):
            dataset = dataset.add_column(column, values.astype("float32").tolist())
        return dataset

    def _reference_identity(self) -> dict[str, str]:
        """What, besides the tokens, the reference's values depend on."""
        if self._reference_hash is None:
            self._reference_hash = model_hash(self.model)  # the policy as it starts
        autocast = self.accelerator.mixed_precision
        form = f"shared, {self.args.share_prompt_backend}" if self.shares_prompts else "padded"
        return {"model": self._reference_hash, "precision": autocast, "forward": form}

    # --- loss -----------------------------------------------------------------------------

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, ...]:
        """Reference log-probabilities of the responses, each (B,), without gradient."""
        base: AbstractContextManager[Any] = nullcontext()
        if self.ref_model is None and isinstance(self.model, PeftModel):
            unwrapped = self.accelerator.unwrap_model(self.model)
            base = use_adapter(unwrapped, "ref" if "ref" in unwrapped.peft_config else None)
        with torch.no_grad(), base, self.accelerator.autocast():
            return self._logps(model, inputs)[0].unbind(dim=1)

    def _reference(self, inputs: dict[str, Any]) -> tuple[Tensor, ...]:
        if self.precompute_ref_logps:
            return tuple(inputs[name] for name in ref_columns(self.responses))
        model = self.ref_model if self.ref_model is not None else self.model
        return self.compute_ref_log_probs(model, inputs)

    def _objective(
        self, policy: tuple[Tensor, ...], inputs: dict[str, Any], alpha: float
    ) -> WeightedObjective:
        args = self.args
        rejected = alpha_at(args.alpha_schedule, self.state.global_step, self.state.max_steps,
                            args.alpha_rejected)  # fmt: skip
        weights = args.weights(alpha, rejected)
        logps = dict(zip(self.responses, policy, strict=True))
        if args.objective == "simpo":
            counts = inputs["lengths"].to(policy[0].dtype).unbind(dim=1)
            lengths = dict(zip(self.responses, counts, strict=True))
            return weighted_simpo_loss(logps, lengths, weights, beta=args.beta, gamma=args.gamma)
        reference = dict(zip(self.responses, self._reference(inputs), strict=True))
        if args.objective == "ipo":
            return weighted_ipo_loss(logps, reference, weights, tau=args.tau)
        return weighted_loss(logps, reference, weights, beta=args.beta)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The mean WRPO loss of a batch; records the metrics of the class's description."""
        router = {"output_router_logits": True} if self.aux_loss_enabled else {}
        logps, outputs = self._logps(model, inputs, **router)
        policy = logps.unbind(dim=1)
        alpha = self.alpha()
        result = self._objective(policy, inputs, alpha)
        self._record(result, policy, inputs, alpha)
        loss = result.losses.mean()
        if self.aux_loss_enabled:  # mixture-of-experts load balancing, as TRL adds it
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss
        if not return_outputs:
            return loss
        return loss, {"logps": logps.detach(), "lengths": inputs["lengths"]}

    def prediction_step(
        self,
        model: Any,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Loss, log-probabilities (B, R) and lengths (B, R): what ``compute_metrics`` gets.

        TRL hands it logits instead, for which it would run every row once more; they have no one
        row an example, so the last batch of an evaluation would lose some.
        """
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss, None, None
        return loss, outputs["logps"], outputs["lengths"]

    def _record(
        self,
        result: WeightedObjective,
        policy: tuple[Tensor, ...],
        inputs: dict[str, Any],
        alpha: float,
    ) -> None:
        """Add a batch's metrics; TRL averages them over the logging interval."""
        values = batch_metrics(result, dict(zip(self.responses, policy, strict=True)))
        columns = [*values.values(), result.losses.detach().float()]
        table = self.accelerator.gather_for_metrics(torch.stack(columns, dim=1))  # (B, K + 1)
        *means, loss = table.mean(dim=0).tolist()
        mode = "train" if self.model is not None and self.model.training else "eval"
        if mode == "train" and not math.isfinite(loss):
            self._stop(result.losses, inputs)
        metrics = self._metrics[mode]
        metrics["alpha"].append(alpha)
        for name, mean in zip(values, means, strict=True):
            metrics[name].append(mean)
        if mode == "train":
            tokens = self.accelerator.gather_for_metrics(n_tokens(inputs))
            self._total_train_tokens += int(tokens.sum().item()) // self._tp_size
        metrics["num_tokens"] = [self._total_train_tokens]

    def _stop(self, losses: Tensor, inputs: dict[str, Any]) -> None:
        """Every process sees the same gathered loss, so all come here together."""
        ids = inputs.get(PROMPT_ID) or ["(unnamed)"] * len(losses)
        bad = [i for i, loss in zip(ids, losses.tolist(), strict=True) if not math.isfinite(loss)]
        names = ", ".join(gather_object(bad)[:8])
        kept = get_last_checkpoint(self.args.output_dir) if self.args.output_dir else None
        rest = (
            f"what was trained until then is in {kept}" if kept else "no checkpoint was saved yet"
        )
        raise WRPOError(
            f"the loss is not finite in step {self.state.global_step + 1}, for the prompts {names}"
            f"; look at these rows or lower the learning rate, then start again; {rest}"
        )
