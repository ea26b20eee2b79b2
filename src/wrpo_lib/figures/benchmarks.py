"""Figures of the training engine: the mask of a packed row, what each improvement gains, growth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wrpo_lib.analysis.benchmarks import PROFILE, WAYS, quartiles, undisturbed
from wrpo_lib.figures.style import look, style
from wrpo_lib.records import read_results

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTS = (
    ("prompt x", "#999999", ""),
    ("y_ws", "#D55E00", "///"),
    ("y_wt", "#0072B2", "..."),
    ("y_l", "#555555", "xxx"),
)
"""Prompt and responses in the colours they have everywhere, with a hatch for print."""
EXAMPLE = (5, (5, 4, 3))
"""Tokens of the example whose mask is drawn: its prompt and its three responses."""
LOADS = {
    "ordinary": ("ordinary: short prompts", "#0072B2", "o"),
    "long": ("long: prompts of 512 tokens", "#D55E00", "s"),
}
VARIED = {
    "responses": "responses to a prompt",
    "prompt": "tokens of the prompt",
    "batch": "examples in a batch",
}


def mask(profile: str = "nano") -> Figure:
    """What each token of a packed row sees, from ``Branches.mask()``; beside it, padded rows.

    ``profile`` is not read: the mask is a formula.
    """
    import matplotlib.pyplot as plt

    from wrpo_lib.sharing import Branches

    branches = Branches((EXAMPLE,))
    ratios = {"height_ratios": [1.7, 1]}
    with style():
        figure, (top, bottom) = plt.subplots(2, 1, figsize=(5.6, 7.6), gridspec_kw=ratios)
        _draw_packed(top, branches.mask().numpy(), branches.owners()[1], branches.positions())
        _draw_rows(bottom)
    return figure


def _draw_packed(axis: Axes, sees: np.ndarray, owners: list[int], positions: list[int]) -> None:
    n = len(owners)
    for row in range(n):
        for column in range(row + 1):
            if sees[row, column]:
                _draw_cell(axis, column, row, owners[column])
    start = 0
    for part, length in enumerate((EXAMPLE[0], *EXAMPLE[1])):
        axis.text(start + length / 2, -0.5, PARTS[part][0], ha="center", fontweight="bold")
        axis.axhline(start, color="#222222", linewidth=0.8)
        axis.axvline(start, color="#222222", linewidth=0.8)
        start += length
    ticks, names = [k + 0.5 for k in range(n)], [str(p) for p in positions]
    axis.set(xlim=(-0.05, n + 0.05), ylim=(n + 0.05, -0.05), aspect="equal")
    axis.set(xlabel="position of the token seen", ylabel="position of the token that sees")
    axis.set_xticks(ticks, names)
    axis.set_yticks(ticks, names)
    axis.tick_params(length=0, labelsize=8)
    axis.grid(visible=False)


def _draw_rows(axis: Axes) -> None:
    """The same example as the official trainer lays it out: one padded row per response."""
    prompt, lengths = EXAMPLE
    width = prompt + max(lengths)
    for row, length in enumerate(lengths):
        parts = [0] * prompt + [row + 1] * length + [None] * (max(lengths) - length)
        for column, part in enumerate(parts):
            _draw_cell(axis, column, 2 * row, part)
    packed = [0] * prompt + [k + 1 for k, n in enumerate(lengths) for _ in range(n)]
    for column, part in enumerate(packed):
        _draw_cell(axis, column, 8, part)
    axis.text(0, -0.6, f"one padded row a response: {3 * width} tokens")
    axis.text(0, 7.4, f"one packed row: {len(packed)} tokens")
    axis.set(xlim=(-0.3, len(packed) + 0.3), ylim=(9.6, -1.6), aspect="equal")
    axis.axis("off")


def _draw_cell(axis: Axes, x: float, y: float, part: int | None) -> None:
    """A token of a part; without one, padding."""
    from matplotlib.patches import Rectangle

    how: dict[str, Any] = {"facecolor": "white", "edgecolor": "#aaaaaa", "linestyle": ":"}
    if part is not None:
        _, color, hatch = PARTS[part]
        how = {"facecolor": color, "edgecolor": "white", "hatch": hatch}
        how |= {"linewidth": 0.8, "alpha": 0.85}
    axis.add_patch(Rectangle((x, y), 1, 1, **how))


def train_step(profile: str = "nano") -> Figure:
    """How many times faster than the official arithmetic each variant is: median and quartiles.

    ``profile`` is not read: the benchmark has its own results.
    """
    import matplotlib.pyplot as plt

    rows = undisturbed(read_results(PROFILE, "steps"))
    names = {way: name for way, name in WAYS.items() if way != "official"}
    with style():
        figure, axis = plt.subplots(figsize=(7.2, 3.6))
        for k, (load, (label, color, mark)) in enumerate(LOADS.items()):
            found = quartiles(rows[rows["workload"] == load]).reindex(list(names))
            places = [i + 0.2 * (k - 0.5) for i in range(len(names))]
            middle = found["median"]
            error = [middle - found["low"], found["high"] - middle]
            axis.errorbar(middle, places, None, error, mark, color=color, capsize=3, label=label)
        axis.axvline(1, color="#555555", linewidth=1)
        axis.set_yticks(range(len(names)), list(names.values()))
        axis.invert_yaxis()
        axis.set_xlabel("times as fast as the official arithmetic")
        axis.legend()
    return figure


def growth(profile: str = "nano") -> Figure:
    """Seconds of a step against responses, prompt and batch, for the official variant and ours.

    ``profile`` is not read: the benchmark has its own results.
    """
    import matplotlib.pyplot as plt

    rows = read_results(PROFILE, "growth")
    ways = {"official": ("official arithmetic", look("target_sft")), "ours": ("ours", look("wrpo"))}
    with style():
        figure, axes = plt.subplots(1, 3, figsize=(8.0, 3.2))
        for axis, (varied, label) in zip(axes, VARIED.items(), strict=True):
            part = rows[rows["varied"] == varied]
            for way, (name, how) in ways.items():
                seconds = part[part["way"] == way].groupby(varied)["seconds"]
                middle = seconds.median()
                error = [middle - seconds.min(), seconds.max() - middle]
                drawn = {"color": how.color, "marker": how.marker, "linestyle": how.dash}
                axis.errorbar(middle.index, middle, error, capsize=3, label=name, **drawn)
            axis.set(xlabel=label, ylim=(0, None))
        axes[0].set_ylabel("seconds of a step")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
