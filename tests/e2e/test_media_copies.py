"""Packets of input files are copied without change, completely or in part."""

from __future__ import annotations

import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av import VideoStream

from ltx2_core.errors import MediaError, RequestError
from ltx2_core.media.accept import check_input
from ltx2_core.media.audio import read_audio
from ltx2_core.media.clip import Output
from ltx2_core.media.copy import RUN_UP_S, CopiedTrack, Span, container_for, copyable_span, may_stand_in_mp4
from ltx2_core.media.dub import write_dubbed
from ltx2_core.media.inputs import AudioSource, VideoSource
from ltx2_core.media.probe import open_media, probe
from ltx2_core.media.video import frames_by_time
from ltx2_core.media.waveform import Waveform
from tests.given_media import FPS, LOSSY, UNEVEN_S, all_frames, clip, joined, sound, with_early_audio
from tests.synthetic_media import RATE_HZ, TICK, contents, encode_sound, packets, picture, tone, write_video

pytestmark = pytest.mark.usefixtures("kept_models")


@pytest.mark.parametrize(
    ("name", "codecs"), [("a.mp4", ("mpeg4", "aac")), ("a.mkv", ("mpeg4", "aac")), ("a.webm", ("libvpx", "libopus"))]
)
def test_audio_before_the_first_frame_is_left_out_of_a_copy(name: str, codecs: tuple[str, str], tmp_path: Path):
    source = check_input(with_early_audio(tmp_path / name, Fraction(9, 5), codecs), VideoSource)
    dubbed = dub(source, tmp_path / "dubbed")
    times_s = [time_s for _, time_s in packets(dubbed, "audio", 1)]
    assert -RUN_UP_S - Fraction(1, 40) < times_s[0] < Fraction(1, 40)
    with open_media(dubbed) as container:
        samples = np.concatenate([frame.to_ndarray() for frame in container.decode(container.streams.audio[1])], -1)
    loud = np.abs(samples[0])
    assert np.flatnonzero(loud > loud.max() / 2)[0] < RATE_HZ // 40


def dub(source: VideoSource, path: Path, *, keeps_audio: bool = True, span: Span | None = None) -> Path:
    """A clip, or a part of it, with new audio, followed by its original audio as a second track."""
    container = container_for(source, "aac", keeps_audio=keeps_audio)
    path = path.with_suffix(container.suffix)
    sound = Waveform(torch.from_numpy(tone(round(source.duration_s * RATE_HZ))) / 32768, RATE_HZ)
    write_dubbed(Output(path=path), source, span, container, sound, "aac", keeps_audio=keeps_audio)
    return path


@pytest.mark.parametrize(
    ("name", "suffix", "options"),
    [
        ("rotated.mp4", ".mp4", {"rotation": 90, "sound": "aac"}),
        ("uneven.mp4", ".mp4", {"times_s": UNEVEN_S}),
        ("ntsc.mkv", ".mp4", {"fps": Fraction(30000, 1001), "sound": "aac"}),
        ("short.mkv", ".mp4", {"frames": 2}),
        ("studio.mov", ".mov", {"codec": "prores_ks", "pixels": "yuv422p10le", "sound": "pcm_s16le"}),
        ("web.webm", ".mkv", {"codec": "libvpx", "sound": "libopus"}),
        ("old.avi", ".mp4", {"codec": "mpeg4"}),
        ("b-frames.avi", ".avi", {}),
        ("older.avi", ".avi", {"codec": "wmv2"}),
    ],
)
def test_a_picture_goes_into_another_file_packet_by_packet(
    name: str, suffix: str, options: dict[str, Any], tmp_path: Path
):
    source = clip(tmp_path / name, **options)
    dubbed = dub(source, tmp_path / "dubbed")
    assert dubbed.suffix == suffix
    before, after = packets(source.path, "video"), packets(dubbed, "video")
    assert contents(after) == contents(before)
    if source.is_timed:
        assert [time for _, time in after] == [time for _, time in before]
    again = check_input(dubbed, VideoSource)
    assert (again.width, again.height, again.reading) == (source.width, source.height, source.reading)
    assert torch.equal(joined(all_frames(again)), joined(all_frames(source)))
    if source.audio:
        assert contents(packets(dubbed, "audio", 1)) == contents(packets(source.path, "audio"))


@pytest.mark.parametrize(
    ("name", "before", "after"), [("a.mov", "hvc1", "hvc1"), ("b.mp4", "hev1", "hev1"), ("c.mkv", "", "hvc1")]
)
def test_hevc_keeps_the_name_that_all_players_know(name: str, before: str, after: str, tmp_path: Path):
    with av.open(tmp_path / name, "w") as container:
        stream = container.add_stream("libx265", rate=25, options={"x265-params": "log-level=none"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"  # x265 writes out of bounds for smaller sizes
        stream.codec_context.codec_tag = before or "hvc1"
        for number in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number, 64, 64), format="rgb24")))
        container.mux(stream.encode(None))
    dubbed = dub(check_input(tmp_path / name, VideoSource), tmp_path / "dubbed")
    video = probe(dubbed).video
    assert video is not None
    assert video.tag == after
    assert contents(packets(dubbed, "video")) == contents(packets(tmp_path / name, "video"))


def with_b_frames(path: Path, frames: int = 60) -> VideoSource:
    """A clip whose frames are stored in another order than they are shown, with a keyframe every second."""
    options = {"bf": "3", "b_strategy": "0", "g": "25", "sc_threshold": "0", "crf": "10"}
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        sound = container.add_stream("aac", rate=RATE_HZ, layout="stereo")
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number % 27), format="rgb24")))
        container.mux(stream.encode(None))
        encode_sound(container, sound, tone(round(frames * RATE_HZ / 25)))
    return check_input(path, VideoSource)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize(("start", "end"), [(0, 11), (7, 30), (25, 60), (31, 33), (52, 60)])
def test_a_part_begins_with_its_frame_and_nothing_in_it_is_missing(suffix: str, start: int, end: int, tmp_path: Path):
    source = with_b_frames(tmp_path / f"clip.{suffix}")
    span = copyable_span(source, start / FPS, end / FPS)
    assert span.start_s == start / FPS
    assert span.lead_in_s == start % 25 / FPS
    assert 0 <= span.end_s - end / FPS <= 3 / FPS
    assert copyable_span(source, span.start_s, span.end_s) == span
    again = check_input(dub(source, tmp_path / "dubbed", span=span), VideoSource)
    expected = joined(frames_by_time(source, round(span.duration_s * FPS), FPS, span.start_s))
    assert torch.equal(joined(all_frames(again)), expected)
    shown = contents(packets(again.path, "video"))
    if suffix != "ts":
        assert shown == contents(packets(source.path, "video"))[start // 25 * 25 :][: len(shown)]


def test_the_old_sound_of_a_part_is_heard_when_it_was(tmp_path: Path):
    source = with_b_frames(tmp_path / "clip.mp4")
    span = copyable_span(source, Fraction("1.3"), Fraction("2.1"))
    with open_media(dub(source, tmp_path / "dubbed", span=span)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(container.streams.audio[1])]
    assert source.audio
    expected = read_audio(source.audio, span.start_s, span.duration_s).samples
    heard = torch.from_numpy(np.concatenate(frames, -1))[:, : expected.shape[1]]
    assert (heard - expected).abs().max() < 1e-3


def test_a_part_of_what_does_not_tell_its_times_cannot_be_copied(tmp_path: Path):
    source = clip(tmp_path / "clip.avi", frames=25)
    with pytest.raises(MediaError, match="does not say when its frames are shown"):
        copyable_span(source, Fraction(0), Fraction("0.5"))


def test_a_broadcast_is_copied_to_the_beginning_of_the_clock(tmp_path: Path):
    source = clip(tmp_path / "clip.ts", sound="aac")
    again = check_input(dub(source, tmp_path / "dubbed"), VideoSource)
    assert again.zero_s == 0 < source.zero_s
    assert torch.equal(joined(all_frames(again)), joined(all_frames(source)))


def test_what_no_container_takes_is_refused_before_anything_is_written(tmp_path: Path):
    modern = clip(tmp_path / "clip.mkv", sound="aac")
    assert modern.audio
    assert container_for(modern, "aac", keeps_audio=True).suffix == ".mp4"
    foreign = replace(modern, container="mpegts", codec="theora")
    with pytest.raises(MediaError, match=r"its video \(theora\) cannot be copied\nhint: ffmpeg"):
        container_for(foreign, "aac", keeps_audio=False)
    old = replace(modern, container="avi", codec="wmv2")
    with pytest.raises(RequestError, match=r"--audio-codec alac cannot be used .*\nits video needs a \.avi file"):
        container_for(old, "alac", keeps_audio=False)
    noisy = replace(modern, audio=replace(modern.audio, codec="wmav2"))
    assert container_for(noisy, "aac", keeps_audio=False).suffix == ".mp4"
    with pytest.raises(MediaError, match=r"\(wmav2\) cannot be copied into a \.mp4 file\nhint: --old-sound drop"):
        container_for(noisy, "aac", keeps_audio=True)


@pytest.mark.parametrize(("name", "codec"), [*LOSSY.items(), ("e.m4a", "alac")])
def test_a_given_sound_goes_beside_a_picture_packet_by_packet(name: str, codec: str, tmp_path: Path):
    source = sound(tmp_path / name, codec)
    assert may_stand_in_mp4(source)
    path = tmp_path / "beside.mp4"
    with av.open(path, "w") as container, open_media(source.path) as given:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        track = CopiedTrack(container, source, given)
        for number in range(25):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            container.mux(video.encode(frame))
            track.put((number + 1) / FPS)
        container.mux(video.encode(None))
        track.end()
    if name != "c.aac":  # every packet of it has a header, which MP4 omits
        assert contents(packets(path, "audio")) == contents(packets(source.path, "audio"))
    before, after = read_audio(source).samples, read_audio(check_input(path, AudioSource)).samples
    assert torch.equal(after[:, : before.shape[1]], before)


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz"),
    [("a.wav", "adpcm_ms", 48000), ("a.mp3", "libmp3lame", 11025), ("b.wav", "pcm_s16le", 48000)],
)
def test_what_an_mp4_cannot_hold_is_not_copied(name: str, codec: str, rate_hz: int, tmp_path: Path):
    assert not may_stand_in_mp4(sound(tmp_path / name, codec, rate_hz=rate_hz))


def with_edits(path: Path, *edits: tuple[float, float]) -> VideoSource:
    """A clip of 50 frames whose edit list shows these parts: for how long, and from when on."""
    late_s = 0.2 * (len(edits) - 1)  # for a video that begins late there are two edits
    write_video(path, times_s=[late_s + number / 25 for number in range(50)])
    data = bytearray(path.read_bytes())
    begin = data.index(b"elst") + 12
    *_, origin, _ = struct.unpack_from(f">{'IiI' * len(edits)}", data, begin)
    for number, (duration_s, from_s) in enumerate(edits):
        ticks = origin + round(from_s / TICK)
        struct.pack_into(">IiI", data, begin + 12 * number, round(duration_s * 1000), ticks, 1 << 16)
    path.write_bytes(data)
    return check_input(path, VideoSource)


def test_what_an_edit_list_hides_at_the_end_is_not_copied(tmp_path: Path):
    source = with_edits(tmp_path / "trimmed.mp4", (1.0, 0.2))
    assert (source.frames, source.duration_s) == (25, 1)
    copied = check_input(dub(source, tmp_path / "dubbed"), VideoSource)
    assert 25 <= copied.frames <= 27  # frames may be shown later that others need
    assert torch.equal(joined(all_frames(copied))[:25], joined(all_frames(source)))


def test_parts_that_an_edit_list_puts_together_cannot_be_copied(tmp_path: Path):
    source = with_edits(tmp_path / "parts.mp4", (0.8, 0.0), (0.8, 0.0))
    assert source.frames == 40
    with pytest.raises(MediaError, match=r"its video \(h264\) cannot be copied") as refused:
        container_for(source, "aac", keeps_audio=False)
    assert refused.value.hint.startswith("ffmpeg -i ")


@pytest.mark.parametrize("name", ["early.mkv", "none.mkv"])
def test_a_track_in_which_nothing_is_heard_is_none(name: str, tmp_path: Path):
    path = tmp_path / name
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = TICK
        track = container.add_stream("aac", rate=RATE_HZ, layout="stereo")
        if name == "early.mkv":
            encode_sound(container, track, tone(RATE_HZ // 2))
        for number in range(25):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.time_base, frame.pts = TICK, round((1 + number / 25) / TICK)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert check_input(path, VideoSource).audio is None
    with pytest.raises(MediaError, match="there is no audio in it"):
        check_input(path, AudioSource)
