"""A finished clip with a heat map over each frame that shows where its audio attends, and the waveform below."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from .accept import check_input
from .audio import read_audio
from .clip import ClipShape, Encoding, Output
from .inputs import VideoSource
from .lettering import DIM, INK, PAPER, SMALL, font
from .plots import GRID, WAVE, bars
from .video import frames_by_time
from .writer import write_clip

NARROWEST, WIDEST = 512, 1280  # pixels; a smaller clip is enlarged, a larger one reduced
STRIP, LEGEND, GAP = 96, 24, 8  # heights in pixels: waveform, colour scale, gaps
HEAT = ((20, 11, 52), (120, 28, 109), (207, 68, 70), (246, 139, 30), (252, 255, 164))  # from low to high attention
STRONGEST = 0.7  # opacity of the colour at the greatest attention
GREY = 0.6  # desaturation of the frames, so that they differ from the map
TOP_SHARE = 0.995  # the quantile that gets the brightest colour
AUDIO_STEPS_PER_S, FIRST_STEP_S = 25, Fraction(3, 100)  # the first latent step of audio is this much shorter
CURSOR = (255, 255, 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionMap:
    """Where the audio of a clip attends in the video.

    Args: weights: (t f h w), of each audio latent step over the cells of the video latent; only ratios matter. fps: of
    the frames that the latent represents. frames_per_latent: frames of all latent frames except the first. width,
    height: of the area that the cells cover, centred in the clip, in pixels.
    """

    weights: Tensor
    fps: Fraction
    frames_per_latent: int
    width: float
    height: float

    def at(self, time_s: Fraction) -> NDArray[np.float32]:
        """The attention (h w) of the audio at a time to the frame at that time; 1 is its mean."""
        steps, latent_frames, *_ = self.weights.shape
        step = min(math.floor((time_s + FIRST_STEP_S) * AUDIO_STEPS_PER_S), steps - 1)
        frame = round(time_s * self.fps)
        latent = min(math.ceil(frame / self.frames_per_latent), latent_frames - 1)
        cells = self.weights[step, latent]
        return (cells / cells.mean().clamp(min=torch.finfo(cells.dtype).tiny)).numpy()


def write_overlay(
    clip: Path, target: Path, attention: AttentionMap, *, words: str = "", overwrite: bool = False
) -> None:
    """Write a finished clip again as an MP4 with its audio: its frames under the map, its waveform, and a cursor.

    Args: words: the legend: which steps and blocks the map averages.
    Raises: MediaError if the clip cannot be read. RequestError if the target exists. StorageError for a disk error.
    """
    source = check_input(clip, VideoSource)
    canvas = _Canvas.of(source, attention, words)
    shape = ClipShape(width=canvas.width, height=canvas.height, frames=source.frames, fps=source.fps)
    frames = frames_by_time(source, source.frames, source.fps)
    chunks = (canvas.drawn(frame[0], number / source.fps) for number, frame in enumerate(frames))
    write_clip(Output(path=target, overwrite=overwrite), shape, chunks, source.audio, Encoding())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Canvas:
    """The background of every frame. picture: width and height of the clip on it. top: the largest ratio."""

    source: VideoSource
    attention: AttentionMap
    picture: tuple[int, int]
    below: Image.Image
    top: float

    @classmethod
    def of(cls, source: VideoSource, attention: AttentionMap, words: str) -> _Canvas:
        scale = min(max(1, math.ceil(NARROWEST / source.width)), WIDEST / source.width)
        width, height = (2 * round(side * scale / 2) for side in (source.width, source.height))
        times = (Fraction(number) / source.fps for number in range(source.frames))
        top = max(2.0, float(np.quantile(np.stack([attention.at(time_s) for time_s in times]), TOP_SHARE)))
        below = _below(source, width, top, words)
        return cls(source=source, attention=attention, picture=(width, height), below=below, top=top)

    @property
    def width(self) -> int:
        return self.picture[0]

    @property
    def height(self) -> int:
        return self.picture[1] + self.below.height

    def drawn(self, pixels: Tensor, time_s: Fraction) -> Tensor:
        """A frame (3 H W) uint8 with map, waveform and cursor: (1 3 H W) in [0, 1]."""
        frame = Image.fromarray(rearrange(pixels, "c H W -> H W c").numpy()).resize(
            self.picture, Image.Resampling.BILINEAR
        )
        canvas = Image.new("RGB", (self.width, self.height), PAPER)
        canvas.paste(Image.fromarray(self._heated(np.asarray(frame), self.attention.at(time_s))), (0, 0))
        canvas.paste(self.below, (0, self.picture[1]))
        x = min(int(self.width * time_s / self.source.duration_s), self.width - 1)
        top = self.picture[1] + GAP
        ImageDraw.Draw(canvas).line((x, top, x, top + STRIP - 1), CURSOR, 2)
        return rearrange(torch.from_numpy(np.array(canvas)), "H W c -> 1 c H W").float() / 255

    def _heated(self, frame: NDArray, cells: NDArray[np.float32]) -> NDArray[np.uint8]:
        """A frame (H W 3) uint8 under the map of its cells (h w)."""
        width, height = self.picture
        scale = width / self.source.width
        covered = max(1, round(self.attention.width * scale)), max(1, round(self.attention.height * scale))
        left, top = (covered[0] - width) // 2, (covered[1] - height) // 2
        spread = Image.fromarray(cells).resize(covered, Image.Resampling.BICUBIC)
        values = np.asarray(spread.crop((left, top, left + width, top + height)))
        level = np.clip((values - 1) / (self.top - 1), 0, 1)[..., None]
        grey = frame.mean(-1, keepdims=True)
        dim = frame * (1 - GREY) + grey * GREY
        return (dim + (colours(level[..., 0]) - dim) * level * STRONGEST).round().astype(np.uint8)


def colours(levels: NDArray) -> NDArray:
    """Colours (… 3) of levels (…) in [0, 1]."""
    places = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(levels, places, [colour[channel] for colour in HEAT]) for channel in range(3)], -1)


def _below(source: VideoSource, width: int, top: float, words: str) -> Image.Image:
    """The waveform and the colour scale, which are the same under all frames."""
    image = Image.new("RGB", (width, STRIP + LEGEND + 3 * GAP), PAPER)
    if source.audio is not None:
        audio = read_audio(source.audio)
        image.paste(Image.fromarray(_waveform(audio.samples.numpy(), audio.sample_rate_hz, source, width)), (0, GAP))
    draw, y = ImageDraw.Draw(image), STRIP + 2 * GAP
    scale = np.repeat(colours(np.linspace(0, 1, 96))[None], LEGEND - GAP, axis=0).round().astype(np.uint8)
    first, last = "attention: 1x", f"{top:.2g}x the mean of the frame"
    draw.text((GAP, y), first, INK, font(SMALL))
    x = GAP + round(font(SMALL).getlength(first)) + GAP
    image.paste(Image.fromarray(scale), (x, y))
    draw.text((x + 96 + GAP, y), last, INK, font(SMALL))
    left = x + 96 + 3 * GAP + round(font(SMALL).getlength(last))
    if left + font(SMALL).getlength(words) <= width:
        draw.text((width - GAP, y), words, DIM, font(SMALL), "ra")
    return image


def _waveform(samples: NDArray, sample_rate_hz: int, source: VideoSource, width: int) -> NDArray[np.uint8]:
    """The range of samples (c s) over the time of the video: (STRIP width 3)."""
    low, high = bars(samples, sample_rate_hz, float(source.duration_s), width)
    place, pixel = np.linspace(1, -1, STRIP)[:, None], 1 / STRIP
    pixels = np.full((STRIP, width, 3), PAPER, np.uint8)
    pixels[STRIP // 2] = GRID
    pixels[(place <= high + pixel) & (place >= low - pixel)] = WAVE
    return pixels
