"""A clip that is encoded while it is read, so that memory does not grow with its length."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from .blending import Tile


class StreamedClip:
    """The pixels of a clip, of which only the frames for the current tile are in memory.

    Args: frames: (b c 1 H W) each, in display order; they are kept on their device. shape: of all of them together.
    device, dtype: of the tiles.
    """

    def __init__(
        self, frames: Iterator[Tensor], shape: torch.Size, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        self.shape, self.device, self.dtype = shape, device, dtype
        self._frames = frames
        self._held: deque[Tensor] = deque()
        self._begin = 0  # the first frame in memory

    def new_empty(self, *size: int) -> Tensor:
        """An empty tensor like the clip."""
        return torch.empty(size, device=self.device, dtype=self.dtype)

    def cut_out(self, tile: Tile) -> Tensor:
        """The part (b c f h w) of a tile; later tiles must not start at an earlier frame."""
        frames, rows, columns = tile
        for _ in range(self._begin, frames.start):
            self._held.popleft()
        self._begin = frames.start
        while len(self._held) < frames.length:
            self._held.append(next(self._frames).to(self.dtype))
        return torch.cat([frame[..., rows.slice, columns.slice] for frame in self._held], dim=2).to(self.device)
