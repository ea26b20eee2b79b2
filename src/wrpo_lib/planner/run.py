"""From a recipe to what decides its cost: the model's shape and the settings that matter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from wrpo_lib.recipes import Recipe

LLAMA = {"model_type": "llama", "max_position_embeddings": 8192}
PUBLISHED: dict[str, dict[str, Any]] = {
    # config.json of each repository on the hub; parameter counts as its safetensors metadata says
    "meta-llama/Meta-Llama-3-8B-Instruct": {  # 8,030,261,248
        "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "tie_word_embeddings": False, **LLAMA},
    "meta-llama/Llama-3.2-1B-Instruct": {  # 1,235,814,400
        "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 64, "tie_word_embeddings": True, **LLAMA},
    "HuggingFaceTB/SmolLM2-135M-Instruct": {  # 134,515,008
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "tie_word_embeddings": True, **LLAMA},
}  # fmt: skip
"""Shapes of the models that the recipes name, so that planning needs no network."""


@dataclass(frozen=True)
class Run:
    """What of a recipe decides its cost.

    ``reference``: ``none``, ``held`` (a second copy), ``adapter`` (the base model) or
    ``precomputed``; ``sharding``: ``none`` (each GPU holds all), ``zero3`` or ``fsdp2``;
    ``responses``: the fields of an example that are computed; ``block``: tokens of a packed SFT
    block, None without packing; ``limits``: of prompt with response, and of the prompt.
    """

    config: PretrainedConfig
    dtype: str
    bf16: bool
    lora: dict[str, Any] | None
    four_bit: bool
    sharding: str
    checkpointing: bool
    reference: str
    batch: int
    accumulation: int
    epochs: float
    max_steps: int
    optimiser: str
    responses: tuple[str, ...]
    block: int | None
    limits: tuple[int | None, int | None]
    sharing: bool

    @property
    def autocast(self) -> bool:
        """Mixed precision over float32 weights."""
        return self.bf16 and self.dtype == "float32"


def model_config(name: str) -> PretrainedConfig:
    """Configuration of a model: a folder's, a published one of ours, or the hub's."""
    from transformers import AutoConfig

    if name in PUBLISHED and not Path(name).is_dir():
        values = dict(PUBLISHED[name])
        return AutoConfig.for_model(values.pop("model_type"), **values)
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise WRPOError(
            f"no configuration for the model {name!r}: no such folder, not one of "
            f"{', '.join(PUBLISHED)}, and the hub did not give it; correct --model"
        ) from error


def model_name(recipe: Recipe) -> str:
    """The model a recipe starts from; for a Target-SFT still to be made, what its SFT starts from.

    :raises WRPOError: where the recipe names none.
    """
    from wrpo_lib.recipes import load_recipe, recipe_names

    name = recipe.model
    if not name:
        raise WRPOError(f"{recipe.where} names no model; pass --model")
    if recipe.start_from == "target_sft" and not Path(name).is_dir():
        for other in recipe_names(recipe.profile):
            sft = load_recipe(recipe.profile, other)
            if sft.stage == "sft" and sft.model and str(sft.output_dir) == name:
                return sft.model
    return name


def read_run(recipe: Recipe, config: PretrainedConfig, sharding: str | None = None) -> Run:
    """What decides the cost of a recipe; ``sharding`` replaces what its ``launch`` says.

    :raises WRPOError: for what training would refuse: an unknown key, a value out of range.
    """
    from wrpo_lib.training.arguments import training_arguments

    bf16 = bool(recipe.training.get("bf16", False))
    plain = {**recipe.training, "bf16": False}  # which a machine without a GPU would refuse
    args = training_arguments(replace(recipe, training=plain), Path("plan"))
    sft = recipe.stage == "sft"
    dtype = str(recipe.load.get("dtype", "float32"))
    if dtype == "auto":
        dtype = str(config.dtype or "float32").removeprefix("torch.")
    return Run(
        config=config,
        dtype=dtype,
        bf16=bf16,
        lora=recipe.lora,
        four_bit=bool((recipe.quantization or {}).get("load_in_4bit")),
        sharding=_sharding(recipe, sharding),
        checkpointing=bool(args.activation_checkpointing),
        reference=_reference(recipe, args),
        batch=args.per_device_train_batch_size,
        accumulation=args.gradient_accumulation_steps,
        epochs=args.num_train_epochs,
        max_steps=args.max_steps,
        optimiser=str(args.optim),
        responses=("source_chosen",) if sft else args.responses(),
        block=args.max_length if sft and args.packing else None,
        limits=(args.max_length, None if sft else args.max_prompt_length),
        sharing=not sft and args.share_prompt != "false",
    )


def _sharding(recipe: Recipe, asked: str | None) -> str:
    launch = asked or recipe.launch or "none"
    found = next((s for s in ("zero3", "fsdp2") if launch.startswith(s)), "none")
    if asked not in (None, found):
        raise WRPOError(f"unknown sharding {asked!r}; choose none, zero3 or fsdp2")
    return found


def _reference(recipe: Recipe, args: Any) -> str:
    if recipe.stage == "sft" or args.objective == "simpo":
        return "none"
    if args.precompute_ref_log_probs:
        return "precomputed"
    return "adapter" if recipe.lora else "held"
