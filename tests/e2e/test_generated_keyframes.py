"""`--generated-keyframes`: frames that a model with a keyframe embedding generates in addition to the clip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltx2_core.errors import StorageError
from ltx2_core.headers import read_header
from ltx2_core.media.probe import probe
from ltx2_core.pipeline.render import engine
from ltx2_core.pipeline.request import Request
from ltx2_core.pipeline.resolve.settings import COMMAND_LINE
from ltx2_core.pipeline.resolve.settle import Asked
from tests import commands
from tests.commands import ltx2, made_in, rendered

pytestmark = pytest.mark.usefixtures("kept_models")

CHECKPOINT = "ltx-2-tiny-dev.safetensors"
LENGTH = ("--preset", "smoke", "--frames", "9", "--seed", "7")
COMMON = (*LENGTH, "--res", "128x128")


@pytest.fixture(scope="module")
def marking(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a keyframe embedding, as in LTX-2.5."""
    folder, header = tmp_path_factory.mktemp("marking"), read_header(tiny / CHECKPOINT)
    for path in tiny.iterdir():
        if path.name != CHECKPOINT:
            (folder / path.name).symlink_to(path)
    tensors, config = load_file(header.path), dict(header.config)
    config["transformer"] = config["transformer"] | {"use_keyframes_abs_pos_embedding": True}
    width = tensors["model.diffusion_model.patchify_proj.weight"].shape[0]
    torch.manual_seed(0)
    tensors["model.diffusion_model.keyframes_abs_pos_embedding"] = torch.randn(1, width).bfloat16()
    save_file(tensors, folder / CHECKPOINT, {**header.metadata, "config": json.dumps(config)})
    return folder


def made_by(model: Path, out: Path, *words: object) -> tuple[Request, bytes]:
    """The request stored in a file, and the file."""
    path = rendered("t2v", "a bell", "--model", model, *words, *COMMON, "-o", out)
    return made_in(path).request, path.read_bytes()


def refused(model: Path, *words: object) -> str:
    return commands.refused(2, "t2v", "a bell", "--model", model, *LENGTH, *words, "-o", "never.mp4")


def test_generated_keyframes_change_the_clip_and_leave_its_length(marking: Path, tmp_path: Path) -> None:
    request, file = made_by(marking, tmp_path / "a.mp4", "--generated-keyframes", 2)
    plain, without = made_by(marking, tmp_path / "b.mp4")
    assert (request.generated_keyframes, plain.generated_keyframes) == (2, 0)
    assert file != without
    assert probe(tmp_path / "a.mp4").video == probe(tmp_path / "b.mp4").video


def test_they_are_kept_with_the_latents_of_the_stage_that_made_them(marking: Path, tmp_path: Path) -> None:
    target, again = tmp_path / "a.mp4", tmp_path / "again.mp4"
    words = ("--generated-keyframes", 2, "--keep-latents", "--sound", "off")
    _, file = made_by(marking, target, *words)
    kept = tmp_path / "a.mp4.job" / "latents-1.safetensors"
    tensors = load_file(kept)
    assert tensors["keyframes"].shape == (1, 128, 2, *tensors["video"].shape[3:])
    assert not tensors["keyframes"][:, :, 0].equal(tensors["keyframes"][:, :, 1])
    assert rendered("decode", tmp_path / "a.mp4.job", "-o", again, "--keyframe-stills").read_bytes() == file
    stills = [Image.open(tmp_path / f"again-keyframe-{number}.png").convert("RGB") for number in (1, 2)]
    assert [still.size for still in stills] == [(128, 128)] * 2
    assert stills[0].tobytes() != stills[1].tobytes()
    assert "generated keyframes  2, each as a latent frame of its own" in ltx2("inspect", kept).stdout
    save_file({name: t for name, t in tensors.items() if name != "keyframes"}, kept, {"step": "0"})
    told = ltx2("decode", tmp_path / "a.mp4.job", "--overwrite")
    assert told.exit_code == 7
    assert "latents-1.safetensors is damaged" in told.stderr


def test_stills_of_a_render_without_them_are_refused(marking: Path, tmp_path: Path) -> None:
    made_by(marking, tmp_path / "a.mp4", "--keep-latents", "--sound", "off")
    told = ltx2("decode", tmp_path / "a.mp4.job", "-o", tmp_path / "b.mp4", "--keyframe-stills")
    assert told.exit_code == 2
    assert "this render generated no keyframes" in told.stderr
    assert "no keyframes are generated" in refused(marking, "--keyframe-stills")


def test_a_still_that_exists_is_not_replaced_unasked(marking: Path, tmp_path: Path) -> None:
    (tmp_path / "a-keyframe-2.png").touch()
    words = ("--generated-keyframes", 2, "--keyframe-stills", *COMMON)
    told = ltx2("t2v", "a bell", "--model", marking, *words, "-o", tmp_path / "a.mp4")
    assert told.exit_code == 2
    assert "a-keyframe-2.png already exists" in told.stderr


def test_a_picture_beside_the_result_does_not_replace_what_it_is_made_from(marking: Path, tmp_path: Path) -> None:
    words = ("--generated-keyframes", 1, "--keyframe-stills", "--sheet", "--overwrite", *COMMON)
    for name in ("a-keyframe-1.png", "a.png"):
        image = tmp_path / name
        Image.new("RGB", (128, 128)).save(image)
        before = image.read_bytes()
        told = ltx2("i2v", image, "x", "--model", marking, *words, "-o", tmp_path / "a.mp4")
        assert told.exit_code == 2
        assert f"the render starts from {image}" in told.stderr
        assert image.read_bytes() == before
        image.unlink()


def test_a_name_that_is_too_long_for_stills_is_refused_at_once(marking: Path, tmp_path: Path) -> None:
    words = ("--generated-keyframes", 1, "--keyframe-stills", *COMMON)
    told = ltx2("t2v", "a bell", "--model", marking, *words, "-o", tmp_path / f"{'a' * 237}.mp4")
    assert told.exit_code == 2
    assert "its name has 252 bytes, and 241 is the most" in told.stderr


def test_stills_that_could_not_be_written_are_not_lost(
    marking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, frame: Tensor, *, overwrite: bool) -> None:
        raise StorageError(f"{path} cannot be written", "no space left on device")

    words = ("--generated-keyframes", 1, "--keyframe-stills", "--sound", "off", *COMMON)
    target, still = tmp_path / "a.mp4", tmp_path / "a-keyframe-1.png"
    with monkeypatch.context() as patched:
        patched.setattr(engine, "write_still", refuse)
        told = ltx2("t2v", "a bell", "--model", marking, *words, "-o", target)
    assert (told.exit_code, target.is_file()) == (7, True)
    told = ltx2("resume", tmp_path / "a.mp4.job")
    assert told.exit_code == 2
    assert f"{still} was not written" in told.stderr
    file = target.read_bytes()
    assert rendered("decode", tmp_path / "a.mp4.job", "--overwrite").read_bytes() == file
    assert still.is_file()


def test_the_plan_counts_their_tokens(marking: Path) -> None:
    flags = {"model": str(marking), "preset": "one-stage", "res": "128x128", "frames": "9", "output": "never.mp4"}

    def denoising_flops(count: int) -> float:
        layers = [(COMMAND_LINE, flags | {"generated_keyframes": str(count)})]
        phases = Asked(mode="t2v", prompt="a bell", layers=layers).settle().costs.phases
        return next(phase.flops for phase in phases if phase.name == "denoising")

    assert denoising_flops(0) < denoising_flops(2) < denoising_flops(7)


def test_a_model_without_a_keyframe_embedding_refuses_them(tiny: Path) -> None:
    told = refused(tiny, "--generated-keyframes", 2)
    assert "--generated-keyframes 2 cannot be used" in told
    assert "has no keyframe embedding, which marks such frames" in told
    assert told.rstrip().endswith("hint: leave it out")


def test_a_clip_without_as_many_frames_between_its_ends_refuses_them(marking: Path) -> None:
    told = refused(marking, "--generated-keyframes", 8)
    assert "the clip has 7 frames between its ends in the first stage" in told


def test_audio_alone_has_no_use_for_them(marking: Path) -> None:
    told = refused(marking, "--video", "off", "--generated-keyframes", 2)
    assert "--generated-keyframes cannot be used here" in told
    assert "--video off leaves only audio" in told
