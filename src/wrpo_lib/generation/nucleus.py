"""One token a row from the nucleus, by inverting its distribution function at a uniform number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrpo_lib.generation.request import Sampling

if TYPE_CHECKING:
    import torch

FEW = (
    64  # candidates that hold the nucleus of most rows, so that only the others are sorted further
)


class Draw:
    """A logits processor that leaves one token a row: the one drawn from the row's nucleus.

    ``width`` is the length of the padded prompts, from which the step is counted.
    """

    def __init__(self, sampling: Sampling, seeds: list[int], max_tokens: int, width: int) -> None:
        import torch

        self.temperature, self.top_p, self.width = sampling.temperature, sampling.top_p, width
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.uniform = torch.stack([torch.rand(max_tokens, generator=g) for g in generators])

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(B, V) logits in; out, in the same memory, 0 at the token drawn and -inf elsewhere."""
        import torch

        self.uniform = self.uniform.to(scores.device)
        u = self.uniform[:, input_ids.shape[1] - self.width]
        token = draw_nucleus(scores.div_(self.temperature), u, self.top_p)
        return scores.fill_(-torch.inf).scatter_(1, token[:, None], 0.0)

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some rows only, given by their indices."""
        self.uniform = self.uniform[rows]


def draw_nucleus(
    logits: torch.Tensor, u: torch.Tensor, top_p: float, few: int = FEW
) -> torch.Tensor:
    """The token at the quantile ``u`` of the nucleus of each row: (B, V), (B,) -> (B,).

    The nucleus is the smallest set of most probable tokens whose sum reaches ``top_p``; its tokens
    are taken from the most probable down. It is looked for among the ``few`` most probable; rows
    with a wider one are looked at again with more.
    """
    import torch

    few = min(few, logits.shape[1]) if top_p < 1 else logits.shape[1]
    ordered, index = logits.topk(few, dim=-1)  # (B, few), sorted
    ordered = (ordered - logits.logsumexp(-1, keepdim=True)).exp()
    upto = ordered.cumsum(-1)
    kept = torch.where(upto - ordered < top_p, ordered, 0.0)  # the first one is always kept
    total = kept.cumsum(-1)
    place = torch.searchsorted(total, (u * total[:, -1])[:, None], right=True)
    last = (kept > 0).sum(-1, keepdim=True) - 1
    token = index.gather(1, torch.minimum(place, last))[:, 0]
    wider = upto[:, -1] < top_p
    if few < logits.shape[1] and bool(wider.any()):
        token[wider] = draw_nucleus(logits[wider], u[wider], top_p, 16 * few)
    return token
