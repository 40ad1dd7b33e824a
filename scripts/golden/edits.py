"""Change a safetensors or GGUF file byte by byte, as described by a list of edits."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from ltx2_core.header_text import DTYPE_BYTES

MARKER, HEADER_MARKER = ".comfy_quant", "_quantization_metadata"
NUMBERS = {"F32": "<f", "U8": "<B", "I8": "<b"}
# One number as bytes, for dtypes that the module struct lacks.
BYTES = {("BF16", 0.01): b"\x24\x3c", ("F8_E4M3", 1.0): b"\x38"}
Edit = Mapping[str, Any]


class Content:
    """A safetensors file in memory. tensors: dtype, shape and bytes by name."""

    def __init__(self, path: Path) -> None:
        raw = path.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + length])
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self.tensors: dict[str, tuple[str, list[int], bytes]] = {}
        for name, info in header.items():
            begin, end = (8 + length + offset for offset in info["data_offsets"])
            self.tensors[name] = info["dtype"], info["shape"], raw[begin:end]

    def write(self, path: Path) -> None:
        """Write the file, the widest dtypes first, so that every tensor is aligned to its element size."""
        header: dict[str, Any] = {"__metadata__": self.metadata}
        names = sorted(self.tensors, key=lambda name: (-DTYPE_BYTES[self.tensors[name][0]], name))
        start = 0
        for name in names:
            dtype, shape, data = self.tensors[name]
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + len(data)]}
            start += len(data)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(self.tensors[name][2] for name in names))

    @property
    def markers(self) -> dict[str, Any]:
        """The marker tensors, by layer."""
        ends = [name for name in self.tensors if name.endswith(MARKER)]
        return {name.removesuffix(MARKER): json.loads(self.tensors[name][2]) for name in ends}


def edited(path: Path, edits: Sequence[Edit]) -> Path:
    """A changed copy of a file, in the same folder."""
    target = path.with_name(f"changed-{path.name}")
    if path.suffix == ".gguf":
        raw = path.read_bytes()
        for edit in edits:
            raw = RAW_EDITS[edit["op"]](raw, edit)
        target.write_bytes(raw)
        return target
    content = Content(path)
    for edit in edits:
        EDITS[edit["op"]](content, edit)
    content.write(target)
    return target


def _overwritten(raw: bytes, edit: Edit) -> bytes:
    new = bytes.fromhex(edit["hex"])
    return raw[: edit["offset"]] + new + raw[edit["offset"] + len(new) :]


# Changes of a GGUF file, which is treated as plain bytes.
RAW_EDITS: Mapping[str, Callable[[bytes, Edit], bytes]] = {
    "bytes": _overwritten,
    "truncate": lambda raw, edit: raw[: -edit["bytes"]],
    "replace_bytes": lambda raw, edit: raw.replace(edit["find"].encode(), edit["with"].encode(), 1),
}


def _json(content: Content, edit: Edit) -> None:
    data = edit["value"].encode()
    content.tensors[edit["tensor"]] = "U8", [len(data)], data


def _reshape(content: Content, edit: Edit) -> None:
    dtype, _, data = content.tensors[edit["tensor"]]
    content.tensors[edit["tensor"]] = dtype, edit["shape"], data


def _view(content: Content, edit: Edit) -> None:
    _, shape, data = content.tensors[edit["tensor"]]
    content.tensors[edit["tensor"]] = edit["dtype"], shape, data


def _set(content: Content, edit: Edit) -> None:
    dtype, shape, value = edit["dtype"], edit["shape"], edit["value"]
    one = BYTES.get((dtype, value)) if dtype not in NUMBERS else None
    if one is None:
        one = struct.pack(NUMBERS[dtype], float(value) if dtype == "F32" else value)
    content.tensors[edit["tensor"]] = dtype, shape, one * prod(shape)


def _fill(content: Content, edit: Edit) -> None:
    dtype, shape, data = content.tensors[edit["tensor"]]
    content.tensors[edit["tensor"]] = dtype, shape, bytes([edit["value"]]) * len(data)


def _markers_to_header(content: Content, edit: Edit) -> None:
    said: dict[str, Any] = {"layers": content.markers}
    if edit["format_version"] is not None:
        said["format_version"] = edit["format_version"]
    content.metadata[HEADER_MARKER] = json.dumps(said)
    if not edit.get("keep"):
        _drop_markers(content, edit)


def _drop_markers(content: Content, edit: Edit) -> None:
    for layer in content.markers:
        del content.tensors[layer + MARKER]


def _header_for_all(content: Content, edit: Edit) -> None:
    names = [name for name, (dtype, _, _) in content.tensors.items() if dtype == "F8_E4M3" and name.endswith(".weight")]
    layers = {name.removesuffix(".weight"): {"format": edit["format"]} for name in names}
    content.metadata[HEADER_MARKER] = json.dumps({"format_version": "1.0", "layers": layers})


def _header_version(content: Content, edit: Edit) -> None:
    said = json.loads(content.metadata[HEADER_MARKER]) | {"format_version": edit["value"]}
    content.metadata[HEADER_MARKER] = json.dumps(said)


EDITS: Mapping[str, Callable[[Content, Edit], object]] = {
    "metadata": lambda content, edit: content.metadata.update({edit["key"]: edit["value"]}),
    "json": _json,
    "delete": lambda content, edit: content.tensors.pop(edit["tensor"]),
    "reshape": _reshape,
    "view": _view,
    "set": _set,
    "fill": _fill,
    "markers_to_header": _markers_to_header,
    "drop_markers": _drop_markers,
    "header_for_all": _header_for_all,
    "header_version": _header_version,
}
