"""What a recipe will take, before anything is computed.

Parameters are counted on the meta device; the rest is textbook arithmetic on them and on lengths.
"""

import random
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PretrainedConfig

from wrpo_lib.models import load_tokenizer, model_config
from wrpo_lib.recipes import Recipe, load_recipe, named, recipe_names
from wrpo_lib.training import inputs

Batch = list[tuple[int, tuple[int, ...]]]
"""Tokens of each example's prompt, and of each of its responses."""
TILE = (4096, 32768)  # response tokens and words whose logits TRL's fused head holds at a time
EXAMPLES = {"sft": 19_958, "preference": 39_918}  # of UltraFeedback, the paper's section 4.1
PROMPT, RESPONSE = 200, 400  # assumed tokens where there are no data
# dense bfloat16 TFLOP/s with float32 sums, from NVIDIA's data sheets; GiB that PyTorch finds
CARDS = {
    "RTX 4090": (165, 23.5),
    "RTX A6000": (155, 47.4),
    "L40S": (362, 44.4),
    "A100 80 GB": (312, 79.1),
    "H100 80 GB": (989, 79.1),
    "H200": (989, 139.8),
}
UTILISATION = 0.4  # assumed share of a card's peak
GIB = 2**30


class Parameters(NamedTuple):
    """Counts: all, those inside the layers, the output head's, those with a gradient."""

    total: int
    layers: int
    head: int
    trainable: int


def count_parameters(config: PretrainedConfig, lora: LoraConfig | None = None) -> Parameters:
    """Parameters of a model on the meta device, shared ones once; adapters are trainable."""
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
        total = sum(p.numel() for p in model.parameters())
        ends = [m.weight for m in (model.get_input_embeddings(), model.get_output_embeddings())]
        if lora:
            model = get_peft_model(model, lora)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Parameters(total, total - sum(p.numel() for p in set(ends)), ends[1].numel(), trainable)


def tokens(batch: Batch, sharing: bool) -> int:
    """Tokens of a micro-batch that go through the model, padding included."""
    if sharing:
        return sum(x + sum(ys) for x, ys in batch)
    return sum(len(ys) for _, ys in batch) * max(x + max(ys) for x, ys in batch)


@dataclass(frozen=True)
class Plan:
    """A run over ``n`` examples whose lengths are like those of ``batches``."""

    recipe: Recipe
    args: Any  # WRPOConfig or SFTConfig
    config: PretrainedConfig
    parameters: Parameters
    gpus: int
    n: int
    steps: int  # of the optimiser; the last, partial one of an epoch counts
    batches: list[Batch]
    reference: str  # none, precomputed, or each step, the base of an adapter

    @property
    def worst(self) -> Batch:
        """The longest legal batch: prompts of one token, responses that fill ``max_length``."""
        limit = self.args.max_length or max(x + max(ys) for b in self.batches for x, ys in b)
        example = [(1, (limit - 1,) * len(self.batches[0][0][1]))]
        budget = getattr(self.args, "micro_batch_tokens", None) or float("inf")
        size = min(self.args.per_device_train_batch_size, budget // tokens(example, True))
        return example * max(1, int(size))

    @property
    def usual(self) -> Batch:
        """The middle one of the batches, by their tokens."""
        return self.batches[len(self.batches) // 2]

    def tokens(self, sharing: bool) -> float:
        """Tokens of an epoch, padding included."""
        return sum(tokens(b, sharing) for b in self.batches) * self.n / sum(map(len, self.batches))

    @property
    def disk(self) -> int:
        """Bytes of checkpoints with Adam's states, one over the limit, and of the saved model."""
        p, args, recipe, lora = self.parameters, self.args, self.recipe, self.recipe.lora
        kept = (args.save_total_limit or ceil(self.steps / args.save_steps)) + 1
        width = 4 if lora or "32" in str(recipe.load.get("dtype")) else 2
        return width * p.trainable * (3 * kept + 1) + (2 * p.total if lora and recipe.merge else 0)

    def flops(self, count: Any) -> Any:
        """FLOPs of a run of ``count`` tokens per epoch: 2 per parameter and token of each pass.

        A forward, a backward (two without LoRA) and a recomputing pass, and the reference's;
        attention is left out.
        """
        epochs, args = self.args.num_train_epochs, self.args
        passes = epochs * (2 + (not self.recipe.lora) + bool(args.activation_checkpointing))
        passes += {"none": 0, "precomputed": 1}.get(self.reference, epochs)
        return 2 * self.parameters.total * count * passes

    def hours(self, count: Any, peak: float) -> Any:
        """Hours of such a run on cards of ``peak`` TFLOP/s."""
        return self.flops(count) / (UTILISATION * self.gpus * peak * 1e12 * 3600)

    def memory(self, batch: Batch, sharing: bool) -> dict[str, float]:
        """Bytes per GPU at the peak of a step on ``batch``.

        Adam has two states per parameter, and float32 weights where sharded. 4 bits have a scale
        per 64 weights. A layer keeps 8 hidden, 2 key-value, 4 intermediate values per token, or
        with checkpointing its input. Logits: a tile, its float32 copy and gradient, and the head's.
        """
        p, args, text, lora = self.parameters, self.args, self.config, self.recipe.lora
        sharded = (self.recipe.launch or "").startswith(("zero3", "fsdp2"))
        parts = self.gpus if sharded else 1
        width = 2 if "float16" in str(self.recipe.load.get("dtype")) else 4
        four_bit = bool((self.recipe.quantization or {}).get("load_in_4bit"))
        base = width * p.total - four_bit * (width - 0.5 - 4 / 64) * p.layers
        own = 4 if lora else width  # peft keeps adapters in float32
        states = (2 if "8bit" in str(args.optim) else 2 * own) + (8 if sharded and own < 4 else 0)
        work, rows, hidden = 2 if args.bf16 else width, tokens(batch, sharing), text.hidden_size
        attention = 8 * hidden + 2 * hidden * text.num_key_value_heads // text.num_attention_heads
        layer = rows * work * (attention + 4 * text.intermediate_size)
        kept = rows * work * hidden if args.activation_checkpointing else layer  # of each layer
        tile = min(sum(sum(ys) for _, ys in batch), TILE[0]) * min(text.vocab_size, TILE[1])
        return {
            "weights": (base + (4 * p.trainable if lora else 0)) / parts,
            "gradients": own * p.trainable / parts,
            "Adam states": states * p.trainable / parts,
            "activations": kept * text.num_hidden_layers + (layer if kept < layer else 0),
            "logits": tile * (work + 8) + (0 if lora else 4 * p.head),
            "runtime (assumed)": 2 * GIB,  # CUDA context, kernels, gathered layers, fragmentation
        }


def plan_recipe(recipe: Recipe, gpus: int = 1, data: str = "", n: int = 0) -> Plan:
    """Plan a run over ``data``, the recipe's or, without, ``n`` examples of assumed lengths.

    Of data, the lengths of at most 2,000 examples stand for all.
    """
    lengths: Batch = []
    with named(recipe):
        args = inputs.training_arguments(recipe, Path("plan"))
        recipe = replace(recipe, data=data or recipe.data)
        if recipe.start_from == "target_sft" and not Path(recipe.model or ".").is_dir():
            others = (load_recipe(recipe.profile, name) for name in recipe_names(recipe.profile))
            made = {str(r.output_dir): r.model for r in others if r.stage == "sft"}
            recipe = replace(recipe, model=made.get(recipe.model or "", recipe.model))  # its target
        config = model_config(recipe.model or "")
        parameters = count_parameters(config, inputs.lora_config(recipe))
        if data or Path(recipe.data or "").is_file():
            rows, fields = inputs.load_data(recipe), inputs.responses(args)
            n, reader = len(rows), load_tokenizer(recipe.model or "")
            some = rows.select(range(0, n, ceil(n / 2000)))  # cut as in training
            made, _ = inputs.tokenize(some, reader, fields, args, "planned")
            for row in made:
                ys = tuple(len(row[f"{name}_ids"]) for name in fields)
                lengths.append((len(row["prompt_ids"]), ys))
        else:
            limit, n = args.max_length or PROMPT + RESPONSE, n or EXAMPLES[recipe.stage]
            prompt = min(PROMPT, limit - 1)
            lengths = [(prompt, (min(RESPONSE, limit - prompt),) * len(inputs.responses(args)))]
    if getattr(args, "packing", False):  # of SFT: blocks of max_length tokens
        n = ceil(n * tokens(lengths, True) / len(lengths) / args.max_length)
        lengths = [(0, (args.max_length,))]
    size, budget = args.per_device_train_batch_size, getattr(args, "micro_batch_tokens", None)
    epoch = ceil(n / (size * args.gradient_accumulation_steps * gpus))
    steps = ceil(epoch * args.num_train_epochs)
    if args.max_steps > 0:
        steps, args.num_train_epochs = args.max_steps, args.max_steps / epoch
    lengths = lengths * ceil(size / len(lengths))
    random.Random(0).shuffle(lengths)
    batches: list[Batch] = []
    for i in range(0, len(lengths) - size + 1, size):
        batch = lengths[i : i + size]
        parts = inputs.split_by_tokens([tokens([example], True) for example in batch], budget)
        batches += [batch[part] for part in parts]
    batches.sort(key=lambda batch: tokens(batch, True))
    once = getattr(args, "precompute_ref_log_probs", False) or not recipe.lora
    reference = "precomputed" if once else "each step"
    if getattr(args, "objective", "simpo") == "simpo":  # SFT has no objective
        reference = "none"
    return Plan(recipe, args, config, parameters, gpus, n, steps, batches, reference)
