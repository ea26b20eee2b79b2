"""The ways to compute a training step that the benchmark compares.

Each takes a batch of tokenised rows and gives its mean loss, ready for the backward pass. The
baseline is the arithmetic of the official trainer, written out here: three padded copies of prompt
and response through policy and reference in each step, logits and log-softmax at every position.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl import DPOConfig, DPOTrainer
from workloads import Row

from wrpo_lib import sharing
from wrpo_lib.cpu import layers, memory
from wrpo_lib.objective import fusion_weights, weighted_loss
from wrpo_lib.training.collator import PackedCollator, WRPOCollator, ref_columns
from wrpo_lib.training.config import WRPOConfig
from wrpo_lib.training.trainer import WRPOTrainer

ALPHA, BETA = 0.1, 0.01
"""Table 6; held constant here, so that a step is the same whenever it is taken."""

Loss = Callable[[list[Row]], Tensor]


class Switch:
    """Puts our layers for a CPU into models, or takes them out; all ways share the same models.

    Freed memory is kept with them; without, it is treated as glibc does by itself.
    """

    def __init__(self, *models: Any) -> None:
        self.models = models
        self.own = [(module, type(module)) for model in models for module in model.modules()]
        self.on: bool | None = None

    def __call__(self, on: bool) -> None:
        """For the steps that follow."""
        if on == self.on:
            return
        self.on = on
        if on:
            for model in self.models:
                layers.enable(model)
            memory.keep_freed()
            return
        for module, kind in self.own:
            module.__class__ = kind
        memory.give_back()


class Official:
    """The official trainer's step, and three improvements of it, each alone.

    ``shared``: one packed row in place of padded rows. ``cached``: the reference's
    log-probabilities are computed at the first sight of a row and kept. ``with_layers``: our layers
    for a CPU, and freed memory kept (:mod:`wrpo_lib.cpu`).
    """

    fused = False  # its AdamW is the plain one, the default of its transformers

    def __init__(
        self,
        model: Any,
        reference: Any,
        pad: int,
        *,
        shared: bool = False,
        cached: bool = False,
        with_layers: bool = False,
        shares: dict[str, float] | None = None,
    ) -> None:
        self.model, self.reference, self.layers = model, reference, with_layers
        self.logits_mean = float("nan")
        self.weights = fusion_weights(ALPHA, shares)
        self.responses = (*self.weights.chosen, *self.weights.rejected)
        collator = PackedCollator if shared else WRPOCollator
        self.collate = collator(pad, None, self.responses)
        self.cache: dict[str, Tensor] | None = {} if cached else None
        if shared:
            sharing.enable(model)
            sharing.enable(reference)

    def __call__(self, rows: list[Row]) -> Tensor:
        """The mean loss of a batch."""
        batch = self.collate(rows)
        policy = self._named(self._logps(self.model, batch))
        reference = self._named(self._reference(rows, batch))
        return weighted_loss(policy, reference, self.weights, beta=BETA).losses.mean()

    def _named(self, logps: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.responses, logps.unbind(1), strict=True))

    def prepare(self, rows: list[Row]) -> None:
        """Fill the cache, outside the clock."""
        if self.cache is not None:
            self._reference(rows, self.collate(rows))

    def _reference(self, rows: list[Row], batch: dict[str, Any]) -> Tensor:
        known = self.cache
        if known is None or any(row["prompt_id"] not in known for row in rows):
            with torch.no_grad():
                found = self._logps(self.reference, batch)
            if known is None:
                return found
            known.update({r["prompt_id"]: f for r, f in zip(rows, found, strict=True)})
        return torch.stack([known[row["prompt_id"]] for row in rows])

    def _logps(self, model: Any, batch: dict[str, Any]) -> Tensor:
        """log π(y|x), (B, 3): log-softmax in float32 over all positions, then the labels'."""
        if "branches" in batch:
            inputs = {**sharing.model_inputs(batch), "head_positions": None}
            logits = model(**inputs).logits.float()
            token_logps = logits.log_softmax(-1)[:, batch["head_positions"]]
            labels = batch["shift_labels"]
            found = token_logps.gather(2, labels[..., None]).squeeze(2)
            return sharing.response_sums(found, batch["lengths"])
        logits = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
        ).logits.float()
        if model is self.model:  # a metric of the official trainer, in every step
            self.logits_mean = float(logits.detach().mean())
        labels, mask = batch["input_ids"][:, 1:], batch["completion_mask"][:, 1:]
        found = logits[:, :-1].log_softmax(-1).gather(2, labels[..., None]).squeeze(2)
        return (found * mask).sum(-1).view(len(self.responses), -1).T


class Ours:
    """A step of :class:`~wrpo_lib.training.WRPOTrainer` with the given fields of its config."""

    fused = True  # the default of today's transformers, for TRL's trainer too

    def __init__(
        self,
        model: Any,
        reference: Any,
        tokenizer: Any,
        rows: list[Row],
        folder: Path,
        **fields: Any,
    ) -> None:
        args = WRPOConfig(output_dir=str(folder), beta=BETA, **{**OUR_PLAIN, **fields})
        cached = args.precompute_ref_log_probs
        self.trainer = WRPOTrainer(
            model=model, ref_model=reference, args=args, train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )  # fmt: skip
        names = ref_columns(self.trainer.responses) if cached else ()
        kept = self.trainer.train_dataset.select_columns(["prompt_id", *names])
        self.known = {row["prompt_id"]: row for row in kept}
        self.checkpointing = args.activation_checkpointing
        self.layers = args.share_prompt == "true"  # the head alone comes without them

    def batch(self, rows: list[Row]) -> dict[str, Any]:
        """Collated rows, the cached reference with them."""
        return self.trainer.data_collator([{**r, **self.known[r["prompt_id"]]} for r in rows])

    def __call__(self, rows: list[Row]) -> Tensor:
        """The mean loss of a batch."""
        trainer = self.trainer
        return trainer.compute_loss(trainer.model, self.batch(rows))

    def reference_pass(self, rows: list[Row]) -> Tensor:
        """What one pass of the reference costs: done once for all epochs and sweeps."""
        batch = self.batch(rows)
        return torch.stack(self.trainer.compute_ref_log_probs(self.trainer.model, batch), dim=1)


class TRL:
    """A step of TRL's own DPOTrainer on the pairs (y_wt, y_l)."""

    fused = True
    layers = False

    def __init__(
        self, model: Any, reference: Any, tokenizer: Any, folder: Path, *, cached: bool
    ) -> None:
        words = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
        self.trainer = DPOTrainer(
            model=model, ref_model=reference, processing_class=tokenizer,
            args=DPOConfig(output_dir=str(folder), beta=BETA, activation_checkpointing=False,
                           max_length=None, **PLAIN),
            train_dataset=Dataset.from_list(words),
        )  # fmt: skip
        self.cached = cached
        self.known: dict[str, tuple[float, float]] = {}

    def batch(self, rows: list[Row]) -> dict[str, Any]:
        """Collated pairs."""
        pairs = []
        for row in rows:
            pair = {"prompt_ids": row["prompt_ids"], "chosen_ids": row["target_chosen_ids"],
                    "rejected_ids": row["rejected_ids"]}  # fmt: skip
            if row["prompt_id"] in self.known:
                chosen, rejected = self.known[row["prompt_id"]]
                pair |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
            pairs.append(pair)
        return self.trainer.data_collator(pairs)

    def prepare(self, rows: list[Row]) -> None:
        """Compute the reference once, outside the clock, as ``precompute_ref_log_probs`` does."""
        if self.cached:
            trainer = self.trainer
            found = trainer.compute_ref_log_probs(trainer.ref_model, self.batch(rows))
            self.known.update(
                {r["prompt_id"]: (float(c), float(j)) for r, c, j in zip(rows, *found, strict=True)}
            )

    def __call__(self, rows: list[Row]) -> Tensor:
        """The mean loss of a batch."""
        self.trainer.precompute_ref_logps = self.cached
        return self.trainer.compute_loss(self.trainer.model, self.batch(rows))


PLAIN: dict[str, Any] = {
    "report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": True,
    "dataloader_pin_memory": False, "save_strategy": "no", "per_device_train_batch_size": 2,
}  # fmt: skip
OUR_PLAIN = {
    **PLAIN,
    "alpha": ALPHA,
    "alpha_schedule": "constant",
    "activation_checkpointing": False,
}

FIELDS: dict[str, dict[str, Any]] = {
    "head": {"share_prompt": "false", "precompute_ref_log_probs": False},
    "all": {"share_prompt": "true"},
    "saving": {"share_prompt": "true", "activation_checkpointing": True},
    "pair": {"share_prompt": "true", "alpha": 0.0, "score_unused": False},
}
"""Ways that are settings of our trainer: head at response positions alone; everything; everything
with the memory-saving setting; DPO on the pairs (y_wt, y_l)."""

NAMES = ("official", "sharing", "head", "cached", "layers", "all", "saving", "trl", "trl_cached",
         "pair")  # fmt: skip
PAIRS = ("trl", "trl_cached", "pair")
"""These compute DPO on two responses of the three; their losses agree among themselves."""


def build(
    name: str, model: Any, reference: Any, tokenizer: Any, rows: list[Row], folder: Path
) -> Any:
    """The way called ``name``, over a policy and a frozen reference."""
    pad = tokenizer.pad_token_id
    if name in FIELDS:
        return Ours(model, reference, tokenizer, rows, folder / name, **FIELDS[name])
    if name.startswith("trl"):
        return TRL(model, reference, tokenizer, folder / name, cached=name == "trl_cached")
    made = Official(
        model, reference, pad,
        shared=name == "sharing", cached=name == "cached", with_layers=name == "layers",
    )  # fmt: skip
    for start in range(0, len(rows), 2):
        made.prepare(rows[start : start + 2])
    return made
