"""An overview of a finished file: poster, waveform, spectrogram, loudness, findings of the self-check, sync.

Source: docs/report.md.
"""

from __future__ import annotations

import io
import string
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image

from ..errors import MediaError
from .accept import check_input, require_readable
from .audio import read_audio
from .check import Findings, VideoCheck, check_audio
from .copy import LAYOUTS
from .frames import FrameConverter
from .inputs import AudioSource, VideoSource
from .kinds import cannot_be_opened
from .loudness import Level, measure_level
from .plots import peaks, spectrum
from .probe import MediaInfo, probe
from .shown import shown_frames
from .sync import Sync, measure_sync
from .waveform import Waveform

CANDIDATES = 8  # number of candidate frames for the poster
POSTER_QUALITY, SPECTRUM_QUALITY = 75, 40  # WebP quality, up to 100
LEVELS = string.digits + string.ascii_uppercase + string.ascii_lowercase + "-_"  # digits of a waveform, quiet to loud


@dataclass(frozen=True, slots=True)
class Detail:
    """The resolution of the overview. poster: pixels of its longer side, at most. columns, rows: of the spectrogram."""

    poster: int
    columns: int
    rows: int


OF_MANY, OF_ONE = Detail(poster=384, columns=96, rows=24), Detail(poster=960, columns=400, rows=80)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A small WebP image."""

    content: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The overview of a finished file.

    Args: duration_s: of the video, or of audio without video. size: width and height of its displayed frames; None
    without video. poster, spectrogram: None without video, or without audio. waves: the waveform, one letter of
    `LEVELS` per column for each channel, or one text for all channels if they are not two. problems: the findings of
    its self-check, a sentence for each word.
    """

    info: MediaInfo
    duration_s: float
    size: tuple[int, int] | None = None
    poster: Picture | None = None
    spectrogram: Picture | None = None
    waves: tuple[str, ...] = ()
    level: Level | None = None
    sync: Sync | None = None
    problems: Mapping[str, str]


def look_at(path: Path, detail: Detail = OF_MANY) -> Overview:
    """Decode a finished file once and measure it; with audio, its frames are decoded twice.

    The same file gives the same overview. Raises: MediaError if the file cannot be read.
    """
    require_readable(path, VideoSource.largest_bytes)
    try:
        info = probe(path)
    except MediaError as error:
        raise cannot_be_opened(path) from error
    video = check_input(path, VideoSource) if info.video else None
    source = video.audio if video else check_input(path, AudioSource)
    audio = read_audio(source) if source else None
    timed = video or audio
    assert timed is not None  # without a video, `check_input` requires audio
    duration_s = float(timed.duration_s)
    overview = Overview(info=info, duration_s=duration_s, problems={})
    if video:
        poster, seen = _look(video, detail)
        overview = replace(overview, size=(video.width, video.height), poster=poster, problems=seen.by_mark)
    if audio:
        heard = check_audio(replace(audio, is_given=False))
        spectrogram, waves = _spectrogram(audio, duration_s, detail), _waves(audio, duration_s, detail)
        problems = {**overview.problems, **heard.by_mark}
        overview = replace(overview, spectrogram=spectrogram, waves=waves, problems=problems)
    if audio and len(audio.samples) in LAYOUTS:
        overview = replace(overview, level=measure_level(audio))
    if video and source:
        overview = replace(overview, sync=measure_sync(video, source))
    return overview


def _look(video: VideoSource, detail: Detail) -> tuple[Picture | None, Findings]:
    """The frame with the most contrast, reduced in size, and the findings of the self-check."""
    numbers = {int(number) for number in np.linspace(0, video.frames - 1, CANDIDATES).round()}
    converter, planar, check = FrameConverter(video.reading), VideoReformatter(), None
    best: tuple[float, Image.Image] | None = None
    for number, (frame, _) in enumerate(shown_frames(video, None)):
        width, height = max(frame.width & ~1, 2), max(frame.height & ~1, 2)  # I420 has no odd sizes
        check = check or VideoCheck(height)
        check.add(torch.from_numpy(planar.reformat(frame, width, height, "yuv420p").to_ndarray())[None])
        if number in numbers:
            image = Image.fromarray(rearrange(converter.pixels(frame)[0], "c H W -> H W c").numpy())
            image.thumbnail((detail.poster, detail.poster))
            contrast = float(np.asarray(image.convert("L")).std())
            if best is None or contrast > best[0]:
                best = contrast, image
    assert check is not None
    return best and _picture(best[1], POSTER_QUALITY), check.findings()


def _spectrogram(audio: Waveform, duration_s: float, detail: Detail) -> Picture:
    pixels = spectrum(audio.samples.numpy(), audio.sample_rate_hz, duration_s, detail.columns, detail.rows)
    return _picture(Image.fromarray(pixels), SPECTRUM_QUALITY)


def _waves(audio: Waveform, duration_s: float, detail: Detail) -> tuple[str, ...]:
    samples = audio.samples.numpy()
    channels: list[NDArray] = list(samples) if len(samples) == 2 else [np.abs(samples).max(0)]
    found = (peaks(channel, audio.sample_rate_hz, duration_s, detail.columns) for channel in channels)
    return tuple("".join(LEVELS[round(float(one) * (len(LEVELS) - 1))] for one in row) for row in found)


def _picture(image: Image.Image, quality: int) -> Picture:
    """An image as WebP."""
    content = io.BytesIO()
    image.save(content, "WEBP", quality=quality, method=6)
    return Picture(content=content.getvalue(), width=image.width, height=image.height)
