"""What a user gives: images, videos and sounds, checked by their headers before anything is done with them.

Importing this costs nothing; PyAV and Pillow are loaded with the first file.
Source: spec cli, "Inputs".
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import ClassVar, TypeVar

from ..errors import MediaError

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
LARGEST_PICTURE = 89_478_485  # pixels; Pillow takes more for an attack
LONGEST_SIDE = 16384  # pixels; the H.264 encoder takes no more
LONGEST_S = 24 * 60 * 60
SAMPLE_RATES_HZ = range(1_000, 768_001)
ROUNDING_S = Fraction(1, 1000)  # Matroska counts milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """A still. Its size is that of the upright picture. has_more: it moves or has pages, of which the first is used."""

    noun: ClassVar[str] = "an image"
    hint: ClassVar[str] = "give a PNG or JPEG file"
    largest_bytes: ClassVar[int] = 2**30

    path: Path
    width: int
    height: int
    has_more: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know."""
        return (f"{self.path.name} holds several pictures; the first is used",) if self.has_more else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundSource:
    """The first sound of a file.

    Args: zero_s: what the clock of the file shows where our time begins, which is with the picture if there is one.
    """

    noun: ClassVar[str] = "a sound"
    hint: ClassVar[str] = "give a file with sound: WAV, FLAC, MP3, M4A, OGG or a video"
    largest_bytes: ClassVar[int] = 2**36

    path: Path
    codec: str
    sample_rate_hz: int
    channels: int
    zero_s: Fraction
    duration_s: Fraction

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know."""
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSource:
    """The picture of a clip, and its sound if it has any.

    Args: container: as PyAV names it. width, height: of the upright picture. rotation: by how many degrees frames are
    turned counter-clockwise to be upright: 0, 90, 180 or 270. fps: the average. zero_s: what the clock of the file
    shows at the first frame; our time begins there. is_variable: some frame is shown half a frame or more away from
    where a constant rate would show it. is_timed: the file says when each frame is shown, which AVI does not when they
    are stored in another order.
    """

    noun: ClassVar[str] = "a video"
    hint: ClassVar[str] = "give an MP4, MOV, MKV, WebM, AVI or TS file"
    largest_bytes: ClassVar[int] = 2**36

    path: Path
    container: str
    codec: str
    width: int
    height: int
    rotation: int
    fps: Fraction
    frames: int
    zero_s: Fraction
    duration_s: Fraction
    is_variable: bool
    is_timed: bool
    sound: SoundSource | None

    @property
    def has_audio(self) -> bool:
        return self.sound is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know."""
        rate = f"{self.path.name} has a variable frame rate; it is read at its average of {float(self.fps):.4g} fps"
        return (rate,) if self.is_variable else ()


Source = TypeVar("Source", ImageSource, SoundSource, VideoSource)


def check_input(path: Path, kind: type[Source]) -> Source:
    """Find out what a file is, from its header, and refuse what cannot be used. Reads no other file, whatever it says.

    Raises: MediaError, with one line why and a hint.
    """
    try:
        _require_readable(path, kind.largest_bytes)
        from .sources import READERS  # PyAV and Pillow, which a request without files never needs

        return READERS[kind](path)
    except MediaError as error:
        raise MediaError(f"{path} cannot be used as {kind.noun}", error.why, error.hint or kind.hint) from error


def refusal(path: Path, why: str, hint: str = "") -> MediaError:
    """The error for a file of which nobody can make anything."""
    return MediaError(f"{path} cannot be read", why, hint)


def _require_readable(path: Path, largest_bytes: int) -> None:
    """Look at the file without opening it: a pipe would wait, and reading a device can do things."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise refusal(path, "there is no such file") from error
    if stat.S_ISDIR(status.st_mode):
        raise refusal(path, "it is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise refusal(path, "it is no regular file")
    if not status.st_size:
        raise refusal(path, "it is empty")
    if status.st_size > largest_bytes:
        raise refusal(path, f"it is larger than {largest_bytes // 2**30} GiB")
    if not os.access(path, os.R_OK):
        raise refusal(path, "reading it is not permitted")
