"""Check the values of scales before a layer is used, so that nothing is computed with an invalid scale.

Source: docs/reference/quantised.md, "What is refused".
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from ..stored.layer import StoredLayer, refusal
from ..weights import is_finite
from .gguf import scales_of_blocks

ABOVE_ZERO = {"input_scale"}
OF_ANY_SIGN = {"weight_codebook"}
# The real dtype of block scales that files may label U8.
TAGGED = {"mxfp8": torch.float8_e8m0fnu, "nvfp4": torch.float8_e4m3fn}
TAGGED |= dict.fromkeys(("w4a8", "w6a8"), torch.float8_e4m3fn)


def require_usable_scale(path: Path, layer: StoredLayer, role: str, scale: Tensor) -> None:
    """Refuse NaN, infinite and negative scales. For block formats only the scales inside blocks are checked, which may
    be negative.

    Raises: CheckpointError that names the tensor.
    """
    if layer.blocks and not is_finite(scales_of_blocks(scale, layer.blocks)):
        raise refusal(path, layer.tensors[role], "the scales of its blocks hold NaN or infinite values")
    if role == "weight" or scale.numel() == 0:
        return
    values = scale.view(TAGGED[layer.format]) if scale.dtype == torch.uint8 else scale
    lowest, highest = (limit.item() for limit in values.float().aminmax())  # both are NaN where any value is
    if not math.isfinite(lowest) or not math.isfinite(highest):
        raise refusal(path, layer.tensors[role], "it holds NaN or infinite values")
    if role in ABOVE_ZERO and lowest <= 0:
        raise refusal(path, layer.tensors[role], f"it is {lowest:g}, and a scale of inputs is above 0")
    if role not in OF_ANY_SIGN and lowest < 0:
        raise refusal(path, layer.tensors[role], "it holds negative values")
