"""What the trainer logs of a batch."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from wrpo_lib.objective import WeightedObjective


def batch_metrics(result: WeightedObjective, logps: dict[str, Tensor]) -> dict[str, Tensor]:
    """Metrics of every example, (B,) each, by the names of the trainer's description."""
    rewards, fused, rejected = result.rewards, result.chosen, result.rejected
    values = {
        **{f"rewards/{name}": reward for name, reward in rewards.items()},
        "rewards/fused": fused,
        "rewards/margins": fused - rejected,
        "rewards/accuracies": fused > rejected,
        **{f"logps/{name}": logp.detach() for name, logp in logps.items()},
    }
    for name, reward in rewards.items():
        if "_chosen" in name:
            values[f"rewards/{name.replace('_chosen', '')}_accuracies"] = reward > rejected
    if "source_rejected" in rewards:
        values["rewards/fused_rejected"] = rejected
    return {name: value.float() for name, value in values.items()}


def n_tokens(inputs: dict[str, Any]) -> Tensor:
    """Tokens the model computed for a batch, without what only fills rows up."""
    if "branches" not in inputs:
        count: Tensor = inputs["attention_mask"].sum()
        return count
    real = sum(p + sum(rs) for p, rs in inputs["branches"].examples if rs)
    return inputs["lengths"].new_tensor(real)
