"""Store matrices in every quantised format that this program reads, simply and slowly: for tiny checkpoints and tests.

Source: docs/reference/quantised.md, "Formats" and "Decoding".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

E4M3, LARGEST_E4M3 = torch.float8_e4m3fn, 448.0
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
H4 = torch.tensor([[1.0, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]])
CODEBOOK = torch.tensor(
    [-0.98, -0.79, -0.64, -0.5, -0.38, -0.26, -0.16, -0.05, 0.05, 0.16, 0.27, 0.38, 0.5, 0.64, 0.79, 0.98]
)
# The formats that occur in a file of each precision.
PRECISIONS = {
    "fp8": ("fp8",),
    "int8": ("convrot",),
    "nvfp4": ("nvfp4",),
    "mixed": ("nvfp4", "convrot", "fp8_rows", "mxfp8", "int8"),
}
Tensors = dict[str, Tensor]
Marker = dict[str, Any]


def stored(form: str, weight: Tensor, **options: int) -> tuple[Tensors, Marker | None]:
    """A matrix (out in) in a format: its tensors by role, and the content of its marker; None if no marker is
    needed.
    """
    return WRITERS[form](weight.float(), **options)


def with_markers(layers: Mapping[str, tuple[Tensors, Marker | None]]) -> Tensors:
    """The tensors of layers by their names in a file, and the marker of each layer."""
    found: Tensors = {}
    for name, (tensors, marker) in layers.items():
        found |= {f"{name}.{role}": tensor for role, tensor in tensors.items()}
        if marker is not None:
            found[f"{name}.comfy_quant"] = torch.tensor(list(json.dumps(marker).encode()), dtype=torch.uint8)
    return found


def stored_as(precision: str, weights: Mapping[str, Tensor]) -> Tensors:
    """The tensors of layers in a precision of PRECISIONS, by their names in a file; several formats are used in
    turn.
    """
    forms = PRECISIONS[precision]
    layers: dict[str, tuple[Tensors, Marker | None]] = {}
    for number, (name, weight) in enumerate(weights.items()):
        form = forms[number % len(forms)]
        options = {"group": largest_group(weight.shape[1])} if form == "convrot" else {}
        layers[name] = stored(form, weight, **options)
    return with_markers(layers)


def largest_group(columns: int) -> int:
    """The largest group of columns up to 256 that can be rotated together."""
    return max(group for group in (4, 16, 64, 256) if columns % group == 0)


def rotation(group: int) -> Tensor:
    """The matrix (group group) that rotates a group of columns."""
    matrix = torch.ones(1, 1)
    while len(matrix) < group:
        matrix = torch.kron(matrix, H4)
    return matrix / isqrt(group)


def _fp8(weight: Tensor) -> tuple[Tensors, Marker | None]:
    scale = weight.abs().amax() / LARGEST_E4M3
    return {"weight": _e4m3(weight / scale), "weight_scale": scale, "input_scale": torch.tensor(0.05)}, None


def _fp8_rows(weight: Tensor) -> tuple[Tensors, Marker | None]:
    scale = weight.abs().amax(-1) / LARGEST_E4M3
    return {"weight": _e4m3(weight / scale[:, None]), "weight_scale": scale}, None


def _fp8_tiles(weight: Tensor) -> tuple[Tensors, Marker | None]:
    tiles = weight.unflatten(0, (-1, 128)).unflatten(-1, (-1, 128))
    scale = tiles.abs().amax((1, 3), keepdim=True) / LARGEST_E4M3
    return {"weight": _e4m3((tiles / scale).reshape(weight.shape)), "weight_scale": scale[:, 0, :, 0].clone()}, None


def _fp8_cast(weight: Tensor) -> tuple[Tensors, Marker | None]:
    return {"weight": _e4m3(weight)}, None


def _mxfp8(weight: Tensor) -> tuple[Tensors, Marker | None]:
    blocks = _padded(weight, 32).unflatten(-1, (-1, 32))
    exponents = (blocks.abs().amax(-1) / LARGEST_E4M3).log2().ceil().clamp(-127, 127)
    values = (blocks / exponents.exp2()[..., None]).flatten(-2)
    return {"weight": _e4m3(values), "weight_scale": in_pieces((exponents + 127).byte())}, {"format": "mxfp8"}


def _nvfp4(weight: Tensor) -> tuple[Tensors, Marker | None]:
    whole = weight.abs().amax() / 2688
    blocks = _padded(weight, 16).unflatten(-1, (-1, 16))
    scales = _e4m3(blocks.abs().amax(-1) / 6 / whole)
    values = blocks / (whole * scales.float())[..., None]
    codes = (values.nan_to_num().abs()[..., None] - E2M1).abs().argmin(-1) + 8 * (values < 0)
    even, odd = codes.flatten(-2).unflatten(-1, (-1, 2)).unbind(-1)
    tensors = {"weight": (16 * even + odd).byte(), "weight_scale_2": whole}
    return tensors | {"weight_scale": in_pieces(scales.view(torch.uint8)).view(E4M3)}, {"format": "nvfp4"}


def _int8(weight: Tensor) -> tuple[Tensors, Marker | None]:
    whole, scale = _whole(weight)
    return {"weight": whole, "weight_scale": scale}, {"format": "int8_tensorwise"}


def _convrot(weight: Tensor, *, group: int = 256) -> tuple[Tensors, Marker | None]:
    tensors, marker = _int8(_rotated(weight, group))
    return tensors, {**(marker or {}), "convrot": True, "convrot_groupsize": group}


def _w4a8(weight: Tensor, *, group: int = 256, small_group: int = 16) -> tuple[Tensors, Marker | None]:
    values, tensors = _relative(_rotated(weight, group), small_group)
    codes = (values[..., None] - CODEBOOK).abs().argmin(-1)
    tensors |= {"weight": _pairs(codes).view(torch.int8), "weight_codebook": CODEBOOK.clone()}
    return tensors, _of_small_groups(group, small_group)


def _w6a8(weight: Tensor, *, group: int = 256, small_group: int = 16) -> tuple[Tensors, Marker | None]:
    values, tensors = _relative(_rotated(weight, group), small_group, largest=31)
    codes = values.round().clamp(-32, 31).long() + 32
    fours = (codes >> 4).unflatten(-1, (-1, 4))
    high = sum(fours[..., i] << 2 * i for i in range(4))
    assert isinstance(high, Tensor)
    return tensors | {"weight": torch.cat((_pairs(codes & 15), high.byte()), -1).view(torch.int8)}, _of_small_groups(
        group, small_group
    )


WRITERS: Mapping[str, Callable[..., tuple[Tensors, Marker | None]]] = {
    "fp8": _fp8,
    "fp8_rows": _fp8_rows,
    "fp8_tiles": _fp8_tiles,
    "fp8_cast": _fp8_cast,
    "mxfp8": _mxfp8,
    "nvfp4": _nvfp4,
    "int8": _int8,
    "convrot": _convrot,
    "w4a8": _w4a8,
    "w6a8": _w6a8,
}


def in_pieces(scales: Tensor) -> Tensor:
    """Scales of blocks (rows blocks), as bytes, in pieces of 128 rows and 4 blocks, padded with zeros."""
    rows, blocks = scales.shape
    found = torch.zeros(-(-rows // 128) * 128, -(-blocks // 4) * 4, dtype=torch.uint8)
    r, c = torch.arange(rows)[:, None], torch.arange(blocks)
    places = (r // 128 * (found.shape[1] // 4) + c // 4) * 512 + r % 32 * 16 + r % 128 // 32 * 4 + c % 4
    found.view(-1)[places] = scales
    return found


def _e4m3(values: Tensor) -> Tensor:
    return values.clamp(-LARGEST_E4M3, LARGEST_E4M3).to(E4M3)


def _padded(weight: Tensor, step: int) -> Tensor:
    rows, columns = weight.shape
    return F.pad(weight, (0, -columns % step, 0, -rows % step))


def _rotated(weight: Tensor, group: int) -> Tensor:
    return (weight.unflatten(-1, (-1, group)) @ rotation(group)).flatten(-2)


def _whole(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Integers up to 127, and the scale (out 1) of each row."""
    scale = (weight.abs().amax(-1, keepdim=True) / 127).clamp(min=1e-30)
    return (weight / scale).round().clamp(-127, 127).char(), scale


def _relative(weight: Tensor, group: int, largest: float = 1.0) -> tuple[Tensor, Tensors]:
    """Values up to `largest`, relative to the scales of small groups, which are in turn relative to the scale of the
    row.
    """
    whole, scale = _whole(weight)
    groups = whole.float().unflatten(-1, (-1, group))
    relative = _e4m3(groups.abs().amax(-1) / largest)
    values = (groups / relative.float().clamp(min=2**-9)[..., None]).flatten(-2)
    return values, {"weight_s_rel": relative, "weight_s_channel": scale[:, 0].clone()}


def _pairs(codes: Tensor) -> Tensor:
    """Pairs of four-bit codes in one byte, the even column in the low half."""
    even, odd = codes.unflatten(-1, (-1, 2)).unbind(-1)
    return (even + 16 * odd).byte()


def _of_small_groups(group: int, small_group: int) -> Marker:
    return {"format": "asym_w4a8_int8", "group_size": small_group, "convrot": True, "convrot_groupsize": group}
