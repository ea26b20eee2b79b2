"""The deviation, token by token and as densities that move through training."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import gaussian_kde

from wrpo_lib.analysis.outcomes import Results
from wrpo_lib.chat import Prompt, render
from wrpo_lib.figures.method import widget
from wrpo_lib.figures.style import Drawn, draw_curve, drawing, look

KINDS = ("own", "source")
DARKEST = 8.0
"""Nats from which a token is fully dark."""


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
    logps = logits.float().log_softmax(-1)
    found = logps.gather(-1, ids[:, None]).squeeze(-1).tolist()
    return [(tokenizer.decode([i]), logp) for i, logp in zip(ids.tolist(), found, strict=True)]


def token_heat(tokens: Sequence[tuple[str, float]], name: str) -> str:
    """HTML of tokens over their log-probabilities, the darker the less likely.

    The number stands above each token and the underline grows with it, so that colour is not all
    that tells. Text of models is escaped; spaces around a token are not shown.
    """
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

    ``rows`` has a row per response: ``model``, ``whose`` (``own`` or ``source``) and ``logp``, as
    in ``deviation.csv.gz``. Kernel density estimates with Scott's bandwidth; what lies below the
    lowest half per cent is left out of view.
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
    x, frames = deviation_frames(Results(profile).table("deviation")).values()
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
    return widget("frames", deviation_frames(Results(profile).table("deviation")))
