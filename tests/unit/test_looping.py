"""Loops: rings of latents that are rotated, decoded with context, and cut to a period whose end continues at its
beginning.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ltx2_core.conditioning.conditions import GivenTokens, Keyframe
from ltx2_core.grids import Factors, audio_latent_count
from ltx2_core.latents import Latents, LatentState, States
from ltx2_core.media.seam import ring_flux
from ltx2_core.media.waveform import Waveform
from ltx2_core.pipeline.render.looping import (
    AUDIO_AROUND,
    LoopDenoiser,
    audio_around,
    audio_ring,
    cut_loop,
    stillest,
    video_around,
)
from ltx2_core.types import Streams

FACTORS, FPS = Factors(8, 32, 32), Fraction(24)
RATE_HZ = 48000


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Seeing:
    """A denoiser without interaction between tokens, which records its inputs."""

    scales: Any = None

    def __init__(self) -> None:
        self.shown: list[Any] = []

    def __call__(self, states: States, sigma: float, step: int) -> Latents:
        self.shown.append(states)
        return states.map(lambda state: state.latent * 2)


def states(frames: int = 7) -> States:
    video = LatentState.video(noise(1, 4, frames, 2, 3), FPS, FACTORS)
    return Streams(video, LatentState.audio(noise(1, 2, audio_latent_count(8 * frames - 7, FPS), 3, seed=1)))


@pytest.mark.parametrize("step", range(4))
def test_an_estimate_is_that_of_the_ring_with_its_last_frame_and_step_in_front(step: int) -> None:
    given, each = states(), Seeing()
    denoise: Any = each
    made: Any = LoopDenoiser(denoise, FPS, FACTORS)(given, 0.5, step)
    video, audio = made
    assert given.video is not None
    assert given.audio is not None
    assert video[:, 6:].equal(given.video.latent[:, 6:] * 2)
    assert video[:, :6].equal(video[:, -6:])
    assert audio[:, 1:].equal(given.audio.latent[:, 1:] * 2)
    assert audio[:, :1].equal(audio[:, -1:])


def test_the_model_sees_a_ring_turned_at_each_step_as_the_rest_of_a_clip() -> None:
    given, each = states(), Seeing()
    denoise: Any = each
    loop = LoopDenoiser(denoise, FPS, FACTORS)
    for step in range(6):
        loop(given, 0.5, step)
    assert given.video is not None
    firsts = {int((given.video.latent == shown.video.latent[:, :1]).all(-1).nonzero()[0, 1]) for shown in each.shown}
    assert len(firsts) > 3
    for shown in each.shown:
        assert shown.video.grid == (6, 2, 3)
        assert shown.video.positions is each.shown[0].video.positions
        assert shown.video.positions.equal(given.video.positions[:, :, 6:])
        assert shown.audio.grid == (50,)
        assert shown.video.keyframes_mask.sum() == 0


def test_what_is_given_goes_along_to_its_place_in_the_turned_clip() -> None:
    given, each = states(), Seeing()
    assert given.video is not None
    still = noise(1, 4, 1, 2, 3, seed=2)
    video = GivenTokens.frames(still, 0).apply(given.video)
    video = Keyframe(latent=still, frame=16, fps=FPS, factors=FACTORS).apply(video)
    denoise: Any = each
    loop = LoopDenoiser(denoise, FPS, FACTORS)
    for step in range(3):
        loop(given._replace(video=video), 0.5, step)
    for step, turn in enumerate((0, 3, 1)):  # the ring has six latent frames
        shown = each.shown[step].video
        first, later = shown.positions[0, 0, 36:42, 0] * 24, shown.positions[0, 0, 42:, 0] * 24
        assert torch.allclose(first, torch.full((6,), float(-8 * turn % 48)), atol=1e-3)
        assert torch.allclose(later, torch.full((6,), float((16 - 8 * turn) % 48)), atol=1e-3)
        assert shown.mask.dense[0, 36:, 0].tolist() == [0] * 12


def test_a_decoder_sees_the_other_end_of_a_ring() -> None:
    latent = torch.arange(7.0).view(1, 1, 7, 1, 1)
    assert video_around(latent).flatten().tolist() == [2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5]
    steps = torch.arange(51.0).view(1, 1, 51, 1)
    around = audio_around(steps, Fraction(2)).flatten().tolist()
    assert around[: AUDIO_AROUND + 1] == [*range(39, 51), 1]
    assert len(around) == 50 + 2 * AUDIO_AROUND


@pytest.mark.parametrize("place", range(8))
@pytest.mark.parametrize("size", [1, 3, 9, 20])
def test_the_stillest_of_some_frames_is_found_and_none_is_lost(place: int, size: int) -> None:
    frames = noise(20, 3, 2, 3)
    frames[place + 1] = frames[place] + 0.01
    frames[12] = frames[11]  # outside the first eight frames
    chunks = iter(frames.split(size))
    found, again = stillest(chunks, 8)
    assert found == place
    assert torch.cat([*again]).equal(frames)


@pytest.mark.parametrize(("steps", "period_s"), [(50, Fraction(2)), (17, Fraction(2, 3)), (33, Fraction(4, 3))])
def test_audio_is_cut_to_a_period_without_a_click(steps: int, period_s: Fraction) -> None:
    """A tone with whole periods in the ring, which is quiet at one place, where audio can be cut or repeated."""
    ring = round(steps * 0.04 * RATE_HZ)
    places = np.arange(ring + 2 * AUDIO_AROUND * 1920) - (AUDIO_AROUND - 1) * 1920
    tone = np.sin(2 * np.pi * places * round(440 * steps * 0.04) / ring) * np.sin(np.pi * (places / ring + 0.3)) ** 2
    cut = cut_loop(Waveform(torch.from_numpy(np.stack([tone, tone])).float(), RATE_HZ), steps, period_s)
    assert cut.samples.shape == (2, round(period_s * RATE_HZ))
    begin = (AUDIO_AROUND - 1) * 1920
    usual = ring_flux(tone[None, begin : begin + ring])
    assert ring_flux(cut.samples.numpy()).max() < 1.2 * usual.max()
    around = torch.cat([cut.samples[0], cut.samples[0, :1]])
    assert float(around.diff().abs().max()) < 1.2 * float(np.abs(np.diff(tone)).max())


def test_audio_of_a_ring_begins_with_its_first_step() -> None:
    decoded = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (2, (50 + 2 * AUDIO_AROUND) * 1920))).float()
    cut = cut_loop(Waveform(decoded, RATE_HZ), 50, Fraction(2)).samples
    begin, faded = (AUDIO_AROUND - 1) * 1920, RATE_HZ // 20
    assert torch.equal(cut[:, faded:], decoded[:, begin + faded : begin + 2 * RATE_HZ])


@pytest.mark.parametrize("samples", [48000, 56000])  # a multiple of the window, and not
def test_a_wave_that_goes_on_over_the_seam_is_as_even_as_anywhere(samples: int) -> None:
    tone = np.sin(np.arange(samples) * 2 * np.pi * 440 / samples)[None]
    flux = ring_flux(tone)
    assert len(flux) == -(-samples // 128)
    assert flux[-4:].max() < 1.1 * flux[:-4].max()


def test_a_hard_cut_is_heard_at_the_seam() -> None:
    tone = np.sin(np.arange(48000) * 2 * np.pi * 440.3 / 48000)[None]
    flux = ring_flux(tone)
    assert flux[-4:].max() > 5 * np.percentile(flux[:-4], 99)


@pytest.mark.parametrize(
    ("count", "period_s", "length"), [(51, Fraction(2), 50), (18, Fraction(2, 3), 17), (4, Fraction(1), 3)]
)
def test_the_audio_ring_lasts_a_period_as_far_as_there_are_steps(count: int, period_s: Fraction, length: int) -> None:
    assert audio_ring(count, period_s).length == length
