"""A contact sheet: facts about a clip, some of its frames, its audio over time and its prompt, as one PNG."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from einops import rearrange
from PIL import Image, ImageDraw
from torch import Tensor

from .accept import check_input
from .audio import read_audio
from .copy import LAYOUTS
from .inputs import AudioSource, VideoSource
from .lettering import DIM, INK, PAPER, SMALL, USUAL, font, font_for, lines, plain
from .loudness import measure_level
from .partial import partial_file
from .plots import WIDTH, spectrogram, time_axis, waveform
from .probe import AudioInfo, MediaInfo, VideoInfo, probe
from .sync import measure_sync
from .video import frames_by_number
from .waveform import Waveform

FRAMES = 8
COLUMNS, COLUMNS_UPRIGHT = 4, 8  # columns for landscape and for portrait frames
MARGIN = 8
LINE = 6  # space between lines of text in pixels
MOST_PROMPT_LINES = 5
LARGEST_BYTES = 200_000
COLOURS = (256, 128, 64, 32)  # numbers of colours, tried in order until the file is small enough
CHANNEL_NAMES = {1: ("mono",), 2: ("left", "right")}  # more channels are drawn as one, "all"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text. is_small: whether it is a fact, in small and grey letters."""

    text: str
    is_small: bool = False


def contact_sheet(
    clip: Path, target: Path, *, prompt: str, seed: int, made_with: str = "", overwrite: bool = False
) -> None:
    """Draw a finished file: evenly spaced frames with their times, waveform, spectrogram, and facts.

    For a file without video, or without audio, that part is left out. made_with: model and preset, as text.
    Raises: MediaError if the file cannot be read. RequestError if the sheet exists. StorageError for a disk error.
    """
    info = probe(clip)
    video = check_input(clip, VideoSource) if info.video else None
    source = video.audio if video else check_input(clip, AudioSource)
    audio = read_audio(source) if source else None
    frames = [*thumbnails(video)] if video else []
    parts = [_text([Line(_title(clip.name, info))]), *_prompt(prompt), _text([Line(_made(seed, made_with), True)])]
    if frames:
        parts.append(_grid([image for _, image in frames]))
    if audio:
        duration_s = float(max(one.duration_s for one in (audio, video) if one))
        parts += _sound(audio, duration_s, [float(time_s) for time_s, _ in frames])
        parts.append(_text([Line(text, True) for text in _measures(video, source, audio)]))
    with partial_file(target, overwrite=overwrite) as partial:
        save_small(_stack(parts), partial)


def save_small(sheet: Image.Image, path: Path) -> None:
    """Write a lossless PNG, with fewer colours if it would be larger than 200 kB."""
    sheet.save(path, "PNG", compress_level=9)
    for colours in COLOURS:
        if path.stat().st_size <= LARGEST_BYTES:
            return
        sheet.quantize(colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(path, "PNG", compress_level=9)


def _title(name: str, info: MediaInfo) -> str:
    """The properties of the file, on one line."""
    streams = []
    if info.video:
        streams.append(_video_words(info.video))
    if info.audio:
        streams.append(_audio_words(info.audio))
    return f"{plain(name)}: {'; '.join(streams)}"


def _video_words(video: VideoInfo) -> str:
    frames = f"{video.frames} frame{'s' * (video.frames > 1)} at {float(video.fps):.5g} fps"
    return f"{video.width}x{video.height}, {frames}, {float(video.duration_s):.2f} s, {video.codec}"


def _audio_words(audio: AudioInfo) -> str:
    channels = {1: "mono", 2: "stereo"}.get(audio.channels, f"{audio.channels} channels")
    return f"{audio.codec} {audio.sample_rate_hz} Hz, {channels}"


def _made(seed: int, made_with: str) -> str:
    return f"seed {seed}, {plain(made_with)}" if made_with else f"seed {seed}"


def _measures(video: VideoSource | None, source: AudioSource | None, audio: Waveform) -> Iterator[str]:
    """Measurements of the audio: its loudness, and its sync with motion."""
    if len(audio.samples) in LAYOUTS:
        level = measure_level(audio)
        loudness = "none that can be measured" if level.lufs is None else f"{level.lufs:.1f} LUFS"
        yield f"loudness: {loudness}, true peak {level.peak_dbtp:.1f} dBTP"
    if video and source:
        sync = measure_sync(video, source)
        numbers = f" (agreement {sync.agreement:.2f}, confidence {sync.confidence:.2f})" if not sync.problem else ""
        yield f"sync: {sync.verdict}{numbers}"


def _sound(audio: Waveform, duration_s: float, times_s: Sequence[float]) -> list[Image.Image]:
    """Strips over the same time: the channels, or all of them in one if they are more than two, and a spectrogram."""
    samples, rate_hz = audio.samples.numpy(), audio.sample_rate_hz
    names = CHANNEL_NAMES.get(len(samples), ("all",))
    channels = zip(np.split(samples, len(names)), names, strict=True)
    strips = [waveform(channel, name, rate_hz, duration_s) for channel, name in channels]
    return [*strips, spectrogram(samples, rate_hz, duration_s), time_axis(duration_s, times_s)]


def thumbnails(source: VideoSource) -> Iterator[tuple[Fraction, Image.Image]]:
    """Evenly spaced frames, reduced in size, with their times on them."""
    numbers = {int(number) for number in np.linspace(0, source.frames - 1, FRAMES).round()}
    columns = COLUMNS if source.width >= source.height else COLUMNS_UPRIGHT
    width = (WIDTH + MARGIN) // columns - MARGIN
    for time_s, pixels in frames_by_number(source, numbers):
        yield time_s, _thumbnail(pixels, time_s, width)


def _thumbnail(pixels: Tensor, time_s: Fraction, width: int) -> Image.Image:
    image = Image.fromarray(rearrange(pixels, "c H W -> H W c").numpy())
    image = image.resize((width, max(1, round(width * image.height / image.width))))
    place, text = (6, 4), f"{float(time_s):.2f} s"
    ImageDraw.Draw(image).text(place, text, INK, font(USUAL), stroke_width=2, stroke_fill=PAPER)
    return image


def _grid(images: list[Image.Image]) -> Image.Image:
    """Thumbnails in rows."""
    width, height = (side + MARGIN for side in images[0].size)
    columns = (WIDTH + MARGIN) // width
    rows = (len(images) - 1) // columns + 1
    grid = Image.new("RGB", (WIDTH, rows * height - MARGIN), PAPER)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        grid.paste(image, (column * width, row * height))
    return grid


def _prompt(prompt: str) -> list[Image.Image]:
    """The prompt, wrapped, if there is one."""
    text = plain(prompt)
    wrapped = lines(text, font_for(text, USUAL), WIDTH, MOST_PROMPT_LINES)
    return [_text([Line(line) for line in wrapped])] if text else []


def _text(texts: Sequence[Line]) -> Image.Image:
    """Lines of text below each other."""
    sizes = [SMALL if line.is_small else USUAL for line in texts]
    image = Image.new("RGB", (WIDTH, sum(size + LINE for size in sizes)), PAPER)
    draw, top = ImageDraw.Draw(image), 0
    for line, size in zip(texts, sizes, strict=True):
        known = font_for(line.text, size)
        (fitting, *_) = lines(line.text, known, WIDTH, 1)
        draw.text((0, top + size), fitting, DIM if line.is_small else INK, known, "ls")
        top += size + LINE
    return image


def _stack(parts: Iterable[Image.Image]) -> Image.Image:
    """Parts below each other, with a margin around."""
    parts = list(parts)
    sheet = Image.new("RGB", (WIDTH + 2 * MARGIN, sum(part.height + MARGIN for part in parts) + MARGIN), PAPER)
    top = MARGIN
    for part in parts:
        sheet.paste(part, (MARGIN, top))
        top += part.height + MARGIN
    return sheet
