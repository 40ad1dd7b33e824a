"""`--loop`: clips whose end meets their beginning, through the real command line on tiny models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from ltx2_core.media.accept import check_input
from ltx2_core.media.audio import read_audio
from ltx2_core.media.inputs import AudioSource, VideoSource
from ltx2_core.media.probe import probe
from ltx2_core.media.seam import measure_seam
from ltx2_core.pipeline.render import engine
from tests.commands import UNGUIDED, ltx2, made_in, refused, rendered
from tests.synthetic_media import write_video

pytestmark = pytest.mark.usefixtures("kept_models")

SMALL = ("--res", "64x64", "--steps", 2, "--seed", 3, *UNGUIDED)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "clip.mp4", frames=33, size=(64, 64), sound="aac")
    Image.effect_mandelbrot((80, 60), (-2, -1.5, 1, 1.5), 40).convert("RGB").save(folder / "photo.png")
    Image.new("RGB", (80, 60)).save(folder / "other.png")
    return folder


def frames_of(path: Path) -> int | None:
    video = probe(path).video
    assert video is not None
    return video.frames


def test_a_loop_has_a_frame_less_tells_of_its_seam_and_is_rendered_again(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "loop.mp4"
    words = ("--model", tiny, *SMALL, "--frames", 25)
    result = ltx2("t2v", "a bell rings", *words, "--loop", "--keep-latents", "--report", "-o", path)
    assert result.exit_code == 0, result.stderr
    told = " ".join(result.stderr.split())
    assert "loop: 24 frames, the first of which follows the last" in told
    assert "loop: the step from the last frame to the first is" in told
    assert "seam ×" in path.with_suffix(".html").read_text()
    request = made_in(path).request
    assert (request.loops, request.frames, frames_of(path)) == (True, 25, 24)
    info = probe(path)
    assert info.audio is not None
    assert info.audio.duration_s == 1
    latent = load_file(f"{path}.job/latents-1.safetensors")
    assert latent["video"][:, :, 0].allclose(latent["video"][:, :, -1], atol=1e-5)
    for again in (("rerun", path), ("decode", f"{path}.job")):
        assert rendered(*again, "-o", tmp_path / f"{again[0]}.mp4").read_bytes() == path.read_bytes()


def test_the_toy_s_ball_goes_on_over_the_seam(tmp_path: Path) -> None:
    prompt, words = "a big green ball bounces slowly", ("--model", "toy", "--preset", "distilled-lora", "--seed", 1)
    path = rendered("t2v", prompt, *words, "--loop", "--audio-codec", "alac", "-o", tmp_path / "loop.mp4")
    seam = measure_seam(check_input(path, VideoSource))
    assert seam.is_smooth
    assert seam.ratio < 1.2


def test_a_loop_of_text_alone_begins_where_it_is_stillest_and_its_audio_there_too(
    tiny: Path, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--model", tiny, *SMALL, "--frames", 25, "--loop", "--keep-latents", "--audio-codec", "alac")
    path = rendered("t2v", "a bell rings", *words, "-o", tmp_path / "text.mp4")
    given = rendered("i2v", media / "photo.png", "a bell rings", *words, "-o", tmp_path / "image.mp4")
    for turn in range(8):
        with monkeypatch.context() as patch:
            patch.setattr(engine, "stillest", lambda chunks, _, turn=turn: (turn, chunks))
            rendered("decode", f"{path}.job", "-o", tmp_path / f"{turn}.mp4")
    assert rendered("decode", f"{given}.job", "-o", tmp_path / "again.mp4").read_bytes() == given.read_bytes()
    assert path.read_bytes() in [(tmp_path / f"{turn}.mp4").read_bytes() for turn in range(8)]
    unturned, *turned = (read_audio(check_input(tmp_path / f"{n}.mp4", AudioSource)) for n in range(8))
    for number, one in enumerate(turned, 1):
        assert one.samples.equal(unturned.samples.roll(-number * unturned.sample_rate_hz // 24, -1))


def test_every_stage_is_a_loop_and_lengths_in_which_steps_do_not_fit_end_in_time(tiny: Path, tmp_path: Path) -> None:
    words = ("--model", tiny, "--preset", "distilled", "--res", "128x128", "--seed", 3, "--frames", 33)
    path = rendered("t2v", "a bell", *words, "--loop", "--keep-latents", "-o", tmp_path / "loop.mp4")
    for number in (1, 2):
        latent = load_file(f"{path}.job/latents-{number}.safetensors")["video"]
        assert latent[:, :, 0].allclose(latent[:, :, -1], atol=1e-4)
    info = probe(path)
    assert info.audio is not None
    assert info.video is not None
    assert info.audio.duration_s is not None
    assert info.video.duration_s is not None
    assert (info.video.frames, float(info.video.duration_s)) == (32, pytest.approx(32 / 24))
    assert abs(info.audio.duration_s - info.video.duration_s) < 1e-3


def test_an_image_and_a_clip_become_loops(tiny: Path, media: Path, tmp_path: Path) -> None:
    words = ("--model", tiny, *SMALL, "--loop")
    image = media / "photo.png"
    path = rendered("i2v", image, *words, "--frames", 25, "--image", f"{image}@last", "-o", tmp_path / "image.mp4")
    assert (made_in(path).request.loops, frames_of(path)) == (True, 24)
    path = rendered("v2v", media / "clip.mp4", *words, "--keep-latents", "-o", tmp_path / "clip.mp4")
    request = made_in(path).request
    assert (request.recipe.edit, request.loops, frames_of(path)) == ("retake", True, 32)
    assert request.window is not None
    assert (request.window.start_s, request.window.end_s) == (17 / request.fps, 33 / request.fps)
    again = rendered("rerun", path, "-o", tmp_path / "again.mp4")
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("version", ["2.3", "2.5"])
def test_other_generations_loop(version: str, tiny_of: Callable, tmp_path: Path) -> None:
    words = ("--model", tiny_of(version), *SMALL, "--frames", 25, "--loop")
    assert frames_of(rendered("t2v", "a bell", *words, "-o", tmp_path / "loop.mp4")) == 24


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("t2v", "x", "--frames", 9), "a loop needs 17 frames or more"),
        (("t2v", "x", "--video", "off"), "only video that is generated"),
        (("t2v", "x", "--preset", "double-rate", "--frames", 33), "preset double-rate doubles the frame rate"),
        (("t2v", "x", "--skip-step", 1), "skipped steps would reuse guidance"),
        (("t2v", "x", "--attention", "looks.mp4"), "leave one of them out"),
        (("t2v", "x", "--cache-steps", 0.1), "--cache-steps 0"),
        (("t2v", "x", "--segment", "0s-1s=y"), "a span at another place"),
        (("t2v", "x", "--until", "3s", "--window", "1s"), "leave --until out"),
        (("i2v", "photo.png", "--image", "other.png@last"), "the last frame replaces the first"),
        (("v2v", "clip.mp4", "--sound", "keep"), "the end of the kept audio does not meet its beginning"),
        (("v2v", "clip.mp4", "--extend", "1s"), "--loop and --extend cannot be used together"),
        (("v2v", "clip.mp4", "--upscale", 2), "--loop and --upscale cannot be used together"),
    ],
)
def test_what_cannot_be_a_loop_is_refused(
    words: tuple[object, ...], says: str, tiny: Path, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(media)
    assert says in refused(2, *words, "--loop", "--model", tiny, "-o", "never.mp4")
