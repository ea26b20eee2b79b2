"""What one training step holds in memory and computes, found by running it on shapes alone.

The model's real forward pass runs on fake tensors (``torch._subclasses.FakeTensorMode``): every
operation happens with shapes and types but without numbers, so an 8B model takes seconds and no
memory, and what autograd would save is counted rather than guessed. Sizes in bytes, lengths in
tokens. The kernels are the CPU's; a GPU's fused ones save the same tensors or fewer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.planner.lengths import Example

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Weights:
    """Counts of parameters.

    ``body``: in matrices that every token passes through; ``head``: of the output head, which may
    be the embedding again; ``trainable``: what gets a gradient, the adapter under LoRA;
    ``largest_layer``: of one decoder layer, what sharded training gathers at a time.
    """

    total: int
    body: int
    head: int
    embedding: int
    trainable: int
    largest_layer: int


@dataclass(frozen=True)
class Activations:
    """Bytes that autograd saves in one forward pass.

    ``layers``: inside decoder layers; ``largest_layer``: inside one of them; ``inputs``: the
    layers' inputs, all that gradient checkpointing keeps; ``rest``: outside the layers.
    """

    layers: int
    largest_layer: int
    inputs: int
    rest: int

    def held(self, checkpointing: bool, head: int) -> int:
        """At the peak, beside the ``head`` bytes that the output head takes for a while.

        Checkpointing computes one layer's again at a time, when the head is done.
        """
        if not checkpointing:
            return self.layers + self.rest
        return self.inputs + self.rest + max(0, self.largest_layer - head)


@contextmanager
def fake_model(
    config: PretrainedConfig,
    dtype: torch.dtype,
    lora: dict[str, Any] | None = None,
    *,
    cpu: bool = False,
) -> Iterator[PreTrainedModel]:
    """A model with shapes and no numbers, ready for packed rows; fake tensors inside the block.

    ``cpu``: with what a float32 model on a CPU is given in training (:mod:`wrpo_lib.cpu`).

    :raises WRPOError: for LoRA target modules that match nothing.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    from wrpo_lib import sharing
    from wrpo_lib.cpu import layers, products, tiles

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        sharing.enable(model)
        add_fused_lm_head(model)
        whole = _adapted(model, lora) if lora else model
    kinds = list(products.KINDS)
    caches = (sharing._branch_mask.cache_clear, tiles._corner.cache_clear)
    for clear in caches:  # real masks and fake ones do not mix
        clear()
    try:
        with FakeTensorMode():
            _to_cpu(whole)
            if cpu:
                products.KINDS.append(FakeTensor)
                layers.enable(whole, trial=False)
            yield whole
    finally:
        products.KINDS[:] = kinds
        for clear in caches:
            clear()


def _adapted(model: PreTrainedModel, lora: dict[str, Any]) -> Any:
    from peft import LoraConfig, get_peft_model

    try:
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora))
    except ValueError as error:
        raise WRPOError(f"LoRA does not fit the model: {error}; correct target_modules") from error


def _to_cpu(model: Any) -> None:
    """Replace a meta model's tensors by fake ones that believe to be on the CPU.

    On the meta device attention would be planned with the kernel that stores all pairs of tokens.
    """
    import torch

    new: dict[int, Any] = {}  # tied weights stay tied
    for module in model.modules():
        for name, old in module._parameters.items():
            if old is not None:
                fresh = torch.empty(old.shape, dtype=old.dtype)
                new.setdefault(id(old), torch.nn.Parameter(fresh, old.requires_grad))
                module._parameters[name] = new[id(old)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def weights(model: Any) -> Weights:
    """Count a model's parameters, shared ones once."""
    named = dict(model.named_parameters())
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    embedding, head = base.get_input_embeddings().weight, base.get_output_embeddings().weight
    ends = {id(embedding), id(head)}
    adapter = {n for n in named if "lora_" in n}
    own = [p for n, p in named.items() if n not in adapter]
    return Weights(
        total=sum(p.numel() for p in own),
        body=sum(p.numel() for p in own if p.ndim > 1 and id(p) not in ends),
        head=head.numel(),
        embedding=embedding.numel(),
        trainable=sum(p.numel() for p in named.values() if p.requires_grad),
        largest_layer=max(sum(p.numel() for p in m.parameters()) for m in decoder_layers(base)),
    )


def decoder_layers(model: Any) -> Any:
    """The list of a model's decoder layers."""
    import torch

    count = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise WRPOError(f"no list of {count} decoder layers in a {type(model).__name__}; plan another")


class SavedBytes:
    """Counts what autograd saves of a model's forward pass, each storage once, weights left out.

    Works on real tensors and on fake ones alike.
    """

    def __init__(self, model: Any) -> None:
        self.known = {p.untyped_storage()._cdata for p in model.parameters()}
        self.layers = [0] * len(layers := decoder_layers(model))
        self.inputs = self.rest = 0
        self._kept: list[Any] = []  # storages stay alive, or addresses would come again
        self._current: int | None = None
        self._hooks = []
        for number, layer in enumerate(layers):
            self._hooks.append(layer.register_forward_pre_hook(self._enter(number)))
            self._hooks.append(layer.register_forward_hook(self._leave))

    def _enter(self, number: int) -> Any:
        def enter(module: Any, args: tuple[Any, ...]) -> None:
            self._current = number
            self.inputs += args[0].nbytes

        return enter

    def _leave(self, *args: Any) -> None:
        self._current = None

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.known:
            self.known.add(storage._cdata)
            self._kept.append(storage)
            if self._current is None:
                self.rest += storage.nbytes()
            else:
                self.layers[self._current] += storage.nbytes()
        return tensor

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count inside the block."""
        import torch

        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield
        for hook in self._hooks:
            hook.remove()

    def result(self) -> Activations:
        """What was counted."""
        return Activations(sum(self.layers), max(self.layers), self.inputs, self.rest)


def activations(
    model: Any, examples: list[Example], *, sharing: bool, autocast: bool
) -> Activations:
    """Run a fake model forward on a micro-batch and count what autograd saves.

    ``sharing``: one packed row; otherwise a padded row a response. ``autocast``: to bfloat16.
    """
    import torch

    saved = SavedBytes(model)
    context = torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext()
    model.train()
    with context, saved.counting():
        if sharing:
            _packed_forward(model, examples)
        else:
            _padded_forward(model, examples)
    return saved.result()


def _packed_forward(model: Any, examples: list[Example]) -> Any:
    from wrpo_lib import sharing

    prompts = [[0] * prompt for prompt, _ in examples]
    responses = [[[0] * length for length in lengths] for _, lengths in examples]
    batch = sharing.pack(prompts, responses)
    return model(
        **sharing.model_inputs(batch), shift_labels=batch["shift_labels"], fused_lm_head=True
    )


def _padded_forward(model: Any, examples: list[Example]) -> Any:
    import torch

    rows = [prompt + length for prompt, lengths in examples for length in lengths]
    ids = torch.zeros(len(rows), max(rows), dtype=torch.long)
    mask = torch.ones(len(rows), 1, max(rows), max(rows), dtype=torch.bool)  # as padding gives it
    heads = torch.zeros(sum(sum(lengths) for _, lengths in examples), dtype=torch.long)
    return model(
        input_ids=ids, attention_mask=mask, head_positions=heads, shift_labels=heads[None],
        use_cache=False, fused_lm_head=True,
    )  # fmt: skip


# --- arithmetic ---------------------------------------------------------------------------------


def tokens(examples: list[Example], sharing: bool) -> int:
    """Tokens that a micro-batch puts through the model, padding included."""
    if sharing:
        return sum(prompt + sum(lengths) for prompt, lengths in examples)
    rows = [prompt + length for prompt, lengths in examples for length in lengths]
    return len(rows) * max(rows)


def attended(examples: list[Example], sharing: bool) -> int:
    """Pairs of tokens that attention computes: the causal ones, without padding."""
    pairs = 0
    for prompt, lengths in examples:
        start = prompt * (prompt + 1) // 2
        pairs += start * (1 if sharing else len(lengths))
        pairs += sum(n * prompt + n * (n + 1) // 2 for n in lengths)
    return pairs


def forward_flops(
    model_weights: Weights, config: PretrainedConfig, examples: list[Example], sharing: bool
) -> tuple[int, int]:
    """Floating-point operations of one forward pass of a micro-batch: layers, and head.

    Two a weight and token; attention 4·layers·heads·head size a pair of tokens. The head works at
    response positions only.
    """
    text = config.get_text_config()
    width = text.num_attention_heads * (
        getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    )
    attention = 4 * text.num_hidden_layers * width * attended(examples, sharing)
    responses = sum(sum(lengths) for _, lengths in examples)
    return (
        2 * model_weights.body * tokens(examples, sharing) + attention,
        2 * model_weights.head * responses,
    )
