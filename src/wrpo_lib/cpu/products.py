"""Matrix products in float32, by the faster of the two libraries that torch ships.

torch multiplies float32 matrices on CPU with MKL, which on processors of other makers than its own
uses half of the vector unit: there oneDNN takes less than half the time. On its maker's own MKL is
the faster. The numbers are the same up to the order in which they are added. The make of the
processor decides, and no trial at the start, so that a run repeats itself on one machine.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch
from torch import Tensor


def processor(
    cpuinfo: Path = Path("/proc/cpuinfo"), fields: tuple[str, ...] = ("vendor_id", "model name")
) -> str:
    """Make and model of the processor, or other fields, as far as the system tells."""
    told = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else ""
    found = (re.search(rf"^{name}\s*: (.+)$", told, re.M) for name in fields)
    return ", ".join(match[1] for match in found if match) or platform.processor()


AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Can oneDNN be called?"""
ONEDNN = AVAILABLE and not (torch.backends.mkl.is_available() and "Intel" in processor())
"""Does oneDNN multiply here?"""

KINDS: list[type] = [Tensor, torch.nn.Parameter]
"""What :func:`plain` takes; the planner adds its tensors without numbers while it counts."""


def product(a: Tensor, b: Tensor) -> Tensor:
    """a·bᵀ for (M, K) and (N, K) on CPU; not differentiable.

    By oneDNN in float32 on processors of other makers than Intel, otherwise by torch.
    """
    return onednn(a, b) if ONEDNN and a.dtype == torch.float32 else a @ b.T


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a·bᵀ to ``total`` (M, N) in place; with torch's product in one pass over it."""
    if ONEDNN and a.dtype == torch.float32:
        total.add_(onednn(a, b))
    else:
        total.addmm_(a, b.T)


def onednn(a: Tensor, b: Tensor) -> Tensor:
    """a·bᵀ in float32 by oneDNN, where it is :data:`AVAILABLE`.

    ``a`` is copied unless it is contiguous, ``b`` unless it or its transpose is.
    """
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
