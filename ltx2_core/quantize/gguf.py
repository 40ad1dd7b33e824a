"""Decode the tensors of a GGUF file: blocks of 32 or 256 values, each with its own scales.

All arithmetic is in float32: first the product of the scales, then times the code, then plus the offset. So the values
are those of the gguf library bit for bit, on every device, however the rows are divided.
Source: docs/reference/quantised.md, "Blocks of a GGUF file".
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from ..gguf_header import BLOCK_TYPES
from ..stored.layer import StoredLayer
from .rows import Stored, of_rows

Decoder = Callable[[Tensor], Tensor]  # the bytes of blocks (n bytes) -> their values (n elements)

# Byte positions of the float16 scales and offsets in a block; all other bytes of a block may have any value.
SCALES_AT = {
    "GGUF_Q4_0": (0,),
    "GGUF_Q4_1": (0, 2),
    "GGUF_Q5_0": (0,),
    "GGUF_Q5_1": (0, 2),
    "GGUF_Q8_0": (0,),
    "GGUF_Q2_K": (80, 82),
    "GGUF_Q3_K": (108,),
    "GGUF_Q4_K": (0, 2),
    "GGUF_Q5_K": (0, 2),
    "GGUF_Q6_K": (208,),
}
WORDS = {1: torch.int16, 2: torch.int32}  # the integer type that holds this many float16 numbers
PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def decode_gguf(layer: StoredLayer, stored: Stored, rows: range) -> Tensor:
    """Rows of a matrix that is stored in blocks."""
    return decode_blocks(of_rows(stored["weight"], rows), layer.blocks)


def decode_blocks(stored: Tensor, kind: str) -> Tensor:
    """Decode rows of a tensor.

    Args: stored: (rows, bytes of a row) uint8; any rows of it. kind: the type, as a header names it.
    Returns: (rows, columns) float32.
    """
    if kind in PLAIN:
        return stored.contiguous().view(PLAIN[kind]).float()
    block = BLOCK_TYPES[kind]
    blocks = rearrange(stored, "r (k b) -> (r k) b", b=block.nbytes)
    return BLOCK_DECODERS[kind](blocks).reshape(len(stored), stored.shape[-1] // block.nbytes * block.elements)


def scales_of_blocks(stored: Tensor, kind: str) -> Tensor:
    """The scales and offsets (n s), float16, of the blocks of a tensor (rows, bytes of a row).

    A scale and the offset beside it are copied as one word, which takes half the time of two numbers.
    """
    at = SCALES_AT[kind]
    words = rearrange(stored, "r (k b) -> (r k) b", b=BLOCK_TYPES[kind].nbytes).view(WORDS[len(at)])
    return words[:, at[0] // words.element_size(), None].contiguous().view(torch.float16)


def _halves(blocks: Tensor, at: int) -> Tensor:
    """The float16 number at a position in each block, as float32 (n 1)."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _nibbles(codes: Tensor) -> Tensor:
    """Codes of 4 bits (n 2b): the low halves of all bytes (n b), then the high ones."""
    return rearrange([codes & 15, codes >> 4], "k n b -> n (k b)")


def _bits(codes: Tensor, width: int) -> Tensor:
    """Codes of some bits (n k b): of all bytes (n b) the lowest bits first."""
    mask = 2**width - 1
    return rearrange([codes >> place & mask for place in range(0, 8, width)], "k n b -> n k b")


def _fifth_bits(codes: Tensor) -> Tensor:
    """The bits (n 32) of four bytes (n 4), as the upper bit of codes of 5 bits."""
    return rearrange(_bits(codes, 1), "n k b -> n (b k)") << 4


def _q4_0(blocks: Tensor) -> Tensor:
    return _halves(blocks, 0) * (_nibbles(blocks[:, 2:]).float() - 8)


def _q4_1(blocks: Tensor) -> Tensor:
    return _halves(blocks, 0) * _nibbles(blocks[:, 4:]).float() + _halves(blocks, 2)


def _q5_0(blocks: Tensor) -> Tensor:
    codes = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])
    return _halves(blocks, 0) * (codes.float() - 16)


def _q5_1(blocks: Tensor) -> Tensor:
    codes = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    return _halves(blocks, 0) * codes.float() + _halves(blocks, 2)


def _q8_0(blocks: Tensor) -> Tensor:
    return _halves(blocks, 0) * blocks[:, 2:].view(torch.int8).float()


def _q2_k(blocks: Tensor) -> Tensor:
    scales = blocks[:, :16]
    codes = _quarters(blocks[:, 16:80])
    return _scaled(codes, _halves(blocks, 80) * (scales & 15).float(), _halves(blocks, 82) * (scales >> 4).float())


def _q3_k(blocks: Tensor) -> Tensor:
    """The third bit is stored inverted: if it is 0, 4 is subtracted."""
    masks, packed = blocks[:, :32], blocks[:, 96:108]
    codes = _quarters(blocks[:, 32:96]).float()
    upper = rearrange(_bits(masks, 1), "n p l -> n (p l)").float()
    scales = _nibbles(packed[:, :8]) | rearrange(_bits(packed[:, 8:], 2), "n k b -> n (k b)") << 4
    return _scaled(codes - (1 - upper) * 4, _halves(blocks, 108) * (scales.float() - 32))


def _q4_k(blocks: Tensor) -> Tensor:
    scales, offsets = _packed_scales(blocks[:, 4:16])
    codes = rearrange(_bits(blocks[:, 16:], 4), "n k (c l) -> n (c k l)", l=32)
    return _scaled(codes, _halves(blocks, 0) * scales, _halves(blocks, 2) * offsets)


def _q5_k(blocks: Tensor) -> Tensor:
    scales, offsets = _packed_scales(blocks[:, 4:16])
    upper = rearrange(_bits(blocks[:, 16:48], 1), "n j l -> n (j l)") << 4
    codes = rearrange(_bits(blocks[:, 48:], 4), "n k (c l) -> n (c k l)", l=32) | upper
    return _scaled(codes, _halves(blocks, 0) * scales, _halves(blocks, 2) * offsets)


def _q6_k(blocks: Tensor) -> Tensor:
    lower = rearrange(_bits(blocks[:, :128], 4), "n k (h m) -> n (h k m)", h=2)
    codes = lower | _quarters(blocks[:, 128:192]) << 4
    scales = blocks[:, 192:208].view(torch.int8).float()
    return _scaled(codes.float() - 32, _halves(blocks, 208) * scales)


def _quarters(codes: Tensor) -> Tensor:
    """Codes of 2 bits (n 256) of 64 bytes: four of each 32 bytes, the lowest bits of all 32 first."""
    return rearrange(_bits(codes, 2), "n p (h l) -> n (h p l)", h=2)


def _packed_scales(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Eight scales and eight offsets of 6 bits (n 8) in twelve bytes (n 12), as float32."""
    first, second, last = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = torch.cat([first & 63, last & 15 | first >> 6 << 4], -1)
    offsets = torch.cat([second & 63, last >> 4 | second >> 6 << 4], -1)
    return scales.float(), offsets.float()


def _scaled(codes: Tensor, scales: Tensor, offsets: Tensor | None = None) -> Tensor:
    """Codes (n elements) times the scales of their groups (n groups), minus their offsets."""
    values = rearrange(codes.float(), "n (g e) -> n g e", g=scales.shape[-1]) * rearrange(scales, "n g -> n g 1")
    if offsets is not None:
        values = values - rearrange(offsets, "n g -> n g 1")
    return rearrange(values, "n g e -> n (g e)")


BLOCK_DECODERS: dict[str, Decoder] = {
    "GGUF_Q4_0": _q4_0,
    "GGUF_Q4_1": _q4_1,
    "GGUF_Q5_0": _q5_0,
    "GGUF_Q5_1": _q5_1,
    "GGUF_Q8_0": _q8_0,
    "GGUF_Q2_K": _q2_k,
    "GGUF_Q3_K": _q3_k,
    "GGUF_Q4_K": _q4_k,
    "GGUF_Q5_K": _q5_k,
    "GGUF_Q6_K": _q6_k,
}
