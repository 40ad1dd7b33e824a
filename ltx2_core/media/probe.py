"""The contents of a media file, from its header.

Source: docs/cli.md, "Inputs"; docs/reference/pipelines.md, "Decoding video".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av import AudioStream, VideoStream
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition, Stream

from ..disk import REASONS, disk_hint, disk_reason, no_file
from ..errors import MediaError
from .channels import channels_of
from .inputs import LARGEST_IMAGE, refusal
from .reading import Colour

# The supported formats. Playlists and other formats that refer to further files are not included.
DEMUXERS = ("mov", "matroska", "avi", "mpegts", "wav", "w64", "flac", "mp3", "ogg", "aac", "ac3", "eac3", "aiff", "caf")
DECODER_LIMITS = {"max_pixels": str(2 * LARGEST_IMAGE)}  # also for a frame that is larger than the header says

MP4 = "mov,mp4,m4a,3gp,3g2,mj2"  # PyAV's name of the format
UNDETERMINED = "und"  # the ISO 639 code of an undetermined language


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """One video stream. frames, duration_s: as in the header, 0 if it does not say."""

    codec: str
    tag: str
    width: int
    height: int
    fps: Fraction
    frames: int
    duration_s: Fraction
    pixels: str
    colour: Colour


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioInfo:
    """One audio stream. duration_s: without the encoder's priming samples; 0 if the header does not say."""

    codec: str
    sample_rate_hz: int
    channels: int
    duration_s: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaInfo:
    """A file: its first video and its first audio stream, and its comment."""

    container: str
    video: VideoInfo | None
    audio: AudioInfo | None
    comment: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One stream of any kind: video, audio, subtitle, data, attachment or unknown.

    Args: codec: or, if it has none, the name in the file. language: of ISO 639, as in the file. video, audio: of a
    stream of that kind, unless there is no decoder for it. is_default: whether players select it by default. is_cover:
    whether it is cover art.
    """

    kind: str
    codec: str
    language: str | None
    title: str | None
    video: VideoInfo | None
    audio: AudioInfo | None
    is_default: bool
    is_cover: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackList:
    """Every stream of a file. duration_s: of the longest, 0 if the header does not say. comment: of the file."""

    container: str
    duration_s: Fraction
    title: str | None
    comment: str | None
    tracks: tuple[Track, ...]


def open_media(path: Path) -> InputContainer:
    """Open a file for reading, and no other file whatever its content.

    Raises: MediaError if it is not a regular file or not of a supported format.
    """
    limits = {"protocol_whitelist": "file", "format_whitelist": ",".join(DEMUXERS)}
    if why := no_file(path):
        raise refusal(path, why)
    try:
        return av.open(
            f"file:{path.absolute()}", options=DECODER_LIMITS, container_options=limits, metadata_errors="replace"
        )
    except FFmpegError as error:
        why = disk_reason(error) if error.errno in REASONS else f"FFmpeg says: {error.strerror}"
        raise refusal(path, why, disk_hint(error)) from error


def probe(path: Path) -> MediaInfo:
    """Read the header of a media file.

    Raises: MediaError if it is not a regular file or not of a supported format.
    """
    with open_media(path) as container:
        video = next(iter(container.streams.video), None)
        audio = next(iter(container.streams.audio), None)
        for stream in (video, audio):
            if stream and stream.codec_context is None:
                raise MediaError(f"{path} cannot be read", f"there is no decoder for its {stream.type}")
        return MediaInfo(
            container=container.format.name,
            video=video and _video_info(video),
            audio=audio and _audio_info(audio),
            comment=_comment(container),
        )


def list_tracks(path: Path) -> TrackList:
    """Read the header of a media file, also of one with streams that have no decoder.

    Raises: MediaError if it is not a regular file or not of a supported format.
    """
    with open_media(path) as container:
        return TrackList(
            container=container.format.name,
            duration_s=Fraction(container.duration or 0, av.time_base),
            title=_tag(container.metadata, "title"),
            comment=_comment(container),
            tracks=tuple(map(_track, container.streams)),
        )


def _comment(container: InputContainer) -> str | None:
    return container.metadata.get("comment") or container.metadata.get("COMMENT")  # the key in Matroska


def _track(stream: Stream) -> Track:
    is_decoded = stream.codec_context is not None
    language = _tag(stream.metadata, "language")
    return Track(
        kind=stream.type,
        codec=getattr(stream, "name", None) or _tag(stream.metadata, "handler_name") or "unknown",
        language=None if language == UNDETERMINED else language,
        title=_tag(stream.metadata, "title", "name"),  # the second is the key in MP4
        video=_video_info(stream) if isinstance(stream, VideoStream) and is_decoded else None,
        audio=_audio_info(stream) if isinstance(stream, AudioStream) and is_decoded else None,
        is_default=bool(stream.disposition & Disposition.default),
        is_cover=bool(stream.disposition & Disposition.attached_pic),
    )


def _tag(metadata: Mapping[str, str], *names: str) -> str | None:
    """The first non-empty one of some metadata entries."""
    return next((text for name in names if (text := metadata.get(name, "").strip())), None)


def _video_info(stream: VideoStream) -> VideoInfo:
    codec = stream.codec_context
    return VideoInfo(
        codec=codec.codec.canonical_name,
        tag=codec.codec_tag,
        width=codec.width,
        height=codec.height,
        fps=stream.average_rate or Fraction(0),
        frames=stream.frames,
        duration_s=_duration_s(stream),
        pixels=codec.pix_fmt or "unknown",
        colour=Colour(codec.color_primaries, codec.color_trc, codec.colorspace, codec.color_range),
    )


def _audio_info(stream: AudioStream) -> AudioInfo:
    return AudioInfo(
        codec=stream.codec_context.codec.canonical_name,
        sample_rate_hz=stream.codec_context.sample_rate,
        channels=channels_of(stream.codec_context).number,
        duration_s=_duration_s(stream),
    )


def _duration_s(stream: VideoStream | AudioStream) -> Fraction:
    return (stream.duration or 0) * (stream.time_base or Fraction(0))
