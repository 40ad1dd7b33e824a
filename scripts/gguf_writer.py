"""Write GGUF files with blocks of random codes for every quantised type, for the tests of the reader.

Source: docs/reference/checkpoints.md, "GGUF headers"; docs/reference/quantised.md, "Blocks of a GGUF file".
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from ltx2_core.gguf_header import ARCHITECTURE, DEFAULT_ALIGNMENT, LIST, MAGIC, TEXT, TYPES
from ltx2_core.quantize.gguf import SCALES_AT

NUMBERS = {kind.name: number for number, kind in TYPES.items()}
UINT32 = 4
Value = str | int | list[str]


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in the form in which a file stores it. kind: as in `TensorInfo`. shape: in the order of torch, rows
    first.
    """

    kind: str
    shape: tuple[int, ...]
    content: bytes


def random_tensor(kind: str, shape: tuple[int, ...], random: np.random.Generator, largest_scale: float = 1.0) -> Stored:
    """A tensor of random valid blocks, or of random numbers if the type has no blocks.

    Args: largest_scale: the largest absolute value of the float16 numbers in a block, and of plain numbers.
    """
    stored = TYPES[NUMBERS[kind]]
    if kind not in SCALES_AT:
        values = random.uniform(-largest_scale, largest_scale, prod(shape)).astype(np.float32)
        upper_halves = (values.view(np.uint32) >> 16).astype(np.uint16)
        plain = {"F32": values, "F16": values.astype(np.float16), "BF16": upper_halves}
        return Stored(kind, shape, plain[kind].tobytes())
    blocks = random.integers(0, 256, (prod(shape) // stored.elements, stored.nbytes), dtype=np.uint8)
    for at in SCALES_AT[kind]:
        scales = random.uniform(-largest_scale, largest_scale, len(blocks)).astype(np.float16)
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
    return Stored(kind, shape, blocks.tobytes())


def gguf_bytes(
    tensors: Mapping[str, Stored],
    metadata: Mapping[str, Value] | None = None,
    *,
    version: int = 3,
    alignment: int = DEFAULT_ALIGNMENT,
) -> bytes:
    """A whole GGUF file. metadata: additional entries; the architecture is always written unless it is given here."""
    entries: dict[str, Value] = {"general.architecture": ARCHITECTURE, **(metadata or {})}
    if alignment != DEFAULT_ALIGNMENT:
        entries["general.alignment"] = alignment
    head = MAGIC + struct.pack("<IQQ", version, len(tensors), len(entries))
    head += b"".join(_text(name) + _value(value) for name, value in entries.items())
    contents, start = [], 0
    for name, tensor in tensors.items():
        sides = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *reversed(tensor.shape))
        head += _text(name) + sides + struct.pack("<IQ", NUMBERS[tensor.kind], start)
        contents.append(_padded(tensor.content, alignment))
        start += len(contents[-1])
    return b"".join([_padded(head, alignment), *contents])


def _value(value: Value) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", TEXT) + _text(value)
    if isinstance(value, list):
        return struct.pack("<IIQ", LIST, TEXT, len(value)) + b"".join(map(_text, value))
    return struct.pack("<II", UINT32, value)


def _text(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def _padded(content: bytes, alignment: int) -> bytes:
    return content + bytes(-len(content) % alignment)
