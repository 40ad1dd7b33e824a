"""Neighbourhood attention: every position of a volume attends to a box of positions around it.

The scores of all positions with all others would not fit into memory. So queries are processed in small boxes, each
with the keys in the union of their windows, and a mask selects the window of each query. This is exact.
Source: docs/reference/video-diffusion-decoder.md, "Neighbourhood attention".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from einops import rearrange, repeat
from torch import Tensor

from ..grids import Factors
from .attention import attention

QUERY_BOX = Factors(4, 8, 8)  # frames, rows and columns of queries that share the keys that are gathered for them


def fused_attention(q: Tensor, k: Tensor, v: Tensor, kernel: Factors) -> Tensor:
    """Attention of every position of a volume (b t y x h d) to the `kernel` positions around it, by comfy-kitchen.

    Windows move inwards at the ends of all three axes, as `Windows.shifted` says. Returns: (b t y x h d).
    Source: the documentation of `comfy_kitchen.na3d`.
    """
    import comfy_kitchen

    return comfy_kitchen.na3d(q, k, v, [*kernel])


@dataclass(frozen=True, slots=True)
class AxisBox:
    """Queries along one axis that share their keys.

    Args: first, last: the queries. base, span: the first key that they attend to, and how many. starts: of the window
    of each query, relative to the first key. size: of a window.
    """

    first: int
    last: int
    base: int
    span: int
    starts: tuple[int, ...]
    size: int

    @property
    def queries(self) -> slice:
        return slice(self.first, self.last)

    @property
    def keys(self) -> slice:
        return slice(self.base, self.base + self.span)

    def mask(self, device: torch.device) -> Tensor:
        """Which query (rows) attends to which key (columns)."""
        starts = rearrange(torch.tensor(self.starts, device=device), "q -> q 1")
        keys = torch.arange(self.span, device=device)
        return (keys >= starts) & (keys < starts + self.size)


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of the queries along one axis.

    Args: starts: the first key of each query's window, ascending. size: of every window. keys: the number of keys.
    """

    starts: tuple[int, ...]
    size: int
    keys: int

    @classmethod
    def shifted(cls, length: int, size: int) -> Windows:
        """Windows that are centred, but moved inwards at the ends of the axis, which must be at least as long as a
        window.
        """
        assert length >= size
        return cls(tuple(min(max(i - size // 2, 0), length - size) for i in range(length)), size, length)

    @classmethod
    def centred(cls, length: int, size: int) -> Windows:
        """Windows that are centred everywhere: the keys extend half a window beyond the queries, at both ends."""
        return cls(tuple(range(length)), size, length + 2 * (size // 2))

    def boxes(self, length: int) -> list[AxisBox]:
        """Cut the queries into boxes of so many; the last may be shorter. All of them have the same number of keys."""
        span = min(self.keys, self.size + length - 1)
        found = []
        for first in range(0, len(self.starts), length):
            starts = self.starts[first : first + length]
            base = min(starts[0], self.keys - span)
            inside = tuple(start - base for start in starts)
            found.append(AxisBox(first, first + len(starts), base, span, inside, self.size))
        return found


@dataclass(frozen=True)
class Neighbourhood:
    """The windows of all queries of a volume. box: how many frames, rows and columns of queries share their keys."""

    frames: Windows
    rows: Windows
    columns: Windows
    box: Factors = QUERY_BOX

    @cached_property
    def frame_boxes(self) -> list[AxisBox]:
        """The boxes along time, which a caller processes one after the other."""
        return self.frames.boxes(self.box.time)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, frames: AxisBox) -> Tensor:
        """Attend from the frames of a box to their keys.

        Args: q: (b t y x h d), the frames of the box. k, v: (b t y x h d), the frames of its keys.
        Returns: (b t y x h d), for q.
        """
        out = torch.empty_like(q)
        strips = self._strips(q.device)
        rows_before, mask = None, None
        for rows in self.rows.boxes(self.box.height):
            if rows.starts != rows_before:  # most boxes use the same part of their keys
                rows_before, mask = rows.starts, strips.mask(frames, rows, len(q))
            given = q[:, :, rows.queries], k[:, :, rows.keys], v[:, :, rows.keys]
            out[:, :, rows.queries] = strips.attend(*given, mask)
        return out

    def _strips(self, device: torch.device) -> _Strips:
        boxes = self.columns.boxes(min(self.box.width, len(self.columns.starts)))
        length = len(boxes[0].starts)
        # A shorter last box is padded with its last query; the results of the padding are dropped.
        starts = [[*box.starts, *(box.starts[-1:] * (length - len(box.starts)))] for box in boxes]
        queries = [min(box.first + i, box.last - 1) for box in boxes for i in range(length)]
        keys = [box.base + i for box in boxes for i in range(box.span)]
        full = (
            AxisBox(box.first, box.last, box.base, box.span, tuple(own), box.size)
            for box, own in zip(boxes, starts, strict=True)
        )
        masks = torch.stack([box.mask(device) for box in full])
        return _Strips(len(boxes), torch.tensor(queries, device=device), torch.tensor(keys, device=device), masks)


@dataclass(frozen=True, slots=True)
class _Strips:
    """The boxes along a row of boxes, which are processed together.

    Args: count: of the boxes. queries, keys: the columns of each, one box after the other. masks: (n q k), along the
    columns.
    """

    count: int
    queries: Tensor
    keys: Tensor
    masks: Tensor

    def mask(self, frames: AxisBox, rows: AxisBox, batch: int) -> Tensor:
        """Which query of a box attends to which of its keys, (b*n 1 q k)."""
        device = self.masks.device
        in_time, down = frames.mask(device), rows.mask(device)
        plane = rearrange(in_time, "t u -> t 1 u 1") & rearrange(down, "y z -> 1 y 1 z")
        plane = rearrange(plane, "t y u z -> 1 t y 1 u z 1")
        whole = plane & rearrange(self.masks, "n q k -> n 1 1 q 1 1 k")
        return repeat(whole, "n t y q u z k -> (b n) 1 (t y q) (u z k)", b=batch)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attend from a row of boxes (b t y x h d) to the rows of their keys."""
        keys, values = (self.cut(one, self.keys) for one in (k, v))
        made = attention(self.cut(q, self.queries), keys, values, mask)
        return self.joined(made, q.shape[1])[:, :, :, : q.shape[3]]

    def cut(self, x: Tensor, columns: Tensor) -> Tensor:
        """The boxes of a volume (b t y x h d), as (b*n h t*y*x d)."""
        return rearrange(x.index_select(3, columns), "b t y (n x) h d -> (b n) h (t y x) d", n=self.count)

    def joined(self, x: Tensor, frames: int) -> Tensor:
        """The volume of boxes (b*n h t*y*x d): the inverse of `cut`, including the columns that pad the last box."""
        length = self.masks.shape[1]
        return rearrange(x, "(b n) h (t y x) d -> b t y (n x) h d", n=self.count, t=frames, x=length)
