"""Sampling responses with a transformers model in this process.

Paper section 4.1: five responses a prompt at temperature 0.8, top-p 0.95.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Messages = list[dict[str, str]]


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Messages],
    *,
    n: int = 5,
    temperature: float = 0.8,
    top_p: float = 0.95,
    max_new_tokens: int = 256,
    seed: int = 0,
    batch_size: int = 256,
) -> list[list[dict[str, Any]]]:
    """``n`` responses to each prompt; temperature 0 is greedy (then ``n`` must be 1).

    Returns, per prompt and in the order given, a list of ``n`` rows with ``text``, ``n_tokens``
    (end token included) and ``finish_reason`` (``stop`` or ``length``). Prompts are batched by
    length, so padding is small. The global random state is left as it was.
    """
    import torch

    if temperature == 0 and n != 1:
        raise WRPOError(f"greedy decoding (temperature 0) gives one response, n is {n}; set n to 1")
    if not tokenizer.chat_template:
        raise WRPOError("the tokenizer has no chat template; set tokenizer.chat_template first")
    texts = tokenizer.apply_chat_template(prompts, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    rows: list[list[dict[str, Any]]] = [[] for _ in ids]
    options: dict[str, Any] = {"do_sample": temperature > 0, "max_new_tokens": max_new_tokens}
    if temperature > 0:
        options |= {"temperature": temperature, "top_p": top_p, "num_return_sequences": n}
        options["top_k"] = 0
    was_training = model.training
    model.eval()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            for i, row in _generate(model, tokenizer, [ids[i] for i in batch], batch, n, options):
                rows[i].append(row)
    model.train(was_training)
    return rows


def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: list[list[int]],
    where: list[int],
    n: int,
    options: dict[str, Any],
) -> list[tuple[int, dict[str, Any]]]:
    """One padded batch; each response with the position of its prompt."""
    inputs = tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt")
    inputs = {key: value.to(model.device) for key, value in inputs.items()}
    output = model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :].tolist()
    eos = tokenizer.eos_token_id
    found = []
    for k, tokens in enumerate(output):
        stopped = eos in tokens
        body = tokens[: tokens.index(eos)] if stopped else tokens
        row = {
            "text": tokenizer.decode(body, skip_special_tokens=True),
            "n_tokens": len(body) + stopped,
            "finish_reason": "stop" if stopped else "length",
        }
        found.append((where[k // n], row))
    return found
