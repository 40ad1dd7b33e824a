"""Shared by decoders: rows of stored tensors, and the scales of blocks, which are stored in pieces.

Source: docs/reference/quantised.md, "Block scales in pieces".
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ..stored.formats import TILE_BLOCKS, TILE_ROWS

Stored = Mapping[str, Tensor]  # the tensors of a layer by their role
LEAST_SCALE = 1e-30  # scale of a row of zeros
LANES = 32  # a piece has four groups of 32 rows


def of_rows(tensor: Tensor, rows: range) -> Tensor:
    """A view of some rows (rows …)."""
    return tensor[rows.start : rows.stop]


def block_scales(scales: Tensor, blocks: int, rows: range) -> Tensor:
    """The scales (rows blocks) of some rows of a matrix, in their stored dtype.

    Args: scales: (R C), in pieces.
    """
    first = rows.start // TILE_ROWS
    pieces = scales.view(torch.uint8)[first * TILE_ROWS : -(-rows.stop // TILE_ROWS) * TILE_ROWS]
    in_order = rearrange(
        pieces.reshape(-1, scales.shape[-1] // TILE_BLOCKS, LANES, TILE_ROWS // LANES, TILE_BLOCKS),
        "i j lane four block -> (i four lane) (j block)",
    )
    start = first * TILE_ROWS
    return in_order[rows.start - start : rows.stop - start, :blocks].contiguous().view(scales.dtype)


def scaled_blocks(values: Tensor, scales: Tensor) -> Tensor:
    """Values (rows columns) times the scale of their block (rows blocks)."""
    blocks = values.unflatten(-1, (scales.shape[-1], -1))
    return (blocks * scales[..., None]).flatten(-2)


def in_pieces(scales: Tensor) -> Tensor:
    """Scales of blocks (rows blocks) in the stored layout, in pieces (R C), padded with zeros."""
    rows, blocks = scales.shape
    filled = F.pad(scales, (0, -blocks % TILE_BLOCKS, 0, -rows % TILE_ROWS))
    pieces = rearrange(
        filled, "(i four lane) (j block) -> i j lane four block", lane=LANES, four=TILE_ROWS // LANES, block=TILE_BLOCKS
    )
    return pieces.reshape(filled.shape)
