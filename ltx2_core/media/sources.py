"""Headers of input clips and audio, as records: with PyAV, without torch.

Source: docs/cli.md, "Inputs"; docs/reference/pipelines.md, "Decoding video".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import av
from av import AudioStream, VideoStream
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition

from ..errors import MediaError
from ..paths import in_shell
from .channels import channels_of
from .inputs import LONGEST_S, ROUNDING_S, SAMPLE_RATES_HZ, AudioSource, VideoSource, check_size, refusal
from .kinds import cannot_be_opened
from .mp3_header import announced_frames
from .probe import DECODER_LIMITS, open_media
from .reading import Colour, FrameReading, guessed
from .timing import timing_of
from .wav_flac import read_header

Track = TypeVar("Track", VideoStream, AudioStream)

MATROSKA = "matroska,webm"  # as PyAV names it
OPUS_RATE_HZ = 48000  # in which its header counts, whatever it was made from
MP3 = "mp3"
WITHOUT_HEADER = ("aac", "ac3", "eac3", MP3)  # formats whose duration may be a guess from the first packets
STRONGEST_ASPECT = 10  # of a pixel; a header that says more is wrong
WITHOUT_TIMES = ("avi",)  # formats that tell when frames are decoded, but not when they are shown


@contextmanager
def open_clip(path: Path) -> Iterator[InputContainer]:
    """Open a file with video or audio. Raises: MediaError, also for errors of the file inside the block."""
    try:
        container = open_media(path)
    except MediaError as error:
        raise cannot_be_opened(path) from error
    with container:
        if not (container.streams.video or container.streams.audio):
            raise cannot_be_opened(path)
        for stream in container.streams.video:
            if stream.codec_context is not None:
                stream.codec_context.options.update(DECODER_LIMITS)
        try:
            yield container
        except (FFmpegError, IndexError) as error:  # PyAV's error for a stream that the header did not announce
            raise refusal(path, "it is damaged", "download or copy it again") from error


def video_stream_of(container: InputContainer) -> VideoStream | None:
    """The video track that players select."""
    return _selected(_video_tracks(container))


def audio_stream_of(container: InputContainer) -> AudioStream | None:
    """The audio track that players select."""
    return _selected(container.streams.audio)


def _video_tracks(container: InputContainer) -> Sequence[VideoStream]:
    """All video tracks; cover art is not one."""
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def _selected(tracks: Sequence[Track]) -> Track | None:
    """The first track marked as default, or else the first."""
    default = (track for track in tracks if track.disposition & Disposition.default)
    return next(default, next(iter(tracks), None))


def audio_source(path: Path) -> AudioSource:
    with open_clip(path) as container:
        audio = _audio(path, container, _audio_zero_s(path, container))
    if audio is None:
        raise refusal(path, "there is no audio in it")
    header = read_header(path)
    return audio if header is None else replace(audio, duration_s=Fraction(header.samples, header.sample_rate_hz))


def reading_of(path: Path) -> FrameReading:
    """How the frames of a clip are converted, from its header and its first frame. Raises: MediaError if there
    is none.
    """
    first = _first_frame(path)
    with open_clip(path) as container:
        stream = video_stream_of(container)
        assert stream is not None
        return _frame_reading(first, stream)


def video_source(path: Path) -> VideoSource:
    first = _first_frame(path)
    with open_clip(path) as container:
        stream = video_stream_of(container)
        assert stream is not None
        _require_whole(path, stream)
        reading = _frame_reading(first, stream)
        width, height = reading.upright_size
        check_size(path, width, height)
        timing = timing_of(path, container, stream)
        _check_duration(path, timing.duration_s)
        is_timed = _is_timed(container, stream)
        zero_s = _shown_s(first) if is_timed else Fraction(0)
        tracks = _video_tracks(container)
        return VideoSource(
            path=path,
            container=container.format.name,
            codec=stream.codec_context.codec.canonical_name,
            width=width,
            height=height,
            reading=reading,
            track=tracks.index(stream) + 1,
            tracks=len(tracks),
            zero_s=zero_s,
            **timing._asdict(),
            is_timed=is_timed,
            audio=_audio(path, container, zero_s),
        )


READERS: Mapping[type, Callable[[Path], Any]] = {AudioSource: audio_source, VideoSource: video_source}


def _first_frame(path: Path) -> av.VideoFrame:
    """Decode one frame: only it contains the rotation, and its other properties take precedence over a header.

    Raises: MediaError if there is none, or it is too large.
    """
    with open_clip(path) as container:
        stream = video_stream_of(container)
        if stream is None:
            raise refusal(path, "there is no video in it")
        codec = _codec(path, stream)
        check_size(path, codec.width, codec.height)
        first = next(container.decode(stream), None)
    if first is None:
        raise refusal(path, "there is not a single frame in it")
    return first


def _frame_reading(first: av.VideoFrame, stream: VideoStream) -> FrameReading:
    """How frames are converted, from the first frame and the header."""
    coded = (first.color_primaries, first.color_trc, first.colorspace, first.color_range)
    aspect = stream.sample_aspect_ratio or Fraction(1)
    rotation, is_mirrored = _orientation(first)
    return FrameReading(
        width=first.width,
        height=first.height,
        colour=guessed(Colour(*map(int, coded)), first.height, is_full=first.format.name.startswith("yuvj")),
        sample_aspect=aspect if 1 / STRONGEST_ASPECT <= aspect <= STRONGEST_ASPECT else Fraction(1),
        is_interlaced=first.interlaced_frame,
        is_mirrored=is_mirrored,
        rotation=rotation,
    )


def _orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """By how many degrees a frame is rotated counter-clockwise, and whether it is mirrored before that.

    The matrix of a container maps x to (a, b) and y to (c, d), with y downwards.
    """
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # side data of a type that PyAV does not know
        data = None
    if data is None:
        return round(frame.rotation / 90) * 90 % 360, False
    a, b, _, c, d = memoryview(bytes(data)).cast("i").tolist()[:5]
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (180 if d < 0 else 0), (a < 0) != (d < 0)
    return (270 if (c < 0) else 90), (b < 0) == (c < 0)


def _is_timed(container: InputContainer, stream: VideoStream) -> bool:
    """Whether a file has presentation times."""
    return not (container.format.name in WITHOUT_TIMES and stream.codec_context.has_b_frames)


def _shown_s(frame: av.VideoFrame) -> Fraction:
    return (frame.pts or 0) * (frame.time_base or Fraction(0))


def _audio_zero_s(path: Path, container: InputContainer) -> Fraction:
    """The file's timestamp at our time zero: at its first frame, or for audio without video at its start."""
    stream = video_stream_of(container)
    if stream is not None and stream.codec_context is not None:
        with suppress(MediaError):  # audio need not be in sync with a video that cannot be decoded
            first = _first_frame(path)
            return _shown_s(first) if _is_timed(container, stream) else Fraction(0)
    return Fraction(max(container.start_time or 0, 0), av.time_base)


def _audio(path: Path, container: InputContainer, zero_s: Fraction) -> AudioSource | None:
    """The record of the audio track, if there is any, and anything in it after our time zero."""
    stream = audio_stream_of(container)
    if stream is None:
        return None
    codec = _codec(path, stream)
    if codec.sample_rate not in SAMPLE_RATES_HZ:
        raise refusal(path, f"its audio has {codec.sample_rate} samples a second")
    channels = channels_of(codec)
    if not channels.has_usual_order:
        copy = f"ffmpeg -i {in_shell(path)} -c:v copy -ac {channels.number} copy.mkv"
        raise refusal(path, f"its {channels.number} audio channels are in an order that is not supported", copy)
    _require_whole(path, stream)
    zero_s -= _subtracted_twice_s(container, stream, zero_s)
    duration_s = _audio_end_s(path, container, stream) - zero_s
    if duration_s <= 0:
        return None
    _check_duration(path, duration_s)
    return AudioSource(
        path=path,
        codec=codec.codec.canonical_name,
        sample_rate_hz=codec.sample_rate,
        channels=channels.number,
        speakers=channels.names,
        track=container.streams.audio.index(stream) + 1,
        tracks=len(container.streams.audio),
        zero_s=zero_s,
        duration_s=duration_s,
    )


def _subtracted_twice_s(container: InputContainer, stream: AudioStream, zero_s: Fraction) -> Fraction:
    """By how much FFmpeg reports Opus too early, relative to the video, if FFmpeg wrote it as Matroska or WebM.

    A decoder skips the first samples of Opus, so audible samples start that much later than its packets. FFmpeg's muxer
    lets the packets start at 0 and the video later by the skipped part; its demuxer then shifts the packets earlier by
    it a second time. So a video that starts exactly there belongs to the first audible sample.
    """
    header = stream.codec_context.extradata or b""
    if container.format.name != MATROSKA or header[:8] != b"OpusHead" or stream.start_time:
        return Fraction(0)
    skipped_s = Fraction(int.from_bytes(header[10:12], "little"), OPUS_RATE_HZ)
    return skipped_s if abs(zero_s - skipped_s) < ROUNDING_S else Fraction(0)


def _audio_end_s(path: Path, container: InputContainer, stream: AudioStream) -> Fraction:
    """The end of audio, as the file's timestamp; packets are read only if the header does not say.

    The header of an MP3 counts its frames, but not those of another MP3 that was appended to it.
    """
    assert stream.time_base is not None
    kind, told_s = container.format.name, Fraction(0)
    if stream.duration:
        told_s = ((stream.start_time or 0) + stream.duration) * stream.time_base
        if kind not in WITHOUT_HEADER:
            is_empty = kind == MATROSKA and not _has_packets(container, stream)
            return Fraction(0) if is_empty else told_s
    container.seek(0)
    ends = [(packet.pts or 0) + (packet.duration or 0) for packet in container.demux(stream) if packet.size]
    if kind == MP3 and announced_frames(path) >= len(ends):
        return told_s
    return max(ends, default=0) * stream.time_base


def _has_packets(container: InputContainer, stream: AudioStream) -> bool:
    """Whether a stream has anything in it: in Matroska its duration may be that of the whole file."""
    container.seek(0)
    return any(packet.size for packet in container.demux(stream))


def _require_whole(path: Path, stream: VideoStream | AudioStream) -> None:
    """Raises: MediaError if the header names a packet beyond the end of the file."""
    if max((entry.pos + entry.size for entry in stream.index_entries), default=0) > path.stat().st_size:
        raise refusal(path, "it is cut off; its end is missing", "download or copy it again")


def _codec(path: Path, stream: VideoStream | AudioStream) -> Any:
    if stream.codec_context is None:
        raise refusal(path, f"there is no decoder for its {stream.type}")
    return stream.codec_context


def _check_duration(path: Path, duration_s: Fraction) -> None:
    if duration_s > LONGEST_S:
        raise refusal(path, f"it lasts longer than {LONGEST_S // 3600} hours", "cut out what you need first")
