"""What is in a media file, from its header.

Source: docs/cli.md, "Inputs"; docs/reference/pipelines.md, "Decoding video".
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av import AudioStream, VideoStream
from av.container import InputContainer
from av.error import FFmpegError

from ..errors import MediaError
from .reading import Colour

# What may be opened. Playlists and other formats that name further files are not among them.
DEMUXERS = ("mov", "matroska", "avi", "mpegts", "wav", "flac", "mp3", "ogg", "aac", "ac3", "aiff", "caf")


MP4 = "mov,mp4,m4a,3gp,3g2,mj2"  # what PyAV calls it


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """One video stream. frames: as the header says, 0 where it does not; so is duration_s."""

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
    """One audio stream. duration_s: without the samples that its encoder put in front; 0 where the header is silent."""

    codec: str
    sample_rate_hz: int
    channels: int
    duration_s: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaInfo:
    """A file: its first video and its first audio stream, and the comment that it carries."""

    container: str
    video: VideoInfo | None
    audio: AudioInfo | None
    comment: str | None


def open_media(path: Path) -> InputContainer:
    """Open a file for reading, and nothing but this file whatever stands in it.

    Raises: MediaError if it is no regular file or nothing that we read.
    """
    if not path.is_file():
        raise MediaError(f"{path} cannot be read", "it is no file")
    limits = {"protocol_whitelist": "file", "format_whitelist": ",".join(DEMUXERS)}
    try:
        return av.open(f"file:{path.absolute()}", container_options=limits, metadata_errors="replace")
    except FFmpegError as error:
        raise MediaError(f"{path} cannot be read", error.strerror or str(error)) from error


def probe(path: Path) -> MediaInfo:
    """Read the header of a media file.

    Raises: MediaError if it is no regular file or nothing that we read.
    """
    with open_media(path) as container:
        video = next(iter(container.streams.video), None)
        audio = next(iter(container.streams.audio), None)
        for stream in (video, audio):
            if stream and stream.codec_context is None:
                raise MediaError(f"{path} cannot be read", f"nothing here decodes its {stream.type}")
        return MediaInfo(
            container=container.format.name,
            video=video and _video_info(video),
            audio=audio and _audio_info(audio),
            comment=container.metadata.get("comment") or container.metadata.get("COMMENT"),  # as Matroska spells it
        )


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
        channels=stream.codec_context.channels,
        duration_s=_duration_s(stream),
    )


def _duration_s(stream: VideoStream | AudioStream) -> Fraction:
    return (stream.duration or 0) * (stream.time_base or Fraction(0))
