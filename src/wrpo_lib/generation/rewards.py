"""Rewards of responses by reward models with a single output.

A scorer is any callable from rows of responses to (position, reward) pairs, in any order, so that
what is finished can be kept. Scores depend on the row alone, never on what is scored beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.llama import modeling_llama

from wrpo_lib.chat import Renderer, as_messages
from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.local import batches, padded
from wrpo_lib.io import Row
from wrpo_lib.models import load_model, load_tokenizer, placement

Scorer = Callable[[list[Row]], Iterator[tuple[int, float]]]


class RewardModel:
    """A sequence classifier with one output: Skywork-Reward, TRL's RewardTrainer, ArmoRM.

    Prompt and response are rendered together through the reward model's own chat template; batches
    are sorted by length and hold at most ``batch_tokens`` tokens, padding included. A conversation
    longer than its context loses its beginning (``cut`` counts them). In float32 a score moves
    by less than 1e-5 with the batch's shape, in bfloat16 by about 1e-2.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_tokens: int = 16384
    ) -> None:
        self.model, self.renderer, self.cut = model.eval(), Renderer(tokenizer), 0
        self.context = getattr(model.config, "max_position_embeddings", None) or 10**9
        # by this token the model finds the last one of a row; one that names none takes single rows
        self.pad = model.config.get_text_config().pad_token_id
        self.batch_tokens = 0 if self.pad is None else batch_tokens

    def __call__(self, rows: list[Row]) -> Iterator[tuple[int, float]]:
        """(position, reward) of each row, batch by batch."""
        ids = [self._ids(row) for row in rows]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for batch in batches(order, [len(ids[i]) for i in order], self.batch_tokens):
            yield from zip(batch, self._scores([ids[i] for i in batch]), strict=True)

    def _ids(self, row: Row) -> list[int]:
        prompt = as_messages(row.get("prompt"), f"prompt_id {row['prompt_id']!r}")
        ids = self.renderer.ids([*prompt, {"role": "assistant", "content": row["text"]}], ask=False)
        self.cut += len(ids) > self.context
        return ids[-self.context :]

    def _scores(self, ids: list[list[int]]) -> list[float]:
        inputs = padded(ids, self.pad or 0, "right", self.model.device)
        with torch.inference_mode():
            output = self.model(**inputs, return_dict=True)
        found = getattr(output, "score", None)  # ArmoRM's own output
        found = output.logits if found is None else found
        if found.numel() != len(ids):
            raise WRPOError(
                f"the reward model has {found.numel() // len(ids)} outputs per row; choose one "
                "with a single output (num_labels 1)"
            )
        return list(found.flatten().float().tolist())


def load_reward_model(
    model: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    dtype: str = "auto",
    batch_tokens: int = 16384,
) -> RewardModel:
    """A reward model from the hub or a folder.

    Code that comes with a model runs only with ``trust_remote_code``, and from the hub only at a
    pinned commit: what a branch holds tomorrow is not what was read today.
    """
    if trust_remote_code:
        if not Path(model).is_dir() and not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
            raise WRPOError(
                f"--trust-remote-code runs code from {model}; pin it with --revision and the 40 "
                "digits of a commit that you have read"
            )
        # ArmoRM's code imports a docstring that transformers no longer has; an empty one serves
        vars(modeling_llama).setdefault("LLAMA_INPUTS_DOCSTRING", "")
    hub = {"revision": revision, "trust_remote_code": trust_remote_code, **placement(dtype)}
    loaded = load_model(AutoModelForSequenceClassification, model, hub)
    tokenizer = load_tokenizer(model, revision, trust_remote_code)
    return RewardModel(loaded, tokenizer, batch_tokens)
