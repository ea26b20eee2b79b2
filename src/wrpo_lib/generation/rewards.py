"""Rewards of responses: reward models with a single output, and similarity to a reference.

A scorer is any callable from rows of responses to (position, reward) pairs, in any order, so that
what is finished can be kept. Scores depend on the row alone, never on what is scored beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from wrpo_lib.chat import Renderer, as_messages
from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.local import batches, padded
from wrpo_lib.io import Row, iter_rows
from wrpo_lib.models import load_tokenizer, load_with, placement

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
        import torch

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
    from transformers import AutoModelForSequenceClassification
    from transformers.models.llama import modeling_llama

    if trust_remote_code:
        if not Path(model).is_dir() and not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
            raise WRPOError(
                f"--trust-remote-code runs code from {model}; pin it with --revision and the 40 "
                "digits of a commit that you have read"
            )
        # ArmoRM's code imports a docstring that transformers no longer has; an empty one serves
        vars(modeling_llama).setdefault("LLAMA_INPUTS_DOCSTRING", "")
    hub = {"revision": revision, "trust_remote_code": trust_remote_code, **placement(dtype)}
    loaded = load_with(AutoModelForSequenceClassification, model, hub)
    tokenizer = load_tokenizer(model, revision, trust_remote_code)
    return RewardModel(loaded, tokenizer, batch_tokens)


class Bleu:
    """Sentence BLEU (sacrebleu, 0 to 100) against one or more reference texts per prompt.

    It rewards the reference's words and length, not quality: a good answer in other words scores
    near 0, and single sentences are noisy.
    """

    def __init__(self, references: dict[str, list[str]]) -> None:
        from sacrebleu.metrics import BLEU

        self.references, self.bleu = references, BLEU(effective_order=True)
        # the signature, which names version and settings, exists after a first score
        self.bleu.sentence_score("a", ["a"])
        self.name = f"bleu|{self.bleu.get_signature()}"

    def __call__(self, rows: list[Row]) -> Iterator[tuple[int, float]]:
        """(position, reward) of each row; every prompt needs a reference."""
        for k, row in enumerate(rows):
            references = self.references[row["prompt_id"]]
            yield k, self.bleu.sentence_score(row["text"], references).score


def read_references(path: Path) -> dict[str, list[str]]:
    """prompt_id -> reference texts, from published outputs in alpaca_eval's format."""
    from wrpo_lib.quadruples.convert import as_responses

    found: dict[str, list[str]] = {}
    for row in as_responses(iter_rows(path), str(path)):
        found.setdefault(row["prompt_id"], []).append(row["text"])
    return found
