"""A plan as text."""

from __future__ import annotations

from collections.abc import Callable

from wrpo_lib.planner.cost import GIB, Cost, Plan


def report(plan: Plan) -> str:
    """The plan as text, one column with prompt sharing and one without."""
    run, machine, w = plan.run, plan.machine, plan.weights
    costs = (plan.shared, plan.padded)
    kind = ("4-bit LoRA" if run.four_bit else "LoRA") if run.lora else "full"
    place = f"{machine.gpus} GPUs of {machine.memory:g} GiB" if machine.gpus else "a CPU"
    examples = run.batch * run.accumulation * machine.processes
    about = {
        "billion parameters": f"{w.total / 1e9:.3f}, {w.trainable / 1e9:.3f} trained ({kind})",
        "precision": f"{run.dtype} weights{', bf16 on' if run.bf16 else ''}",
        "machine": f"{place}, sharding {run.sharding}",
        "reference": run.reference,
        "checkpointing": "on" if run.checkpointing else "off",
        "prompt sharing": "on" if run.sharing else "off",
        "steps": f"{plan.steps} of {run.batch} x {run.accumulation} x {machine.processes} = "
        f"{examples} examples",
    }
    lines = [f"{name:28}{value}" for name, value in about.items()]
    lines += ["", f"{'':28}{'sharing on':>14}{'sharing off':>14}"]

    def line(name: str, value: Callable[[Cost], float], form: str) -> str:
        return f"{name:28}" + "".join(format(value(c), form).rjust(14) for c in costs)

    for part in plan.chosen.memory:
        sizes = (format(c.memory[part] / GIB, ".2f").rjust(14) for c in costs)
        lines.append(f"{part}, GiB".ljust(28) + "".join(sizes))
    lines += [
        line("total a GPU, GiB", lambda c: c.total_memory / GIB, ".2f"),
        line("tokens a step", lambda c: c.tokens_per_step, ",.0f"),
        line("tokens a run, millions", lambda c: c.tokens_per_run / 1e6, ",.2f"),
        line("seconds a step", lambda c: _step_seconds(plan, c), ",.1f"),
        line("hours", plan.hours, ",.2f"),
        line("GPU-hours", lambda c: plan.hours(c) * machine.processes, ",.2f"),
    ]
    if machine.price is not None:
        price = machine.price * machine.processes
        lines.append(line("price", lambda c: price * plan.hours(c), ",.2f"))
    lines += ["", f"assumed: {machine.utilisation:.0%} of {machine.peak:g} TFLOP/s a processor"]
    lines += [f"assumed: {note}" for note in plan.notes]
    return "\n".join(lines)


def _step_seconds(plan: Plan, cost: Cost) -> float:
    m = plan.machine
    return cost.flops_per_step / (m.processes * m.peak * 1e12 * m.utilisation)
