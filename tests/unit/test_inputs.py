"""Whatever a user gives either works or is refused with one clear line and a hint, and nothing else is read."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av import VideoStream
from av.container import OutputContainer
from av.stream import Disposition
from PIL import Image

from ltx2_core.errors import MediaError
from ltx2_core.media.inputs import LONGEST_SIDE, ImageSource, SoundSource, VideoSource, check_input
from tests.synthetic_media import encode_sound, picture, png_header, tone, write_sound, write_video

ROOT = Path(__file__).parents[2]
IN_OPEN = 0x20  # of Linux's inotify
IN_FRONT = {"movflags": "+faststart"}
Write = Callable[[Path], Any]


def text(content: str) -> Write:
    return lambda path: path.write_text(content)


def cut(write: Write, share: float) -> Write:
    """A file of which the end is missing."""

    def write_and_cut(path: Path) -> None:
        write(path)
        data = path.read_bytes()
        path.write_bytes(data[: round(len(data) * share)])

    return write_and_cut


def still(mode: str = "RGB", size: tuple[int, int] = (48, 32), **options: Any) -> Write:
    return lambda path: Image.fromarray(picture(3, *size)).convert(mode).save(path, **options)


def written(data: bytes) -> Write:
    return lambda path: path.write_bytes(data)


def moving(path: Path) -> None:
    frames = [Image.fromarray(picture(number)) for number in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def floating(path: Path) -> None:
    Image.fromarray(np.ones((8, 8), np.float32)).save(path)


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def second_view(path: Path) -> None:
    """What phones write: a photo, and behind it another picture of the same moment."""
    view = Image.new("RGB", (8, 8))
    Image.fromarray(picture(0)).save(path, format="MPO", save_all=True, append_images=[view])


def video(**options: Any) -> Write:
    return lambda path: write_video(path, **options)


def sound(codec: str = "pcm_s16le", **options: Any) -> Write:
    return lambda path: write_sound(path, codec, **options)


def with_cover(path: Path) -> None:
    """A record: sound, and a picture that is its cover."""
    with av.open(path, "w") as container:
        cover = add_picture(container, "png", "rgb24")
        cover.disposition = Disposition.attached_pic
        track = container.add_stream("flac", rate=48000, layout="stereo")
        container.mux(cover.encode(av.VideoFrame.from_ndarray(picture(0), format="rgb24")))
        container.mux(cover.encode(None))
        encode_sound(container, track, tone(4608))


def without_frames(path: Path) -> None:
    """Sound, and a video stream of which not a single frame was recorded."""
    with av.open(path, "w") as container:
        add_picture(container, "mpeg4", "yuv420p")
        encode_sound(container, container.add_stream("aac", rate=48000, layout="stereo"), tone(4608))


def without_samples(path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(48000)


def add_picture(container: OutputContainer, codec: str, pixels: str) -> VideoStream:
    stream = container.add_stream(codec, rate=25)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height, stream.pix_fmt = 48, 32, pixels
    return stream


NOTE = ("photo.gif holds several pictures; the first is used",)
NTSC = Fraction(30000, 1001)
UNEVEN_S = (0, 0.04, 0.08, 0.5, 0.54, 0.96)

REFUSED: dict[str, tuple[type, str, Write, str]] = {
    "text as image": (ImageSource, "photo.png", text("a cat"), "none of PNG"),
    "drawing as image": (ImageSource, "photo.svg", text("<svg xmlns='http://www.w3.org/2000/svg'/>"), "none of PNG"),
    "sound as image": (ImageSource, "photo.wav", sound(), "none of PNG"),
    "empty image": (ImageSource, "photo.png", text(""), "empty"),
    "image that ends in its header": (ImageSource, "photo.png", cut(still(), 0.05), "none of PNG"),
    "170 megapixels": (ImageSource, "photo.png", written(png_header(17000, 10000)), "89 megapixels"),
    "400 megapixels": (ImageSource, "photo.png", written(png_header(20000, 20000)), "89 megapixels"),
    "too wide an image": (ImageSource, "photo.png", written(png_header(20000, 10)), str(LONGEST_SIDE)),
    "floating-point image": (ImageSource, "photo.tiff", floating, "floating"),
    "text as video": (VideoSource, "clip.mp4", text("a cat\n" * 99), "of a kind"),
    "playlist": (VideoSource, "clip.mp4", text("#EXTM3U\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n"), "of a kind"),
    "list of clips": (VideoSource, "clip.mp4", text("ffconcat version 1.0\nfile secret.ts\n"), "of a kind"),
    "image as video": (VideoSource, "clip.png", still(), "of a kind"),
    "sound as video": (VideoSource, "clip.wav", sound(), "no picture"),
    "record with a cover as video": (VideoSource, "clip.flac", with_cover, "no picture"),
    "no frames": (VideoSource, "clip.mkv", without_frames, "not a single frame"),
    "truncated MP4": (VideoSource, "clip.mp4", cut(video(), 0.6), "damaged"),
    "truncated MP4 with its header in front": (VideoSource, "clip.mp4", cut(video(options=IN_FRONT), 0.99), "cut off"),
    "text as sound": (SoundSource, "song.wav", text("la la la"), "of a kind"),
    "silent video as sound": (SoundSource, "song.mp4", video(), "no sound"),
    "sound without samples": (SoundSource, "song.wav", without_samples, "no sound"),
    "absurd rate": (SoundSource, "song.wav", sound(rate_hz=7, samples=tone(70)), "7 samples a second"),
}

ACCEPTED: dict[str, tuple[type, str, Write, dict[str, Any]]] = {
    "PNG": (ImageSource, "photo.png", still(), {"width": 48, "height": 32, "notes": ()}),
    "alpha PNG": (ImageSource, "photo.png", still("RGBA"), {"width": 48}),
    "upright by its EXIF": (ImageSource, "photo.jpg", still(exif=orientation(6)), {"width": 32, "height": 48}),
    "mirrored by its EXIF": (ImageSource, "photo.jpg", still(exif=orientation(5)), {"width": 48, "height": 32}),
    "animated GIF": (ImageSource, "photo.gif", moving, {"has_more": True, "notes": NOTE}),
    "photo with a second view": (ImageSource, "photo.jpg", second_view, {"width": 48, "has_more": False}),
    "one pixel": (ImageSource, "photo.png", still(size=(1, 1)), {"width": 1, "height": 1}),
    "name like a protocol": (ImageSource, "concat:photo.png", still(), {"width": 48}),
    "H.264": (
        VideoSource,
        "clip.mp4",
        video(),
        {"fps": 25, "frames": 12, "duration_s": Fraction(12, 25), "sound": None},
    ),
    "Matroska": (VideoSource, "clip.mkv", video(fps=NTSC), {"fps": NTSC, "frames": 12, "duration_s": 12 / NTSC}),
    "broadcast": (VideoSource, "clip.ts", video(sound="aac"), {"fps": 25, "frames": 12, "has_audio": True}),
    "old camera": (VideoSource, "clip.avi", video(codec="mpeg4"), {"fps": 25, "frames": 12, "is_timed": True}),
    "H.264 in AVI": (VideoSource, "clip.avi", video(), {"fps": 25, "frames": 12, "is_timed": False}),
    "10 bits": (VideoSource, "clip.mov", video(codec="prores_ks", pixels="yuv422p10le"), {"codec": "prores"}),
    "odd size": (VideoSource, "clip.mkv", video(size=(47, 31), codec="ffv1"), {"width": 47, "height": 31}),
    "upright by its matrix": (VideoSource, "clip.mp4", video(rotation=90), {"rotation": 90, "width": 32, "height": 48}),
    "upside down": (VideoSource, "clip.mp4", video(rotation=180), {"rotation": 180, "width": 48, "height": 32}),
    "variable rate": (VideoSource, "clip.mp4", video(times_s=UNEVEN_S), {"is_variable": True, "fps": 6, "frames": 6}),
    "uneven Matroska": (VideoSource, "clip.mkv", video(times_s=UNEVEN_S), {"is_variable": True, "fps": 6, "frames": 6}),
    "Matroska that breaks off": (VideoSource, "clip.mkv", cut(video(frames=50, sound="aac"), 0.5), {"fps": 25}),
    "5.1": (SoundSource, "song.wav", sound(layout="5.1"), {"channels": 6, "sample_rate_hz": 48000, "duration_s": 1}),
    "odd rate": (SoundSource, "song.wav", sound(rate_hz=44099), {"sample_rate_hz": 44099, "duration_s": 1}),
    "silence": (SoundSource, "song.wav", sound(samples=np.zeros((2, 4800), np.int16)), {"duration_s": Fraction(1, 10)}),
    "MP3": (SoundSource, "song.mp3", sound("libmp3lame"), {"codec": "mp3", "channels": 2}),
    "raw AAC": (SoundSource, "song.aac", sound("aac"), {"codec": "aac", "duration_s": Fraction(49152, 48000)}),
    "sound of a video": (SoundSource, "song.mp4", video(sound="aac"), {"codec": "aac", "duration_s": Fraction(12, 25)}),
    "record with a cover": (SoundSource, "song.flac", with_cover, {"codec": "flac"}),
}


def assert_refused(path: Path, kind: type, why: str) -> None:
    with pytest.raises(MediaError) as caught:
        check_input(path, kind)
    error = caught.value
    assert error.exit_code == 3
    assert error.what.startswith(f"{path} cannot be used as ")
    assert why in error.why
    assert error.hint
    assert not any("\n" in line for line in (error.why, error.hint))


@pytest.mark.parametrize(("kind", "name", "write", "why"), REFUSED.values(), ids=REFUSED)
def test_a_useless_input_is_refused_with_a_reason_and_a_hint(
    kind: type, name: str, write: Write, why: str, tmp_path: Path
):
    write(tmp_path / name)
    assert_refused(tmp_path / name, kind, why)


@pytest.mark.parametrize(("kind", "name", "write", "expected"), ACCEPTED.values(), ids=ACCEPTED)
def test_an_odd_input_is_described_by_its_header(
    kind: type, name: str, write: Write, expected: dict[str, Any], tmp_path: Path
):
    write(tmp_path / name)
    source = check_input(tmp_path / name, kind)
    assert {field: getattr(source, field) for field in expected} == expected


@pytest.mark.parametrize("kind", [ImageSource, VideoSource, SoundSource])
def test_only_regular_files_are_looked_into(kind: type, tmp_path: Path):
    pipe, device = tmp_path / "pipe.mp4", tmp_path / "device.mp4"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for path, why in {
        tmp_path: "folder",
        pipe: "no regular file",
        device: "no regular file",
        tmp_path / "absent.mp4": "no such file",
        Path("concat:a.mp4|b.mp4"): "no such file",
        Path("subfile,,start,0,end,9,,:a.mp4"): "no such file",
        Path("https://example.org/a.mp4"): "no such file",
        Path("a\0b.mp4"): "no such file",
    }.items():
        assert_refused(path, kind, why)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel is asked who opened a file")
@pytest.mark.parametrize("content", ["#EXTM3U\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile '{}'\n"])
def test_no_other_file_is_opened_whatever_a_file_says(content: str, tmp_path: Path):
    secret = write_video(tmp_path / "secret.mp4")
    playlist = tmp_path / "clip.mp4"
    playlist.write_text(content.format(secret))
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    try:
        assert libc.inotify_add_watch(watch, os.fsencode(secret), IN_OPEN) >= 0
        for kind in (VideoSource, SoundSource, ImageSource):
            assert_refused(playlist, kind, "")
        for name in (f"concat:{secret}", f"subfile,,start,0,end,99,,:{secret}", f"file:{secret}"):
            assert_refused(Path(name), VideoSource, "no such file")
        with pytest.raises(BlockingIOError):
            os.read(watch, 4096)
        secret.read_bytes()
        assert os.read(watch, 4096)
    finally:
        os.close(watch)


def test_checking_needs_no_torch_and_importing_needs_nothing(tmp_path: Path):
    clip = write_video(tmp_path / "clip.mp4", sound="aac")
    script = f"""
import sys
import wave
from pathlib import Path
from ltx2_core.media.inputs import SoundSource, VideoSource, check_input
assert not {{"torch", "av", "numpy", "PIL"}} & sys.modules.keys()
check_input(Path({str(clip)!r}), VideoSource)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
