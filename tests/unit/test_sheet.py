"""Contact sheets: their content, the layout of text, the plot of audio, and their size."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ltx2_core.media import sheet
from ltx2_core.media.clip import ClipShape, Encoding, Output
from ltx2_core.media.lettering import USUAL, font, lines, missing, plain
from ltx2_core.media.plots import GUTTER, SPECTRUM_HEIGHT, WAVE, WAVE_HEIGHT, heights, spectrogram, time_axis, waveform
from ltx2_core.media.sheet import LARGEST_BYTES, contact_sheet, save_small
from ltx2_core.media.waveform import Waveform
from ltx2_core.media.writer import write_audio, write_clip

SHAPE = ClipShape(width=128, height=64, frames=25, fps=Fraction(24))
RATE_HZ = 24000
FONT = font(USUAL)


def sound(volume: float = 0.5, seconds: float = 25 / 24) -> Waveform:
    time_s = torch.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return Waveform(volume * torch.stack([torch.sin(2000 * time_s), torch.sin(3000 * time_s)]), RATE_HZ)


def drawn(path: Path, **options: str) -> NDArray:
    """The sheet (H W 3) of a file."""
    target = path.with_name(path.name + ".png")
    contact_sheet(path, target, **{"prompt": "a kettle\nstarts to whistle", "seed": 7, **options})  # pyright: ignore
    with Image.open(target) as image:
        return np.asarray(image.convert("RGB"), np.int16)


def red_clip(path: Path, audio: Waveform | None, shape: ClipShape = SHAPE) -> Path:
    noise = torch.rand(25, 1, shape.height, shape.width).clamp(0.9, 1)
    red = torch.tensor([0.9, 0.1, 0.1]).reshape(1, 3, 1, 1) * noise
    write_clip(Output(path=path), shape, [red], audio, Encoding())
    return path


def reds(pixels: NDArray) -> int:
    return int(((pixels[..., 0] > 200) & (pixels[..., 1] < 60) & (pixels[..., 2] < 60)).sum())


def waves(pixels: NDArray) -> int:
    return int((pixels == np.array(WAVE)).all(-1).sum())


def test_a_sheet_shows_picture_and_sound(tmp_path: Path) -> None:
    whole = drawn(red_clip(tmp_path / "a.mp4", sound()))
    silent = drawn(red_clip(tmp_path / "silent.mp4", None))
    write_audio(Output(path=tmp_path / "a.wav"), sound())
    heard = drawn(tmp_path / "a.wav")
    assert whole.shape[1] == silent.shape[1] == heard.shape[1] == sheet.WIDTH + 2 * sheet.MARGIN
    assert len(whole) > max(len(silent), len(heard))
    frames = 8 * 320 * 160
    assert reds(whole) > 0.9 * frames
    assert reds(silent) > 0.9 * frames
    assert reds(heard) == 0
    assert waves(whole) > 50_000
    assert waves(silent) == 0


def test_frames_of_an_upright_clip_stand_in_one_row(tmp_path: Path) -> None:
    shape = ClipShape(width=64, height=128, frames=25, fps=Fraction(24))
    pixels = drawn(red_clip(tmp_path / "a.mp4", None, shape))
    assert reds(pixels) > 0.9 * 8 * 156 * 312
    assert len(pixels) < 420


@pytest.mark.parametrize(("made_with", "prompt"), [("", ""), ("x" * 500, "y" * 5000), ("model 🎬", "日本語 \x1b[31m")])
def test_any_text_fits_into_the_sheet(made_with: str, prompt: str, tmp_path: Path) -> None:
    write_audio(Output(path=tmp_path / "a.wav"), sound())
    pixels = drawn(tmp_path / "a.wav", prompt=prompt, made_with=made_with)
    edge = pixels[:, -sheet.MARGIN :]
    assert (edge == edge[0, 0]).all()


# Text


@given(st.text(max_size=300), st.integers(1, 6), st.integers(700, 1304))
def test_no_line_is_longer_than_its_width(text: str, most: int, width: int) -> None:
    found = lines(plain(text), FONT, width, most)
    assert 1 <= len(found) <= most
    assert all(FONT.getlength(line) <= width for line in found)


def test_a_text_that_fits_is_whole() -> None:
    text = "a drone flies over misty mountains, birds are chirping in the trees below, and a stream runs by"
    assert " ".join(lines(text, FONT, 300, 9)) == text


def test_a_cut_is_said_with_the_length() -> None:
    found = lines("fog " * 300, FONT, 600, 2)
    assert len(found) == 2
    assert found[-1].endswith("… (cut, 1200 characters in all)")


def test_letters_that_no_font_has_are_counted() -> None:
    assert missing("a fox", FONT) == set()
    assert missing("ab\U000e01f0\U0010fffe", FONT) == {"\U000e01f0", "\U0010fffe"}
    assert lines("ab\U0010fffe\U0010fffe", FONT, 900, 1) == ["ab?? … (no font here has 2 of its characters)"]


def test_controls_are_shown_and_lines_are_joined() -> None:
    assert plain("one\ntwo\t\u202ethree\x1b[0m") == "one two \\u202ethree\\x1b[0m"


# Audio


def test_a_waveform_is_a_scale_of_decibels() -> None:
    samples = np.array([1, -1, 0.1, -0.01, 0.001, 1e-5, 0])
    np.testing.assert_allclose(heights(samples), [1, -1, 2 / 3, -1 / 3, 0, 0, 0], atol=1e-12)


@pytest.mark.parametrize("volume", [1.0, 0.1, 0.003])
def test_quiet_sound_is_seen_too(volume: float) -> None:
    tall = (_bars(volume) == np.array(WAVE)).all(-1).sum(0)
    expected = WAVE_HEIGHT * max(heights(np.array([volume]))[0], 0)
    assert abs(tall[100:-100] - expected).max() < 0.06 * WAVE_HEIGHT


def test_a_strip_has_its_name_in_the_middle_of_its_left_side() -> None:
    image = np.asarray(waveform(np.zeros((1, RATE_HZ)), "left", RATE_HZ, 1.0))
    rows = np.flatnonzero((image[:, : GUTTER // 2] != image[0, 0]).any((1, 2)))
    assert abs(rows.mean() - WAVE_HEIGHT / 2) <= 3


def test_silence_is_a_thin_line() -> None:
    assert (_bars(0.0) == np.array(WAVE)).all(-1).sum(0).max() <= 2


def test_a_tone_stands_at_its_frequency() -> None:
    time_s = np.arange(RATE_HZ) / RATE_HZ
    image = spectrogram(np.sin(2 * np.pi * 1000 * time_s)[None], RATE_HZ, 1.0)
    light = np.asarray(image, int)[:, GUTTER + 100 : -100].sum((1, 2))
    hertz = np.geomspace(RATE_HZ / 2, 50, SPECTRUM_HEIGHT)[light.argmax()]
    assert hertz == pytest.approx(1000, rel=0.1)


@pytest.mark.parametrize("duration_s", [0.05, 1.0, 20.0, 3600.0])
def test_an_axis_has_few_marks_however_long_a_clip_is(duration_s: float) -> None:
    image = np.asarray(time_axis(duration_s, []), int)
    ticks = (image[3, GUTTER:] > 100).all(-1).sum()
    assert 1 <= ticks <= 15


def test_a_short_sound_fills_its_part_of_the_time() -> None:
    image = np.asarray(waveform(np.ones((1, RATE_HZ)), "left", RATE_HZ, 2.0), int)[:, GUTTER:]
    tall = (image == np.array(WAVE)).all(-1).sum(0)
    half = image.shape[1] // 2
    assert tall[: half - 10].min() > WAVE_HEIGHT / 3
    assert tall[half + 10 :].max() <= 2


def _bars(volume: float) -> NDArray:
    samples = volume * np.sin(np.arange(2 * RATE_HZ) / 5)[None]
    return np.asarray(waveform(samples, "left", RATE_HZ, 2.0), int)[:, GUTTER:]


# Size


def test_a_sheet_of_detailed_frames_stays_below_200_kb(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    coarse, fine = (np.random.default_rng(3).random((height, width, 3)) for height, width in ((40, 80), (352, 1304)))
    smooth = Image.fromarray((240 * coarse).astype(np.uint8)).resize((1304, 352), Image.Resampling.BICUBIC)
    detailed = Image.new("RGB", (1320, 912))
    detailed.paste(Image.fromarray((np.asarray(smooth) + 6 * fine).astype(np.uint8)), (8, 80))
    detailed.save(path)
    assert path.stat().st_size > 2 * LARGEST_BYTES
    save_small(detailed, path)
    assert path.stat().st_size <= LARGEST_BYTES


def test_a_sheet_that_is_small_loses_nothing(tmp_path: Path) -> None:
    image = Image.linear_gradient("L").convert("RGB")
    save_small(image, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as again:
        assert again.mode == "RGB"
        assert again.tobytes() == image.tobytes()
