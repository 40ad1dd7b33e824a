"""The header of a GGUF file, read field by field within bounds.

Every count and length is compared with its limit and with the size of the file before anything is read for it, so a
damaged or hostile file is refused at the first field that is wrong.
Source: docs/reference/checkpoints.md, "GGUF headers".
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO

from .errors import CheckpointError, StorageError, shown
from .header_text import NUMBER_LIMIT, TensorInfo

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # supported versions, which have the same layout
ARCHITECTURE = "ltxv"
LARGEST_HEADER_BYTES = 2_000_000  # for all fields together; a denoiser of 48 blocks has 400,000
MOST_TENSORS = 10_000
LONGEST_NAME = 1_000  # longest name of a tensor or a field, in bytes
MOST_FIELDS = 200
LONGEST_LIST = 100_000
MOST_TEXTS = 100  # texts that are read from a list, such as languages
LARGEST_RANK = 4
ALIGNMENTS = tuple(2**power for power in range(3, 17))
DEFAULT_ALIGNMENT = 32
HINT = "take another file of the same model, or download this one again"

TEXT, LIST = 8, 9
FIELD_LAYOUTS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}

# Tensors of other quantised formats, which have no meaning in a file of blocks.
FOREIGN_SCALE = re.compile(
    r"(^|\.)(weight_scale(_2)?|scale_weight|input_scale|scale_input|scaled_fp8|comfy_quant"
    r"|weight_s_rel|weight_s_channel|weight_codebook)$"
)


@dataclass(frozen=True, slots=True)
class TensorType:
    """How a tensor is stored: its name in a `TensorInfo`, and the number of elements and bytes of a block."""

    name: str
    elements: int
    nbytes: int


GGUF_PREFIX = "GGUF_"  # prefix of types with blocks, in a `TensorInfo`
TYPES = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("GGUF_Q4_0", 32, 18),
    3: TensorType("GGUF_Q4_1", 32, 20),
    6: TensorType("GGUF_Q5_0", 32, 22),
    7: TensorType("GGUF_Q5_1", 32, 24),
    8: TensorType("GGUF_Q8_0", 32, 34),
    10: TensorType("GGUF_Q2_K", 256, 84),
    11: TensorType("GGUF_Q3_K", 256, 110),
    12: TensorType("GGUF_Q4_K", 256, 144),
    13: TensorType("GGUF_Q5_K", 256, 176),
    14: TensorType("GGUF_Q6_K", 256, 210),
    30: TensorType("BF16", 1, 2),
}
BLOCK_TYPES = {kind.name: kind for kind in TYPES.values() if kind.elements > 1}
# The names of unsupported types, for error messages.
OTHER_TYPES = {9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL"}
OTHER_TYPES |= {21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64"}
OTHER_TYPES |= {29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0"}


def read_gguf(file: BinaryIO, name: str, size: int) -> tuple[dict[str, str], dict[str, TensorInfo]]:
    """The text entries of the metadata, and the tensors, with their shapes as in torch: rows first.

    Args: file: at its beginning. name: of the file, for messages. size: of the file, in bytes.
    Raises: StorageError if the file is truncated; CheckpointError if it is damaged, of another kind, or has more
    entries than any model needs.
    """
    reader = _Reader(file.read(LARGEST_HEADER_BYTES), name, size)
    counts = _read_counts(reader)
    fields = _read_fields(reader, counts["fields"])
    alignment = _alignment(reader, fields)
    tensors = [_read_tensor(reader, alignment) for _ in range(counts["tensors"])]
    start = _rounded_up(reader.at, alignment)
    placed: dict[str, TensorInfo] = {}
    for tensor, info in tensors:
        if tensor in placed:
            raise reader.damaged(f"the tensor {shown(tensor)} occurs twice")
        placed[tensor] = TensorInfo(info.dtype, info.shape, start + info.start, start + info.end)
    _check_layout(reader, placed, start, alignment)
    return {key: value for key, value in fields.items() if isinstance(value, str)}, placed


class _Reader:
    """Reads the fields of a header in order. at: the position of the next one."""

    def __init__(self, content: bytes, name: str, size: int) -> None:
        self.content, self.name, self.size = content, name, size
        self.at = 0

    def skip(self, count: int) -> int:
        """The position of the next bytes, which are skipped.

        Raises: StorageError if the file is too short, CheckpointError if the header is too long.
        """
        start, self.at = self.at, self.at + count
        if self.at > LARGEST_HEADER_BYTES:
            raise self.damaged(f"its header would be longer than {LARGEST_HEADER_BYTES:,} bytes")
        if self.at > len(self.content):
            why = f"it has {self.size:,} bytes, and its header alone takes {self.at:,} or more"
            raise StorageError(f"{self.name} is cut off", why, "download it again")
        return start

    def numbers(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack_from(f"<{layout}", self.content, self.skip(struct.calcsize(f"<{layout}")))

    def text(self, longest: int) -> str:
        (length,) = self.numbers("Q")
        if length > longest:
            raise self.damaged(f"it holds a text of {length:,} bytes")
        start = self.skip(length)
        try:
            return self.content[start : self.at].decode()
        except UnicodeDecodeError as error:
            raise self.damaged("it holds a text that is not UTF-8") from error

    def damaged(self, why: str, hint: str = HINT) -> CheckpointError:
        return CheckpointError(f"{self.name} cannot be opened", f"it is a GGUF file, and {why}", hint)


def _read_counts(reader: _Reader) -> dict[str, int]:
    """How many tensors and fields follow."""
    reader.skip(len(MAGIC))
    (version,) = reader.numbers("I")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        why = f"version {version:,} is not supported"
        if 0 < swapped <= max(VERSIONS) + 1:
            why = "its numbers are big-endian, which is not supported"
        raise reader.damaged(why, "take a little-endian file of version 3")
    tensors, fields = reader.numbers("QQ")
    if tensors > MOST_TENSORS:
        raise reader.damaged(f"it would hold {tensors:,} tensors, more than any model has")
    if fields > MOST_FIELDS:
        raise reader.damaged(f"it would hold {fields:,} entries of metadata, more than any model has")
    return {"tensors": tensors, "fields": fields}


def _read_fields(reader: _Reader, count: int) -> dict[str, Any]:
    """The metadata: texts and numbers by name, without arrays."""
    fields: dict[str, Any] = {}
    for _ in range(count):
        name = reader.text(LONGEST_NAME)
        if name in fields:
            raise reader.damaged(f"its metadata entry {shown(name)} occurs twice")
        (kind,) = reader.numbers("I")
        fields[name] = _read_value(reader, name, kind)
        if name == "general.architecture":
            _require_architecture(reader, fields[name])
    _require_architecture(reader, fields.get("general.architecture"))
    return fields


def _require_architecture(reader: _Reader, architecture: Any) -> None:
    if architecture != ARCHITECTURE:
        if str(architecture).startswith("gemma"):
            hint = "take the folder of Gemma 3, or one safetensors file of it, in bf16, fp8 or int8"
            raise reader.damaged("it is a Gemma in a GGUF file, which is not supported", hint)
        found = "not given" if architecture is None else shown(architecture)
        raise reader.damaged(
            f"its architecture is {found}, not {ARCHITECTURE}", "take the transformer of an LTX-2 model"
        )


def _read_value(reader: _Reader, name: str, kind: int) -> Any:
    """One value of the metadata; arrays are skipped, because nothing here needs one."""
    if kind == TEXT:
        return reader.text(LARGEST_HEADER_BYTES)
    if kind == LIST:
        return _skip_list(reader, name)
    if kind not in FIELD_LAYOUTS:
        raise reader.damaged(f"its metadata entry {shown(name)} is of the unknown type {kind:,}")
    return reader.numbers(FIELD_LAYOUTS[kind])[0]


def _skip_list(reader: _Reader, name: str) -> None:
    kind, count = reader.numbers("IQ")
    if count > (MOST_TEXTS if kind == TEXT else LONGEST_LIST):
        raise reader.damaged(f"its metadata entry {shown(name)} is a list of {count:,} values")
    if kind == TEXT:
        for _ in range(count):
            reader.skip(*reader.numbers("Q"))
    elif kind in FIELD_LAYOUTS:
        reader.skip(count * struct.calcsize(f"<{FIELD_LAYOUTS[kind]}"))
    else:
        raise reader.damaged(f"its metadata entry {shown(name)} is a list of the unknown type {kind:,}")


def _alignment(reader: _Reader, fields: Mapping[str, Any]) -> int:
    alignment = fields.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment not in ALIGNMENTS:
        raise reader.damaged(f"its alignment is {shown(alignment)}, not a power of two from 8 to {ALIGNMENTS[-1]:,}")
    return alignment


def _read_tensor(reader: _Reader, alignment: int) -> tuple[str, TensorInfo]:
    """The name of a tensor and its entry, with offsets from the start of the data."""
    name = reader.text(LONGEST_NAME)
    (rank,) = reader.numbers("I")
    if rank > LARGEST_RANK:
        raise reader.damaged(f"the tensor {shown(name)} has {rank:,} axes")
    shape = tuple(reversed(reader.numbers(f"{rank}Q")))
    number, offset = reader.numbers("IQ")
    kind = _tensor_type(reader, name, number)
    if FOREIGN_SCALE.search(name):
        raise reader.damaged(f"the tensor {shown(name)} belongs to another quantised format")
    if not all(side < NUMBER_LIMIT for side in (*shape, offset)):
        raise reader.damaged(f"the shape or the place of the tensor {shown(name)} is out of range")
    if kind.elements > 1 and (not shape or shape[-1] % kind.elements):
        raise reader.damaged(f"the rows of the tensor {shown(name)} are not whole blocks of {kind.elements} values")
    if offset % alignment:
        raise reader.damaged(f"the tensor {shown(name)} does not lie at a multiple of {alignment} bytes")
    nbytes = prod(shape) // kind.elements * kind.nbytes
    return name, TensorInfo(kind.name, shape, offset, offset + nbytes)


def _tensor_type(reader: _Reader, name: str, number: int) -> TensorType:
    if number in TYPES:
        return TYPES[number]
    called = OTHER_TYPES.get(number, f"number {number:,}")
    known = ", ".join(kind.name.removeprefix(GGUF_PREFIX) for kind in TYPES.values())
    raise reader.damaged(
        f"the tensor {shown(name)} is stored as {called}, which is not supported", f"take a file of {known} alone"
    )


def _check_layout(reader: _Reader, tensors: Mapping[str, TensorInfo], start: int, alignment: int) -> None:
    """Check that each tensor starts where the one before it ends, rounded up, and that the last one ends with
    the file.
    """
    end = start
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.start != _rounded_up(end, alignment):
            raise reader.damaged(f"the tensor {shown(name)} overlaps another one, or there is a gap before it")
        end = info.end
    if not end <= reader.size <= _rounded_up(end, alignment):
        difference = f"it has {reader.size:,} bytes, and its header describes {end:,}"
        raise StorageError(f"{reader.name} is cut off or damaged", difference, "download it again")


def _rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
