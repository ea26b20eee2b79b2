"""Log-probabilities of responses: in batches, one by one, and as the trainer computes them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from datasets import Dataset
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from wrpo_lib.logprobs import response_logprobs
from wrpo_lib.training.trainer import WRPOTrainer


def test_batches_change_nothing_and_the_trainer_computes_the_same(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    quadruples: Dataset,
    trainer: Callable[..., WRPOTrainer],
) -> None:
    model.train()
    rows = [quadruples["prompt"][:], quadruples["source_chosen"][:]]
    found = response_logprobs(model, tokenizer, *rows, batch_size=5)
    assert model.training
    alone = [response_logprobs(model, tokenizer, [p], [r]) for p, r in zip(*rows, strict=True)]
    np.testing.assert_allclose(found.logps, [a.logps[0] for a in alone], rtol=1e-5)
    run = trainer()
    batch = run.data_collator(list(run.train_dataset))
    chosen, _ = run.compute_ref_log_probs(run.model, batch)  # (B, 2): packed, the prompt once
    torch.testing.assert_close(
        chosen[:, 0].double(), torch.tensor(found.logps), rtol=1e-5, atol=1e-4
    )
    assert found.n_tokens.tolist() == batch["lengths"][:, 0].tolist()
