"""The check of a component's header before torch is imported: forms, blocks and widths against the config."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from ltx2_core.components import COMPONENTS
from ltx2_core.config.landmarks import LANDMARKS, check_header
from ltx2_core.config.released import released_configs
from ltx2_core.errors import CheckpointError
from ltx2_core.headers import Header, TensorInfo, read_header
from ltx2_core.text.files import find_encoder
from tests.unit.test_headers import header_of_release

CHECKPOINT = "ltx-2-tiny-dev.safetensors"
UPSAMPLER = "ltx-2-tiny-spatial-upscaler-x2-1.0.safetensors"
DIT = "model.diffusion_model."
BLOCK = f"{DIT}transformer_blocks"
NOT_IN_CHECKPOINT = ("upsampler", "text_encoder", "duration_head")
IN_CHECKPOINT = [name for name, row in COMPONENTS.items() if row.role not in NOT_IN_CHECKPOINT]

Tensors = dict[str, TensorInfo]


@pytest.fixture
def checkpoint(tiny: Path) -> Header:
    return read_header(tiny / CHECKPOINT)


def changed(header: Header, change: Callable[[Tensors], object], config: Mapping | None = None) -> Header:
    tensors = dict(header.tensors)
    change(tensors)
    metadata = header.metadata if config is None else {"config": json.dumps(config)}
    return Header(header.path, metadata, tensors)


def test_every_component_has_landmarks() -> None:
    assert LANDMARKS.keys() == COMPONENTS.keys()


@pytest.mark.parametrize("name", IN_CHECKPOINT)
def test_what_can_be_loaded_passes(name: str, checkpoint: Header) -> None:
    check_header(name, checkpoint)


@pytest.mark.parametrize("name", IN_CHECKPOINT)
def test_the_released_files_pass(name: str) -> None:
    parts = ("transformer-2.0", "text-2.0", "video-vae-2.0", "audio-vae-2.0", "vocoder-2.0")
    check_header(name, header_of_release(*parts), released_configs()["2.0"])


@pytest.mark.parametrize("name", ["upsampler-spatial-x2-2.0", "upsampler-temporal-x2"])
def test_the_released_upsamplers_pass(name: str) -> None:
    check_header("upsampler", header_of_release(name))


def test_upsampler_and_text_encoder_that_can_be_loaded_pass(tiny: Path) -> None:
    check_header("upsampler", read_header(tiny / UPSAMPLER))
    assert find_encoder(tiny / "gemma").weights


@pytest.mark.parametrize(
    ("component", "setting", "value", "why"),
    [
        ("transformer", "num_layers", 5, "it has 4 transformer_blocks, its config says 5"),
        ("transformer", "in_channels", 64, f"{BLOCK[:22]}patchify_proj.weight is [80, 128], its config says [80, 64]"),
        (
            "transformer",
            "caption_channels",
            31,
            "caption_projection.linear_1.weight is [80, 32], its config says [80, 31]",
        ),
        ("video_connector", "connector_num_layers", 3, "it has 2 transformer_1d_blocks, its config says 3"),
        (
            "audio_connector",
            "connector_attention_head_dim",
            9,
            "learnable_registers is [128, 32], its config says [128, 36]",
        ),
        ("text_projection", "connector_attention_head_dim", 9, "is [32, 256], its config says [36, …]"),
    ],
)
def test_transformer_of_another_shape_than_its_config_is_refused(
    component: str, setting: str, value: int, why: str, checkpoint: Header
) -> None:
    config = {"transformer": checkpoint.config["transformer"] | {setting: value}}
    with pytest.raises(CheckpointError, match="does not hold the model that its config describes") as caught:
        check_header(component, changed(checkpoint, lambda tensors: None, config))
    assert why in caught.value.why


def test_block_that_is_missing_between_others_is_noticed(checkpoint: Header) -> None:
    def drop(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.startswith(f"{BLOCK}.2.")]:
            tensors[name.replace(".2.", ".7.", 1)] = tensors.pop(name)

    with pytest.raises(CheckpointError, match=r"it has no transformer_blocks\.2"):
        check_header("transformer", changed(checkpoint, drop))


def test_quantised_component_is_accepted_from_its_header(checkpoint: Header) -> None:
    def store(tensors: Tensors) -> None:
        for name in ("patchify_proj", "proj_out"):
            info = tensors[f"{DIT}{name}.weight"]
            tensors[f"{DIT}{name}.weight"] = replace(info, dtype="U8", shape=(info.shape[0], info.shape[1] // 2))
            tensors[f"{DIT}{name}.weight_scale"] = TensorInfo("U8", (128, 8), 0, 0)
            tensors[f"{DIT}{name}.weight_scale_2"] = TensorInfo("F32", (), 0, 0)

    check_header("transformer", changed(checkpoint, store))


def test_quantised_component_that_lacks_a_scale_is_refused(checkpoint: Header) -> None:
    def store(tensors: Tensors) -> None:
        tensors[f"{BLOCK}.0.attn1.to_q.weight"] = replace(tensors[f"{BLOCK}.0.attn1.to_q.weight"], dtype="U8")

    with pytest.raises(CheckpointError, match="lacks weight_scale or weight_scale_2"):
        check_header("transformer", changed(checkpoint, store))


def test_component_that_is_not_there_is_named(tiny: Path) -> None:
    with pytest.raises(CheckpointError, match="has no vocoder"):
        check_header("vocoder", read_header(tiny / UPSAMPLER))
