"""Our decoders and products against the libraries that write such files: comfy-kitchen (on the CPU) and gguf."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ltx2_core.gguf_header import BLOCK_TYPES, GGUF_PREFIX, OTHER_TYPES, TYPES
from ltx2_core.quantize.decode import decode
from ltx2_core.quantize.gguf import SCALES_AT, decode_blocks
from ltx2_core.quantize.products import multiply
from ltx2_core.stored.layer import StoredLayer

kitchen = pytest.importorskip("comfy_kitchen", reason="comfy-kitchen is missing; `make parity` installs it")
gguf = pytest.importorskip("gguf", reason="gguf is missing; `make parity` installs it")
SHAPE, ROWS = (192, 512), 33


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stored_as(form: str, **more: int) -> StoredLayer:
    return StoredLayer(name="a", format=form, tensors={}, shape=SHAPE, **more)  # pyright: ignore[reportArgumentType]


def whole(layer: StoredLayer, tensors: dict[str, Tensor]) -> Tensor:
    return decode(layer, tensors, range(SHAPE[0]))


@pytest.mark.parametrize("kind", sorted(SCALES_AT))
def test_blocks_decode_to_the_bits_of_gguf(kind: str) -> None:
    block, name = BLOCK_TYPES[kind], kind.removeprefix(GGUF_PREFIX)
    random = np.random.default_rng(4)
    raw = random.integers(0, 256, (6, 2 * block.nbytes), dtype=np.uint8)
    blocks = raw.reshape(-1, block.nbytes)
    for place in SCALES_AT[kind]:
        blocks[:, place : place + 2] = random.normal(size=(len(blocks), 1)).astype(np.float16).view(np.uint8)
    theirs = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name])
    assert torch.equal(decode_blocks(torch.from_numpy(raw), kind), torch.from_numpy(theirs))


def test_types_of_tensors_have_the_numbers_and_names_of_gguf() -> None:
    ours = {number: kind.name.removeprefix(GGUF_PREFIX) for number, kind in TYPES.items()} | OTHER_TYPES
    assert ours == {kind.value: kind.name for kind in gguf.GGMLQuantizationType}
    sizes = {kind.value: size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {number: (kind.elements, kind.nbytes) for number, kind in TYPES.items()} == {
        number: sizes[number] for number in TYPES
    }


def test_fp8_decodes_to_the_numbers_of_comfy_kitchen() -> None:
    scale = torch.tensor(0.013)
    codes = kitchen.quantize_per_tensor_fp8(drawn(*SHAPE), scale)
    theirs = kitchen.dequantize_per_tensor_fp8(codes, scale, torch.float32)
    assert torch.equal(whole(stored_as("fp8"), {"weight": codes, "weight_scale": scale}), theirs)


def test_mxfp8_decodes_to_the_numbers_of_comfy_kitchen() -> None:
    codes, scales = kitchen.quantize_mxfp8(drawn(*SHAPE))
    theirs = kitchen.dequantize_mxfp8(codes, scales, torch.float32)
    assert torch.equal(whole(stored_as("mxfp8"), {"weight": codes, "weight_scale": scales}), theirs)


def test_nvfp4_decodes_to_the_numbers_of_comfy_kitchen() -> None:
    weight = drawn(*SHAPE)
    scale = weight.abs().amax() / 2688
    codes, scales = kitchen.quantize_nvfp4(weight, scale)
    theirs = kitchen.dequantize_nvfp4(codes, scale, scales, torch.float32)
    tensors = {"weight": codes, "weight_scale": scales, "weight_scale_2": scale}
    torch.testing.assert_close(whole(stored_as("nvfp4"), tensors), theirs, rtol=3e-7, atol=0)


@pytest.mark.parametrize("bits", [4, 6])
def test_packed_integers_decode_to_the_numbers_of_comfy_kitchen(bits: int) -> None:
    packed, relative, channel, codebook, _ = kitchen.quantize_w4a8_int8_weight(drawn(*SHAPE), bits=bits)
    theirs = kitchen.dequantize_w4a8_int8_weight(packed, relative, channel, codebook, output_dtype=torch.float32)
    tensors = {"weight": packed, "weight_s_rel": relative, "weight_s_channel": channel}
    tensors |= {} if codebook is None else {"weight_codebook": codebook}
    ours = whole(stored_as(f"w{bits}a8", rotation=256, group=16), tensors)
    assert (ours - theirs).abs().max() <= 1e-6 * theirs.abs().max()


@pytest.mark.parametrize("rotation", [1, 256])
def test_products_of_int8_are_those_of_comfy_kitchen(rotation: int) -> None:
    codes, scales = kitchen.quantize_int8_rowwise(drawn(*SHAPE))
    x = drawn(ROWS, SHAPE[1], seed=1)
    theirs = kitchen.int8_linear(x, codes, scales, out_dtype=torch.float32, convrot=rotation > 1, convrot_groupsize=256)
    layer, tensors = stored_as("int8", rotation=rotation), {"weight": codes, "weight_scale": scales}
    assert (multiply(layer, tensors, x) - theirs).abs().max() <= 5e-3 * theirs.abs().max()
