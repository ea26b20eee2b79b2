"""Figures of the training engine: the mask of a packed row, what each improvement gains, growth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrpo_lib.analysis.benchmarks import PROFILE, WAYS, quartiles, undisturbed
from wrpo_lib.figures.style import look, style
from wrpo_lib.records import read_results

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTS = (("prompt x", "#999999", ""), ("y_ws", "#D55E00", "///"), ("y_wt", "#0072B2", "..."),
         ("y_l", "#555555", "xxx"))  # fmt: skip
"""Prompt and responses in the colours they have everywhere, with a hatch for print."""
EXAMPLE = (5, (5, 4, 3))
"""Tokens of the example whose mask is drawn: its prompt and its three responses."""
LOADS = {"ordinary": ("ordinary: short prompts", "#0072B2", "o"),
         "long": ("long: prompts of 512 tokens", "#D55E00", "s")}  # fmt: skip


def mask(profile: str = "nano") -> Figure:
    """What each token of a packed row sees, from ``Branches.mask()``; beside it, padded rows.

    ``profile`` is not read: the mask is a formula.
    """
    import matplotlib.pyplot as plt

    from wrpo_lib.sharing import Branches

    branches = Branches((EXAMPLE,))
    with style():
        figure, (top, bottom) = plt.subplots(
            2, 1, figsize=(5.6, 7.6), gridspec_kw={"height_ratios": [1.7, 1]}
        )
        _draw_packed(top, branches.mask().numpy(), branches.owners()[1], branches.positions())
        _draw_rows(bottom)
    return figure


def _draw_packed(axis: Axes, sees: np.ndarray, owners: list[int], positions: list[int]) -> None:
    n = len(owners)
    for row in range(n):
        for column in range(row + 1):
            if sees[row, column]:
                _cell(axis, column, row, owners[column])
    start = 0
    for part, length in enumerate((EXAMPLE[0], *EXAMPLE[1])):
        axis.text(start + length / 2, -0.5, PARTS[part][0], ha="center", fontweight="bold")
        for edge in (axis.axhline, axis.axvline):
            edge(start, color="#222222", linewidth=0.8)
        start += length
    ticks = [k + 0.5 for k in range(n)]
    axis.set(xlim=(-0.05, n + 0.05), ylim=(n + 0.05, -0.05), aspect="equal")
    axis.set(xlabel="position of the token seen", ylabel="position of the token that sees")
    axis.set_xticks(ticks, [str(p) for p in positions])
    axis.set_yticks(ticks, [str(p) for p in positions])
    axis.xaxis.set_label_position("bottom")
    axis.tick_params(length=0, labelsize=8)
    axis.grid(visible=False)


def _draw_rows(axis: Axes) -> None:
    """The same example as the official trainer lays it out: a row a response, padded."""
    prompt, lengths = EXAMPLE
    width = prompt + max(lengths)
    for row, length in enumerate(lengths):
        for column in range(width):
            part = 0 if column < prompt else row + 1
            if column < prompt + length:
                _cell(axis, column, 2 * row, part)
            else:
                _cell(axis, column, 2 * row, None)
    packed = [0] * prompt + [k + 1 for k, n in enumerate(lengths) for _ in range(n)]
    for column, part in enumerate(packed):
        _cell(axis, column, 8, part)
    axis.text(0, -0.6, f"one padded row a response: {3 * width} tokens")
    axis.text(0, 7.4, f"one packed row: {len(packed)} tokens")
    axis.set(xlim=(-0.3, len(packed) + 0.3), ylim=(9.6, -1.6), aspect="equal")
    axis.axis("off")


def _cell(axis: Axes, x: float, y: float, part: int | None) -> None:
    from matplotlib.patches import Rectangle

    if part is None:
        patch = Rectangle((x, y), 1, 1, facecolor="white", edgecolor="#aaaaaa", linestyle=":")
    else:
        _, color, hatch = PARTS[part]
        patch = Rectangle((x, y), 1, 1, facecolor=color, edgecolor="white", hatch=hatch,
                          linewidth=0.8, alpha=0.85)  # fmt: skip
    axis.add_patch(patch)


def train_step(profile: str = "nano") -> Figure:
    """How many times faster than the official arithmetic each way is: median and quartiles.

    ``profile`` is not read: the benchmark has its own results.
    """
    import matplotlib.pyplot as plt

    rows = undisturbed(read_results(PROFILE, "steps"))
    names = {way: name for way, name in WAYS.items() if way != "official"}
    with style():
        figure, axis = plt.subplots(figsize=(7.2, 3.6))
        for k, (load, (label, color, marker)) in enumerate(LOADS.items()):
            found = quartiles(rows[rows["workload"] == load]).reindex(list(names))
            places = [i + 0.2 * (k - 0.5) for i in range(len(names))]
            low, middle, high = (found[column] for column in ("low", "median", "high"))
            axis.errorbar(middle, places, xerr=[middle - low, high - middle], fmt=marker,
                          color=color, capsize=3, label=label)  # fmt: skip
        axis.axvline(1, color="#555555", linewidth=1)
        axis.set_yticks(range(len(names)), list(names.values()))
        axis.invert_yaxis()
        axis.set_xlabel("times as fast as the official arithmetic")
        axis.legend()
    return figure


def growth(profile: str = "nano") -> Figure:
    """Seconds of a step against responses, prompt and batch, for the official way and ours.

    ``profile`` is not read: the benchmark has its own results.
    """
    import matplotlib.pyplot as plt

    rows = read_results(PROFILE, "growth")
    ways = {"official": ("official arithmetic", look("target_sft")), "ours": ("ours", look("wrpo"))}
    names = {"responses": "responses to a prompt", "prompt": "tokens of the prompt",
             "batch": "examples in a batch"}  # fmt: skip
    with style():
        figure, axes = plt.subplots(1, 3, figsize=(8.0, 3.2))
        for axis, (varied, label) in zip(axes, names.items(), strict=True):
            part = rows[rows["varied"] == varied]
            for way, (name, how) in ways.items():
                seconds = part[part["way"] == way].groupby(varied)["seconds"]
                middle = seconds.median()
                spread = [middle - seconds.min(), seconds.max() - middle]
                axis.errorbar(middle.index, middle, yerr=spread, color=how.color, label=name,
                              marker=how.marker, linestyle=how.dash, capsize=3)  # fmt: skip
            axis.set(xlabel=label, ylim=(0, None))
        axes[0].set_ylabel("seconds of a step")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
