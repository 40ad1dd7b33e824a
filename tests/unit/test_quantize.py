"""From stored bytes to numbers: every format, with any widths, groups and padding, one row at a time or all at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ltx2_core.errors import CheckpointError
from ltx2_core.headers import read_header
from ltx2_core.quantize.decode import decode, decode_matrix
from ltx2_core.quantize.integers import rotated
from ltx2_core.quantize.rows import block_scales
from ltx2_core.quantize.values import require_usable_scale
from ltx2_core.stored.layer import StoredLayer
from ltx2_core.weights import map_tensors
from scripts.quantise import WRITERS, in_pieces, rotation, stored, with_markers

# The largest relative root mean square error of each format, for normally distributed numbers.
ERRORS = {"fp8": 0.03, "fp8_rows": 0.03, "fp8_tiles": 0.03, "fp8_cast": 0.04, "mxfp8": 0.03, "nvfp4": 0.11}
ERRORS |= {"int8": 0.01, "convrot": 0.01, "w4a8": 0.09, "w6a8": 0.03}
PADDED = [(3, 5), (48, 80), (300, 64)]
SHAPES = {"fp8_tiles": [(128, 256), (384, 128)], "mxfp8": PADDED, "nvfp4": PADDED}
OTHER_SHAPES = [(5, 64), (33, 192), (2, 320)]


def written(form: str, weight: Tensor, folder: Path) -> tuple[StoredLayer, dict[str, Tensor]]:
    """A layer as it is read from a file, with its tensors by role."""
    rotates = form in ("convrot", "w4a8", "w6a8")
    path = folder / "a.safetensors"
    save_file(with_markers({"a": stored(form, weight, **({"group": 64} if rotates else {}))}), path)
    header = read_header(path)
    (layer,) = header.stored.layers.values()
    tensors = map_tensors(header, layer.tensors.values())
    return layer, {role: tensors[name] for role, name in layer.tensors.items()}


CASES = [(form, shape) for form in WRITERS for shape in SHAPES.get(form, OTHER_SHAPES)]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("form", "shape"), CASES, ids=str)
def test_what_was_stored_comes_back_within_the_error_of_its_format(
    form: str, shape: tuple[int, int], seed: int, tmp_path: Path
):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.02
    layer, tensors = written(form, weight, tmp_path)
    assert layer.fits(shape)
    ours = decode_matrix(layer, tensors, shape, torch.float32)
    assert (ours - weight).square().mean().sqrt() <= ERRORS[form] * weight.square().mean().sqrt()


@pytest.mark.parametrize(("form", "shape"), CASES, ids=str)
def test_rows_alone_are_those_of_the_whole_matrix(form: str, shape: tuple[int, int], tmp_path: Path):
    layer, tensors = written(form, torch.randn(shape), tmp_path)
    whole = decode(layer, tensors, range(layer.shape[0]))
    for rows in (range(1), range(1, shape[0]), range(shape[0] // 2, shape[0] // 2 + 1)):
        assert decode(layer, tensors, rows).equal(whole[rows.start : rows.stop])


@pytest.mark.parametrize("form", WRITERS)
def test_a_matrix_in_chunks_is_the_float32_one_rounded_once(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shape = SHAPES.get(form, OTHER_SHAPES)[-1]
    layer, tensors = written(form, torch.randn(shape), tmp_path)
    exact = decode(layer, tensors, range(shape[0]))[:, : shape[1]]
    monkeypatch.setattr("ltx2_core.quantize.decode.CPU_CHUNK", 3 * layer.shape[1])
    assert decode_matrix(layer, tensors, shape, torch.bfloat16).equal(exact.bfloat16())
    assert decode_matrix(layer, tensors, shape, torch.float32).equal(exact.bfloat16().float())


@pytest.mark.parametrize("form", WRITERS)
def test_a_device_without_data_decodes_too(form: str, tmp_path: Path):
    shape = SHAPES.get(form, OTHER_SHAPES)[0]
    layer, tensors = written(form, torch.randn(shape), tmp_path)
    empty = {role: tensor.to("meta") for role, tensor in tensors.items()}
    matrix = decode_matrix(layer, empty, shape, torch.bfloat16)
    assert (matrix.shape, matrix.device.type) == (shape, "meta")


@pytest.mark.parametrize("group", [4, 16, 64, 256])
def test_two_small_matrices_are_the_matrix_of_the_rotation(group: int):
    whole = torch.randint(-128, 128, (3, 2 * group)).float()
    by_matrix = whole.unflatten(-1, (2, group)).double() @ (rotation(group).double() * group**0.5)
    assert rotated(whole, group).double().equal(by_matrix.flatten(-2))


def test_rotating_twice_gives_the_whole_numbers_back():
    whole = torch.randint(-128, 128, (2, 256)).float()
    assert (rotated(rotated(whole, 64), 64) / 64).equal(whole)


def test_a_rotated_matrix_is_rounded_only_once(tmp_path: Path):
    layer, tensors = written("convrot", torch.randn(5, 128), tmp_path)
    whole = tensors["weight"].double().unflatten(-1, (2, 64)) @ (rotation(64).double() * 8)
    exact = whole.flatten(-2) * (tensors["weight_scale"].double() / 8)
    assert decode(layer, tensors, range(5)).equal(exact.float())


@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (33, 5), (128, 4), (200, 9), (300, 12)])
def test_scales_in_pieces_come_back_in_their_order(rows: int, blocks: int):
    scales = torch.randint(0, 256, (rows, blocks), dtype=torch.uint8)
    pieces = in_pieces(scales)
    assert block_scales(pieces, blocks, range(rows)).equal(scales)
    assert block_scales(pieces, blocks, range(rows // 2, rows)).equal(scales[rows // 2 :])


def test_the_even_column_is_the_high_half_of_a_byte_in_nvfp4_and_the_low_one_in_w4a8(tmp_path: Path):
    layer, tensors = written("nvfp4", torch.randn(16, 16), tmp_path)
    tensors |= {"weight": torch.full((16, 8), 0x20, dtype=torch.uint8), "weight_scale_2": torch.tensor(1.0)}
    assert decode(layer, tensors, range(1))[0, 1::2].count_nonzero() == 0
    layer, tensors = written("w4a8", torch.randn(1, 64), tmp_path)
    tensors |= {"weight": torch.full((1, 32), 0x20, dtype=torch.int8), "weight_codebook": torch.arange(16.0)}
    assert rotated(decode(layer, tensors, range(1)), 64)[0, ::2].abs().max() < 1e-3


def test_w4a8_without_codebook_stands_for_whole_numbers(tmp_path: Path):
    layer, tensors = written("w4a8", torch.randn(2, 64), tmp_path)
    with_whole = tensors | {"weight_codebook": torch.arange(16.0) - 8}
    del tensors["weight_codebook"]
    assert decode(layer, tensors, range(2)).equal(decode(layer, with_whole, range(2)))


@pytest.mark.parametrize(
    ("form", "role", "value"),
    [
        ("fp8", "weight_scale", float("nan")),
        ("fp8", "weight_scale", float("inf")),
        ("fp8", "weight_scale", -0.1),
        ("fp8", "input_scale", 0.0),
        ("int8", "weight_scale", -0.1),
        ("nvfp4", "weight_scale_2", float("nan")),
        ("w4a8", "weight_s_channel", float("inf")),
        ("w4a8", "weight_codebook", float("nan")),
    ],
)
def test_scales_that_make_no_sense_are_refused_by_name(form: str, role: str, value: float, tmp_path: Path):
    layer, tensors = written(form, torch.randn(4, 64), tmp_path)
    wrong = tensors[role].clone()
    wrong.view(-1)[-1] = value
    with pytest.raises(CheckpointError, match=rf"a\.{role}: "):
        require_usable_scale(Path("x.safetensors"), layer, role, wrong)
    for own, tensor in tensors.items():
        require_usable_scale(Path("x.safetensors"), layer, own, tensor)


@pytest.mark.parametrize(("form", "code"), [("mxfp8", 255), ("nvfp4", 0x7F), ("nvfp4", 0x81), ("w4a8", 0xFF)])
@pytest.mark.parametrize("is_tagged", [True, False])
def test_block_scales_are_looked_at_whatever_they_are_tagged(form: str, code: int, is_tagged: bool, tmp_path: Path):
    layer, tensors = written(form, torch.randn(32, 64), tmp_path)
    role = "weight_s_rel" if form == "w4a8" else "weight_scale"
    wrong = tensors[role].view(torch.uint8).clone()
    wrong.view(-1)[0] = code
    dtype = torch.float8_e8m0fnu if form == "mxfp8" else torch.float8_e4m3fn
    with pytest.raises(CheckpointError, match=role):
        require_usable_scale(Path("x.safetensors"), layer, role, wrong if is_tagged else wrong.view(dtype))
