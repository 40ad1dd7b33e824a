"""The tensors of a quantised layer in each format: dtypes, shapes and scales.

Source: docs/reference/quantised.md, "Formats".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..header_text import TensorInfo
from .layer import Format

Shapes = tuple[tuple[int, ...], ...]
SCALAR: Shapes = ((), (1,))
F8 = ("F8_E4M3", "F8_E5M2")
TILE_ROWS, TILE_BLOCKS = 128, 4  # block scales are stored in pieces of this many rows and blocks
ROTATION = 256  # columns that are rotated together, if a marker does not say
GROUP = 16  # the same for columns that share a scale


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape that a rule checks: rows and columns as they are stored, and the columns that share a scale."""

    rows: int
    columns: int
    group: int


@dataclass(frozen=True, slots=True)
class Scale:
    """The requirements for a tensor beside a weight. shapes: the possible ones, given the weight's."""

    dtypes: tuple[str, ...]
    shapes: Callable[[Shape], Shapes]
    is_needed: bool = True


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def _tiled(block: int) -> Callable[[Shape], Shapes]:
    """The shape of block scales in pieces. block: how many columns share one."""
    return lambda s: ((_up(s.rows, TILE_ROWS), _up(_up(s.columns, block) // block, TILE_BLOCKS)),)


def _rows(s: Shape) -> Shapes:
    return (s.rows,), (s.rows, 1)


ONE = Scale(("F32",), lambda _: SCALAR)
INPUT = {"input_scale": Scale(("F32",), lambda _: SCALAR, is_needed=False)}
W4A8_SCALES = {
    "weight_s_rel": Scale(("F8_E4M3", "U8"), lambda s: ((s.rows, s.columns // s.group),)),
    "weight_s_channel": Scale(("F32",), lambda s: ((s.rows,),)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The requirements for a layer of a format.

    Args: dtypes: of its weight. scales: the tensors beside the weight. bits: of one value. steps: required divisors of
    rows and columns. pad: as in StoredLayer.
    """

    dtypes: tuple[str, ...]
    scales: Mapping[str, Scale] = field(default_factory=dict)
    bits: int = 8
    steps: tuple[int, int] = (1, 1)
    pad: int = 1


RULES: Mapping[Format, Rule] = {
    "fp8": Rule(dtypes=F8, scales={"weight_scale": ONE, **INPUT}),
    "fp8_rows": Rule(dtypes=F8, scales={"weight_scale": Scale(("F32",), _rows), **INPUT}),
    "fp8_tiles": Rule(
        dtypes=F8,
        scales={"weight_scale": Scale(("F32",), lambda s: ((s.rows // 128, s.columns // 128),)), **INPUT},
        steps=(128, 128),
    ),
    "fp8_cast": Rule(dtypes=F8),
    "mxfp8": Rule(
        dtypes=("F8_E4M3",),
        scales={"weight_scale": Scale(("U8", "F8_E8M0"), _tiled(32)), **INPUT},
        steps=(32, 32),
        pad=32,
    ),
    "nvfp4": Rule(
        dtypes=("U8",),
        scales={"weight_scale": Scale(("F8_E4M3", "U8"), _tiled(16)), "weight_scale_2": ONE, **INPUT},
        bits=4,
        steps=(1, 16),
        pad=16,
    ),
    "int8": Rule(dtypes=("I8",), scales={"weight_scale": Scale(("F32",), lambda s: _rows(s) + SCALAR), **INPUT}),
    "w4a8": Rule(
        dtypes=("I8",),
        scales={**W4A8_SCALES, "weight_codebook": Scale(("F32",), lambda _: ((16,),), is_needed=False)},
        bits=4,
        steps=(1, 16),
    ),
    "w6a8": Rule(dtypes=("I8",), scales=W4A8_SCALES, bits=6, steps=(1, 32)),
}
# Our format, and the dtype of the weight, for each format in markers.
MARKED: Mapping[str, tuple[Format, str]] = {
    "float8_e4m3fn": ("fp8", "F8_E4M3"),
    "float8_e5m2": ("fp8", "F8_E5M2"),
    "rowwise-float8_e4m3fn": ("fp8_rows", "F8_E4M3"),
    "float8_e4m3fn_rowwise": ("fp8_rows", "F8_E4M3"),
    "float8_e4m3fn_blockwise": ("fp8_tiles", "F8_E4M3"),
    "mxfp8": ("mxfp8", "F8_E4M3"),
    "nvfp4": ("nvfp4", "U8"),
    "int8_tensorwise": ("int8", "I8"),
    "asym_w4a8_int8": ("w4a8", "I8"),
}
PLAIN = "bf16"  # value in the marker of a layer that is not quantised
ROTATED: tuple[Format, ...] = ("w4a8", "w6a8")  # formats that are always rotated


def marked_format(said: Mapping[str, Any], weight: TensorInfo, scales: Mapping[str, TensorInfo]) -> Format:
    """The format of a layer that has a marker. Raises: ValueError if its weight has another one."""
    if said["format"] not in (*MARKED, PLAIN):
        raise ValueError(f"its format {said['format']!r} is not supported")
    form, dtype = MARKED.get(said["format"], (None, ""))
    if form is None or weight.dtype != dtype:
        raise ValueError(f"its marker says {said['format']}, and its weight is {weight.dtype}")
    columns = _relative_columns(said, scales)
    if form == "w4a8" and columns and 4 * weight.shape[1] == 3 * columns:
        return "w6a8"
    return form


def _relative_columns(said: Mapping[str, Any], scales: Mapping[str, TensorInfo]) -> int:
    """How many columns share a scale in small groups; 0 if there are none."""
    info = scales.get("weight_s_rel")
    return 0 if info is None or len(info.shape) != 2 else info.shape[1] * said.get("group_size", GROUP)


def unmarked_format(weight: TensorInfo, scales: Mapping[str, TensorInfo], *, others_have_scales: bool) -> Format:
    """The format of a layer without a marker. Raises: ValueError if it is ambiguous or unknown."""
    scale = scales.get("weight_scale")
    if weight.dtype == "I8":
        raise ValueError("it is int8 without a marker, and so it cannot be told whether the matrix is rotated")
    if weight.dtype == "U8":
        if scale is None or "weight_scale_2" not in scales:
            raise ValueError("it is U8 and lacks weight_scale or weight_scale_2")
        return "nvfp4"
    if scale is None:
        if others_have_scales:
            raise ValueError("it has no weight_scale, and other fp8 layers of the file have one")
        return "fp8_cast"
    rows, columns = weight.shape
    shape = Shape(rows, columns, 1)
    forms: tuple[Format, ...] = ("fp8", "fp8_rows", "fp8_tiles")
    for form in forms:
        rule = RULES[form]
        fits = not any(side % step for side, step in zip(weight.shape, rule.steps, strict=True))
        if fits and scale.shape in rule.scales["weight_scale"].shapes(shape):
            return form
    raise ValueError(f"weight_scale is {scale.dtype} {list(scale.shape)}, which fits no format without a marker")
