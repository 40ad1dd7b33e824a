"""Decode integer matrices, plain or rotated: int8, and codes of four or six bits that represent int8.

Source: docs/reference/quantised.md, "Decoding" and "Rotation".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from math import isqrt

import torch
from torch import Tensor

from ..stored.layer import Format, StoredLayer
from .rows import LEAST_SCALE, Stored, of_rows, scaled_blocks

LARGEST = 127


def decode_integers(layer: StoredLayer, stored: Stored, rows: range) -> Tensor:
    """Rows of an integer matrix, with the rotation of groups undone; one rounding in all."""
    whole, scales = whole_numbers(layer, stored, rows)
    return rotated(whole.float(), layer.rotation) * (scales / isqrt(layer.rotation))


def whole_numbers(layer: StoredLayer, stored: Stored, rows: range) -> tuple[Tensor, Tensor]:
    """Rows of a matrix as int8 (rows columns), and the scale of each (rows 1) or of all ()."""
    weight = of_rows(stored["weight"], rows)
    if layer.format == "int8":
        scale = stored["weight_scale"]
        return weight, scale.reshape(()) if scale.numel() == 1 else of_rows(scale.reshape(-1, 1), rows)
    values = CODES[layer.format](weight.view(torch.uint8), stored)
    relative = of_rows(stored["weight_s_rel"].view(torch.float8_e4m3fn), rows).float()
    whole = scaled_blocks(values, relative).round().clamp(-LARGEST, LARGEST).char()
    return whole, of_rows(stored["weight_s_channel"].reshape(-1, 1), rows)


def rotated(values: Tensor, group: int) -> Tensor:
    """The sums of ± values (rows columns) in each group of columns, a power of 4: √group times the rotation.

    The numbers of a group are a matrix, which is multiplied from both sides: 8 times fewer products for a group of 256
    than with one matrix for the group. Exact for integers whose sums are exact in float32.
    """
    if group == 1:
        return values
    digits = (group.bit_length() - 1) // 2  # number of base-4 digits of a column's index in its group
    upper, lower = (_signs(count, values.device) for count in (digits // 2, digits - digits // 2))
    return (upper @ values.unflatten(-1, (-1, len(upper), len(lower))) @ lower).flatten(-3)


def _signs(digits: int, device: torch.device) -> Tensor:
    """The signs of the rotation of 4 ** digits columns."""
    four = 1 - 2 * torch.eye(4, device=device).flip(-1)
    return reduce(torch.kron, [four] * digits, torch.ones(1, 1, device=device))


def to_int8(values: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Rotate and round rows (rows columns): int8 (rows columns), and a float32 scale for each (rows 1).

    Args: group: columns that are rotated together, a power of 4; 1 for none.
    """
    turned = rotated(values.float(), group) / isqrt(group)
    scales = (turned.abs().amax(-1, keepdim=True) / LARGEST).clamp(min=LEAST_SCALE)
    return (turned / scales).round().clamp(-LARGEST, LARGEST).char(), scales


def _of_four_bits(packed: Tensor, stored: Stored) -> Tensor:
    """The values of four-bit codes."""
    codes = _halves(packed)
    return stored["weight_codebook"][codes.int()] if "weight_codebook" in stored else codes.float() - 8


def _of_six_bits(packed: Tensor, stored: Stored) -> Tensor:
    """The values of six-bit codes: the low four bits of all columns, then their two high bits."""
    low, high = packed.tensor_split([packed.shape[-1] * 2 // 3], dim=-1)
    pairs = torch.stack([high >> bit & 3 for bit in (0, 2, 4, 6)], dim=-1).flatten(-2)
    return (_halves(low) + 16 * pairs).float() - 32


CODES: Mapping[Format, Callable[[Tensor, Stored], Tensor]] = {"w4a8": _of_four_bits, "w6a8": _of_six_bits}


def _halves(packed: Tensor) -> Tensor:
    """The codes in bytes (rows bytes) of two columns each; the even column is the low half-byte."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)
