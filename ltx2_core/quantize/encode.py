"""Encode matrices as int8 or fp8: the inverse of `decode`, in float32 whatever the matrix's dtype.

Source: docs/reference/quantised.md, "What convert writes".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..stored.encoding import Target
from .decode import CPU_CHUNK
from .fp8 import LARGEST_E4M3, to_e4m3
from .integers import to_int8
from .rows import LEAST_SCALE, Stored

Encoder = Callable[[Tensor, int], Stored]  # a matrix, and the number of columns that are rotated together


def encode_int8(weight: Tensor, group: int) -> Stored:
    """Encode a matrix (out in) as int8 with a scale for each row (out 1), rotated in groups of columns.

    Args: group: a power of 4 that divides the number of columns.
    """
    codes = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty((len(weight), 1), dtype=torch.float32)
    for rows in row_chunks(weight):
        codes[rows], scales[rows] = to_int8(weight[rows], group)
    return {"weight": codes, "weight_scale": scales}


def encode_fp8(weight: Tensor, group: int) -> Stored:
    """Encode a matrix (out in) as E4M3 with one scale (). group: not used, as nothing is rotated."""
    lowest, highest = weight.aminmax()
    scale = (torch.maximum(-lowest, highest).float() / LARGEST_E4M3).clamp(min=LEAST_SCALE)
    codes = torch.empty(weight.shape, dtype=torch.float8_e4m3fn)
    for rows in row_chunks(weight):
        codes[rows] = to_e4m3(weight[rows].float() * (1 / scale))
    return {"weight": codes, "weight_scale": scale}


def row_chunks(weight: Tensor) -> list[slice]:
    """The rows of a matrix in pieces, so that no working copy has the size of a large matrix."""
    step = max(1, CPU_CHUNK // weight.shape[1])
    return [slice(start, min(start + step, len(weight))) for start in range(0, len(weight), step)]


ENCODERS: Mapping[Target, Encoder] = {"int8": encode_int8, "fp8": encode_fp8}
