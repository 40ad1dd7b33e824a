"""Facts that `ltx2 inspect` prints about clips, audio and images."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import pytest
from av import AudioStream, VideoStream
from PIL import Image

from ltx2_core.errors import MediaError
from ltx2_core.media import probe
from ltx2_core.pipeline.describe.describe import describe
from tests.synthetic_media import RATE_HZ, encode_sound, picture, tone, write_sound, write_video

SUBTITLES = "1\n00:00:00,000 --> 00:00:00,100\nhello\n"


def clip_of_many_tracks(path: Path) -> Path:
    """A video with two audio tracks. In Matroska also subtitles and an attachment, in other formats a time code."""
    text = path.with_suffix(".srt")
    text.write_text(SUBTITLES)
    with av.open(path, "w") as container, av.open(text) as subtitles:
        container.metadata["timecode"] = "00:00:00:00"
        container.metadata["title"] = "a lamp"
        video = container.add_stream("mpeg4", rate=25)
        assert isinstance(video, VideoStream)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        tracks = [container.add_stream("aac", rate=RATE_HZ, layout=layout) for layout in ("stereo", "mono")]
        tracks[0].metadata["language"] = "eng"
        tracks[1].metadata.update(language="deu", title="Kommentar")
        if path.suffix == ".mkv":
            container.add_stream_from_template(subtitles.streams[0]).metadata["language"] = "fra"
            container.add_attachment("note.txt", "text/plain", b"hello")
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts = number
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for track in tracks:
            assert isinstance(track, AudioStream)
            encode_sound(container, track, tone(RATE_HZ // 5, track.codec_context.channels))
    return path


def test_every_stream_of_a_matroska_is_named_with_language_and_title(tmp_path: Path) -> None:
    facts = describe(clip_of_many_tracks(tmp_path / "a.mkv"))
    assert facts["kind"] == "video and audio"
    assert facts["title"] == "a lamp"
    assert facts["video stream"].startswith("mpeg4 48x32, at 25 fps, 0.2")
    assert facts["audio stream"].startswith("aac 48000 Hz, 2 channels, 0.2")
    assert facts["audio stream"].endswith(", language eng")
    assert facts["audio stream 2"].startswith("aac 48000 Hz, 1 channel, ")
    assert facts["audio stream 2"].endswith("language deu, title Kommentar")
    assert facts["subtitle stream"] == "srt, language fra"
    assert facts["attachment stream"] == "note.txt"


def test_the_default_of_several_tracks_and_a_time_code_are_told(tmp_path: Path) -> None:
    facts = describe(clip_of_many_tracks(tmp_path / "a.mp4"))
    assert facts["video stream"] == "mpeg4 48x32, 5 frames at 25 fps, 0.200 s"
    assert facts["audio stream"] == "aac 48000 Hz, 2 channels, 0.200 s, language eng, default"
    assert facts["audio stream 2"] == "aac 48000 Hz, 1 channel, 0.200 s, language deu, title Kommentar"
    assert facts["data stream"].startswith("TimeCodeHandler")


def test_a_clip_without_audio_and_audio_without_a_video_have_no_row_for_it(tmp_path: Path) -> None:
    silent = describe(write_video(tmp_path / "a.mp4"))
    assert (silent["kind"], silent["display size"]) == ("video", "48x32")
    assert "audio stream" not in silent
    sound = describe(write_sound(tmp_path / "a.wav"))
    assert (sound["kind"], sound["audio stream"]) == ("audio", "pcm_s16le 48000 Hz, 2 channels, 1.000 s")
    assert "video stream" not in sound
    assert "display size" not in sound


def test_the_content_decides_and_not_the_suffix(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "a.mp4")
    for name in ("a", "a.png", "a.safetensors"):
        shutil.copy(clip, tmp_path / name)
        assert describe(tmp_path / name)["video stream"].startswith("h264 48x32")


def test_an_output_whose_latents_are_kept_names_their_folder(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "a.mp4")
    assert "job folder" not in describe(clip)
    (tmp_path / "a.mp4.job").mkdir()
    assert describe(clip)["job folder"] == str(tmp_path / "a.mp4.job")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.bmp", "a.tiff", "a.dat"])
def test_an_image_tells_its_format_and_size(name: str, tmp_path: Path) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / name, format="PNG" if name == "a.dat" else None)
    facts = describe(tmp_path / name)
    assert (facts["kind"], facts["size"], facts["display size"]) == ("an image", "6x4", "6x4")
    assert "problem" not in facts


def test_an_image_that_lies_is_told_as_it_is_seen(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    facts = describe(tmp_path / "a.jpg")
    assert (facts["size"], facts["display size"]) == ("6x4", "4x6")


def test_an_image_that_moves_and_one_that_cannot_be_used_say_so(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert describe(tmp_path / "a.gif")["images"] == "2, of which the first is used"
    Image.new("F", (6, 4)).save(tmp_path / "a.tiff")
    assert "floating-point" in describe(tmp_path / "a.tiff")["problem"]


@pytest.mark.parametrize("name", ["a.mp4", "a.wav", "a.png"])
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"<!doctype html>", "web page"),
        (b"a few words", "it is not one of PNG|its format is not supported"),
    ],
)
def test_a_file_with_the_name_of_media_is_an_error_of_media(
    name: str, content: bytes, why: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=why):
        describe(tmp_path / name)


def test_a_kind_of_clip_that_is_not_read_names_the_command_that_converts_it(tmp_path: Path) -> None:
    (tmp_path / "a.flv").write_bytes(b"FLV\x01" + bytes(60))
    with pytest.raises(MediaError, match=r"Flash video.*\nhint: ffmpeg -i"):
        describe(tmp_path / "a.flv")


def test_a_missing_clip_is_an_error_of_media(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no such file"):
        describe(tmp_path / "lost.mp4")


def test_a_stream_without_a_decoder_is_named_all_the_same() -> None:
    stream = SimpleNamespace(type="video", codec_context=None, metadata={}, disposition=0)  # a damaged index
    assert probe._track(cast(Any, stream)).codec == "unknown"
