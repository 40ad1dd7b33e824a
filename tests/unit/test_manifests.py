"""Every component at full size, on the meta device, has exactly the tensors of the official files."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping

import pytest
import torch

from ltx2_core.checkpoint import BUILDERS
from ltx2_core.components import COMPONENTS, UNUSED_TYPES
from ltx2_core.config.released import released_configs
from ltx2_core.hub.published import TENSORS
from ltx2_core.keymap import official_name

GENERATIONS = ["2.0", "2.3", "2.5"]
VIDEO_VAES = {"2.0": "video-vae-2.0", "2.3": "video-vae-2.3", "2.5": "video-vae-2.5-diffusion"}


def manifest(name: str) -> dict:
    return json.loads(gzip.decompress((TENSORS / f"{name}.json.gz").read_bytes()))


def official_tensors(component: str, config: Mapping) -> dict[str, list[int]]:
    """Names and shapes of a component's tensors as in an official file."""
    with torch.device("meta"):
        module = BUILDERS[component](config)
    return {official_name(component, name): list(t.shape) for name, t in module.state_dict().items()}


def built(*components: str, of: str = "2.0", changes: Mapping | None = None) -> dict[str, list[int]]:
    config = released_configs()[of] | (changes or {})
    return {name: shape for one in components for name, shape in official_tensors(one, config).items()}


def without_prefix(tensors: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """The names of a video VAE's tensors in a separate file; in a whole model they have the prefix `vae.`."""
    return {name.removeprefix("vae."): shape for name, shape in tensors.items()}


@pytest.mark.parametrize("generation", GENERATIONS)
def test_transformer_has_the_official_tensors(generation: str) -> None:
    listed = manifest(f"transformer-{generation}")
    ours = built("transformer", of=generation)
    assert ours == listed["tensors"]
    assert sum(torch.Size(shape).numel() for shape in ours.values()) == listed["total_params"]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_text_projection_and_connectors_have_the_official_tensors(generation: str) -> None:
    listed = manifest(f"text-{generation}")
    assert built("text_projection", of=generation) == listed["projection"]["tensors"]
    assert built("video_connector", "audio_connector", of=generation) == listed["connectors"]["tensors"]


@pytest.mark.parametrize("name", ["video-vae-2.0", "video-vae-2.3", "video-vae-2.5"])
def test_video_vae_has_the_official_tensors(name: str) -> None:
    listed = manifest(name)
    ours = built("video_encoder", "video_decoder", changes=listed["metadata_config"])
    assert without_prefix(ours) == without_prefix(listed["tensors"])


def test_video_vae_with_timestep_conditioning_has_the_official_tensors() -> None:
    listed = manifest("video-vae-2.0")
    vae = released_configs()["2.0"]["vae"] | {"timestep_conditioning": True}
    ours = built("video_encoder", "video_decoder", changes={"vae": vae})
    assert ours == listed["tensors"] | listed["tensors_if_timestep_conditioning"]


def test_video_vae_with_the_diffusion_decoder_has_the_official_tensors() -> None:
    listed = manifest("video-vae-2.5-diffusion")
    ours = built("video_encoder", "video_decoder", changes=listed["metadata_config"])
    assert without_prefix(ours) == {name: s for name, s in listed["tensors"].items() if name not in UNUSED_TYPES}
    assert listed["tensors"].keys() > UNUSED_TYPES


def test_statistics_that_nobody_reads_are_known() -> None:
    for name in manifest("video-vae-2.0")["optional_ignored_tensors"]:
        assert name.removeprefix("vae.") in COMPONENTS["video_decoder"].ignored


@pytest.mark.parametrize("generation", GENERATIONS)
def test_audio_vae_has_the_official_tensors(generation: str) -> None:
    assert built("audio_encoder", "audio_decoder", of=generation) == manifest(f"audio-vae-{generation}")["tensors"]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_vocoder_has_the_official_tensors(generation: str) -> None:
    listed = manifest(f"vocoder-{generation}")
    config = listed["config"] | manifest(f"audio-vae-{generation}")["config"]
    assert official_tensors("vocoder", config) == listed["tensors"]


@pytest.mark.parametrize(
    "name",
    ["upsampler-spatial-x2-2.0", "upsampler-spatial-x2-2.3", "upsampler-spatial-x1.5-2.3", "upsampler-temporal-x2"],
)
def test_upsampler_has_the_official_tensors(name: str) -> None:
    listed = manifest(name)
    assert official_tensors("upsampler", listed["metadata_config"]) == listed["tensors"]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_released_config_is_the_one_of_the_manifests(generation: str) -> None:
    config = released_configs()[generation]
    assert config["vae"] == manifest(VIDEO_VAES[generation])["metadata_config"]["vae"]
    assert config["audio_vae"] == manifest(f"audio-vae-{generation}")["config"]["audio_vae"]
    assert config["vocoder"] == manifest(f"vocoder-{generation}")["config"]["vocoder"]
    text = manifest(f"text-{generation}")["transformer_config_text_keys"]
    assert {key: config["transformer"][key] for key in text} == text
