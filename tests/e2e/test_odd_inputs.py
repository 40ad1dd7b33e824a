"""Wrong or unusual inputs through the real command line: each works, or is refused with the reason and a hint."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from ltx2_cli.app import app
from ltx2_core.media.probe import probe
from tests.odd_media import (
    Write,
    cut,
    moving,
    orientation,
    sound,
    still,
    text,
    video,
    watched,
    with_cover,
    without_frames,
    without_samples,
    written,
)
from tests.synthetic_media import png_header, tone, write_video

pytestmark = pytest.mark.usefixtures("kept_models")

IN_FRONT = {"movflags": "+faststart"}
SILENCE = np.zeros((2, 14400), np.int16)
UNEVEN_S = (0, 0.04, 0.08, 0.12, 0.5, 0.54, 0.6, 0.8, 0.96)
PLAYLIST = "#EXTM3U\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n"


@dataclass(frozen=True)
class Odd:
    """A command, the name of its input and a function that writes it; then the expected result.

    Args: code: the exit code, 0 if it works. says: a part of the error message, or of a note if it works.
    """

    command: str
    name: str
    write: Write
    code: int = 0
    says: str = ""
    words: tuple[str, ...] = ()


def nothing(path: Path) -> None:
    """Write no file."""


ODD = {
    # images
    "text as an image": Odd("i2v", "photo.png", text("a cat"), 3, "it is not one of PNG, JPEG"),
    "video as an image": Odd("i2v", "photo.mp4", video(), 3, "it is not one of PNG, JPEG"),
    "image that is not there": Odd("i2v", "photo.png", nothing, 3, "there is no such file"),
    "image of 170 megapixels": Odd("i2v", "photo.png", written(png_header(17000, 10000)), 3, "more than 89 megapixels"),
    "image of one pixel": Odd("i2v", "photo.png", still(size=(1, 1))),
    "image with transparency": Odd("i2v", "photo.png", still("RGBA")),
    "image turned by its EXIF": Odd("i2v", "photo.jpg", still(exif=orientation(6))),
    "image that moves": Odd("i2v", "photo.gif", moving, says="photo.gif holds several images; the first is used"),
    "image by a protocol": Odd("i2v", "concat:a.png|b.png", nothing, 3, "there is no such file"),
    # clips
    "text as a clip": Odd("v2v", "clip.mp4", text("a cat\n" * 99), 3, "its format is not supported"),
    "image as a clip": Odd("v2v", "clip.png", still(), 3, "it is an image (PNG)"),
    "sound as a clip": Odd("v2v", "clip.wav", sound(), 3, "there is no video in it"),
    "sound with a cover as a clip": Odd("v2v", "clip.flac", with_cover, 3, "there is no video in it"),
    "clip of 0 frames": Odd("v2v", "clip.mkv", without_frames, 3, "there is not a single frame in it"),
    "clip of 1 frame": Odd("v2v", "clip.mp4", video(frames=1)),
    "clip that is cut off": Odd("v2v", "clip.mp4", cut(video(), 0.6), 3, "but is damaged"),
    "clip that is cut off behind its header": Odd(
        "v2v", "clip.mp4", cut(video(options=IN_FRONT), 0.99), 3, "it is cut off; its end is missing"
    ),
    "playlist by the name of a clip": Odd("v2v", "clip.mp4", text(PLAYLIST), 3, "its format is not supported"),
    "clips by a protocol": Odd("v2v", "concat:a.mp4|b.mp4", nothing, 3, "there is no such file"),
    "clip without sound": Odd("v2v", "clip.mp4", video(), says="clip.mp4 has no audio; new audio is generated"),
    "clip with silence": Odd("v2v", "clip.mp4", video(sound="aac", is_silent=True)),
    "clip with 5.1 sound": Odd("v2v", "clip.mp4", video(sound="aac", layout="5.1")),
    "clip of 10 bits": Odd("v2v", "clip.mov", video(codec="prores_ks", pixels="yuv422p10le")),
    "clip of odd sides": Odd("v2v", "clip.mkv", video(size=(47, 31), codec="ffv1")),
    "clip of a variable rate": Odd(
        "v2v", "clip.mp4", video(times_s=UNEVEN_S), says="clip.mp4 has a variable frame rate"
    ),
    "clip turned by its matrix": Odd("v2v", "clip.mp4", video(rotation=90), says="scaled up from 32x48"),
    # clips that get audio
    "text that is to sound": Odd("v2a", "clip.mp4", text("a cat\n" * 99), 3, "its format is not supported"),
    "sound that is to sound": Odd("v2a", "clip.wav", sound(), 3, "there is no video in it"),
    "no frames that are to sound": Odd("v2a", "clip.mkv", without_frames, 3, "there is not a single frame in it"),
    "playlist that is to sound": Odd("v2a", "clip.mp4", text(PLAYLIST), 3, "its format is not supported"),
    "clip to sound that is cut off": Odd("v2a", "clip.mp4", cut(video(), 0.6), 3, "but is damaged"),
    "one frame to sound": Odd("v2a", "clip.mp4", video(frames=1)),
    "5.1 sound to leave out": Odd(
        "v2a", "clip.mp4", video(sound="aac", layout="5.1"), says="the old audio is left out"
    ),
    "10 bits to sound": Odd("v2a", "clip.mov", video(codec="prores_ks", pixels="yuv422p10le"), says="a .mov file"),
    "variable rate to sound": Odd("v2a", "clip.mp4", video(times_s=UNEVEN_S), says="has a variable frame rate"),
    "turned clip to sound": Odd("v2a", "clip.mp4", video(rotation=90), says="the video, 32x48, is copied as it is"),
    # audio files
    "text as a sound": Odd("a2v", "song.wav", text("la la la"), 3, "its format is not supported"),
    "image as a sound": Odd("a2v", "song.png", still(), 3, "it is an image (PNG)"),
    "clip without sound as a sound": Odd("a2v", "clip.mp4", video(), 3, "there is no audio in it"),
    "sound of 0 samples": Odd("a2v", "song.wav", without_samples, 3, "there is no audio in it"),
    "sounds by a protocol": Odd("a2v", "concat:a.wav|b.wav", nothing, 3, "there is no such file"),
    "sound of a clip": Odd("a2v", "clip.mp4", video(sound="aac"), says="the aac audio of clip.mp4 is copied"),
    "silence": Odd("a2v", "song.wav", sound(samples=SILENCE)),
    "5.1 sound": Odd("a2v", "song.wav", sound(layout="5.1", samples=tone(14400, 6))),
    "sound of a strange rate": Odd("a2v", "song.wav", sound(rate_hz=44099, samples=tone(14400))),
    # settings for an input
    "span that ends before it begins": Odd(
        "v2v", "clip.mp4", video(), 2, "it must end after it begins", ("--retake", "0.4s-0.1s")
    ),
    "LoRA for another model": Odd(
        "v2v",
        "clip.mp4",
        video(),
        7,
        "does not fit ltx-2-tiny-dev.safetensors",
        ("--control", "wide-ic-lora.safetensors"),
    ),
}


def ltx2(tiny: Path, *words: str) -> Result:
    common = ["--model", str(tiny), "--res", "96x64", "--steps", "2", "--seed", "1"]
    return CliRunner().invoke(app, [*words, *common])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_an_odd_input_works_or_is_refused(odd: Odd, tiny: Path, folder: Path) -> None:
    odd.write(folder / odd.name)
    pair = {"lora_A": torch.zeros(4, 96), "lora_B": torch.zeros(96, 4)}
    layer = "diffusion_model.transformer_blocks.0.attn1.to_q"
    save_file({f"{layer}.{part}.weight": t for part, t in pair.items()}, folder / "wide-ic-lora.safetensors")
    before = sorted(folder.iterdir())
    length = ("--frames", "9") if odd.command == "i2v" else ()
    result = ltx2(tiny, odd.command, odd.name, "a bell rings", *length, *odd.words)
    assert result.exit_code == odd.code, result.stderr
    assert odd.says in result.stderr
    if odd.code == 0:
        info = probe(Path(result.stdout.strip()))
        assert info.video is not None
        assert info.audio is not None
        return
    what, _, hint = result.stderr.splitlines()
    assert what.startswith("error: ")
    assert hint.startswith("hint: ")
    assert result.stdout == ""
    assert sorted(folder.iterdir()) == before


def test_a_photo_is_made_to_stand_by_its_exif(tiny: Path, folder: Path) -> None:
    still(exif=orientation(6))(folder / "photo.jpg")
    words = ["i2v", "photo.jpg", "--model", str(tiny), "--frames", "1", "--res", "480p", "--steps", "2"]
    result = CliRunner().invoke(app, words)
    assert "544x736" in result.stderr, result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel is asked who opened a file")
@pytest.mark.parametrize("command", ["i2v", "v2v", "a2v", "v2a"])
def test_nothing_but_the_input_is_read(command: str, tiny: Path, folder: Path) -> None:
    secret = write_video(folder / "secret.mp4")
    (folder / "list.mp4").write_text(PLAYLIST)
    with watched(secret) as was_opened:
        for name in ("list.mp4", "concat:secret.mp4|secret.mp4", "subfile,,start,0,end,0,,:secret.mp4"):
            assert ltx2(tiny, command, name, "a bell rings").exit_code == 3
        assert not was_opened()
