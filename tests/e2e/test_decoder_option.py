"""Videos from a model whose video VAE holds the diffusion decoder, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ltx2_cli.app import app
from ltx2_core.config.video_vae import VideoVAEConfig
from ltx2_core.headers import read_header
from ltx2_core.hub.find import find_model
from ltx2_core.media.probe import probe
from ltx2_core.models.diffusion_decoder import DiffusionDecoder
from ltx2_core.models.video_vae import VideoEncoder
from tests.diffusion_vae import randomise, vae_metadata

RUN = CliRunner()
COMMON = ["--preset", "one-stage", "--res", "128x96", "--frames", "17", "--steps", "2", "--seed", "7", "--sound", "off"]


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a video VAE with the diffusion decoder, for latents of the tiny model's width."""
    config = vae_metadata(128)
    tensors: dict[str, torch.Tensor] = {}
    for prefix, build in (("encoder.", VideoEncoder), ("decoder.", DiffusionDecoder)):
        module = build(VideoVAEConfig.from_metadata(config)).requires_grad_(False)
        randomise(module, seed=3)
        for name, tensor in module.state_dict().items():
            tensors[name if name.startswith("per_channel") else prefix + name] = tensor
    tensors["decoder.type_emb"] = torch.zeros(128)
    path = tmp_path_factory.mktemp("vae") / "video-vae.safetensors"
    save_file(tensors, path, {"config": json.dumps(config)})
    return path


def run(*words: object) -> str:
    result = RUN.invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_a_seed_gives_the_same_bytes_also_decoded_again(tiny: Path, vae: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "first.mp4", tmp_path / "again.mp4"
    given = ["--model", tiny, "--video-vae", vae, *COMMON]
    run("t2v", "a bell", *given, "--decoder", "diffusion", "--keep-latents", "-o", first)
    run("decode", f"{first}.job", "-o", again)
    assert first.read_bytes() == again.read_bytes()
    assert probe(first).video.frames == 17
    tiled = [tmp_path / name for name in ("tiled.mp4", "twice.mp4")]
    for path in tiled:
        run("decode", f"{first}.job", "--tiles", "16x64x64", "-o", path)
    assert tiled[0].read_bytes() == tiled[1].read_bytes()
    assert probe(tiled[0]).video.frames == 17


@pytest.mark.parametrize(("with_vae", "asked"), [(True, "conv"), (False, "diffusion")])
def test_a_decoder_that_the_model_lacks_is_refused(tiny: Path, vae: Path, with_vae: bool, asked: str) -> None:
    given = ["--model", str(tiny), *(["--video-vae", str(vae)] * with_vae), *COMMON, "--decoder", asked]
    result = RUN.invoke(app, ["t2v", "a bell", *given])
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"--decoder {asked} cannot be used" in result.stderr
    assert "--video-vae FILE" in result.stderr


def test_of_two_video_vaes_in_a_folder_the_decoder_chooses(tiny: Path, vae: Path, tmp_path: Path) -> None:
    whole = tiny / "ltx-2-tiny-dev.safetensors"
    weights, config = load_file(whole), {"config": json.dumps(read_header(whole).config)}
    parts = {
        "transformer": ("model.diffusion_model.", "text_embedding_projection."),
        "audio": ("audio_vae.", "vocoder."),
        "conv": ("vae.",),
    }
    for name, prefixes in parts.items():
        kept = {own: tensor for own, tensor in weights.items() if own.startswith(prefixes)}
        save_file(kept, tmp_path / f"{name}.safetensors", config)
    (tmp_path / "diffusion.safetensors").symlink_to(vae)
    found = {decoder: find_model(str(tmp_path), {}, decoder=decoder) for decoder in (None, "conv", "diffusion")}
    names = {decoder: files.paths["video_vae"].stem for decoder, files in found.items()}
    assert names == {None: "diffusion", "conv": "conv", "diffusion": "diffusion"}
