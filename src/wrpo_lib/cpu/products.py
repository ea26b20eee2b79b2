"""Matrix products in float32 through oneDNN.

torch multiplies float32 matrices on CPU with MKL, which on processors of other makers than its own
uses half of the vector unit: there oneDNN, which torch ships as well, takes less than half the
time. The numbers are the same up to the order in which they are added.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


KINDS: list[type] = [Tensor, torch.nn.Parameter]
"""What :func:`plain` takes; the planner adds its tensors without numbers while it counts."""


def product(a: Tensor, b: Tensor) -> Tensor:
    """a·bᵀ for (M, K) and (N, K) on CPU, other types than float32 by torch; not differentiable.

    ``a`` is copied unless it is contiguous, ``b`` unless it or its transpose is.
    """
    if not _ONEDNN or a.dtype != torch.float32:
        return a @ b.T
    if not (b.is_contiguous() or b.T.is_contiguous()):  # with gaps, oneDNN is 25 times as slow
        b = b.contiguous()
    found: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return found


def plain(*tensors: Tensor) -> bool:
    """Are these what :func:`product` takes: float32 on CPU, neither sharded nor traced?"""
    return (
        all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)
        and all(type(t) in KINDS for t in tensors)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )
