"""Videos from a model that has a VAE for each of the two decoders, through the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ltx2_cli.app import app
from ltx2_core.hub.find import find_model
from ltx2_core.media.probe import open_media, probe
from tests.commands import made_in

pytestmark = pytest.mark.usefixtures("kept_models")

RUN = CliRunner()
COMMON = ["--preset", "one-stage", "--res", "64x64", "--frames", "17", "--steps", "2", "--seed", "7", "--sound", "off"]
CONV, DIFFUSION = "ltx-2.5-tiny-video-vae-conv.safetensors", "ltx-2.5-tiny-video-vae.safetensors"


@pytest.fixture(scope="module")
def model(tiny_of: Callable[[str], Path]) -> Path:
    return tiny_of("2.5")


@pytest.fixture(scope="module")
def one_decoder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model without the convolutional decoder."""
    folder = tmp_path_factory.mktemp("one")
    for path in model.iterdir():
        if path.name != CONV:
            (folder / path.name).symlink_to(path)
    return folder


def run(*words: object) -> str:
    result = RUN.invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.stderr
    return result.stdout


def pictures(path: Path) -> torch.Tensor:
    """The frames of a clip."""
    with open_media(path) as media:
        return torch.stack([torch.from_numpy(frame.to_ndarray()) for frame in media.decode(video=0)])


def test_a_seed_gives_the_same_bytes_also_decoded_again(model: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "first.mp4", tmp_path / "again.mp4"
    run("t2v", "a bell", "--model", model, *COMMON, "--decoder", "diffusion", "--keep-latents", "-o", first)
    run("decode", f"{first}.job", "-o", again)
    assert first.read_bytes() == again.read_bytes()
    assert probe(first).video.frames == 17
    tiled = [tmp_path / name for name in ("tiled.mp4", "twice.mp4")]
    for path in tiled:
        run("decode", f"{first}.job", "--tiles", "16x64x64", "-o", path)
    assert tiled[0].read_bytes() == tiled[1].read_bytes()
    assert probe(tiled[0]).video.frames == 17


def test_latents_are_decoded_again_with_the_other_decoder(model: Path, tmp_path: Path) -> None:
    made, job = {name: tmp_path / f"{name}.mp4" for name in ("conv", "diffusion")}, tmp_path / "conv.mp4.job"
    for name, path in made.items():
        run("t2v", "a bell", "--model", model, *COMMON, "--decoder", name, "--keep-latents", "-o", path)
    record = (job / "job.json").read_bytes()
    again = {name: tmp_path / f"again-{name}.mp4" for name in ("auto", "diffusion", "file")}
    for name in ("auto", "diffusion"):
        run("decode", job, "--decoder", name, "-o", again[name])
    run("decode", job, "--video-vae", model / DIFFUSION, "-o", again["file"])
    assert again["auto"].read_bytes() == made["conv"].read_bytes()
    assert not pictures(made["conv"]).equal(pictures(made["diffusion"]))
    assert pictures(again["diffusion"]).equal(pictures(made["diffusion"]))
    assert pictures(again["file"]).equal(pictures(made["diffusion"]))
    assert made_in(again["diffusion"]).request.decoder == "diffusion"
    assert (job / "job.json").read_bytes() == record


def test_a_decoder_that_no_file_beside_the_render_has_is_refused(one_decoder: Path, tmp_path: Path) -> None:
    path = tmp_path / "made.mp4"
    run("t2v", "a bell", "--model", one_decoder, *COMMON, "--keep-latents", "-o", path)
    for words, told in {
        ("--decoder", "conv"): f"{DIFFUSION} holds the diffusion decoder",
        ("--video-vae", str(one_decoder / DIFFUSION), "--decoder", "conv"): f"{DIFFUSION} holds the diffusion decoder",
    }.items():
        result = RUN.invoke(app, ["decode", f"{path}.job", *words, "-o", str(tmp_path / "other.mp4")])
        assert (result.exit_code, result.stdout) == (2, "")
        assert "--decoder conv cannot be used" in result.stderr
        assert told in result.stderr
        assert "hint: --video-vae FILE names a file with the conv decoder" in result.stderr


@pytest.mark.parametrize("asked", ["conv", "diffusion"])
def test_a_decoder_that_the_model_lacks_is_refused(one_decoder: Path, tiny: Path, asked: str) -> None:
    given = ["--model", str({"conv": one_decoder, "diffusion": tiny}[asked]), *COMMON, "--decoder", asked]
    result = RUN.invoke(app, ["t2v", "a bell", *given])
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"--decoder {asked} cannot be used" in result.stderr
    assert "--video-vae FILE" in result.stderr


def test_of_two_video_vaes_in_a_folder_the_decoder_chooses(model: Path) -> None:
    found = {decoder: find_model(str(model), {}, decoder=decoder) for decoder in (None, "conv", "diffusion")}
    names = {decoder: files.paths["video_vae"].name for decoder, files in found.items()}
    assert names == {None: DIFFUSION, "conv": CONV, "diffusion": DIFFUSION}
