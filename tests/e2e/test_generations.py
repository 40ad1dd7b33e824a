"""Every mode on models of other generations: the result has the sample rate of the model, and audio as long as the
video.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image

from ltx2_core.media.probe import MediaInfo, probe
from tests.commands import AUDIO_UNGUIDED, UNGUIDED, VIDEO_UNGUIDED, rendered
from tests.synthetic_media import tone, write_sound, write_video

pytestmark = pytest.mark.usefixtures("kept_models")

RATE_HZ = 48000
SMALL = ("--res", "64x64", "--steps", 2, "--seed", 3)
DOUBLE = ("--res", "128x128", "--seed", 3, "--frames", 9)


@pytest.fixture(params=["2.3", "2.5"])
def model(request: pytest.FixtureRequest, tiny_of: Callable[[str], Path]) -> Path:
    """A tiny model of a generation; do not change it."""
    return tiny_of(request.param)


def made(folder: Path, *words: object) -> MediaInfo:
    """The content of the clip that a command writes in a folder."""
    return probe(rendered(*words, "-o", folder / "made.mp4"))


def lengths(info: MediaInfo) -> tuple[int, int]:
    """The sample rate of the audio, and the number of samples that fill the video."""
    assert info.audio is not None
    assert info.audio.duration_s is not None
    return info.audio.sample_rate_hz, round(info.audio.duration_s * info.audio.sample_rate_hz)


@pytest.mark.parametrize("fps", ["8", "12.5", "23.976", "24", "25", "29.97", "30", "50", "60"])
def test_picture_and_sound_are_equally_long(fps: str, model: Path, tmp_path: Path) -> None:
    words = ("--model", model, *SMALL, *UNGUIDED, "--decoder", "conv", "--frames", 9, "--fps", fps)
    info = made(tmp_path, "t2v", "a bell", *words)
    assert info.video is not None
    assert info.video.duration_s is not None
    rate_hz, samples = lengths(info)
    assert rate_hz == RATE_HZ
    assert abs(Fraction(samples, rate_hz) - info.video.duration_s) <= 1 / info.video.fps


@pytest.mark.parametrize(
    "words",
    [
        (*SMALL, "--frames", 9),  # guided
        (*DOUBLE, "--preset", "two-stage", "--steps", 2, *UNGUIDED),
        (*DOUBLE, "--preset", "distilled"),
        (*DOUBLE, "--preset", "hq", "--steps", 2),
    ],
)
def test_presets_make_a_clip(words: tuple[object, ...], model: Path, tmp_path: Path) -> None:
    info = made(tmp_path, "t2v", "a bell", "--model", model, *words)
    assert info.video is not None
    assert info.video.frames == 9
    assert lengths(info)[0] == RATE_HZ


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a clip, an audio file and an image."""
    folder = tmp_path_factory.mktemp("given")
    write_video(folder / "clip.mp4", frames=17, sound="aac")
    write_sound(folder / "song.wav", samples=tone(RATE_HZ // 3))
    Image.new("RGB", (64, 64), "red").save(folder / "still.png")
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ("a2v", "song.wav", "a bell", *VIDEO_UNGUIDED),
        ("v2a", "clip.mp4", "a bell", *AUDIO_UNGUIDED),
        ("i2v", "still.png", "a bell", "--frames", 9, *UNGUIDED),
        ("i2v", "still.png", "a bell", "--image", "still.png@0.2s:0.5", "--image", "still.png@last", "--frames", 17),
        ("v2v", "clip.mp4", "a bell", "--strength", "0.5", *UNGUIDED),
        ("v2v", "clip.mp4", "a bell", "--extend", "0.4s", *UNGUIDED),
        ("v2v", "clip.mp4", "a bell", "--retake", "0.2s-0.4s", *UNGUIDED),
    ],
)
def test_every_other_mode_makes_a_clip_with_sound(
    words: tuple[object, ...], model: Path, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(given)
    info = made(tmp_path, *words, "--model", model, *SMALL)
    assert info.video is not None
    assert lengths(info)[0] == RATE_HZ


def test_an_in_context_lora_follows_a_clip(model: Path, given: Path, tmp_path: Path) -> None:
    (lora,) = model.glob("*-ic-lora-*")
    words = ("--model", model, *UNGUIDED, "--res", "128x128", "--steps", 2, "--frames", 9)
    info = made(tmp_path, "v2v", given / "clip.mp4", "a bell", "--control", lora, *words)
    assert info.video is not None
    assert info.video.frames == 9


def test_sound_alone_is_as_the_vocoder_makes_it(model: Path, tmp_path: Path) -> None:
    words = ("--model", model, "--video", "off", "--frames", 9, "--steps", 2, "-o", tmp_path / "a.wav")
    info = probe(rendered("t2v", "a bell", *words))
    assert info.video is None
    assert lengths(info)[0] == RATE_HZ


@pytest.mark.parametrize(("version", "precision"), [("2.3", "nvfp4"), ("2.5", "gguf-q4_k")])
def test_quantised_files_of_other_generations_render(version: str, precision: str, tmp_path: Path) -> None:
    from scripts.make_tiny_checkpoint import make_tiny_checkpoint

    make_tiny_checkpoint(tmp_path / "model", version=version, precision=precision, is_wide=True)
    words = ("--model", tmp_path / "model", *SMALL, *UNGUIDED, "--decoder", "auto", "--frames", 9)
    info = made(tmp_path, "t2v", "a bell", *words)
    assert lengths(info)[0] == RATE_HZ
