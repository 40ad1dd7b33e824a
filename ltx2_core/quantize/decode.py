"""Decode a quantised matrix, whole or some rows of it, on whatever device its bytes are.

Source: docs/reference/quantised.md, "Decoding".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..stored.layer import Format, StoredLayer
from .blocks import decode_mxfp8, decode_nvfp4
from .fp8 import decode_cast, decode_rows, decode_scaled, decode_tiles
from .gguf import decode_gguf
from .integers import decode_integers
from .rows import Stored

DECODERS: Mapping[Format, Callable[[StoredLayer, Stored, range], Tensor]] = {
    "fp8": decode_scaled,
    "fp8_rows": decode_rows,
    "fp8_tiles": decode_tiles,
    "fp8_cast": decode_cast,
    "mxfp8": decode_mxfp8,
    "nvfp4": decode_nvfp4,
    "int8": decode_integers,
    "w4a8": decode_integers,
    "w6a8": decode_integers,
    "gguf": decode_gguf,
}
CHUNK = 2**22  # numbers that a GPU decodes at a time: 16 MiB in float32
# On a CPU 1 MiB, which fits into its cache. With 16 MiB the heap of glibc 2.36 also grew by 2.3 GB in a model of 19B.
CPU_CHUNK = 2**18
ROUNDED = torch.bfloat16


def decode(layer: StoredLayer, stored: Stored, rows: range) -> Tensor:
    """Rows of a matrix in float32, (rows columns), including padding columns.

    Args: stored: the tensors of the layer, by role, all on one device.
    """
    return DECODERS[layer.format](layer, stored, rows)


def decode_matrix(layer: StoredLayer, stored: Stored, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """A matrix (out in) without its padding, rounded once to bfloat16, in some dtype.

    It is decoded in chunks of rows, so that only the result has the size of the matrix.
    """
    out, width = shape
    matrix = torch.empty(shape, dtype=dtype, device=stored["weight"].device)
    chunk = CPU_CHUNK if matrix.device.type == "cpu" else CHUNK
    step = max(1, chunk // layer.shape[1])
    for start in range(0, out, step):
        rows = range(start, min(start + step, out))
        matrix[rows.start : rows.stop] = decode(layer, stored, rows)[:, :width].to(ROUNDED)
    return matrix
