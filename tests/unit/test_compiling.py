"""Compiled blocks: one graph for any weights and any way of loading, with the velocities of uncompiled blocks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.exc import TorchRuntimeError
from torch._dynamo.utils import counters

from ltx2_core.checkpoint import assign_streamed, build_component, load_component
from ltx2_core.compiling import CACHE_VARIABLE, compile_blocks, told_compiler_failures
from ltx2_core.errors import RequestError
from ltx2_core.headers import read_header
from ltx2_core.home import ltx2_home
from ltx2_core.models.chunks import Chunks
from ltx2_core.models.passes import ALL_BLOCKS, Pass, Perturbation
from ltx2_core.models.segments import TextShares
from ltx2_core.models.transformer import Transformer, run_passes
from ltx2_core.quantize.linear import QuantisedLinear
from scripts import gguf_quantise
from scripts.quantise import PRECISIONS
from tests.tolerances import COMPILED_BLOCKS
from tests.unit.test_transformer import build, config, make_inputs, relative

OFTEN = ("bf16",)
SELDOM = sorted({*PRECISIONS, *gguf_quantise.PRECISIONS} - {*OFTEN})
FORMATS = [*OFTEN, *(pytest.param(form, marks=pytest.mark.slow) for form in SELDOM)]


@pytest.fixture(autouse=True)
def _own_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def traced(model: Transformer) -> Transformer:
    """The model with blocks that torch traces like compiled ones, but runs in eager mode."""
    compile_blocks(model, backend="eager")
    return model


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def kinds(model: Transformer) -> set[str]:
    """The formats of blocks: the first and the last one of a quantised file may not be quantised."""
    states = [block.state_dict() for block in model.blocks.children()]
    return {str({name: (one.dtype, one.shape) for name, one in state.items()}) for state in states}


def denoiser(folder: Path) -> Path:
    """The file of a tiny model that contains its denoiser."""
    found = [*folder.glob("*-tiny-dev*.safetensors"), *folder.glob("*.gguf")]
    return next(path for path in found if "transformer" in path.name or "dev" in path.name)


@pytest.mark.parametrize("form", FORMATS)
def test_alike_blocks_of_every_format_are_one_graph_with_the_velocities_of_plain_ones(
    form: str, tiny_in: Callable[[str], Path]
) -> None:
    path = denoiser(tiny_in(form))
    model = load_component("transformer", path, dtype=torch.float32)
    inputs = make_inputs(model.config)
    expected = model(inputs)
    assert relative(traced(model)(inputs), expected) <= COMPILED_BLOCKS
    assert graphs() == len(kinds(model))
    streamed = build_component("transformer", header := read_header(path))
    assign_streamed(streamed, "transformer", [header], device=torch.device("cpu"), dtype=torch.float32)
    assert relative(traced(streamed)(inputs), expected) <= COMPILED_BLOCKS
    assert graphs() == len(kinds(model)), "blocks that are streamed are those that are loaded"


@pytest.mark.slow
def test_guidance_passes_are_a_graph_for_each_set_of_what_they_leave_out() -> None:
    model = build(config(num_layers=2))
    inputs = make_inputs(model.config)
    isolated = Perturbation(audio_to_video=ALL_BLOCKS, video_to_audio=ALL_BLOCKS)
    others = [[Perturbation(video_self={1}, audio_self={1})], [isolated]]
    passes = [Pass(inputs=inputs), *(Pass(inputs=inputs, perturbations=one, follows=0) for one in others)]
    expected = run_passes(model, passes)
    found = run_passes(traced(model), passes)
    assert max(map(relative, found, expected)) <= COMPILED_BLOCKS
    assert graphs() == 3


@pytest.mark.slow
def test_texts_that_follow_each_other_are_traced_too() -> None:
    model = build(config(num_layers=2))
    inputs = make_inputs(model.config)
    weights = torch.zeros(2, 9)
    weights[0, :4], weights[:, 4], weights[1, 5:] = 1, 0.5, 1
    shares = TextShares.of(weights, torch.device("cpu"))
    assert inputs.video is not None
    video = replace(inputs.video, context=torch.cat([inputs.video.context] * 2, dim=1), text_shares=shares)
    inputs = inputs._replace(video=video)
    expected = model(inputs)
    assert relative(traced(model)(inputs), expected) <= COMPILED_BLOCKS
    assert graphs() == 1


@pytest.mark.slow
def test_chunks_and_branches_beside_layers_are_traced_too(tiny_in: Callable[[str], Path]) -> None:
    model = load_component("transformer", denoiser(tiny_in("int8")), dtype=torch.float32)
    for layer in model.modules():
        if isinstance(layer, QuantisedLinear):
            layer.branch_off([branch(layer)])
    model.work_in(Chunks(5))
    inputs = make_inputs(model.config)
    expected = model(inputs)
    assert relative(traced(model)(inputs), expected) <= COMPILED_BLOCKS
    assert graphs() == len(kinds(model))


def branch(layer: QuantisedLinear) -> nn.Module:
    """The tensors that a LoRA of rank 2 adds to a layer."""
    generator = torch.Generator().manual_seed(layer.in_features)
    down = nn.Linear(layer.in_features, 2, bias=False)
    up = nn.Linear(2, layer.out_features, bias=False)
    for one in (down, up):
        one.weight.data.normal_(0, 0.02, generator=generator)
    return nn.Sequential(down, up).requires_grad_(False)


def test_what_is_compiled_is_kept_under_the_home_unless_torch_is_told_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(config(num_layers=1))
    traced(model)
    assert os.environ[CACHE_VARIABLE] == str(ltx2_home() / "cache" / "compiled")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    traced(model)
    assert os.environ[CACHE_VARIABLE] == str(tmp_path)


def test_a_compiler_that_fails_is_told_in_one_line_and_other_errors_are_left_alone() -> None:
    def fail(error: Exception) -> None:
        with told_compiler_failures():
            raise error

    with pytest.raises(RequestError, match="--compile cannot be used") as caught:
        fail(TorchRuntimeError("no such kernel\nsecond line"))
    assert "no such kernel" in caught.value.why
    assert "second" not in caught.value.why
    with pytest.raises(RuntimeError, match="mine"):
        fail(RuntimeError("mine"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_compiled_velocity_is_the_plain_one_but_for_rounding() -> None:
    """With the real compiler, which takes a minute."""
    model = build(config(num_layers=2)).bfloat16()
    inputs = make_inputs(model.config)
    expected = model(inputs)
    compile_blocks(model)
    assert relative(model(inputs), expected) <= 2e-2
