"""Which matrices of a file `ltx2 convert` encodes, and the tensors that replace each in the new file.

Source: docs/reference/quantised.md, "What convert writes".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from ..components import AUDIO_CONNECTOR, COMPONENTS, VIDEO_CONNECTOR
from ..header_text import DTYPE_BYTES, METADATA, TensorInfo

Target = Literal["int8", "fp8"]
TARGETS: tuple[Target, ...] = ("int8", "fp8")
GROUPS = (256, 64, 16)  # columns that are rotated together: the largest that divides their number
ALIGNMENT = 8  # alignment of the first tensor in a file
PLAIN_FLOATS = ("BF16", "F16", "F32", "F64")


def _weights(prefixes: Sequence[str], blocks: Sequence[str], layers: Sequence[str]) -> re.Pattern[str]:
    """The names of the weights of some layers in every block. blocks: the names of lists of blocks."""
    parts = ("|".join(map(re.escape, names)) for names in (prefixes, blocks, layers))
    return re.compile(r"({})({})\.\d+\.({})\.weight".format(*parts))


def _each(layers: Sequence[str], parts: Sequence[str]) -> list[str]:
    return [f"{layer}.{part}" for layer in layers for part in parts]


CONNECTOR_BLOCKS = [f"{connector}transformer_1d_blocks" for connector in (VIDEO_CONNECTOR, AUDIO_CONNECTOR)]
ATTENTIONS = ("attn1", "attn2", "audio_attn1", "audio_attn2", "audio_to_video_attn", "video_to_audio_attn")
# The quantised matrices of a denoiser and its connectors, as in the official int8 file of 2.5.
DENOISER_MATRIX = _weights(
    prefixes=COMPONENTS["transformer"].prefixes,
    blocks=["transformer_blocks", *CONNECTOR_BLOCKS],
    layers=[
        *_each(ATTENTIONS, ("to_q", "to_k", "to_v", "to_out.0")),
        *_each(("ff.net", "audio_ff.net"), ("0.proj", "2")),
    ],
)
# The seven matrices of each language layer of a text encoder.
GEMMA_MATRIX = _weights(
    prefixes=COMPONENTS["language_model"].prefixes,
    blocks=["layers"],
    layers=[
        *_each(("self_attn",), ("q_proj", "k_proj", "v_proj", "o_proj")),
        *_each(("mlp",), ("gate_proj", "up_proj", "down_proj")),
    ],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How a matrix is encoded. name: of its weight. group: columns that are rotated together, 1 for none."""

    name: str
    to: Target
    shape: tuple[int, int]
    group: int

    @property
    def layer(self) -> str:
        return self.name.removesuffix(".weight")

    @property
    def marker(self) -> bytes:
        """The marker that tells other programs the format: JSON with spaces, as in the official files."""
        if self.to == "fp8":
            said: Mapping[str, object] = {"format": "float8_e4m3fn"}
        else:
            said = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": self.group}
        return json.dumps(said).encode()

    @property
    def tensors(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Dtype and shape of its codes and of their scales, by role."""
        if self.to == "fp8":
            return {"weight": ("F8_E4M3", self.shape), "weight_scale": ("F32", ())}
        return {"weight": ("I8", self.shape), "weight_scale": ("F32", (self.shape[0], 1))}


def plan_encodings(tensors: Mapping[str, TensorInfo], pattern: re.Pattern[str], to: Target) -> dict[str, Encoding]:
    """The matrices that are encoded, by the name of their weight."""
    found: dict[str, Encoding] = {}
    for name, info in tensors.items():
        if len(info.shape) != 2 or info.dtype not in PLAIN_FLOATS or not info.nbytes or not pattern.fullmatch(name):
            continue
        rows, columns = info.shape
        group = 1 if to == "fp8" else next((one for one in GROUPS if columns % one == 0), None)
        if group is not None:
            found[name] = Encoding(name=name, to=to, shape=(rows, columns), group=group)
    return found


def lay_out(
    source: Mapping[str, TensorInfo], metadata: Mapping[str, str], encodings: Mapping[str, Encoding]
) -> tuple[bytes, dict[str, TensorInfo]]:
    """The beginning of the new file, up to its first tensor, and the position of each tensor in the file.

    The order is that of the source; scales follow their matrix, and the markers come last, because texts of any length
    would break the alignment of what follows them.
    """
    entries: dict[str, tuple[str, tuple[int, ...], int]] = {}
    for name, info in sorted(source.items(), key=lambda item: item[1].start):
        if name not in encodings:
            entries[name] = info.dtype, info.shape, info.nbytes
            continue
        for role, (dtype, shape) in encodings[name].tensors.items():
            entries[f"{encodings[name].layer}.{role}"] = dtype, shape, prod(shape) * DTYPE_BYTES[dtype]
    for encoding in encodings.values():
        size = len(encoding.marker)
        entries[f"{encoding.layer}.comfy_quant"] = "U8", (size,), size
    infos, end = {}, 0
    for name, (dtype, shape, size) in entries.items():
        infos[name] = TensorInfo(dtype, shape, end, end + size)
        end += size
    begin = _beginning(infos, metadata)
    shift = len(begin)
    return begin, {n: TensorInfo(i.dtype, i.shape, i.start + shift, i.end + shift) for n, i in infos.items()}


def _beginning(infos: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> bytes:
    """The length and the text of a header, padded with spaces."""
    said: dict[str, object] = {METADATA: dict(metadata)} if metadata else {}
    for name, info in infos.items():
        said[name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [info.start, info.end]}
    text = json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
