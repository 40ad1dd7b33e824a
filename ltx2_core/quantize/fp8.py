"""Round to fp8, and decode fp8 matrices: one scale for all, one for each row, one for each tile of 128 x 128, or none.

Source: docs/reference/quantised.md, "Formats" and "Decoding".
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..stored.layer import StoredLayer
from .rows import Stored, of_rows

TILE = 128
LARGEST_E4M3 = 448.0


def to_e4m3(values: Tensor) -> Tensor:
    """Round to E4M3; larger values become its largest number."""
    return values.clamp(-LARGEST_E4M3, LARGEST_E4M3).to(torch.float8_e4m3fn)


def decode_scaled(layer: StoredLayer, stored: Stored, rows: range) -> Tensor:
    """Rows of a matrix with one scale."""
    return of_rows(stored["weight"], rows).float() * stored["weight_scale"].reshape(())


def decode_rows(layer: StoredLayer, stored: Stored, rows: range) -> Tensor:
    """Rows of a matrix with a scale for each row."""
    return of_rows(stored["weight"], rows).float() * of_rows(stored["weight_scale"].reshape(-1, 1), rows)


def decode_tiles(layer: StoredLayer, stored: Stored, rows: range) -> Tensor:
    """Rows of a matrix with a scale for each tile."""
    weight = of_rows(stored["weight"], rows)
    tiles = torch.arange(rows.start, rows.stop, device=weight.device) // TILE
    return weight.float() * stored["weight_scale"][tiles].repeat_interleave(TILE, -1)


def decode_cast(layer: StoredLayer, stored: Stored, rows: range) -> Tensor:
    """Rows of a matrix that was cast without a scale."""
    return of_rows(stored["weight"], rows).float()
