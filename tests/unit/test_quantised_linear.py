"""Quantised layers in models: they compute the same numbers as their decoded weights, without storing those; and
LoRAs.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ltx2_core.checkpoint import load_component
from ltx2_core.components import DIT
from ltx2_core.costs.denoiser import Evaluation, forward_flops
from ltx2_core.costs.weights import block_bytes, component_bytes
from ltx2_core.errors import CheckpointError
from ltx2_core.headers import read_header
from ltx2_core.hub.find import find_model
from ltx2_core.lora import WeightedLora, fuse, take_out
from ltx2_core.lora_costs import branch_bytes, lora_flops
from ltx2_core.lora_file import MatchedLora, match, read_lora
from ltx2_core.machine import Machine, MemoryMode
from ltx2_core.models.passes import Pass, StreamInput
from ltx2_core.models.transformer import run_passes
from ltx2_core.pipeline.render.models import Models
from ltx2_core.quantize import linear as quantised
from ltx2_core.quantize.decode import decode_matrix
from ltx2_core.quantize.embedding import QuantisedEmbedding
from ltx2_core.quantize.linear import QuantisedLinear
from ltx2_core.text.files import find_encoder
from ltx2_core.text.gemma import load_gemma
from ltx2_core.tiles import TilePlan
from ltx2_core.types import Streams
from scripts.make_tiny_checkpoint import QUANTISED
from scripts.quantise import PRECISIONS, largest_group, stored, with_markers

CHECKPOINT = "ltx-2-tiny-dev.safetensors"
STYLE, DISTILLED = "ltx-2-tiny-lora-style.safetensors", "ltx-2-tiny-distilled-lora.safetensors"
MACHINE = Machine(device="cpu", precision="fp32", decode_tiles=TilePlan(), encode_tiles=TilePlan())
TO_Q = DIT + "transformer_blocks.1.attn1.to_q"
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def tinies(tiny_in: Callable[[str], Path]) -> Mapping[str, Path]:
    """The tiny model in every precision; do not change them."""
    return {precision: tiny_in(precision) for precision in PRECISIONS}


def velocity(model: nn.Module) -> list[Tensor]:
    """The velocity of a denoiser for fixed tokens."""
    generator = torch.Generator().manual_seed(3)
    dtype = next(model.parameters()).dtype

    def stream(axes: int, tokens: int) -> StreamInput:
        return StreamInput(
            latent=torch.randn(1, tokens, 128, generator=generator).to(dtype),
            sigma=torch.tensor([0.7]),
            unique_timesteps=torch.tensor([[0.7]]),
            positions=torch.rand(1, axes, tokens, 2, generator=generator),
            context=torch.randn(1, 5, 32, generator=generator).to(dtype),
        )

    with torch.inference_mode():
        (made,) = run_passes(model, [Pass(inputs=Streams(stream(3, 6), stream(1, 4)))])  # type: ignore[arg-type]
    assert made.video is not None
    assert made.audio is not None
    return [made.video, made.audio]


def quantised_layers(model: nn.Module) -> dict[str, QuantisedLinear]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, QuantisedLinear)}


def with_linears(model: nn.Module) -> nn.Module:
    """The model with its quantised layers replaced by linear layers with the decoded weights."""
    for name, layer in quantised_layers(model).items():
        linear = nn.Linear(layer.in_features, layer.out_features, device="meta")
        linear.weight = nn.Parameter(layer.weight, requires_grad=False)
        linear.bias = layer.bias
        model.set_submodule(name, linear)
    return model


@pytest.mark.parametrize(
    ("precision", "dtype"), [*((precision, torch.float32) for precision in PRECISIONS), ("mixed", torch.bfloat16)]
)
def test_a_quantised_model_computes_what_its_decoded_weights_do(
    precision: str, dtype: torch.dtype, tinies: Mapping[str, Path]
) -> None:
    path = tinies[precision] / CHECKPOINT
    ours = velocity(load_component("transformer", path, dtype=dtype))
    plain = velocity(with_linears(load_component("transformer", path, dtype=dtype)))
    assert all(a.equal(b) for a, b in zip(ours, plain, strict=True))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_connectors_are_loaded_quantised_too(precision: str, tinies: Mapping[str, Path]) -> None:
    for component in ("video_connector", "audio_connector"):
        model = load_component(component, tinies[precision] / CHECKPOINT, dtype=torch.float32)
        features = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(3))
        assert len(quantised_layers(model)) == 6
        with torch.inference_mode():
            assert model(features, 128).equal(with_linears(model)(features, 128))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_everything_else_is_as_in_the_file(precision: str, tinies: Mapping[str, Path]) -> None:
    path = tinies[precision] / CHECKPOINT
    model, tensors = load_component("transformer", path, dtype=torch.bfloat16), load_file(path)
    assert (
        len(quantised_layers(model))
        == sum(bool(QUANTISED.search(name)) for name in read_header(path).stored.layers) - 12
    )
    for layer in quantised_layers(model).values():
        for role, name in layer.layer.tensors.items():
            if role != "input_scale":
                assert layer.stored.get_buffer(role).equal(tensors[name])
                assert layer.stored.get_buffer(role).dtype == tensors[name].dtype


def test_loading_decodes_nothing(tinies: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised, "decode_matrix", None)
    model = load_component("transformer", tinies["int8"] / CHECKPOINT, dtype=torch.bfloat16)
    held = sum(tensor.nbytes for layer in quantised_layers(model).values() for tensor in layer.stored.buffers())
    numbers = sum(layer.in_features * layer.out_features for layer in quantised_layers(model).values())
    assert numbers < held < 1.1 * numbers


def test_never_is_more_than_one_matrix_decoded(tinies: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Tensor]] = []

    def watched(*arguments: object) -> Tensor:
        assert [matrix for matrix in alive if matrix() is not None] == []
        matrix = decode_matrix(*arguments)  # type: ignore[arg-type]
        alive.append(weakref.ref(matrix))
        return matrix

    monkeypatch.setattr(quantised, "decode_matrix", watched)
    velocity(load_component("transformer", tinies["mixed"] / CHECKPOINT, dtype=torch.float32))
    assert len(alive) > 80


def test_a_quantised_layer_computes_on_a_device_without_data(tinies: Mapping[str, Path]) -> None:
    model = load_component("transformer", tinies["mixed"] / CHECKPOINT, dtype=torch.bfloat16)
    for layer in list(quantised_layers(model).values())[:10]:
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        with fake:
            y = layer(torch.empty(2, 3, layer.in_features, dtype=torch.bfloat16))
        assert (tuple(y.shape), y.dtype) == ((2, 3, layer.out_features), torch.bfloat16)
    layer = quantised_layers(model.to("meta"))["blocks.1.video.self_attn.to_q"]
    assert layer(torch.empty(2, 80, device="meta")).device.type == "meta"


# --- files


def file_with(tiny: Path, out: Path, change: Callable[[Tensors], object], metadata: Mapping[str, str] = {}) -> Path:
    """The tiny checkpoint with a change to its tensors."""
    tensors = load_file(tiny / CHECKPOINT)
    change(tensors)
    path = out / "changed.safetensors"
    save_file(tensors, path, {**read_header(tiny / CHECKPOINT).metadata, **metadata})
    return path


def store(form: str, name: str = TO_Q, **options: int) -> Callable[[Tensors], None]:
    """A change that stores a layer in a format."""

    def change(tensors: Tensors) -> None:
        tensors |= with_markers({name: stored(form, tensors[f"{name}.weight"], **options)})

    return change


@pytest.mark.parametrize("form", ["fp8", "fp8_rows", "fp8_cast", "mxfp8", "nvfp4", "int8"])
def test_any_linear_layer_may_be_quantised(form: str, tiny: Path, tmp_path: Path) -> None:
    names = [DIT + "patchify_proj", DIT + "adaln_single.linear", DIT + "proj_out"]

    def change(tensors: Tensors) -> None:
        for name in names:
            store(form, name)(tensors)

    path = file_with(tiny, tmp_path, change)
    model = load_component("transformer", path, dtype=torch.float32)
    assert quantised_layers(model).keys() == {"video.proj_in", "video.adaln.linear", "video.proj_out"}
    assert all(a.equal(b) for a, b in zip(velocity(model), velocity(with_linears(model)), strict=True))


def test_text_projection_may_be_quantised(tiny: Path, tmp_path: Path) -> None:
    path = file_with(tiny, tmp_path, store("convrot", "text_embedding_projection.aggregate_embed", group=256))
    projection = load_component("text_projection", path, dtype=torch.float32)
    assert quantised_layers(projection).keys() == {"aggregate_embed"}
    assert projection(torch.randn(1, 3, 32, 8))[0].shape == (1, 3, 32)


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
def test_biases_that_were_cast_are_numbers_again(dtype: torch.dtype | None, tiny: Path, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        store("fp8_cast")(tensors)
        tensors[f"{TO_Q}.bias"] = tensors[f"{TO_Q}.bias"].to(torch.float8_e4m3fn)

    path = file_with(tiny, tmp_path, change)
    bias = load_component("transformer", path, dtype=dtype).get_parameter("blocks.1.video.self_attn.to_q.bias")
    assert bias.dtype == (dtype or torch.bfloat16)
    assert bias.float().equal(load_file(path)[f"{TO_Q}.bias"].float())


def test_a_scale_that_makes_no_sense_is_refused_while_loading(tiny: Path, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        store("int8")(tensors)
        tensors[f"{TO_Q}.weight_scale"][3] = -1

    with pytest.raises(CheckpointError, match=r"attn1\.to_q\.weight_scale: it holds negative values"):
        load_component("transformer", file_with(tiny, tmp_path, change))


def test_a_quantised_matrix_of_another_shape_is_refused(tiny: Path, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors[f"{TO_Q}.weight"] = torch.zeros(90, 80)
        store("int8")(tensors)

    with pytest.raises(CheckpointError, match=r"to_q\.weight is \[90, 80\], expected \[80, 80\]"):
        load_component("transformer", file_with(tiny, tmp_path, change))


def test_a_quantised_layer_that_the_model_lacks_is_unexpected(tiny: Path, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors[f"{TO_Q}x.weight"] = torch.ones(16, 16)
        store("int8", f"{TO_Q}x")(tensors)

    with pytest.raises(CheckpointError, match=r"2 unexpected \(.*attn1\.to_qx\.weight"):
        load_component("transformer", file_with(tiny, tmp_path, change))


# --- the text encoder


def gemma_with(tiny: Path, out: Path, change: Callable[[Tensors], object]) -> Path:
    folder = out / "gemma"
    folder.mkdir()
    for file in (tiny / "gemma").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    (folder / "model.safetensors").unlink()
    half = len(tensors) // 2  # a scale may be in another shard than its weight
    for number, names in enumerate((sorted(tensors)[:half], sorted(tensors)[half:]), 1):
        save_file({name: tensors[name] for name in names}, folder / f"model-0000{number}-of-00002.safetensors")
    return folder


def test_linears_of_a_text_encoder_may_be_quantised(tiny: Path, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.endswith("_proj.weight")]:
            columns = tensors[name].shape[1]
            store("convrot", name.removesuffix(".weight"), group=largest_group(columns))(tensors)

    ours = load_gemma(find_encoder(gemma_with(tiny, tmp_path, change)), dtype=torch.float32)
    assert len(quantised_layers(ours.model)) == 7 * 7
    plain = load_gemma(find_encoder(tiny / "gemma"), dtype=torch.float32)
    with torch.inference_mode():
        expected = plain.model(input_ids=torch.arange(9)[None]).last_hidden_state
        found = ours.model(input_ids=torch.arange(9)[None]).last_hidden_state
    assert 0 < (found - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("form", ["int8", "fp8", "fp8_rows"])
def test_embeddings_that_are_decoded_row_by_row_are_those_of_the_whole_table(
    form: str, tiny: Path, tmp_path: Path
) -> None:
    folder = gemma_with(tiny, tmp_path, store(form, "language_model.model.embed_tokens"))
    table = load_gemma(find_encoder(folder), dtype=torch.float32).model.embed_tokens
    assert isinstance(table, QuantisedEmbedding)
    ids = torch.tensor([[3, 1, 3], [0, 2, table.num_embeddings - 1]])
    assert torch.equal(table(ids), table.weight[ids] * table.embed_scale)
    assert table.embed_scale == torch.tensor(table.embedding_dim**0.5)


def test_embeddings_in_blocks_are_refused_by_name(tiny: Path, tmp_path: Path) -> None:
    folder = gemma_with(tiny, tmp_path, store("mxfp8", "language_model.model.embed_tokens"))
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight is stored as mxfp8, which is not supported"):
        load_gemma(find_encoder(folder))


# --- LoRAs


def matched(tiny: Path, name: str, checkpoint: Path) -> MatchedLora:
    return match(read_lora(tiny / name), read_header(checkpoint))


def loras(tiny: Path, checkpoint: Path) -> list[WeightedLora]:
    return [(matched(tiny, STYLE, checkpoint), 0.7), (matched(tiny, DISTILLED, checkpoint), -0.4)]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_loras_beside_quantised_weights_add_what_they_add_to_decoded_ones(
    precision: str, tinies: Mapping[str, Path]
) -> None:
    path = tinies[precision] / CHECKPOINT
    ours = load_component("transformer", path, dtype=torch.float32)
    plain = with_linears(load_component("transformer", path, dtype=torch.float32))
    chosen = loras(path.parent, path)
    for model in (ours, plain):
        fuse(model, chosen)
    for a, b in zip(velocity(ours), velocity(plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("precision", "dtype"), [("mixed", torch.float32), ("int8", torch.bfloat16)])
def test_what_loras_take_beside_quantised_layers_is_what_is_counted(
    precision: str, dtype: torch.dtype, tinies: Mapping[str, Path]
) -> None:
    path = tinies[precision] / CHECKPOINT
    model = load_component("transformer", path, dtype=dtype)
    before, both = {name for name, _ in model.named_buffers()}, loras(path.parent, path)
    fuse(model, both)
    added = {name: buffer.nbytes for name, buffer in model.named_buffers() if name not in before}
    counted = branch_bytes((lora for lora, _ in both), read_header(path), dtype.itemsize)
    for number, nbytes in enumerate(counted.blocks):
        assert nbytes == sum(size for name, size in added.items() if name.startswith(f"blocks.{number}."))
    assert counted.whole == sum(added.values()) > 0


@pytest.mark.parametrize("precision", ["mixed", "int8"])
def test_what_loras_compute_is_what_is_counted(precision: str, tinies: Mapping[str, Path]) -> None:
    path = tinies[precision] / CHECKPOINT
    model, chosen = load_component("transformer", path, dtype=torch.float32), matched(path.parent, DISTILLED, path)
    said = lora_flops([chosen], read_header(path))
    plain, fusing, beside = (FlopCounterMode(display=False) for _ in range(3))
    with plain:
        velocity(model)
    with fusing:
        fuse(model, [(chosen, 0.7)])
    with beside:
        velocity(model)
    blocks = len(said.blocks)
    assert said.fusing(blocks, 1) == fusing.get_total_flops() > 0
    assert said.fusing(1, 5) == said.outside + said.blocks[0] + 5 * sum(said.blocks[1:])
    rows = 6 * said.beside.video + 4 * said.beside.audio + 5 * said.beside.text
    assert rows == beside.get_total_flops() - plain.get_total_flops() > 0
    config = model.config
    given = Evaluation(video=6, audio=4, text=5)
    more = forward_flops(config, given, blocks=blocks, beside=said.beside) - forward_flops(config, given, blocks=blocks)
    assert more == pytest.approx(rows)


def test_merged_loras_take_nothing(tiny: Path) -> None:
    path = tiny / CHECKPOINT
    assert branch_bytes((lora for lora, _ in loras(tiny, path)), read_header(path), 4).whole == 0


@pytest.mark.parametrize("memory", get_args(MemoryMode))
def test_a_model_with_loras_leaves_less_room_for_others(memory: MemoryMode, tinies: Mapping[str, Path]) -> None:
    path = tinies["fp8"] / CHECKPOINT
    header, both = read_header(path), loras(path.parent, path)
    machine = replace(MACHINE.in_mode(memory), resident_blocks=2)  # the first one is not quantised
    sizes = block_bytes(header, "transformer", 4)
    whole = component_bytes(header, "transformer", 4) if memory == "resident" else sizes.streamed(2)
    kept = whole + component_bytes(header, "video_statistics", 4)
    models = Models(find_model(str(path.parent), {}), replace(machine, kept_bytes=kept))
    with models.component("video_statistics") as small, models.transformer([]):
        pass
    assert not next(small.buffers()).is_meta
    with models.transformer(both):
        assert next(small.buffers()).is_meta
    models.clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_taken_out_loras_leave_nothing_behind(dtype: torch.dtype, tinies: Mapping[str, Path]) -> None:
    path = tinies["mixed"] / CHECKPOINT
    model = load_component("transformer", path, dtype=dtype)
    before, names = velocity(model), dict(model.named_buffers()).keys()
    both = loras(path.parent, path)
    fuse(model, both)
    first = velocity(model)
    take_out(model, both, read_header(path))
    assert all(a.equal(b) for a, b in zip(velocity(model), before, strict=True))
    assert dict(model.named_buffers()).keys() == names
    fuse(model, both[:1])
    take_out(model, both[:1], read_header(path))
    fuse(model, both)
    assert all(a.equal(b) for a, b in zip(velocity(model), first, strict=True))


def test_a_change_of_another_form_runs_beside_the_weight(tinies: Mapping[str, Path], tmp_path: Path) -> None:
    checkpoint = tinies["nvfp4"] / CHECKPOINT
    key = "diffusion_model.transformer_blocks.1.attn1.to_q"
    factors = {f"{key}.lokr_w1": torch.randn(8, 8) / 9, f"{key}.lokr_w2": torch.randn(10, 10) / 9}
    save_file(factors | {f"{key}.diff_b": torch.ones(80)}, tmp_path / "kron.safetensors")
    model = load_component("transformer", checkpoint, dtype=torch.float32)
    layer, x = quantised_layers(model)["blocks.1.video.self_attn.to_q"], torch.randn(3, 80)
    before = layer(x)
    fuse(model, [(matched(tmp_path, "kron.safetensors", checkpoint), 0.5)])
    added = 0.5 * (F.linear(x, torch.kron(*factors.values())) + 1)
    torch.testing.assert_close(layer(x), before + added, rtol=1e-5, atol=1e-5)


def test_a_lora_that_was_made_for_the_padding_is_refused(tinies: Mapping[str, Path], tmp_path: Path) -> None:
    checkpoint = tinies["nvfp4"] / CHECKPOINT
    key = "diffusion_model.transformer_blocks.1.audio_attn1.to_q"  # 40 columns, stored as 48
    pair = {f"{key}.lora_A.weight": torch.zeros(2, 48), f"{key}.lora_B.weight": torch.zeros(48, 2)}
    save_file(pair, tmp_path / "wide.safetensors")
    model = load_component("transformer", checkpoint)
    with pytest.raises(CheckpointError, match=r"made for \[48, 48\], the model has \[40, 40\]"):
        fuse(model, [(matched(tmp_path, "wide.safetensors", checkpoint), 1.0)])


def test_a_lora_for_a_wider_model_is_refused_with_both_shapes(tinies: Mapping[str, Path], tmp_path: Path) -> None:
    checkpoint = tinies["nvfp4"] / CHECKPOINT
    key = "diffusion_model.transformer_blocks.1.attn1.to_q"
    pair = {f"{key}.lora_A.weight": torch.zeros(2, 4096), f"{key}.lora_B.weight": torch.zeros(4096, 2)}
    save_file(pair, tmp_path / "wide.safetensors")
    with pytest.raises(CheckpointError, match=r"made for \[4096, 4096\], the model has \[80, 80\]"):
        matched(tmp_path, "wide.safetensors", checkpoint)


def test_a_model_that_is_emptied_keeps_no_lora(tinies: Mapping[str, Path]) -> None:
    path = tinies["fp8"] / CHECKPOINT
    model = load_component("transformer", path, dtype=torch.float32)
    fuse(model, loras(path.parent, path))
    model.to("meta")
    assert {buffer.device.type for buffer in model.buffers()} == {"meta"}
