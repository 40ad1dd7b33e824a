"""Strips that show audio over time, with their axes: a waveform for each channel, a spectrogram, seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .lettering import DIM, INK, PAPER, SMALL, font

WIDTH = 1304
GUTTER = 76  # width of the axis labels, left of the plot
PLOT = WIDTH - GUTTER
WAVE_HEIGHT = 121  # height of one channel; odd, so that silence is in the middle
BARS_PER_S = 100  # largest number of bars, so that a short clip shows levels, not single oscillations
QUIETEST_DB = -60  # level in the middle of a waveform, relative to full scale at its edges
SPECTRUM_HEIGHT = 96
FAINTEST_DB, STEP_DB = -90, 5  # range and step of a spectrogram; few colours keep the file small
WINDOW, COLUMN = 2048, 2  # samples, pixels
LOWEST_HZ, HIGHEST_HZ = 50, 20_000
WAVE, GRID = (127, 178, 229), (52, 56, 66)
HEAT = (PAPER, (36, 52, 92), (52, 104, 170), (127, 178, 229), (250, 214, 120), (255, 255, 255))  # from quiet to loud
STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1800, 3600)
MOST_TICKS = 14


def waveform(samples: NDArray, name: str, sample_rate_hz: int, duration_s: float) -> Image.Image:
    """The range of samples (c s) over time, on a decibel scale, so that quiet audio is visible too."""
    low, high = bars(samples, sample_rate_hz, duration_s, PLOT)
    place = np.linspace(1, -1, WAVE_HEIGHT)[:, None]
    pixel = 1 / WAVE_HEIGHT
    pixels = np.full((WAVE_HEIGHT, PLOT, 3), PAPER, np.uint8)
    marks_db = range(0, QUIETEST_DB, -20)
    for decibels in marks_db:
        pixels[[_row(decibels), WAVE_HEIGHT - 1 - _row(decibels)]] = GRID
    pixels[(place <= high + pixel) & (place >= low - pixel)] = WAVE
    labels = ((_row(decibels), f"{decibels}") for decibels in marks_db)
    return _strip(pixels, name, "dBFS", labels)


def bars(samples: NDArray, sample_rate_hz: int, duration_s: float, width: int) -> tuple[NDArray, NDArray]:
    """The minimum and the maximum of samples (c s) in each of so many columns, (width) each, as `heights`."""
    padded = _lasting(samples, sample_rate_hz, duration_s, width)
    count = min(width, math.ceil(duration_s * BARS_PER_S))
    starts = np.linspace(0, padded.shape[1], count, endpoint=False).astype(int)
    bar = np.arange(width) * count // width  # the bar of each column of pixels
    low = heights(np.minimum.reduceat(padded, starts, axis=1).min(0).clip(max=0))[bar]
    high = heights(np.maximum.reduceat(padded, starts, axis=1).max(0).clip(min=0))[bar]
    return low, high


def heights(samples: NDArray) -> NDArray:
    """Heights of samples in a waveform: 1 and -1 at full scale, 0 at -60 dB and below."""
    decibels = 20 * np.log10(np.maximum(np.abs(samples), 1e-9))
    return np.sign(samples) * np.clip(1 - decibels / QUIETEST_DB, 0, 1)


def spectrogram(samples: NDArray, sample_rate_hz: int, duration_s: float) -> Image.Image:
    """The level of each frequency of samples (c s) over time, the mean of the channels."""
    pixels = spectrum(samples, sample_rate_hz, duration_s, PLOT // COLUMN, SPECTRUM_HEIGHT)
    rows_hz = frequencies(sample_rate_hz, SPECTRUM_HEIGHT)
    marks_hz = [hertz for hertz in (100, 1000, 10_000) if hertz < rows_hz[0]]
    labels = ((int(np.abs(rows_hz - hertz).argmin()), _hertz(hertz)) for hertz in marks_hz)
    return _strip(np.repeat(pixels, COLUMN, axis=1), "", "", labels)


def spectrum(samples: NDArray, sample_rate_hz: int, duration_s: float, columns: int, rows: int) -> NDArray:
    """The colours (rows columns 3) of a spectrogram of samples (c s), the mean of the channels."""
    mono = _lasting(samples, sample_rate_hz, duration_s, columns).mean(0)
    centres = np.linspace(0, len(mono), columns, endpoint=False).astype(int)
    padded = np.pad(mono, WINDOW // 2)
    window = np.hanning(WINDOW)
    spectra = np.fft.rfft(padded[centres[:, None] + np.arange(WINDOW)] * window)
    decibels = 20 * np.log10(np.maximum(np.abs(spectra) * 2 / window.sum(), 1e-9))
    rows_hz = frequencies(sample_rate_hz, rows)
    bins = np.clip((rows_hz * WINDOW / sample_rate_hz).round().astype(int), 0, WINDOW // 2)
    steps = np.clip(decibels[:, bins].T / STEP_DB, FAINTEST_DB / STEP_DB, 0).round() * STEP_DB
    return _heat(steps)


def frequencies(sample_rate_hz: int, rows: int) -> NDArray:
    """The frequency of each row of a spectrogram, in Hz, the highest first."""
    return np.geomspace(min(HIGHEST_HZ, sample_rate_hz / 2), LOWEST_HZ, rows)


def peaks(samples: NDArray, sample_rate_hz: int, duration_s: float, columns: int) -> NDArray:
    """The largest magnitude of one channel, samples (s), in each of some columns: 1 at full scale, 0 at -60 dB."""
    padded = np.abs(_lasting(samples[None], sample_rate_hz, duration_s, columns)[0])
    starts = np.linspace(0, len(padded), columns, endpoint=False).astype(int)
    return heights(np.maximum.reduceat(padded, starts))


def time_axis(duration_s: float, marks_s: Iterable[float]) -> Image.Image:
    """A time axis below a strip, with triangles at the times of the sheet's frames."""
    image = Image.new("RGB", (WIDTH, 30), PAPER)
    draw = ImageDraw.Draw(image)
    step_s = next((step for step in STEPS_S if duration_s / step <= MOST_TICKS), STEPS_S[-1])
    draw.line((GUTTER, 0, WIDTH - 1, 0), DIM)
    for number in range(math.floor(duration_s / step_s) + 1):
        x = _column(number * step_s, duration_s)
        draw.line((x, 0, x, 5), DIM)
        anchor = "ra" if x > WIDTH - 30 else "ma"
        draw.text((x, 9), f"{number * step_s:g} s", DIM, font(SMALL), anchor)
    for time_s in marks_s:
        x = _column(time_s, duration_s)
        draw.polygon([(x, 0), (x - 4, 7), (x + 4, 7)], WAVE)
    return image


def _lasting(samples: NDArray, sample_rate_hz: int, duration_s: float, columns: int) -> NDArray:
    """Samples (c s) padded with silence up to a time, at least one for each column."""
    wanted = max(round(duration_s * sample_rate_hz), columns)
    return np.pad(samples, ((0, 0), (0, max(wanted - samples.shape[1], 0))))[:, :wanted]


def _strip(pixels: NDArray, name: str, unit: str, labels: Iterable[tuple[int, str]]) -> Image.Image:
    """A plot with its name, its unit and labels at some of its rows."""
    height = len(pixels)
    image = Image.new("RGB", (WIDTH, height), PAPER)
    image.paste(Image.fromarray(pixels), (GUTTER, 0))
    draw = ImageDraw.Draw(image)
    for row, text in labels:
        y = min(max(row, SMALL // 2), height - SMALL // 2)
        draw.text((GUTTER - 6, y), text, DIM, font(SMALL), "rm")
    draw.text((0, height // 2), name, INK, font(SMALL), "lm")
    draw.text((GUTTER - 6, height - 2), unit, DIM, font(SMALL), "rd")
    return image


def _heat(decibels: NDArray) -> NDArray:
    """Colours (… 3) of levels between the lower limit and 0 dB."""
    places = np.linspace(FAINTEST_DB, 0, len(HEAT))
    channels = [np.interp(decibels, places, [colour[channel] for colour in HEAT]) for channel in range(3)]
    return np.stack(channels, -1).round().astype(np.uint8)


def _row(decibels: float) -> int:
    """The row of a waveform at which a positive sample of this level stands."""
    return round((WAVE_HEIGHT - 1) / 2 * decibels / QUIETEST_DB)


def _column(time_s: float, duration_s: float) -> int:
    return GUTTER + min(round(PLOT * time_s / duration_s), PLOT - 1)


def _hertz(hertz: int) -> str:
    return f"{hertz // 1000} kHz" if hertz >= 1000 else f"{hertz} Hz"
