"""The loudness of audio: targets that are reached, and targets that cannot be reached."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ltx2_core.media.loudness import CEILING_DBTP, at_loudness, limiter_gain, measure_level, true_peaks
from ltx2_core.media.waveform import Waveform, to_pcm16
from scripts.toy import world
from scripts.toy.sound import draw_clips

TARGET = -16.0
RATES_HZ = [8000, 22050, 24000, 44100, 48000]


def sine(amplitude: float, rate_hz: int, channels: int = 2, seconds: float = 2) -> Waveform:
    time_s = torch.arange(round(seconds * rate_hz)) / rate_hz
    return Waveform((amplitude * torch.sin(2 * torch.pi * 997 * time_s)).expand(channels, -1).contiguous(), rate_hz)


def noise(amplitude: float, rate_hz: int = 48000, channels: int = 2, seconds: float = 2) -> Waveform:
    samples = np.random.default_rng(5).standard_normal((channels, round(seconds * rate_hz)))
    return Waveform(torch.from_numpy(amplitude * samples).float(), rate_hz)


def check(audio: Waveform) -> None:
    """Check that a 16-bit file has the requested loudness, and no peak above the limit."""
    made = at_loudness(audio, TARGET)
    assert made.problem == ""
    written = Waveform(to_pcm16(made.audio.samples).float() / 2**15, audio.sample_rate_hz)
    level = measure_level(written)
    assert level.lufs is not None
    assert abs(level.lufs - TARGET) <= 0.5
    assert level.peak_dbtp <= CEILING_DBTP
    assert made.audio.samples.shape == audio.samples.shape


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_tone_has_the_loudness_that_the_norm_says(rate_hz: int) -> None:
    level = measure_level(sine(0.1, rate_hz))  # EBU Tech 3341: a stereo tone of 1 kHz at -23 dBFS has -23 LUFS
    assert level.lufs == pytest.approx(-20, abs=0.2)
    assert level.peak == pytest.approx(0.1, rel=0.03)


@pytest.mark.parametrize("place", [0, 47_999, 48_000, 95_999])
def test_a_click_is_measured_wherever_it_is(place: int) -> None:
    samples = torch.zeros(2, 96_000)
    samples[:, place] = 0.5
    assert measure_level(Waveform(samples, 48_000)).peak >= 0.499


@pytest.mark.parametrize("number", range(10))
def test_ten_sounds_of_the_toy_world_come_to_the_loudness(number: int) -> None:
    (clip,) = draw_clips(1, 31, number)
    check(Waveform(torch.from_numpy(clip.sound), world.RATE_HZ))


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("amplitude", [1e-3, 0.05, 0.5])
def test_noise_of_any_level_comes_to_the_loudness(amplitude: float, channels: int) -> None:
    check(noise(amplitude, channels=channels))


def test_where_nothing_peaks_it_is_a_gain_and_nothing_else() -> None:
    audio = sine(0.02, 48000)
    made = at_loudness(audio, TARGET)
    torch.testing.assert_close(made.audio.samples, audio.samples * 10 ** (made.gain_db / 20))


def test_the_same_audio_gives_the_same_samples() -> None:
    first, second = (at_loudness(noise(0.5), TARGET).audio.samples for _ in range(2))
    assert first.equal(second)


@pytest.mark.parametrize(
    ("audio", "why"),
    [
        (Waveform(torch.zeros(2, 48000), 48000), "the audio is silent"),
        (noise(1e-5), "the audio is silent"),
        (noise(0.1, seconds=0.3), "the audio lasts 0.30 s, less than 0.4 s"),
    ],
    ids=["zeros", "below the gate", "too short"],
)
def test_what_cannot_be_measured_stays_as_it_is_and_says_why(audio: Waveform, why: str) -> None:
    made = at_loudness(audio, TARGET)
    assert made.audio.samples.equal(audio.samples)
    assert made.problem == f"the loudness of -16 LUFS cannot be set: {why}"


def test_a_click_is_not_amplified_for_ever() -> None:
    samples = torch.zeros(2, 48000)
    samples[:, ::24000] = 0.9
    made = at_loudness(Waveform(samples, 48000), TARGET)
    assert "is not reached: with peaks of -1 dBTP the audio comes to -3" in made.problem
    assert made.after.peak_dbtp <= CEILING_DBTP


@given(st.integers(0, 2**32 - 1), st.sampled_from(RATES_HZ), st.integers(1, 3000))
def test_the_limiter_lets_no_peak_pass(seed: int, rate_hz: int, length: int) -> None:
    samples = burst(seed, length)
    gain = limiter_gain(samples, 0.5, rate_hz)
    assert gain.shape == (length,)
    assert ((gain > 0) & (gain <= 1)).all()
    assert (gain * true_peaks(samples).amax(0) <= 0.5 + 1e-9).all()


@given(st.integers(0, 2**32 - 1))
def test_true_peaks_are_at_least_the_samples(seed: int) -> None:
    samples = burst(seed, 500)
    assert (true_peaks(samples) >= samples.abs() - 1e-12).all()


def test_a_peak_between_two_samples_is_found() -> None:
    samples = torch.sin(torch.pi / 2 * torch.arange(400).double() + torch.pi / 4).expand(1, -1)
    assert samples.abs().max() == pytest.approx(0.5**0.5)
    assert true_peaks(samples)[0, 50:-50].max() == pytest.approx(1, abs=0.01)


def burst(seed: int, length: int) -> Tensor:
    """Samples (2 length), loud in places."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((2, length)) * (rng.random(length) < 0.1))
