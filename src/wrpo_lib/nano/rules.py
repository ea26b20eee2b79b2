"""What a world must fulfil so that fusion can be seen in it; no model is needed to read this."""

import numpy as np
import pandas as pd
from scipy.stats import rankdata

RULES = {
    "sft_greedy": (0.35, 0.65),  # Target-SFT is neither hopeless nor perfect
    "source_lead": (0.2, 1.0),  # of the worst source over the target, greedy
    "b_pass5": (0.0, 0.1),  # Target-SFT does not show class B
    "b_source_right": (0.9, 1.0),  # y_ws does
    "b_learnable": (0.3, 1.0),  # SFT on true answers with equal steps gains this on class B
    "gap_nats": (2.0, np.inf),  # of y_wt over y_ws on Target-SFT
    "length_ratio": (0.99, 1.01),  # of y_ws to y_wt
    "rank_correlation": (0.6, 0.8),  # of reward and truth within a prompt
}
"""Column of :func:`wrpo_lib.nano.development.headroom` -> what it must lie between, averaged over
development seeds."""

KNOBS = {"dpo": "beta", "ipo": "tau", "simpo": "beta"}
"""Form of the objective -> the setting that its grid varies beside the learning rate."""


def rank_correlation(truth: np.ndarray, rewards: np.ndarray) -> float:
    """Mean over prompts of Spearman's correlation of rewards (N, K) with the truth."""
    x, y = (rankdata(v, axis=1) for v in (truth, rewards))
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    size = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return float(((x * y).sum(1)[size > 0] / size[size > 0]).mean())


def broken(table: pd.DataFrame) -> list[str]:
    """The rules that a headroom table does not keep, on the mean over its worlds."""
    means = table[list(RULES)].mean()
    return [
        f"{name} is {means[name]:.3f}, not between {low} and {high}"
        for name, (low, high) in RULES.items()
        if not low <= means[name] <= high
    ]
