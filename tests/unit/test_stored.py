"""The layers of a file that are stored quantised: what is recognised, and what is refused instead of guessed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ltx2_core.errors import CheckpointError
from ltx2_core.headers import Header, precision, quantised_weights, read_header, together
from ltx2_core.stored.layer import StoredLayer

Tensors = dict[str, Tensor]
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def marker(**fields: Any) -> Tensor:
    return torch.tensor(list(json.dumps(fields).encode()), dtype=torch.uint8)


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


FP8 = {"a.weight": zeros(4, 8, dtype=E4M3), "a.weight_scale": zeros()}
ROWS = {"a.weight": zeros(4, 8, dtype=E4M3), "a.weight_scale": zeros(4)}
MXFP8 = {"a.weight": zeros(32, 64, dtype=E4M3), "a.weight_scale": zeros(128, 4, dtype=torch.uint8)}
MXFP8 |= {"a.comfy_quant": marker(format="mxfp8")}
NVFP4 = {"a.weight": zeros(16, 16, dtype=torch.uint8), "a.weight_scale": zeros(128, 4, dtype=E4M3)}
NVFP4 |= {"a.weight_scale_2": zeros()}
INT8 = {"a.weight": zeros(4, 64, dtype=torch.int8), "a.weight_scale": zeros(4, 1)}
INT8 |= {"a.comfy_quant": marker(format="int8_tensorwise")}
CONVROT = INT8 | {"a.comfy_quant": marker(format="int8_tensorwise", convrot=True, convrot_groupsize=64)}
W4A8 = {"a.weight": zeros(4, 32, dtype=torch.int8), "a.weight_s_rel": zeros(4, 4, dtype=E4M3)}
W4A8 |= {"a.weight_s_channel": zeros(4), "a.weight_codebook": zeros(16)}
W4A8 |= {"a.comfy_quant": marker(format="asym_w4a8_int8", convrot_groupsize=64)}
W6A8 = {name: tensor for name, tensor in W4A8.items() if name != "a.weight_codebook"}
W6A8 |= {"a.weight": zeros(4, 48, dtype=torch.int8)}
LEGACY = {"a.weight": FP8["a.weight"], "a.scale_weight": zeros(), "scaled_fp8": zeros(0, dtype=E4M3)}
PLAIN = {"a.weight": zeros(4, 8, dtype=torch.bfloat16)}


def header_of(folder: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Header:
    path = folder / "some.safetensors"
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path, metadata)
    return read_header(path)


def layers(header: Header) -> dict[str, StoredLayer]:
    return {layer.name: layer for layer in header.stored.layers.values()}


@pytest.mark.parametrize(
    ("form", "tensors"),
    [
        ("fp8 (scaled)", FP8),
        ("fp8 (scaled)", FP8 | {"a.weight_scale": zeros(1), "a.input_scale": zeros(1)}),
        ("fp8 (scaled)", FP8 | {"a.weight": zeros(4, 8, dtype=E5M2), "a.comfy_quant": marker(format="float8_e5m2")}),
        ("fp8 (scaled)", LEGACY),
        ("fp8 (scaled)", FP8 | {"a.weight": zeros(3, 5, dtype=E4M3)}),
        ("fp8 (rowwise)", ROWS),
        ("fp8 (rowwise)", ROWS | {"a.weight_scale": zeros(4, 1)}),
        ("fp8 (blockwise)", {"a.weight": zeros(256, 128, dtype=E4M3), "a.weight_scale": zeros(2, 1)}),
        ("fp8 (cast)", {"a.weight": FP8["a.weight"], "a.bias": zeros(4, dtype=E4M3)}),
        ("mxfp8", MXFP8),
        ("nvfp4", NVFP4),
        ("nvfp4", NVFP4 | {"a.weight_scale": zeros(128, 4, dtype=torch.uint8)}),
        ("int8", INT8),
        ("int8", INT8 | {"a.weight_scale": zeros()}),
        ("int8 (convrot)", CONVROT),
        ("w4a8", W4A8),
        ("w6a8", W6A8),
    ],
)
def test_a_layer_is_known_by_its_dtype_scales_and_marker(tmp_path: Path, form: str, tensors: Tensors):
    header = header_of(tmp_path, tensors | {"b.weight": PLAIN["a.weight"]})
    assert quantised_weights(header, header.tensors) == {"a.weight": form}
    assert precision(header) == form
    assert header.stored.companions == tensors.keys() - {"a.weight", "a.bias"}


def test_values_without_a_weight_of_two_sides_are_no_quantised_layers(tmp_path: Path):
    tensors = {"tokenizer_json": zeros(9, dtype=torch.uint8), "norm.weight": zeros(4, dtype=E4M3)}
    assert header_of(tmp_path, tensors).stored.layers == {}


def test_formats_of_one_file_are_counted_and_named_by_number(tmp_path: Path):
    more = {f"b.{name}": tensor for name, tensor in INT8.items()} | {
        f"c.{name}": tensor for name, tensor in INT8.items()
    }
    assert precision(header_of(tmp_path, NVFP4 | more)) == "int8, nvfp4"


def test_a_layer_tells_its_shape_its_groups_and_its_tensors(tmp_path: Path):
    layer = layers(header_of(tmp_path, W4A8))["a"]
    assert (layer.shape, layer.rotation, layer.group) == ((4, 64), 64, 16)
    assert layer.tensors["weight_s_rel"] == "a.weight_s_rel"


def test_scales_in_the_older_spelling_have_the_roles_of_the_current_one(tmp_path: Path):
    layer = layers(header_of(tmp_path, LEGACY | {"a.scale_input": zeros()}))["a"]
    assert layer.tensors == {"weight": "a.weight", "weight_scale": "a.scale_weight", "input_scale": "a.scale_input"}


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        (LEGACY, False),
        (LEGACY | {"scaled_fp8": zeros(2, dtype=E4M3)}, True),
        (FP8 | {"a.comfy_quant": marker(format="float8_e4m3fn", full_precision_matrix_mult=True)}, True),
    ],
)
def test_a_file_may_ask_for_products_in_full_precision(tmp_path: Path, tensors: Tensors, expected: bool):
    assert layers(header_of(tmp_path, tensors))["a"].needs_full_precision is expected


@pytest.mark.parametrize(
    ("tensors", "shape", "expected"),
    [
        (MXFP8, (32, 64), True),
        (MXFP8, (4, 40), True),
        (MXFP8, (4,), True),
        (MXFP8, (4, 32), False),
        (NVFP4, (1, 17), True),
        (INT8, (4, 64), True),
        (INT8, (3, 64), False),
        (PLAIN, (4,), True),
        (PLAIN, (4, 8, 1), False),
    ],
)
def test_padding_is_no_other_shape(tmp_path: Path, tensors: Tensors, shape: tuple[int, ...], expected: bool):
    assert header_of(tmp_path, tensors).fits("a.weight", shape) is expected


def in_metadata(version: str | None = None, **of_a: Any) -> dict[str, str]:
    versions = {} if version is None else {"format_version": version}
    return {"_quantization_metadata": json.dumps({"layers": {"a": of_a}, **versions})}


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        (INT8 | {"a.comfy_quant": marker(format="int8_tensorwise", made_by="someone")}, {}),
        (INT8 | {"a.comfy_quant": INT8["a.comfy_quant"].view(torch.int8)}, {}),
        ({name: INT8[name] for name in ("a.weight", "a.weight_scale")}, in_metadata(format="int8_tensorwise")),
        (INT8, in_metadata("7.0", format="int8_tensorwise")),
        (INT8, {"_quantization_metadata": '{"layers": {}}'}),
        (ROWS, in_metadata("1.1", format="rowwise-float8_e4m3fn")),
        ({name: MXFP8[name] for name in ("a.weight", "a.weight_scale")}, {"quant_format": "mxfp8"}),
        (INT8 | {"b.weight": zeros(4, 4, dtype=torch.bfloat16), "b.comfy_quant": marker(format="bf16")}, {}),
    ],
)
def test_markers_are_read_wherever_they_stand(tmp_path: Path, tensors: Tensors, metadata: dict[str, str]):
    assert layers(header_of(tmp_path, tensors, metadata)).keys() == {"a"}


def test_markers_of_one_layer_are_put_together(tmp_path: Path):
    nested = marker(format="int8_tensorwise", params={"convrot": True})
    header = header_of(tmp_path, INT8 | {"a.comfy_quant": nested}, in_metadata(convrot_groupsize=16))
    assert layers(header)["a"].rotation == 16


def test_markers_are_read_from_the_shard_that_holds_them(tmp_path: Path):
    parts = [{"a.weight": CONVROT["a.weight"], "a.weight_scale": CONVROT["a.weight_scale"]}]
    parts.append({"pad": zeros(7), "a.comfy_quant": CONVROT["a.comfy_quant"]})
    shards = []
    for name, part in zip("xy", parts, strict=True):
        (tmp_path / name).mkdir()
        shards.append(header_of(tmp_path / name, part))
    assert layers(together(shards))["a"].rotation == 64


def without(tensors: Tensors, name: str) -> Tensors:
    return {own: tensor for own, tensor in tensors.items() if own != f"a.{name}"}


REFUSED: dict[str, tuple[Tensors, dict[str, str], str]] = {
    "other-format": (INT8, in_metadata(format="nvfp4"), "disagree about format"),
    "other-group": (CONVROT, in_metadata(convrot_groupsize=16), "disagree about convrot_groupsize"),
    "absent": (FP8, {"_quantization_metadata": '{"layers": {"x": {"format": "nvfp4"}}}'}, "no such layer"),
    "of-float": (PLAIN | {"a.comfy_quant": marker(format="nvfp4")}, {}, "its weight is BF16"),
    "bf16-of-int8": (INT8 | {"a.comfy_quant": marker(format="bf16")}, {}, "its weight is I8"),
    "no-json": (INT8 | {"a.comfy_quant": torch.full((9,), 39, dtype=torch.uint8)}, {}, "not JSON"),
    "deep": (INT8 | {"a.comfy_quant": torch.full((9_000,), 91, dtype=torch.uint8)}, {}, "nested too deeply"),
    "long": (INT8 | {"a.comfy_quant": torch.full((99_000,), 32, dtype=torch.uint8)}, {}, "not a marker"),
    "no-object": (INT8, {"_quantization_metadata": '{"layers": {"a": "nvfp4"}}'}, "not a JSON object"),
    "no-layers": (INT8, {"_quantization_metadata": '"all"'}, "not an object with layers"),
    "no-format": (INT8 | {"a.comfy_quant": marker(convrot=True)}, {}, "names no format"),
    "odd-field": (INT8 | {"a.comfy_quant": marker(format=7)}, {}, "its marker has format 7"),
    "unknown": (INT8 | {"a.comfy_quant": marker(format="svdquant_w4a4")}, {}, "'svdquant_w4a4' is not supported"),
    "dtype": (INT8 | {"a.comfy_quant": marker(format="float8_e4m3fn")}, {}, "its weight is I8"),
    "e5m2": (FP8 | {"a.comfy_quant": marker(format="float8_e5m2")}, {}, "its weight is F8_E4M3"),
    "no-marker": (without(INT8, "comfy_quant"), {}, "whether the matrix is rotated"),
    "no-scale": (without(INT8, "weight_scale"), {}, "no weight_scale"),
    "half-nvfp4": (without(NVFP4, "weight_scale_2"), {}, "lacks weight_scale or weight_scale_2"),
    "one-of-two": (FP8 | {"b.weight": FP8["a.weight"]}, {}, "other fp8 layers of the file have one"),
    "orphan": (PLAIN | {"a.weight_scale": zeros()}, {}, "no quantised weight belongs to it"),
    "orphan-input": (PLAIN | {"a.input_scale": zeros()}, {}, "no quantised weight belongs to it"),
    "both-spellings": (LEGACY | {"a.weight_scale": zeros()}, {}, "weight_scale under two names"),
    "twice": (FP8 | {"a.weight_scale_2": zeros()}, {}, "quantised twice"),
    "longer": (INT8 | {"a.weight_scale": zeros(5, 1)}, {}, r"weight_scale is F32 \[5, 1\]"),
    "bf16-scale": (INT8 | {"a.weight_scale": zeros(4, 1, dtype=torch.bfloat16)}, {}, "weight_scale is BF16"),
    "odd-scale": (FP8 | {"a.weight_scale": zeros(3)}, {}, "fits no format without a marker"),
    "row-major": (MXFP8 | {"a.weight_scale": zeros(32, 2, dtype=torch.uint8)}, {}, r"expected .*\[128, 4\]"),
    "unpadded": (MXFP8 | {"a.weight": zeros(31, 64, dtype=E4M3)}, {}, "which no matrix gives"),
    "group-32": (
        INT8 | {"a.comfy_quant": marker(format="int8_tensorwise", convrot=True, convrot_groupsize=32)},
        {},
        "32",
    ),
    "group-256": (INT8 | {"a.comfy_quant": marker(format="int8_tensorwise", convrot=True)}, {}, "divides 64 columns"),
    "rotated-nvfp4": (NVFP4 | {"a.comfy_quant": marker(format="nvfp4", convrot=True)}, {}, "convrot"),
    "unrotated-w4a8": (W4A8 | {"a.comfy_quant": marker(format="asym_w4a8_int8", convrot=False)}, {}, "always is"),
    "small-group": (W4A8 | {"a.comfy_quant": marker(format="asym_w4a8_int8", group_size=2)}, {}, "group_size 2"),
    "convolution": ({"a.weight": zeros(4, 4, 3, 3, 3, dtype=E4M3)}, {}, "and no matrix"),
    "awq": (NVFP4 | {"a.pre_quant_scale": zeros(32)}, {}, "AWQ"),
    "correction": (W4A8 | {"a.weight_correction": zeros(4, 4)}, {}, "weight_correction"),
    "foreign-scale": (FP8 | {"a.weight_s_rel": zeros(4, 1, dtype=E4M3)}, {}, "does not belong to fp8"),
    "codebook-of-6-bits": (W6A8 | {"a.weight_codebook": zeros(16)}, {}, "does not belong to w6a8"),
    "modelopt": (NVFP4, {"quantization_config": "{}"}, "ModelOpt"),
    "version": (ROWS, in_metadata("2.0", format="rowwise-float8_e4m3fn"), "format_version is '2.0'"),
    "legacy-without-sign": (without(LEGACY, "x") | {"b.weight": NVFP4["a.weight"]}, {}, "it is U8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_be_read_in_two_ways_is_refused_by_name(tmp_path: Path, name: str):
    tensors, metadata, why = REFUSED[name]
    header = header_of(tmp_path, tensors, metadata)
    with pytest.raises(CheckpointError, match=why) as caught:
        _ = header.stored
    assert caught.value.what.startswith("some.safetensors")
    assert caught.value.why.split(":")[0].split(".")[0] in ("a", "b", "x", "_quantization_metadata")


def test_recipes_of_scales_that_are_not_row_wise_are_refused(tmp_path: Path):
    rowwise = "rowwise-float8_e4m3fn"
    text = {"layers": {"a": {"format": rowwise}}, "quant_configs": {rowwise: {"scale_recipe": "blockwise"}}}
    header = header_of(tmp_path, ROWS, {"_quantization_metadata": json.dumps(text)})
    with pytest.raises(CheckpointError, match="scale_recipe"):
        _ = header.stored


@pytest.mark.parametrize("change", [lambda _: None, Path.unlink], ids=["same", "gone"])
def test_markers_are_read_from_the_file_and_numbers_are_not(tmp_path: Path, change: Callable[[Path], None]):
    header = header_of(tmp_path, FP8)
    change(header.path)
    assert layers(header).keys() == {"a"}
