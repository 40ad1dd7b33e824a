"""The properties of input images, videos and audio, from their headers.

Source: docs/cli.md, "Inputs".
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

from ..errors import MediaError
from .reading import FrameReading

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
LARGEST_IMAGE = 89_478_485  # pixels; Pillow treats more as an attack
LONGEST_SIDE = 16384  # pixels; limit of the H.264 encoder
LONGEST_S = 24 * 60 * 60
SAMPLE_RATES_HZ = range(1_000, 768_001)
ROUNDING_S = Fraction(1, 1000)  # timestamps of containers such as Matroska are milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """An image. Its size is that of the upright image. has_more: it is animated or has pages, of which the first is
    used.
    """

    noun: ClassVar[str] = "an image"
    hint: ClassVar[str] = "give a PNG or JPEG file"
    largest_bytes: ClassVar[int] = 2**30

    path: Path
    width: int
    height: int
    has_more: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user."""
        return (f"{self.path.name} holds several images; the first is used",) if self.has_more else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioSource:
    """The default audio track of a file, or else its first.

    Args: speakers: of its channels, by FFmpeg's names, such as "FL". track: its number, of `tracks`, counted from 1.
    zero_s: the file's timestamp at our time zero, which is the start of the video if there is one.
    """

    noun: ClassVar[str] = "audio"
    hint: ClassVar[str] = "give a file with audio: WAV, FLAC, MP3, M4A, OGG or a video"
    largest_bytes: ClassVar[int] = 2**36

    path: Path
    codec: str
    sample_rate_hz: int
    channels: int
    speakers: tuple[str, ...]
    track: int
    tracks: int
    zero_s: Fraction
    duration_s: Fraction

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user."""
        return tuple(_used_track(self.path, "audio", self.track, self.tracks))


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSource:
    """The default video track of a clip, or else its first, and its audio if it has any.

    Args: container: its name in PyAV. track: its number, of `tracks`, counted from 1 without cover art. width, height:
    of a displayed frame. reading: how frames are converted. fps: the average. zero_s: the file's timestamp of the first
    frame, which is our time zero. holes: frames that are missing at a constant rate, included in its number of frames.
    is_variable: some frame is at least half a frame away from its time at a constant rate. is_timed: the file has
    presentation times, which AVI lacks if frames are stored in another order.
    """

    noun: ClassVar[str] = "a video"
    hint: ClassVar[str] = "give an MP4, MOV, MKV, WebM, AVI or TS file"
    largest_bytes: ClassVar[int] = 2**36

    path: Path
    container: str
    codec: str
    width: int
    height: int
    reading: FrameReading
    track: int
    tracks: int
    fps: Fraction
    frames: int
    zero_s: Fraction
    duration_s: Fraction
    holes: int
    is_variable: bool
    is_timed: bool
    audio: AudioSource | None

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user."""
        notes = _used_track(self.path, "video", self.track, self.tracks)
        notes += [f"{self.path.name} {note}" for note in self.reading.notes]
        if self.holes:
            lacking = f"lacks {self.holes} of {self.frames} frames at its rate of {float(self.fps):.5g} fps"
            notes.append(f"{self.path.name} {lacking}; the frame before is repeated")
        if self.is_variable:
            rate = f"it is read at its average of {float(self.fps):.4g} fps, unless --fps gives another rate"
            notes.append(f"{self.path.name} has a variable frame rate; {rate}")
        return (*notes, *(self.audio.notes if self.audio else ()))


def _used_track(path: Path, kind: str, track: int, tracks: int) -> list[str]:
    """A note about the track that is used, if there are several of a kind."""
    return [f"{path.name} has {tracks} {kind} tracks; number {track} is used"] if tracks > 1 else []


def refusal(path: Path, why: str, hint: str = "") -> MediaError:
    """The error for a file that cannot be used."""
    return MediaError(f"{path} cannot be read", why, hint)


def check_size(path: Path, width: int, height: int) -> None:
    """Raises: MediaError for an image or a frame that is too large."""
    if width * height > LARGEST_IMAGE:
        raise too_large(path)
    if max(width, height) > LONGEST_SIDE:
        raise refusal(path, f"it is {width}x{height}; a side may have {LONGEST_SIDE} pixels", "scale it down first")


def too_large(path: Path) -> MediaError:
    """The error for an image or a frame with too many pixels."""
    return refusal(path, f"it has more than {LARGEST_IMAGE // 10**6} megapixels", "scale it down first")
