"""The JSON text of a safetensors header, read entry by entry within bounds.

A general JSON parser builds everything that a text describes before it can be checked: 25 MB of brackets become a
gigabyte of lists. Here each entry is matched in place, and the first one that is out of bounds stops the reading.
Source: docs/reference/checkpoints.md, "Safetensors headers".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

LARGEST_TEXT_BYTES = 25_000_000
MOST_TENSORS = 30_000
MOST_ESCAPES = 1_000_000  # backslashes in all texts; a config has some thousands
MOST_METADATA = 1_000
LARGEST_RANK = 8
NUMBER_LIMIT = 2**63
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4, "I16": 2}
DTYPE_BYTES |= {"I8": 1, "U8": 1, "BOOL": 1, "F8_E8M0": 1}

METADATA = "__metadata__"
PLAIN = rb'[^"\\\x00-\x1f]*+'  # JSON has no control characters in a text, but escaped ones
STRING = rb'"(' + PLAIN + rb'(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})' + PLAIN + rb')*+)"'
SPACE = rb"[ \t\r\n]*+"
NAME = re.compile(SPACE + STRING + SPACE + rb":" + SPACE)
TEXT = re.compile(STRING)
TENSOR = re.compile(rb"\{[^{}]{0,1000}\}")  # the numbers of eight sides and two offsets take 200
NEXT = re.compile(SPACE + rb"([,}])")
OPEN = re.compile(SPACE + rb"\{")
EMPTY = re.compile(SPACE + rb"\}")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One entry of a header: dtype as written there (BF16, F8_E4M3 ...), shape, and its range of bytes in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.start


def parse_header_text(text: bytes, offset: int) -> tuple[Mapping[str, str], Mapping[str, TensorInfo]]:
    """The metadata and the tensors of a header.

    Args: offset: where its tensors begin in the file.
    Raises: ValueError for a text that violates the format, or has more entries than these models could need.
    """
    if text.count(b'"data_offsets"') > MOST_TENSORS or text.count(b"\\") > MOST_ESCAPES:
        raise ValueError("it holds more than any model needs")
    reader = _Reader(text)
    metadata: dict[str, bytes] = {}
    tensors: dict[str, TensorInfo] = {}
    has_metadata = False
    for name in reader.names():
        if name == METADATA and not has_metadata:
            metadata, has_metadata = reader.texts(), True
        elif name in tensors or name == METADATA:
            raise ValueError("a name occurs twice")
        else:
            tensors[name] = _tensor_info(json.loads(reader.take(TENSOR)[0].decode()), offset)
    if text[reader.at :].strip(b" \t\r\n\0"):
        raise ValueError("something follows after it")
    return {name: _decoded(value) for name, value in metadata.items()}, tensors  # long ones, when all else is right


class _Reader:
    """Reads the text in order. at: the position of the next token."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.at = 0

    def take(self, pattern: re.Pattern[bytes]) -> re.Match[bytes]:
        """The next token, which must match. Raises: ValueError if it does not."""
        found = pattern.match(self.text, self.at)
        if found is None:
            raise ValueError("it is not the text of a header")
        self.at = found.end()
        return found

    def names(self) -> Iterator[str]:
        """The names of an object, in their order; the caller reads the value of each."""
        self.take(OPEN)
        if found := EMPTY.match(self.text, self.at):
            self.at = found.end()
            return
        more = True
        while more:
            yield _decoded(self.take(NAME)[1])
            more = self.take(NEXT)[1] == b","

    def texts(self) -> dict[str, bytes]:
        """An object whose values are texts, without their quotes."""
        found: dict[str, bytes] = {}
        for name in self.names():
            if len(found) == MOST_METADATA:
                raise ValueError(f"its metadata has more than {MOST_METADATA:,} entries")
            found[name] = self.take(TEXT)[1]
        return found


def _decoded(inside: bytes) -> str:
    """A JSON string, by what stands between its quotes. Raises: ValueError if it is not UTF-8."""
    text = inside.decode()
    return json.loads(f'"{text}"') if "\\" in text else text


def _tensor_info(entry: dict[str, Any], offset: int) -> TensorInfo:
    begin, end = entry["data_offsets"]
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    if not isinstance(dtype, str) or len(shape) > LARGEST_RANK:
        raise ValueError("not a tensor")
    if not all(type(number) is int and 0 <= number < NUMBER_LIMIT for number in (begin, end, *shape)):
        raise ValueError("not a tensor")
    if dtype in DTYPE_BYTES and prod(shape) * DTYPE_BYTES[dtype] != end - begin:
        raise ValueError("shape and offsets disagree")
    return TensorInfo(dtype, shape, offset + begin, offset + end)
