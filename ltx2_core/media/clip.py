"""The properties of a clip and its encoding. Needs neither torch nor PyAV, so a request can be checked early.

Source: docs/cli.md, "Colour and container"; docs/reference/pipelines.md, "Encoding video".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from ..errors import RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipShape:
    """Size of a clip in pixels and frames. fps is exact."""

    width: int
    height: int
    frames: int
    fps: Fraction

    def __post_init__(self) -> None:
        if self.width % 2 or self.height % 2:
            why = "one colour sample stands for 2x2 pixels, so both sides must be even"
            raise RequestError(f"size {self.width}x{self.height} cannot be stored", why)

    @property
    def duration_s(self) -> Fraction:
        """From the start of the first frame to the end of the last."""
        return self.frames / self.fps


class VideoCodec(NamedTuple):
    """The settings of one codec. The number of threads is one of them: other numbers give other bytes.

    Args: name: as in a file. tag: its name in MP4. crf: the default quality. worst_crf: the end of its scale.
    """

    name: str
    encoder: str
    tag: str
    crf: int
    worst_crf: int
    options: Mapping[str, str]


X265_THREADS = "pools=4:frame-threads=1:lookahead-slices=0"  # other values make files differ from run to run
VIDEO_CODECS: Mapping[str, VideoCodec] = {
    "h264": VideoCodec(
        "h264", "libx264", "avc1", 19, 51, {"preset": "veryfast", "threads": "4", "thread_type": "frame"}
    ),
    "h265": VideoCodec(
        "hevc", "libx265", "hvc1", 21, 51, {"preset": "fast", "x265-params": f"log-level=none:{X265_THREADS}"}
    ),
    "av1": VideoCodec("av1", "libsvtav1", "av01", 27, 63, {"preset": "8", "svtav1-params": "lp=4"}),
}
COPIED_FILES = (".mp4", ".mov", ".mkv", ".avi")  # suffixes of files into which a given video is copied
AUDIO_FILES: Mapping[str, str] = {".wav": "pcm_s16le", ".flac": "flac"}  # audio alone: suffix and codec


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """Codecs of an MP4.

    Args: video: a key of VIDEO_CODECS. audio: "aac", "alac" or "flac". crf: None for the default of the codec.
    """

    video: str = "h264"
    audio: str = "aac"
    crf: int | None = None

    def __post_init__(self) -> None:
        worst = VIDEO_CODECS[self.video].worst_crf
        if self.crf is not None and not 0 <= self.crf <= worst:
            raise RequestError(f"--crf {self.crf} cannot be used", f"{self.video} takes 0 (best) to {worst}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """The target of a file.

    Args: comment: stored inside it. overwrite: whether an existing file may be replaced. strict: whether warnings of
    the self-check are errors. before_rename: called with the complete file before it gets its name.
    """

    path: Path
    comment: str | None = None
    overwrite: bool = False
    strict: bool = False
    before_rename: Callable[[Path], None] = lambda partial: None
