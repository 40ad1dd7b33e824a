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
from ltx2_core.media.probe import open_media, probe
from ltx2_core.models.diffusion_decoder import DiffusionDecoder
from ltx2_core.models.video_vae import VideoEncoder
from ltx2_core.pipeline.made import Made
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


def pictures(path: Path) -> torch.Tensor:
    """The frames of a clip."""
    return torch.stack([torch.from_numpy(frame.to_ndarray()) for frame in open_media(path).decode(video=0)])


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


@pytest.fixture(scope="module")
def parts(tiny: Path, vae: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in parts, with a video VAE for each decoder."""
    folder, whole = tmp_path_factory.mktemp("parts"), tiny / "ltx-2-tiny-dev.safetensors"
    weights, config = load_file(whole), {"config": json.dumps(read_header(whole).config)}
    starts = {
        "transformer": ("model.diffusion_model.", "text_embedding_projection."),
        "audio": ("audio_vae.", "vocoder."),
        "conv": ("vae.",),
    }
    for name, prefixes in starts.items():
        kept = {own: tensor for own, tensor in weights.items() if own.startswith(prefixes)}
        save_file(kept, folder / f"{name}.safetensors", config)
    (folder / "diffusion.safetensors").symlink_to(vae)
    (folder / "gemma").symlink_to(tiny / "gemma")
    return folder


def test_latents_are_decoded_again_with_the_other_decoder(parts: Path, vae: Path, tmp_path: Path) -> None:
    made, job = {name: tmp_path / f"{name}.mp4" for name in ("conv", "diffusion")}, tmp_path / "conv.mp4.job"
    for name, path in made.items():
        run("t2v", "a bell", "--model", parts, *COMMON, "--decoder", name, "--keep-latents", "-o", path)
    record = (job / "job.json").read_bytes()
    again = {name: tmp_path / f"again-{name}.mp4" for name in ("auto", "diffusion", "file")}
    for name in ("auto", "diffusion"):
        run("decode", job, "--decoder", name, "-o", again[name])
    run("decode", job, "--video-vae", vae, "-o", again["file"])
    written = {name: path.read_bytes() for name, path in again.items()}
    assert written["auto"] == made["conv"].read_bytes()
    assert pictures(again["diffusion"]).equal(pictures(made["diffusion"]))
    assert pictures(again["file"]).equal(pictures(made["diffusion"]))
    assert Made.parse(str(probe(again["diffusion"]).comment)).request.decoder == "diffusion"
    assert (job / "job.json").read_bytes() == record


def test_a_decoder_that_no_file_beside_the_render_has_is_refused(tiny: Path, vae: Path, tmp_path: Path) -> None:
    path = tmp_path / "made.mp4"
    run("t2v", "a bell", "--model", tiny, *COMMON, "--keep-latents", "-o", path)
    for words, told in {
        ("--decoder", "diffusion"): "ltx-2-tiny-dev.safetensors holds the conv decoder",
        ("--video-vae", str(vae), "--decoder", "conv"): "video-vae.safetensors holds the diffusion decoder",
    }.items():
        result = RUN.invoke(app, ["decode", f"{path}.job", *words, "-o", str(tmp_path / "other.mp4")])
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"--decoder {words[-1]} cannot be used" in result.stderr
        assert told in result.stderr
        assert "hint: --video-vae FILE names a file with" in result.stderr


@pytest.mark.parametrize(("with_vae", "asked"), [(True, "conv"), (False, "diffusion")])
def test_a_decoder_that_the_model_lacks_is_refused(tiny: Path, vae: Path, with_vae: bool, asked: str) -> None:
    given = ["--model", str(tiny), *(["--video-vae", str(vae)] * with_vae), *COMMON, "--decoder", asked]
    result = RUN.invoke(app, ["t2v", "a bell", *given])
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"--decoder {asked} cannot be used" in result.stderr
    assert "--video-vae FILE" in result.stderr


def test_of_two_video_vaes_in_a_folder_the_decoder_chooses(parts: Path) -> None:
    found = {decoder: find_model(str(parts), {}, decoder=decoder) for decoder in (None, "conv", "diffusion")}
    names = {decoder: files.paths["video_vae"].stem for decoder, files in found.items()}
    assert names == {None: "diffusion", "conv": "conv", "diffusion": "diffusion"}
