"""Every input either works or is refused with one clear line and a hint, and nothing else is read."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av import VideoStream
from av.stream import Disposition

from ltx2_core.errors import MediaError
from ltx2_core.media.accept import check_input
from ltx2_core.media.audio import read_audio
from ltx2_core.media.inputs import AudioSource, ImageSource, VideoSource
from ltx2_core.media.kinds import cannot_be_opened
from ltx2_core.media.video import frames_by_time
from tests.odd_media import (
    Write,
    case,
    cut,
    grey,
    moving,
    orientation,
    second_view,
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
from tests.synthetic_media import encode_sound, picture, png_header, tone, write_video

ROOT = Path(__file__).parents[2]
IN_FRONT = {"movflags": "+faststart"}
NOTE = ("photo.gif holds several images; the first is used",)
NTSC = Fraction(30000, 1001)
JITTERY_S = [number / 25 + (0.004, -0.004, 0.008)[number % 3] for number in range(12)]
UNEVEN_S = (0, 0.04, 0.08, 0.5, 0.54, 0.96)

REFUSED: dict[str, tuple[type, str, Write, str]] = {
    "text as image": (ImageSource, "photo.png", text("a cat"), "not one of PNG"),
    "drawing as image": (ImageSource, "photo.svg", text("<svg xmlns='http://www.w3.org/2000/svg'/>"), "not one of PNG"),
    "sound as image": (ImageSource, "photo.wav", sound(), "not one of PNG"),
    "empty image": (ImageSource, "photo.png", text(""), "empty"),
    "image that ends in its header": (ImageSource, "photo.png", cut(still(), 0.05), "not one of PNG"),
    "170 megapixels": (ImageSource, "photo.png", written(png_header(17000, 10000)), "89 megapixels"),
    "400 megapixels": (ImageSource, "photo.png", written(png_header(20000, 20000)), "89 megapixels"),
    "too wide an image": (ImageSource, "photo.png", written(png_header(16385, 10)), "16384"),
    "floating-point image": (ImageSource, "photo.tiff", grey(np.float32), "floating"),
    "image of 32-bit integers": (ImageSource, "photo.tiff", grey(np.int32), "32-bit integers"),
    "text as video": (VideoSource, "clip.mp4", text("a cat\n" * 99), "not supported"),
    "playlist": (VideoSource, "clip.mp4", text("#EXTM3U\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n"), "not supported"),
    "list of clips": (VideoSource, "clip.mp4", text("ffconcat version 1.0\nfile secret.ts\n"), "not supported"),
    "image as video": (VideoSource, "clip.png", still(), "an image (PNG)"),
    "sound as video": (VideoSource, "clip.wav", sound(), "no video"),
    "record with a cover as video": (VideoSource, "clip.flac", with_cover, "no video"),
    "no frames": (VideoSource, "clip.mkv", without_frames, "not a single frame"),
    "truncated MP4": (VideoSource, "clip.mp4", cut(video(), 0.6), "damaged"),
    "truncated MP4 with its header in front": (VideoSource, "clip.mp4", cut(video(options=IN_FRONT), 0.99), "cut off"),
    "stream that turns up late": (VideoSource, "clip.ts", case("noframes.ts"), "damaged"),
    "text as sound": (AudioSource, "song.wav", text("la la la"), "not supported"),
    "silent video as sound": (AudioSource, "song.mp4", video(), "no audio"),
    "sound without samples": (AudioSource, "song.wav", without_samples, "no audio"),
    "odd order of channels": (
        AudioSource,
        "song.caf",
        sound("pcm_s16be", layout="7.1"),
        "8 audio channels are in an order",
    ),
    "absurd rate": (AudioSource, "song.wav", sound(rate_hz=7, samples=tone(70)), "7 samples a second"),
}

ACCEPTED: dict[str, tuple[type, str, Write, dict[str, Any]]] = {
    "PNG": (ImageSource, "photo.png", still(), {"width": 48, "height": 32, "notes": ()}),
    "alpha PNG": (ImageSource, "photo.png", still("RGBA"), {"width": 48}),
    "upright by its EXIF": (ImageSource, "photo.jpg", still(exif=orientation(6)), {"width": 32, "height": 48}),
    "mirrored by its EXIF": (ImageSource, "photo.jpg", still(exif=orientation(5)), {"width": 32, "height": 48}),
    "animated GIF": (ImageSource, "photo.gif", moving, {"has_more": True, "notes": NOTE}),
    "photo with a second view": (ImageSource, "photo.jpg", second_view, {"width": 48, "has_more": False}),
    "AVIF": (ImageSource, "photo.avif", still(), {"width": 48, "height": 32}),
    "one pixel": (ImageSource, "photo.png", still(size=(1, 1)), {"width": 1, "height": 1}),
    "name like a protocol": (ImageSource, "concat:photo.png", still(), {"width": 48}),
    "H.264": (
        VideoSource,
        "clip.mp4",
        video(),
        {"fps": 25, "frames": 12, "duration_s": Fraction(12, 25), "audio": None},
    ),
    "Matroska": (VideoSource, "clip.mkv", video(fps=NTSC), {"fps": NTSC, "frames": 12, "duration_s": 12 / NTSC}),
    "broadcast": (VideoSource, "clip.ts", video(sound="aac"), {"fps": 25, "frames": 12}),
    "old camera": (VideoSource, "clip.avi", video(codec="mpeg4"), {"fps": 25, "frames": 12, "is_timed": True}),
    "H.264 in AVI": (VideoSource, "clip.avi", video(), {"fps": 25, "frames": 12, "is_timed": False}),
    "10 bits": (VideoSource, "clip.mov", video(codec="prores_ks", pixels="yuv422p10le"), {"codec": "prores"}),
    "odd size": (VideoSource, "clip.mkv", video(size=(47, 31), codec="ffv1"), {"width": 47, "height": 31}),
    "upright by its matrix": (VideoSource, "clip.mp4", video(rotation=90), {"width": 32, "height": 48}),
    "upside down": (VideoSource, "clip.mp4", video(rotation=180), {"width": 48, "height": 32}),
    "variable rate": (VideoSource, "clip.mp4", video(times_s=UNEVEN_S), {"is_variable": True, "fps": 6, "frames": 6}),
    "uneven Matroska": (VideoSource, "clip.mkv", video(times_s=UNEVEN_S), {"is_variable": True, "fps": 6, "frames": 6}),
    "jitter": (VideoSource, "clip.mkv", video(times_s=JITTERY_S), {"is_variable": False, "frames": 12, "holes": 0}),
    "Matroska that breaks off": (VideoSource, "clip.mkv", cut(video(frames=50, sound="aac"), 0.5), {"fps": 25}),
    "5.1": (AudioSource, "song.wav", sound(layout="5.1"), {"channels": 6, "sample_rate_hz": 48000, "duration_s": 1}),
    "odd rate": (AudioSource, "song.wav", sound(rate_hz=44099), {"sample_rate_hz": 44099, "duration_s": 1}),
    "silence": (AudioSource, "song.wav", sound(samples=np.zeros((2, 4800), np.int16)), {"duration_s": Fraction(1, 10)}),
    "MP3": (AudioSource, "song.mp3", sound("libmp3lame"), {"codec": "mp3", "channels": 2}),
    "raw E-AC-3": (AudioSource, "song.eac3", sound("eac3"), {"codec": "eac3", "duration_s": Fraction(49152, 48000)}),
    "Wave64": (AudioSource, "song.w64", sound(), {"codec": "pcm_s16le", "duration_s": 1}),
    "raw AAC": (AudioSource, "song.aac", sound("aac"), {"codec": "aac", "duration_s": Fraction(49152, 48000)}),
    "sound of a video": (AudioSource, "song.mp4", video(sound="aac"), {"codec": "aac", "duration_s": Fraction(12, 25)}),
    "record with a cover": (AudioSource, "song.flac", with_cover, {"codec": "flac"}),
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


@pytest.mark.parametrize("kind", [ImageSource, VideoSource, AudioSource])
def test_only_regular_files_are_looked_into(kind: type, tmp_path: Path):
    pipe, device = tmp_path / "pipe.mp4", tmp_path / "device.mp4"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for path, why in {
        tmp_path: "folder",
        pipe: "not a regular file",
        device: "not a regular file",
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
    with watched(secret) as was_opened:
        for kind in (VideoSource, AudioSource, ImageSource):
            assert_refused(playlist, kind, "")
        for name in (f"concat:{secret}", f"subfile,,start,0,end,99,,:{secret}", f"file:{secret}"):
            assert_refused(Path(name), VideoSource, "no such file")
        assert not was_opened()
        secret.read_bytes()
        assert was_opened()


def test_checking_needs_no_torch_and_importing_needs_nothing(tmp_path: Path):
    clip = write_video(tmp_path / "clip.mp4", sound="aac")
    script = f"""
import sys
import wave
from pathlib import Path
from ltx2_core.media.accept import check_input
from ltx2_core.media.inputs import AudioSource, VideoSource
assert not {{"torch", "av", "numpy", "PIL"}} & sys.modules.keys()
check_input(Path({str(clip)!r}), VideoSource)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


WMV = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")


@pytest.mark.parametrize(
    ("start", "why", "hint"),
    [
        (b"\x00\x00\x01\xba" + bytes(99), "an MPEG program stream", "ffmpeg -i '{}' copy.mp4"),
        (b"FLV\x01\x05" + bytes(99), "a Flash video", "ffmpeg -i '{}' copy.mp4"),
        (WMV + bytes(99), "Windows Media", "ffmpeg -i '{}' copy.mp4"),
        (b"#!AMR\n" + bytes(99), "AMR", "ffmpeg -i '{}' copy.wav"),
        (
            b"\x00\x00\x00\x20ftypisom" + bytes(99),
            "it begins like MP4 or MOV, but is damaged",
            "download or copy it again",
        ),
        (
            b"\x1a\x45\xdf\xa3" + bytes(99),
            "it begins like Matroska or WebM, but is damaged",
            "download or copy it again",
        ),
        (b"once upon a time", "its format is not supported", "give a"),
    ],
)
@pytest.mark.parametrize("kind", [VideoSource, AudioSource])
def test_a_file_that_cannot_be_opened_is_damaged_or_of_another_kind(
    kind: type, start: bytes, why: str, hint: str, tmp_path: Path
):
    path = tmp_path / "my clip"
    path.write_bytes(start)
    with pytest.raises(MediaError) as caught:
        check_input(path, kind)
    assert why in caught.value.why
    assert caught.value.hint.startswith(hint.format(path))


def test_a_name_like_an_option_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    path = Path("-y\n.flv")
    path.write_bytes(b"FLV\x01\x05" + bytes(99))
    assert cannot_be_opened(path).hint == "ffmpeg -i $'./-y\\u000a.flv' copy.mp4"


@pytest.mark.skipif(find_spec("pillow_heif") is not None, reason="pillow-heif is installed and reads HEIC")
def test_a_heic_photo_names_the_package_that_reads_it(tmp_path: Path):
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    with pytest.raises(MediaError) as refused:
        check_input(tmp_path / "photo.heic", ImageSource)
    assert (refused.value.why, refused.value.hint) == (
        "it is a HEIC photo, which needs pillow-heif",
        "pip install 'ltx2[heic]'",
    )


@pytest.mark.parametrize(("default", "loud"), [(0, 0), (1, 1), (None, 0)])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_default_audio_track_is_used_and_a_line_says_so(
    suffix: str, default: int | None, loud: int, tmp_path: Path
):
    path = tmp_path / f"clip.{suffix}"
    with av.open(path, "w") as container:
        tracks = [container.add_stream("flac", rate=48000, layout="stereo") for _ in range(2)]
        for number, track in enumerate(tracks):
            track.disposition = Disposition.default if number == default else Disposition(0)
        for number, track in enumerate(tracks):
            encode_sound(container, track, tone(4800) * (number == loud))
    source = check_input(path, AudioSource)
    assert read_audio(source).samples.abs().max() > 0.1
    assert source.notes == (f"clip.{suffix} has 2 audio tracks; number {loud + 1} is used",)


@pytest.mark.parametrize(("default", "used"), [(0, 0), (1, 1), (None, 0)])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_default_video_track_is_used_and_a_line_says_so(
    suffix: str, default: int | None, used: int, tmp_path: Path
):
    path, widths = tmp_path / f"clip.{suffix}", (48, 64)
    with av.open(path, "w") as container:
        tracks = [container.add_stream("mpeg4", rate=25) for _ in widths]
        for number, (track, width) in enumerate(zip(tracks, widths, strict=True)):
            assert isinstance(track, VideoStream)
            track.width, track.height, track.pix_fmt = width, 32, "yuv420p"
            track.disposition = Disposition.default if number == default else Disposition(0)
        for track, width in zip(tracks, widths, strict=True):
            container.mux(track.encode(av.VideoFrame.from_ndarray(picture(0, width), format="rgb24")))
            container.mux(track.encode(None))
    source = check_input(path, VideoSource)
    (frame,) = frames_by_time(source, 1, source.fps)
    assert source.width == frame.shape[-1] == widths[used]
    assert source.notes == (f"clip.{suffix} has 2 video tracks; number {used + 1} is used",)


@pytest.mark.parametrize(("kind", "gib"), [(ImageSource, 1), (AudioSource, 64), (VideoSource, 64)])
def test_a_file_that_is_larger_than_any_such_is_refused_unread(kind: type, gib: int, tmp_path: Path) -> None:
    path, too_large = tmp_path / "huge", f"it is larger than {gib} GiB"
    for nbytes, is_said in ((gib * 2**30, False), (gib * 2**30 + 1, True)):
        with path.open("wb") as file:
            file.truncate(nbytes)  # sparse: takes no disk space
        with pytest.raises(MediaError) as refusal:
            check_input(path, kind)
        assert (refusal.value.why == too_large) is is_said
