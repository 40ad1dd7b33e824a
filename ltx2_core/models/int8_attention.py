"""Attention in integers: queries, keys and values in 8 bits, with the kernel of comfy-kitchen.

A GPU multiplies the codes themselves. On the CPU the same steps are computed in float32, which the tests compare.
Source: the documentation of `comfy_kitchen.int8_attention`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import RequestError

SIGNED, UNSIGNED = 127, 255  # the largest codes of queries, keys and values, and of weights after the softmax
LEAST_SCALE = 1e-12
LONGEST_ROTATION = 64  # largest number of channels that are rotated together


def int8_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention on (b h n d), with int8 products.

    bias: additive, broadcast to (b h n l). Raises: RequestError if the kernel does not run on this GPU.
    """
    if not q.is_cuda:
        return _computed(q, k, v, bias)
    try:
        import comfy_kitchen

        return comfy_kitchen.int8_attention(q, k, v, attn_mask=bias)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ImportError) as error:
        why = str(error).partition("\n")[0]
        hint = "leave --attention-backend out"
        raise RequestError("--attention-backend int8 cannot be used on this machine", why, hint) from error


def _computed(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """The steps of the kernel in float32, all scores at once.

    A rotation of queries and keys does not change their products, and distributes a large channel over others. Each row
    of both has its own scale, and each channel of the values.
    """
    turn = _rotation(q.shape[-1]).to(q.device)
    queries, query_scales = _rounded(q.float() @ turn, -1)
    keys, key_scales = _rounded(k.float() @ turn, -1)
    values, value_scales = _rounded(v.float(), -2)
    scores = queries @ keys.mT * (query_scales * key_scales.mT) * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias.float()
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    mixed = (weights * UNSIGNED).round() @ values
    return (mixed * value_scales / UNSIGNED / weights.sum(-1, keepdim=True)).to(v.dtype)


def _rounded(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Whole numbers from -127 to 127, in float32, and their scales along an axis."""
    scales = (x.abs().amax(dim, keepdim=True) / SIGNED).clamp(min=LEAST_SCALE)
    return (x / scales).round(), scales


def _rotation(width: int) -> Tensor:
    """An orthogonal matrix (width width) of ±1, scaled, in blocks: a Hadamard matrix, repeated along the diagonal."""
    size = min(width & -width, LONGEST_ROTATION)  # the largest power of two that divides the width
    block = torch.ones(1, 1)
    while len(block) < size:
        block = torch.cat([torch.cat([block, block], 1), torch.cat([block, -block], 1)])
    return torch.block_diag(*[block * size**-0.5] * (width // size))
