"""Every mode on a model of another generation: what comes out has its rate, and sound as long as the picture."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image

from ltx2_core.media.probe import MediaInfo, probe
from tests.commands import AUDIO_UNGUIDED, UNGUIDED, VIDEO_UNGUIDED, rendered
from tests.synthetic_media import tone, write_sound, write_video

RATE_HZ = 48000
SMALL = ("--res", "64x64", "--steps", 2, "--seed", 3)
DOUBLE = ("--res", "128x128", "--seed", 3, "--frames", 9)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of 2.3; do not change it."""
    from scripts.make_tiny_checkpoint import make_tiny_checkpoint

    folder = tmp_path_factory.mktemp("2.3")
    make_tiny_checkpoint(folder, version="2.3")
    return folder


def made(folder: Path, mode: str, *words: object) -> MediaInfo:
    """What is in the clip that a command makes in a folder."""
    return probe(rendered(mode, *words, "-o", folder / "made.mp4"))


def lengths(info: MediaInfo) -> tuple[int, int]:
    """The rate of the audio, and how many samples fill the video."""
    assert info.audio is not None
    assert info.audio.duration_s is not None
    return info.audio.sample_rate_hz, round(info.audio.duration_s * info.audio.sample_rate_hz)


@pytest.mark.parametrize("fps", ["8", "12.5", "23.976", "24", "25", "29.97", "30", "50", "60"])
def test_picture_and_sound_are_equally_long(fps: str, model: Path, tmp_path: Path) -> None:
    info = made(tmp_path, "t2v", "a bell", "--model", model, *SMALL, *UNGUIDED, "--frames", 9, "--fps", fps)
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


def test_every_other_mode_makes_what_it_should(model: Path, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", frames=9, sound="aac")
    song = write_sound(tmp_path / "song.wav", samples=tone(RATE_HZ // 3))
    still = tmp_path / "still.png"
    Image.new("RGB", (64, 64), "red").save(still)
    common = ("--model", model, *SMALL, "--overwrite")
    given = made(tmp_path, "a2v", song, "a bell", *VIDEO_UNGUIDED, *common)
    assert lengths(given)[0] == RATE_HZ
    restyled = made(tmp_path, "v2v", clip, "a bell", "--strength", "0.5", *UNGUIDED, *common)
    assert restyled.video is not None
    followed = made(tmp_path, "v2a", clip, "a bell", *AUDIO_UNGUIDED, *common)
    assert lengths(followed)[0] == RATE_HZ
    first = made(tmp_path, "i2v", still, "a bell", "--frames", 9, *UNGUIDED, *common)
    assert first.video is not None


def test_sound_alone_is_as_the_vocoder_makes_it(model: Path, tmp_path: Path) -> None:
    words = ("--model", model, "--video", "off", "--frames", 9, "--steps", 2, "-o", tmp_path / "a.wav")
    info = probe(rendered("t2v", "a bell", *words))
    assert info.video is None
    assert lengths(info)[0] == RATE_HZ
