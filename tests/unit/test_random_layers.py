"""Random sets of quantised layers of a denoiser, in random formats, are loaded, decoded and streamed correctly."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ltx2_core.checkpoint import assign_streamed, build_component, load_component
from ltx2_core.components import DIT
from ltx2_core.gguf_header import BLOCK_TYPES
from ltx2_core.headers import read_header
from ltx2_core.quantize.gguf import decode_blocks
from ltx2_core.quantize.linear import QuantisedLinear
from ltx2_core.weights import map_tensors
from scripts.gguf_writer import Stored, gguf_bytes, random_tensor
from scripts.make_tiny_checkpoint import is_linear, random_component, tiny_config
from scripts.quantise import largest_group, stored, with_markers

CHECKPOINT = "ltx-2-tiny-dev.safetensors"
FORMS = ("fp8", "fp8_rows", "mxfp8", "nvfp4", "int8", "convrot")  # cast layers must not be mixed with scaled ones
BLOCKS = sorted(kind for kind in BLOCK_TYPES)
LARGEST_ERROR = 0.15  # relative error of a matrix: nvfp4 has three bits and a sign, and an error of about 0.1
Tensors = dict[str, Tensor]


def some_linears(weights: Tensors, random: Random) -> list[str]:
    """The weights of between one and all linear layers of a denoiser."""
    linears = sorted(name for name, tensor in weights.items() if is_linear(name, tensor))
    return random.sample(linears, random.randint(1, len(linears)))


def in_mixed_formats(tiny: Path, path: Path, random: Random) -> set[str]:
    """Write the tiny denoiser with some layers quantised. Returns: their names."""
    tensors = {name: one for name, one in load_file(tiny / CHECKPOINT).items() if "transformer_blocks." in name}
    chosen = [name.removesuffix(".weight") for name in some_linears(tensors, random)]
    whole, layers = load_file(tiny / CHECKPOINT), {}
    for name in chosen:
        weight, form = whole.pop(f"{name}.weight"), random.choice(FORMS)
        options = {"group": largest_group(weight.shape[1])} if form == "convrot" else {}
        layers[name] = stored(form, weight, **options)
    save_file(whole | with_markers(layers), path, dict(read_header(tiny / CHECKPOINT).metadata))
    return set(chosen)


def in_mixed_blocks(path: Path, random: Random) -> set[str]:
    """The same as a GGUF file with random bytes in blocks of all types."""
    config = tiny_config(is_wide=True)
    weights = random_component("transformer", config, torch.Generator().manual_seed(1))
    chosen, bits = some_linears(weights, random), np.random.default_rng(random.randint(0, 99))
    tensors = {name.removeprefix(DIT): in_plain(tensor) for name, tensor in weights.items() if name not in chosen}
    for name in chosen:
        rows, columns = weights[name].shape
        kinds = [kind for kind in BLOCKS if columns % BLOCK_TYPES[kind].elements == 0]
        tensors[name.removeprefix(DIT)] = random_tensor(random.choice(kinds), (rows, columns), bits, 1e-3)
    path.write_bytes(gguf_bytes(tensors, {"config": json.dumps(config)}))
    return {name.removesuffix(".weight").removeprefix(DIT) for name in chosen}


def in_plain(tensor: Tensor) -> Stored:
    kind = {torch.bfloat16: "BF16", torch.float32: "F32"}[tensor.dtype]
    return Stored(kind, tuple(tensor.shape), tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())


def quantised_layers(model: nn.Module) -> list[QuantisedLinear]:
    return [layer for layer in model.modules() if isinstance(layer, QuantisedLinear)]


def right_layers(path: Path, chosen: set[str]) -> list[QuantisedLinear]:
    """Check that every chosen layer computes with its decoded weight, and that streamed blocks equal loaded ones."""
    header = read_header(path)
    model = load_component("transformer", header, dtype=torch.float32)
    layers = quantised_layers(model)
    assert {layer.layer.name for layer in layers} == chosen
    for layer in layers:
        x = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(3))
        assert layer(x).equal(F.linear(x, layer.weight.float(), layer.bias))
    again = build_component("transformer", header)
    streamed = assign_streamed(again, "transformer", [header], device=torch.device("cpu"), dtype=torch.float32)
    for block, whole in zip(streamed.blocks, model.get_submodule("blocks").children(), strict=True):  # pyright: ignore[reportArgumentType]
        state = whole.state_dict()
        assert block.state_dict().keys() == state.keys()
        assert all(same_bytes(tensor, state[name]) for name, tensor in block.state_dict().items())
        assert [layer.layer for layer in quantised_layers(block)] == [one.layer for one in quantised_layers(whole)]
    return layers


def same_bytes(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.contiguous().flatten().view(torch.uint8).equal(
        b.contiguous().flatten().view(torch.uint8)
    )


@pytest.mark.parametrize("seed", range(4))
def test_any_layers_may_be_quantised_in_any_mix_of_formats(seed: int, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT
    weights = load_file(tiny / CHECKPOINT)
    for layer in right_layers(path, in_mixed_formats(tiny, path, Random(seed))):
        expected = weights[f"{layer.layer.name}.weight"].float()
        assert (layer.weight - expected).norm() < LARGEST_ERROR * expected.norm()


@pytest.mark.parametrize("seed", range(2))
def test_any_layers_of_a_gguf_file_may_be_stored_in_any_mix_of_blocks(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "transformer.gguf"
    chosen = in_mixed_blocks(path, Random(seed))
    layers, header = right_layers(path, chosen), read_header(path)
    weights = map_tensors(header, [f"{name}.weight" for name in chosen])
    for layer in layers:
        name = f"{layer.layer.name}.weight"
        assert layer.weight.equal(decode_blocks(weights[name], header.tensors[name].dtype).bfloat16().float())
