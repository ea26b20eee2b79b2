"""A cache with room for the tokens to come: a step writes its own token and copies no others."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer


class RoomyLayer(DynamicLayer):
    """A layer's keys and values as views of tensors (B, heads, room, dim) that are filled up.

    ``DynamicLayer`` joins old and new at every step instead, which copies the whole cache.
    """

    def __init__(self, layer: DynamicLayer, room: int) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.length = layer.get_seq_length()
        self.buffers = [self._widened(part, room) for part in (layer.keys, layer.values)]
        self._show()

    def _widened(self, part: torch.Tensor, room: int) -> torch.Tensor:
        wide = part.new_empty((*part.shape[:-2], max(room, self.length), part.shape[-1]))
        wide[..., : self.length, :] = part[..., : self.length, :]
        return wide

    def _show(self) -> None:
        self.keys, self.values = (part[..., : self.length, :] for part in self.buffers)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values behind the others; all of them, as views."""
        start, self.length = self.length, self.length + key_states.shape[-2]
        for part, new in zip(self.buffers, (key_states, value_states), strict=True):
            part[..., start : self.length, :] = new
        self._show()
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Only keep some rows."""
        room = self.buffers[0].shape[-2]
        self.buffers = [self._widened(part[indices, :, : self.length], room)
                        for part in (self.keys, self.values)]  # fmt: skip
        self._show()


def with_room(cache: DynamicCache, room: int) -> DynamicCache:
    """``cache`` with its plain layers given ``room``; others, such as sliding windows, stay."""
    cache.layers = [
        RoomyLayer(layer, room) if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache
