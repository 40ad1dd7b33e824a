"""Write a denoiser as a GGUF file in the same way as the common tools: which tensors are quantised, and to which type.

The quantisers are simple: each block takes the range of its values as its scale, while llama.cpp searches for better
scales. Source: docs/reference/quantised.md, "Blocks of a GGUF file".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from einops import rearrange
from torch import Tensor

from ltx2_core.gguf_header import BLOCK_TYPES

from .gguf_writer import Stored

NEVER = ("adaln_single.", "caption_projection.", "patchify_proj.", "proj_out.", "scale_shift_table")
FINER = (".to_v.weight", ".ff.net.2.weight")  # tensors that a mixed file stores in its more precise type
SMALL = 1024  # tensors of at most this many values stay in float32
PRECISIONS = {"gguf-q8_0": ("GGUF_Q8_0", "GGUF_Q8_0"), "gguf-q4_k": ("GGUF_Q4_K", "GGUF_Q8_0")}


def gguf_tensors(weights: Mapping[str, Tensor], precision: str) -> dict[str, Stored]:
    """The tensors of a denoiser in a precision of PRECISIONS. weights: by name, without prefix."""
    usual, finer = PRECISIONS[precision]
    return {name: _stored(name, weight, finer if name.endswith(FINER) else usual) for name, weight in weights.items()}


def _stored(name: str, weight: Tensor, kind: str) -> Stored:
    if weight.dim() == 1 or weight.numel() <= SMALL or "scale_shift_table" in name:
        return _plain("F32", weight.float())
    if weight.dim() != 2 or any(part in name for part in NEVER):
        return _plain("BF16", weight.bfloat16())
    if weight.shape[1] % BLOCK_TYPES[kind].elements:
        return _plain("F16", weight.half())
    blocks = ENCODERS[kind](rearrange(weight.float(), "r (k e) -> (r k) e", e=BLOCK_TYPES[kind].elements))
    return Stored(kind, tuple(weight.shape), blocks.numpy().tobytes())


def _plain(kind: str, values: Tensor) -> Stored:
    return Stored(kind, tuple(values.shape), values.contiguous().flatten().view(torch.uint8).numpy().tobytes())


def _q8_0(values: Tensor) -> Tensor:
    """Values (n 32) as blocks (n 34): a scale, then 32 integers."""
    scale = (values.abs().amax(-1, keepdim=True) / 127).half()
    return torch.cat(
        [_bytes(scale), _quotient(values, scale.float()).clamp(-127, 127).to(torch.int8).view(torch.uint8)], -1
    )


def _q4_k(values: Tensor) -> Tensor:
    """Values (n 256) as blocks (n 144): two scales, eight scales and offsets of 6 bits, codes of 4 bits."""
    groups = rearrange(values, "n (g e) -> n g e", g=8)
    offsets = -groups.amin(-1).clamp(max=0)
    scales = (groups.amax(-1) + offsets) / 15
    d, dmin = ((part.amax(-1, keepdim=True) / 63).half() for part in (scales, offsets))
    s, m = (_quotient(part, whole.float()).clamp(0, 63).byte() for part, whole in ((scales, d), (offsets, dmin)))
    zero = rearrange(dmin.float() * m, "n g -> n g 1")
    codes = _quotient(groups + zero, rearrange(d.float() * s, "n g -> n g 1")).clamp(0, 15).byte()
    low, high = rearrange(codes, "n (c k) l -> k n (c l)", k=2)
    packed = [s[:, :4] | s[:, 4:] >> 4 << 6, m[:, :4] | m[:, 4:] >> 4 << 6, s[:, 4:] & 15 | m[:, 4:] << 4]
    return torch.cat([_bytes(d), _bytes(dmin), *packed, low | high << 4], -1)


def _quotient(values: Tensor, scales: Tensor) -> Tensor:
    """Values divided by scales, rounded to integers; 0 where a scale is 0."""
    return torch.where(scales > 0, values / scales, 0).round()


def _bytes(halves: Tensor) -> Tensor:
    return halves.contiguous().view(torch.uint8)


ENCODERS: dict[str, Callable[[Tensor], Tensor]] = {"GGUF_Q8_0": _q8_0, "GGUF_Q4_K": _q4_k}
