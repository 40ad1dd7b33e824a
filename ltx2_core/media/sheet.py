"""A clip at a glance: some of its frames, its waveform and what it was made from, as one PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .accept import check_input
from .inputs import VideoSource
from .partial import partial_file
from .probe import open_media, probe
from .video import frames_by_number

COLUMNS, ROWS = 4, 2
THUMBNAIL_WIDTH = 320
MARGIN = 8
WIDTH = COLUMNS * (THUMBNAIL_WIDTH + MARGIN) - MARGIN
WAVE_HEIGHT = 64  # of one channel
TEXT_HEIGHT, TEXT_COLUMNS = 18, 140
PAPER, INK, WAVE = (22, 24, 29), (232, 232, 232), (127, 178, 229)


def contact_sheet(clip: Path, target: Path, *, prompt: str, seed: int, overwrite: bool = False) -> None:
    """Draw a finished file: frames at even distances with their times, its waveform, the prompt and the seed.

    A file without video, or without audio, gives a sheet without that part.
    Raises: MediaError if the file cannot be read. RequestError if the sheet exists. StorageError if the disk refuses.
    """
    info = probe(clip)
    thumbnails = _thumbnails(check_input(clip, VideoSource)) if info.video else []
    samples = _samples(clip) if info.audio else ()
    parts = [_grid(thumbnails)] if thumbnails else []
    parts += [_waveform(channel) for channel in samples]
    parts.append(_text(prompt, seed))
    with partial_file(target, overwrite=overwrite) as partial:
        _stack(parts).save(partial, "PNG")


def _thumbnails(source: VideoSource) -> list[Image.Image]:
    """Frames at even distances, small, with their times on them."""
    numbers = {int(number) for number in np.linspace(0, source.frames - 1, COLUMNS * ROWS).round()}
    return [_thumbnail(pixels, time_s) for time_s, pixels in frames_by_number(source, numbers)]


def _thumbnail(pixels: Tensor, time_s: Fraction) -> Image.Image:
    image = Image.fromarray(rearrange(pixels, "c H W -> H W c").numpy())
    image = image.resize((THUMBNAIL_WIDTH, round(THUMBNAIL_WIDTH * image.height / image.width)))
    ImageDraw.Draw(image).text((6, 4), f"{float(time_s):.2f} s", INK, _font(), stroke_width=2, stroke_fill=PAPER)
    return image


def _samples(clip: Path) -> NDArray:
    """All samples (2 s) of the audio."""
    as_float = av.AudioResampler(format="fltp", layout="stereo")
    with open_media(clip) as container:
        pieces = [piece.to_ndarray() for frame in container.decode(audio=0) for piece in as_float.resample(frame)]
    return np.concatenate([np.zeros((2, 0), np.float32), *pieces], -1)


def _grid(thumbnails: list[Image.Image]) -> Image.Image:
    """Thumbnails in rows."""
    height = thumbnails[0].height + MARGIN
    rows = (len(thumbnails) - 1) // COLUMNS + 1
    grid = Image.new("RGB", (WIDTH, rows * height - MARGIN), PAPER)
    for number, thumbnail in enumerate(thumbnails):
        row, column = divmod(number, COLUMNS)
        grid.paste(thumbnail, (column * (THUMBNAIL_WIDTH + MARGIN), row * height))
    return grid


def _waveform(channel: NDArray) -> Image.Image:
    """The range of the samples (s) of one channel in each column of pixels."""
    starts = np.linspace(0, channel.size, WIDTH, endpoint=False).astype(int)
    low, high = np.minimum.reduceat(channel, starts), np.maximum.reduceat(channel, starts)
    level = np.linspace(1, -1, WAVE_HEIGHT)[:, None]
    pixel = 1 / WAVE_HEIGHT  # silence is a thin line
    is_wave = (level <= high + pixel) & (level >= low - pixel)
    return Image.fromarray(np.where(is_wave[..., None], WAVE, PAPER).astype(np.uint8))


def _text(prompt: str, seed: int) -> Image.Image:
    """The prompt in lines of its own, and the seed."""
    lines = [*textwrap.wrap(prompt, TEXT_COLUMNS), f"seed {seed}"]
    text = Image.new("RGB", (WIDTH, len(lines) * (TEXT_HEIGHT + MARGIN)), PAPER)
    draw = ImageDraw.Draw(text)
    for number, line in enumerate(lines):
        draw.text((0, number * (TEXT_HEIGHT + MARGIN)), line, INK, _font())
    return text


def _stack(parts: Iterable[Image.Image]) -> Image.Image:
    """Parts below each other, with a margin around."""
    parts = list(parts)
    sheet = Image.new("RGB", (WIDTH + 2 * MARGIN, sum(part.height + MARGIN for part in parts) + MARGIN), PAPER)
    top = MARGIN
    for part in parts:
        sheet.paste(part, (MARGIN, top))
        top += part.height + MARGIN
    return sheet


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(TEXT_HEIGHT)
