"""The bytes of weights on a device, from the header of their file."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from math import prod
from typing import TypeVar

from ..components import COMPONENTS
from ..headers import Header

SLOTS = 2  # slots of a streamed model: one computes while the other is filled
SUMMED_AT_ONCE = 2**22  # numbers of a weight to which a LoRA is added at a time, in float32
PINNED_SLOTS = SLOTS + 1  # with one more for loading the resident blocks
ALIGNMENT = 256  # alignment of a tensor in a slot, in bytes
PLAIN_DTYPES = {2: "BF16", 4: "F32"}  # dtypes by the size of a number
T = TypeVar("T")
MARKER = ".comfy_quant"  # suffix of a quantised layer's marker: text that is not loaded
BLOCK = re.compile(r"(?:^|\.)(?:transformer_blocks|transformer_1d_blocks|layers)\.(\d+)\.")


def aligned(nbytes: int) -> int:
    """The size of a tensor in a slot, where each tensor starts at a multiple of ALIGNMENT."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def pinned_bytes(nbytes: int) -> int:
    """The memory of the computer that is pinned to copy blocks of so many bytes: torch pins powers of two."""
    return PINNED_SLOTS * (1 << max(0, nbytes - 1).bit_length())


def _once(count: Callable[[Header, str, int], T]) -> Callable[[Header, str, int], T]:
    """Cache the result of a function with the header."""

    @wraps(count)
    def counted(header: Header, component: str, itemsize: int) -> T:
        return header.once((count, component, itemsize), lambda: count(header, component, itemsize))

    return counted


@_once
def component_bytes(header: Header, component: str, itemsize: int) -> int:
    """The weights of a component if a plain value has so many bytes; quantised layers stay as they are stored.

    Raises: CheckpointError if quantised layers of the file cannot be understood.
    """
    return header.loaded_bytes(COMPONENTS[component].names_in(header), itemsize)


@_once
def converted_bytes(header: Header, component: str, itemsize: int) -> int:
    """The weights of a component that are not stored in the requested dtype, after their conversion.

    On the CPU the others stay views of the mapped file, whose pages the system can free at any time.
    """
    plain = {name for name, info in header.tensors.items() if info.dtype != PLAIN_DTYPES[itemsize]}
    names = COMPONENTS[component].names_in(header).keys() & plain - header.stored.names
    return header.loaded_bytes(names, itemsize)


def streamed_bytes(blocks: Sequence[int], resident: int) -> int:
    """Bytes on the device while blocks of these sizes are streamed, with so many of the first ones kept."""
    others = blocks[resident:]
    return sum(blocks[:resident]) + min(SLOTS, len(others)) * max(others, default=0)


@dataclass(frozen=True, slots=True)
class BlockBytes:
    """The weights of a model with a list of blocks: the bytes of each block in a slot, and of everything outside."""

    blocks: tuple[int, ...] = ()
    outside: int = 0

    @property
    def whole(self) -> int:
        """All of it."""
        return sum(self.blocks) + self.outside

    def staying(self, resident: int) -> int:
        """Bytes that stay on the device while blocks are streamed, with so many of the first ones kept."""
        return self.outside + sum(self.blocks[:resident])

    def streamed(self, resident: int) -> int:
        """Bytes on the device while blocks are streamed, with so many of the first ones kept."""
        return self.outside + streamed_bytes(self.blocks, resident)

    def most_resident(self, nbytes: int) -> int:
        """How many of the first blocks can stay within so many bytes."""
        return max(0, bisect_right(range(len(self.blocks)), nbytes, key=self.streamed) - 1)


NOTHING = BlockBytes()


@_once
def block_bytes(header: Header, component: str, itemsize: int) -> BlockBytes:
    """The bytes of each block of a component, and of the rest. Raises: as `component_bytes`."""
    blocks: dict[int, int] = {}
    outside = 0
    for name in COMPONENTS[component].names_in(header):
        if name.endswith(MARKER):
            continue
        nbytes = header.loaded_bytes([name], itemsize)
        found = BLOCK.search(name)
        if found is None:
            outside += nbytes
        else:
            blocks[int(found[1])] = blocks.get(int(found[1]), 0) + aligned(nbytes)
    return BlockBytes(tuple(blocks[number] for number in sorted(blocks)), outside)


@_once
def largest_plain(header: Header, component: str, itemsize: int) -> int:
    """Values of the largest matrix in the blocks of a component that is not stored quantised; 0 if all are.

    Raises: as `component_bytes`.
    """
    names = [name for name in COMPONENTS[component].names_in(header) if BLOCK.search(name) and name.endswith(".weight")]
    shapes = [header.tensors[name].shape for name in names if name not in header.stored.layers]
    return max((prod(shape) for shape in shapes if len(shape) == 2), default=0)


@_once
def table_bytes(header: Header, component: str, itemsize: int) -> int:
    """Bytes of the embedding table of a language model. Raises: as `component_bytes`."""
    names = COMPONENTS[component].names_in(header)
    return header.loaded_bytes([name for name, own in names.items() if own.startswith("embed_tokens.")], itemsize)
