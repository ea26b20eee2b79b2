"""Memory, tokens and arithmetic of a run, with and without prompt sharing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.planner import footprint
from wrpo_lib.planner.footprint import Weights
from wrpo_lib.planner.lengths import Example, micro_batches
from wrpo_lib.planner.run import Run

GIB = 2**30
RUNTIME = {True: 2 * GIB, False: GIB // 2}
"""Assumed for what is not the run's own: CUDA context, kernels, fragmentation; Python on a CPU."""


@dataclass(frozen=True)
class Machine:
    """The hardware assumed. ``gpus`` 0 means one CPU; ``memory`` in GiB a GPU.

    ``peak``: TFLOP/s a GPU can reach at most (312: bfloat16 on an A100 or A800); ``utilisation``:
    the share of it that training is assumed to reach; ``price``: of an hour of one GPU.
    """

    gpus: int = 1
    memory: float = 80.0
    peak: float = 312.0
    utilisation: float = 0.4
    price: float | None = None

    def __post_init__(self) -> None:
        """Reject numbers without a meaning."""
        if self.gpus < 0 or self.memory <= 0 or self.peak <= 0:
            raise WRPOError("GPUs, memory and peak must be above 0 (0 GPUs: a CPU); correct them")
        if not 0 < self.utilisation <= 1:
            raise WRPOError(f"utilisation is {self.utilisation}; give a share between 0 and 1")

    @property
    def processes(self) -> int:
        """One a GPU."""
        return max(self.gpus, 1)


@dataclass(frozen=True)
class Cost:
    """One way of computing a run: memory in bytes a GPU by part, tokens, FLOPs."""

    memory: dict[str, int]
    tokens_per_step: float
    tokens_per_run: float
    flops_per_step: float
    flops_per_run: float

    @property
    def total_memory(self) -> int:
        """Bytes a GPU at the peak of a step."""
        return sum(self.memory.values())


@dataclass(frozen=True)
class Plan:
    """A run's cost with and without prompt sharing on a machine; ``notes``: what was assumed."""

    run: Run
    machine: Machine
    weights: Weights
    steps: int
    shared: Cost
    padded: Cost
    notes: tuple[str, ...]

    @property
    def chosen(self) -> Cost:
        """The way the recipe asks for."""
        return self.shared if self.run.sharing else self.padded

    @property
    def fits(self) -> bool:
        """Whether the peak is below the memory of a GPU."""
        return self.chosen.total_memory <= self.machine.memory * GIB

    def hours(self, cost: Cost) -> float:
        """Of wall clock, for the whole run, at the assumed utilisation."""
        m = self.machine
        return cost.flops_per_run / (m.processes * m.peak * 1e12 * m.utilisation) / 3600


def _state_memory(run: Run, w: Weights, processes: int) -> dict[str, int]:
    """Bytes a GPU of weights, gradients, optimiser state and reference."""
    width = 4 if run.dtype == "float32" else 2
    frozen = 0.5 + 4 / 64 if run.four_bit else width  # 4 bits, and a scale for 64 of them
    base = w.body * frozen + (w.total - w.body) * width
    states = 2 if "8bit" in run.optimiser else 8
    sharded = run.sharding != "none"
    parts = processes if sharded else 1
    if run.lora:  # peft keeps adapters in float32
        return {
            "weights": round((base + 4 * w.trainable) / parts + _gathered(run, w)),
            "gradients": 4 * w.trainable // parts,
            "optimiser": states * w.trainable // parts,
            "reference": 0,
        }
    if sharded and run.bf16:  # float32 master weights beside or instead of the 16-bit ones
        master = 4 if run.sharding == "zero3" else 0
        width = 2 if run.sharding == "zero3" else 4
    else:
        master, states = 0, states * width // 4  # AdamW's state has the type of the weights
    reference = {"held": (2 if run.bf16 or run.dtype != "float32" else 4)}.get(run.reference, 0)
    return {
        "weights": round(width * w.total / parts + _gathered(run, w)),
        "gradients": width * w.trainable // parts,
        "optimiser": (master + states) * w.trainable // parts,
        "reference": reference * w.total // parts,
    }


def _gathered(run: Run, w: Weights) -> int:
    """Whole weights that sharded training holds for a moment: two layers, embedding and head."""
    if run.sharding == "none":
        return 0
    ends = w.embedding + (0 if run.config.tie_word_embeddings else w.head)
    return (2 if run.bf16 else 4) * (2 * w.largest_layer + ends)


def _logits_memory(run: Run, w: Weights, responses: int, gpu: bool) -> int:
    """Bytes of the head: tiles of logits, worked on in place, and float32 gradients.

    TRL's kernel, and on a CPU in float32 our own (:mod:`wrpo_lib.cpu.head`), which keeps all
    tiles where they are few, and for the gradient turns one round and adds what it gives to the
    rest. In 16 bits a CPU has TRL's, which copies its tile about seven times.
    """
    from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    from wrpo_lib.cpu.head import KEPT, ROWS

    vocabulary = w.head // run.config.get_text_config().hidden_size
    width = 2 if run.bf16 or run.dtype != "float32" else 4
    gradient = 0 if run.lora else 4 * w.head
    if not gpu and width == 4:
        tile = 4 * min(responses, ROWS) * vocabulary
        whole = 4 * responses * vocabulary
        kept = whole if whole <= KEPT and not run.checkpointing else tile
        return kept + tile + 2 * gradient
    rows = min(responses, TOKEN_CHUNK_SIZE)
    tile = rows * _CHUNKED_LOGPROB_CHUNK_SIZE * width
    copies = 0 if gpu else 7 * 4 * rows * min(vocabulary, _CHUNKED_LOGPROB_CHUNK_SIZE)
    return tile + copies + gradient


def _work(run: Run, w: Weights, examples: list[Example], sharing: bool) -> tuple[float, float]:
    """FLOPs of a micro-batch: training it, and one pass of the reference.

    Training is a forward pass and a backward pass of twice that (once that with LoRA: no gradients
    of frozen weights), the layers once more under checkpointing, the head once more for its tiles.
    """
    body, head = footprint.forward_flops(w, run.config, examples, sharing)
    passes = 2 if run.lora else 3
    train = body * (passes + run.checkpointing) + head * (passes + 1)
    return train, 0.0 if run.reference == "none" else body + head


def _cost(
    run: Run, machine: Machine, w: Weights, model: Any, batches: list[list[Example]],
    examples: float, sharing: bool,
) -> Cost:  # fmt: skip
    """Cost of one way of computing."""
    tokens = [footprint.tokens(b, sharing) for b in batches]
    largest = batches[tokens.index(max(tokens))]
    held = footprint.activations(model, largest, sharing=sharing, autocast=run.autocast)
    head_positions = sum(sum(lengths) for _, lengths in largest)
    logits = _logits_memory(run, w, head_positions, machine.gpus > 0)
    memory = {
        **_state_memory(run, w, machine.processes),
        "activations": held.held(run.checkpointing, logits),
        "logits": logits,
        "runtime (assumed)": RUNTIME[machine.gpus > 0],
    }
    work = [_work(run, w, b, sharing) for b in batches]
    train, reference = fmean(t for t, _ in work), fmean(r for _, r in work)
    micro = examples / run.batch
    per_step = machine.processes * run.accumulation
    once = run.reference == "precomputed"
    step = train + (0 if once else reference)
    return Cost(
        memory=memory,
        tokens_per_step=fmean(tokens) * per_step,
        tokens_per_run=fmean(tokens) * micro * run.epochs,
        flops_per_step=step * per_step,
        flops_per_run=micro * (step * run.epochs + (reference if once else 0)),
    )


def plan(
    run: Run, machine: Machine, lengths: list[Example], n_examples: int, notes: tuple[str, ...] = ()
) -> Plan:
    """Plan a run over ``n_examples`` examples whose lengths are like ``lengths``."""
    import torch

    if not lengths:
        raise WRPOError("there are no examples to plan for; give data with rows")
    batches = micro_batches(lengths, run.batch)
    on_cpu = machine.gpus == 0 and not run.bf16
    dtype = getattr(torch, run.dtype)
    with footprint.fake_model(run.config, dtype, run.lora, cpu=on_cpu) as model:
        w = footprint.weights(model)
        shared = _cost(run, machine, w, model, batches, n_examples, True)
        padded = _cost(run, machine, w, model, batches, n_examples, False)
    per_step = run.batch * run.accumulation * machine.processes
    steps = run.max_steps if run.max_steps > 0 else math.ceil(n_examples / per_step * run.epochs)
    return Plan(run, machine, w, steps, shared, padded, notes)


def implied_utilisation(plan: Plan, cost: Cost, minutes: float) -> float:
    """The utilisation at which the run would take ``minutes``: what a published time implies."""
    return plan.hours(cost) * plan.machine.utilisation / (minutes / 60)
