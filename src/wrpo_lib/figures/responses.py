"""What responses are like: who wins (Table 1), rewards, lengths, gaps, and their deviation."""

from collections.abc import Sequence
from html import escape
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from scipy.stats import gaussian_kde

from wrpo_lib.analysis.statistics import mean_interval, proportion_interval
from wrpo_lib.chat import Prompt, render
from wrpo_lib.figures.paper import study
from wrpo_lib.figures.style import Drawn, draw_curve, draw_rows, drawing, look, name_rows, widget
from wrpo_lib.paper import table
from wrpo_lib.quadruples.schema import RESPONSES
from wrpo_lib.records import read_results

LONGER = {
    "y_ws longer than y_wt": ("source_chosen", "target_chosen"),
    "y_wt longer than y_l": ("target_chosen", "rejected"),
}
KINDS = ("own", "source")
DARKEST = 8.0  # nats from which a token is fully dark


def source_shares(profile: str = "nano") -> Drawn:
    """Share of prompts that each source wins, with seeds or an interval; the paper's Table 1."""
    ours, theirs = read_results(profile, "sources").dropna(), table("table01_sources")
    names, red = list(ours["source"].unique()), "#D55E00"
    with drawing(2, 6.4, height_ratios=[1, 1.4]) as (figure, (top, bottom)):
        for k, name in enumerate(names):
            own = 100 * ours.loc[ours["source"] == name].filter(like="share")
            top.barh(k, own["share"].mean(), color=red, alpha=0.45)
            top.scatter(own["share"], [k] * len(own), color=red, s=14, zorder=3)
            if "share_low" in own:
                top.hlines(k, own["share_low"], own["share_high"], color=red)
        bottom.barh(range(len(theirs)), theirs["share_best_percent"], color="#777777", alpha=0.6)
        name_rows(top, [look(name).name for name in names])
        name_rows(bottom, theirs["source"])
        what = "one dot per seed" if "seed" in ours else f"n = {ours['n'].iloc[0]}"
        top.set(title=f"{profile} ({what})", xlabel="% of prompts won")
        bottom.set(title="paper, Table 1", xlabel="% of prompts won")
    return Drawn(figure, ours)


def source_shares_smol() -> Drawn:
    """:func:`source_shares` on real text."""
    return source_shares("smol")


def rewards() -> Drawn:
    """Rewards of responses by model, all seeds together."""
    rows = read_results("smol", "rewards")
    order = list(rows["model"].unique())
    shape = {"cut": 0, "inner": "quart", "fill": False, "linewidth": 1.3, "legend": False}
    series = {"x": "reward", "y": "model", "hue": "model", "order": order, "hue_order": order}
    looks = [look(name) for name in order]
    with drawing(height=max(3.2, 0.45 * len(order))) as (figure, axis):
        sns.violinplot(rows, **series, **shape, palette=[how.color for how in looks], ax=axis)
        name_rows(axis, [how.name for how in looks])
        axis.set(xlabel="reward per response", ylabel="")
    return Drawn(figure, rows)


def lengths() -> Drawn:
    """Sizes of y_ws, y_wt and y_l, and mean paired differences with 95 % intervals."""
    rows = read_results("smol", "quadruples")
    sizes = rows[[f"{role}_n_tokens" for role in RESPONSES]].set_axis(RESPONSES, axis=1)
    longer = [{"arm": a, **vars(mean_interval(sizes[a] - sizes[b]))} for a, b in LONGER.values()]
    differences = pd.DataFrame(longer).assign(name=["y_ws − y_wt", "y_wt − y_l"])
    with drawing(2, 4.4, height_ratios=[1.5, 1]) as (figure, (top, bottom)):
        place = {"positions": range(3), "widths": 0.6, "orientation": "horizontal"}
        top.boxplot([sizes[name] for name in RESPONSES], **place, flierprops={"markersize": 3})
        name_rows(top, [look(name).name for name in RESPONSES])
        top.set_xlabel(f"tokens (n = {len(sizes)})")
        draw_rows(bottom, differences, "difference in tokens", markersize=6)
        bottom.axvline(0, color="#555555", linewidth=0.8)
    return Drawn(figure, sizes)


def longer_share() -> pd.DataFrame:
    """How often y_ws is longer than y_wt, and y_wt than y_l: all, and those that are not cut."""
    quadruples = read_results("smol", "quadruples")
    rows = []
    for ending, (question, (a, b)) in product(("", ", neither cut"), LONGER.items()):
        cut = quadruples[f"{a}_truncated"] | quadruples[f"{b}_truncated"]
        counted = quadruples[~cut] if ending else quadruples
        longer = counted[f"{a}_n_tokens"] > counted[f"{b}_n_tokens"]
        share = proportion_interval(int(longer.sum()), len(counted))
        rows.append((question + ending, share.value, share.low, share.high, share.n))
    return pd.DataFrame(rows, columns=["question", "share", "low", "high", "n"])


def agreement(profile: str = "nano") -> pd.DataFrame:
    """In how many % of prompts both, one or neither of two models' greedy answers are right."""
    right, rows = study(profile).wide("greedy"), []
    sources = sorted(arm for arm in right if arm.startswith("source_"))
    for a, b in combinations([*sources, "target_sft"], 2):
        share = 100 * (right[a] + right[b]).value_counts(normalize=True)
        pair = f"{look(a).name} and {look(b).name}"
        rows.append((pair, *share.reindex([2, 1, 0], fill_value=0), len(right)))
    return pd.DataFrame(rows, columns=["pair", "both right", "one right", "neither", "n"])


def kept_by_gap() -> Drawn:
    """Share of the tracked quadruples that a minimum reward gap would keep, for both pairs."""
    rows = read_results("smol", "quadruples")
    found = {n: (rows[f"{n}_reward"] - rows["rejected_reward"]).to_numpy() for n in RESPONSES[:2]}
    gaps = np.linspace(0, np.quantile(np.concatenate([*found.values()]), 0.99), 61)
    with drawing() as (figure, axis):
        for name, gap in found.items():
            share, how = 100 * (gap[:, None] >= gaps).mean(axis=0), look(name)
            draw_curve(axis, gaps, share, how, label=f"{how.name} over y_l")
        axis.set(xlabel="minimum difference in reward", ylim=(0, 103))
        axis.set_ylabel("% of quadruples kept")
        axis.legend()
    return Drawn(figure, rows)


def token_logprobs(
    model: Any, tokenizer: Any, prompt: Prompt, response: str
) -> list[tuple[str, float]]:
    """Each token of a response as text, end token included, with its log-probability in nats."""
    import torch

    row = render(tokenizer, prompt, [response])
    ids = torch.tensor(row.response_ids[0], device=model.device)
    whole = torch.cat([ids.new_tensor(row.prompt_ids), ids])
    with torch.no_grad():
        logits = model(input_ids=whole[None]).logits[0, -len(ids) - 1 : -1]
    logps = logits.float().log_softmax(-1).gather(-1, ids[:, None]).squeeze(-1)
    return [(tokenizer.decode([i]), p) for i, p in zip(ids.tolist(), logps.tolist(), strict=True)]


def token_heat(tokens: Sequence[tuple[str, float]], name: str) -> str:
    """HTML of tokens under their log-probabilities, the darker and thicker underlined the less
    likely; text of models is escaped, spaces around a token are not shown."""
    parts = []
    for text, logp in tokens:
        share = min(-logp / DARKEST, 1.0)
        line = f"border-bottom:{1 + 4 * share:.1f}px solid"
        style = f"background:rgb(213 94 0/{share / 2:.2f});{line};padding:0 0.3em"
        word = escape(text.strip(" ").replace("\n", "⏎")) or "␣"
        number = f"{logp:z.1f}".replace("-", "−")
        parts.append(f'<ruby style="{style}">{word}<rt style="font-size:70%">{number}</rt></ruby>')
    total = f"{sum(logp for _, logp in tokens):.1f} nats, {len(tokens)} tokens".replace("-", "−")
    style = "line-height:2.6;overflow-wrap:anywhere"
    return f'<p style="{style}"><b>{escape(name)}</b> ({total})<br>{" ".join(parts)}</p>'


def deviation_frames(rows: pd.DataFrame) -> dict[str, Any]:
    """Densities of log πθ(y|x) per model, in the order met: ``x`` in nats, ``frames`` over it.

    ``rows`` has a row per response: ``model``, ``whose`` (``own`` or ``source``) and ``logp``.
    Kernel density estimates with Scott's bandwidth; the lowest half per cent is out of view.
    """
    x, frames = np.linspace(rows["logp"].quantile(0.005), 0, 81), []
    for model, of_model in rows.groupby("model", sort=False):
        frame: dict[str, Any] = {"name": look(str(model)).name}
        for kind in KINDS:
            logps = of_model.loc[of_model["whose"] == kind, "logp"]
            density = gaussian_kde(logps)(x).round(5).tolist()
            frame |= {kind: density, f"{kind}_mean": round(float(logps.mean()), 2)}
        frames.append(frame)
    return {"x": x.round(3).tolist(), "frames": frames}


def deviation_densities(profile: str = "nano") -> Drawn:
    """:func:`deviation_frames` as a column of panels, one per model; thin lines are means."""
    x, frames = deviation_frames(study(profile).table("deviation")).values()
    n, drawn = len(frames), []
    with drawing(n, 1 + 1.3 * n, sharex=True, sharey=True) as (figure, axes):
        for axis, frame in zip(axes, frames, strict=True):
            for kind in KINDS:
                rows = pd.DataFrame({"x": x, "density": frame[kind]})
                drawn.append(rows.assign(model=frame["name"], whose=kind))
                draw_curve(axis, x, frame[kind], look(kind))
                axis.axvline(frame[f"{kind}_mean"], color=look(kind).color, linewidth=0.8)
            axis.set(ylabel=frame["name"], yticks=[])
        axes[-1].set_xlabel("log πθ(y|x), nats per response")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return Drawn(figure, pd.concat(drawn))


def deviation_widget(profile: str = "nano") -> str:
    """The place and the data of the moving densities, for the script that draws them."""
    return widget("frames", deviation_frames(study(profile).table("deviation")))
