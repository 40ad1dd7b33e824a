"""Decode matrices with a scale for each block of columns: mxfp8 and nvfp4.

Source: docs/reference/quantised.md, "Formats" and "Decoding".
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..stored.layer import StoredLayer
from .rows import Stored, block_scales, of_rows, scaled_blocks

MXFP8_BLOCK, NVFP4_BLOCK = 32, 16
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def decode_mxfp8(layer: StoredLayer, stored: Stored, rows: range) -> Tensor:
    """Rows of an E4M3 matrix with a power-of-two scale for each 32 columns."""
    weight = of_rows(stored["weight"], rows)
    exponents = stored["weight_scale"].view(torch.float8_e8m0fnu)
    return scaled_blocks(weight.float(), block_scales(exponents, weight.shape[-1] // MXFP8_BLOCK, rows).float())


def decode_nvfp4(layer: StoredLayer, stored: Stored, rows: range) -> Tensor:
    """Rows of an E2M1 matrix with a scale for each 16 columns and one for all; the even column is the high
    half-byte.
    """
    packed = of_rows(stored["weight"], rows)
    codes = torch.stack((packed >> 4, packed & 15), dim=-1).flatten(-2)
    values = torch.tensor((*E2M1, *(-value for value in E2M1)), device=packed.device)[codes.int()]
    scales = block_scales(stored["weight_scale"].view(torch.float8_e4m3fn), codes.shape[-1] // NVFP4_BLOCK, rows)
    return scaled_blocks(values, stored["weight_scale_2"].reshape(()) * scales.float())
