"""Decode integer matrices, plain or rotated: int8, and codes of four or six bits that stand for int8.

Source: docs/reference/quantised.md, "Decoding" and "Rotation".
"""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor

from ..stored.layer import StoredLayer
from .rows import Stored, of_rows, scaled_blocks

LARGEST = 127


def decode_int8(layer: StoredLayer, stored: Stored, rows: range) -> Tensor:
    """Rows of a matrix of int8 that has a scale for each row, or one for all."""
    scale = stored["weight_scale"]
    scales = scale.reshape(()) if scale.numel() == 1 else of_rows(scale.reshape(-1, 1), rows)
    return _unrotated(of_rows(stored["weight"], rows).float(), scales, layer.rotation)


def decode_w4a8(layer: StoredLayer, stored: Stored, rows: range) -> Tensor:
    """Rows of a matrix of four-bit codes."""
    codes = _halves(of_rows(stored["weight"], rows).view(torch.uint8))
    values = stored["weight_codebook"][codes.int()] if "weight_codebook" in stored else codes.float() - 8
    return _from_relative(values, layer, stored, rows)


def decode_w6a8(layer: StoredLayer, stored: Stored, rows: range) -> Tensor:
    """Rows of a matrix of six-bit codes: the low four bits of all columns, then their two high bits."""
    low, high = of_rows(stored["weight"], rows).view(torch.uint8).tensor_split([layer.shape[1] // 2], dim=-1)
    pairs = torch.stack([high >> bit & 3 for bit in (0, 2, 4, 6)], dim=-1).flatten(-2)
    return _from_relative((_halves(low) + 16 * pairs).float() - 32, layer, stored, rows)


def rotated(values: Tensor, group: int) -> Tensor:
    """The sums of ± values (rows columns) in each group of columns, a power of 4: √group times the rotation.

    Exact for integers whose sums float32 holds.
    """
    step = 1
    while step < group:
        digits = values.unflatten(-1, (-1, 4, step))
        values = (digits.sum(-2, keepdim=True) - 2 * digits.flip(-2)).flatten(-3)
        step *= 4
    return values


def _halves(packed: Tensor) -> Tensor:
    """The codes in bytes (rows bytes) of two columns each; the even column is the low half."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)


def _from_relative(values: Tensor, layer: StoredLayer, stored: Stored, rows: range) -> Tensor:
    """Make int8 of values relative to the scales of small groups, and decode that."""
    relative = of_rows(stored["weight_s_rel"].view(torch.float8_e4m3fn), rows).float()
    whole = scaled_blocks(values, relative).round().clamp(-LARGEST, LARGEST)
    return _unrotated(whole, of_rows(stored["weight_s_channel"].reshape(-1, 1), rows), layer.rotation)


def _unrotated(whole: Tensor, scales: Tensor, group: int) -> Tensor:
    """Whole numbers times their scales, with the rotation of groups undone; one rounding in all."""
    return rotated(whole, group) * (scales / isqrt(group))
