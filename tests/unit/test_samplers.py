"""Samplers with denoisers whose correct results are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from ltx2_core.latents import DenoiseMask, Latents, LatentState, States
from ltx2_core.sampling.noise import NOISE_DTYPE, draw_noise
from ltx2_core.sampling.res2s import Step, coefficients, renoise_coefficients, sample_res2s
from ltx2_core.sampling.samplers import sample_ancestral, sample_euler, sample_gradient_estimation
from ltx2_core.sampling.schedules import ltx2_schedule

Sample = Callable[..., States]
SIGMAS = ltx2_schedule(8)


def ancestral(*args, **kwargs) -> States:
    return sample_ancestral(*args, **kwargs, generator=torch.Generator().manual_seed(1))


def res2s(*args, **kwargs) -> States:
    step, middle = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    return sample_res2s(*args, **kwargs, step_generator=step, middle_generator=middle)


SAMPLERS = {
    "euler": sample_euler,
    "gradient": sample_gradient_estimation,
    "ancestral": ancestral,
    "res2s": res2s,
}
every_sampler = pytest.mark.parametrize("sample", SAMPLERS.values(), ids=SAMPLERS.keys())


def quiet(done: int, total: int) -> None:
    """Ignore progress."""


def audio(seed: int = 0, tokens: int = 5) -> LatentState:
    generator = torch.Generator().manual_seed(seed)
    return LatentState.audio(torch.randn(1, 2, tokens, 3, generator=generator))


def always(target: Tensor, states: States, sigma: float, step: int) -> Latents:
    """A denoiser that knows the clean latent."""
    return states.map(lambda state: target[:, : state.latent.shape[1]].to(state.latent.dtype))


def shrink(states: States, sigma: float, step: int) -> Latents:
    """A denoiser whose estimate depends on its input."""
    return states.map(lambda state: torch.tanh(state.latent) / (1 + sigma))


@every_sampler
def test_a_denoiser_that_knows_the_answer_is_followed_to_it(sample: Sample) -> None:
    target = torch.linspace(-2, 2, 30).view(1, 5, 6)
    final = sample(partial(always, target), States(audio(1), audio(2)), SIGMAS, quiet)
    for state in final:
        assert torch.allclose(state.latent, target, atol=1e-5)


@every_sampler
def test_given_tokens_end_as_they_were_given(sample: Sample) -> None:
    mask = torch.ones(1, 5, 1)
    mask[:, :2] = 0
    clean = torch.linspace(-2, 2, 30).view(1, 5, 6)
    given = replace(audio(), mask=DenoiseMask.from_dense(mask), clean=clean)
    final = sample(shrink, States(audio=given), SIGMAS, quiet)
    assert torch.allclose(final.audio.latent[:, :2], clean[:, :2], atol=1e-5)
    assert not torch.allclose(final.audio.latent[:, 2:], clean[:, 2:], atol=1e-2)


@every_sampler
def test_an_absent_stream_stays_absent_and_dtypes_stay(sample: Sample) -> None:
    state = audio()
    half = replace(state, latent=state.latent.bfloat16(), clean=state.clean.bfloat16())
    final = sample(shrink, States(audio=half), SIGMAS, quiet)
    assert final.video is None
    assert final.audio.latent.dtype == torch.bfloat16


@every_sampler
def test_both_streams_are_seen_before_either_moves(sample: Sample) -> None:
    def swap(states: States, sigma: float, step: int) -> Latents:
        return Latents(states.audio.latent * 0.5, states.video.latent * 0.5)

    forward = sample(swap, States(audio(1), audio(2)), SIGMAS, quiet)
    if sample in (sample_euler, sample_gradient_estimation):  # the others draw video's noise first
        backward = sample(swap, States(audio(2), audio(1)), SIGMAS, quiet)
        assert torch.equal(forward.video.latent, backward.audio.latent)
    assert not torch.equal(forward.video.latent, forward.audio.latent)


@every_sampler
def test_one_seed_gives_one_result(sample: Sample) -> None:
    first, second = (sample(shrink, States(audio=audio()), SIGMAS, quiet).audio.latent for _ in range(2))
    assert torch.equal(first, second)


@every_sampler
def test_progress_counts_every_step_to_the_end(sample: Sample) -> None:
    calls: list[tuple[int, int]] = []
    sample(shrink, States(audio=audio()), SIGMAS, lambda done, total: calls.append((done, total)))
    total = calls[-1][1]
    assert calls == [(done, total) for done in range(1, total + 1)]


def test_denoiser_is_told_every_noise_level_and_step() -> None:
    seen: list[tuple[float, int]] = []

    def watch(states: States, sigma: float, step: int) -> Latents:
        seen.append((sigma, step))
        return shrink(states, sigma, step)

    sample_euler(watch, States(audio=audio()), SIGMAS, quiet)
    assert seen == [(sigma, step) for step, sigma in enumerate(SIGMAS[:-1].tolist())]


def test_res2s_evaluates_twice_a_step_and_once_at_the_end() -> None:
    seen: list[float] = []

    def watch(states: States, sigma: float, step: int) -> Latents:
        seen.append(sigma)
        return shrink(states, sigma, step)

    res2s(watch, States(audio=audio()), SIGMAS, quiet)
    assert len(seen) == 2 * (len(SIGMAS) - 1) + 1
    assert seen == sorted(seen, reverse=True)


def test_gradient_estimation_without_extrapolation_is_euler() -> None:
    euler = sample_euler(shrink, States(audio=audio()), SIGMAS, quiet)
    plain = sample_gradient_estimation(shrink, States(audio=audio()), SIGMAS, quiet, gamma=1.0)
    assert torch.allclose(plain.audio.latent, euler.audio.latent, atol=1e-5)


def test_ancestral_without_new_noise_is_euler() -> None:
    generator = torch.Generator().manual_seed(1)
    still = sample_ancestral(shrink, States(audio=audio()), SIGMAS, quiet, generator=generator, eta=0.0)
    euler = sample_euler(shrink, States(audio=audio()), SIGMAS, quiet)
    assert torch.allclose(still.audio.latent, euler.audio.latent, atol=1e-4)


@pytest.mark.parametrize("noise_dtype", [torch.bfloat16, torch.float32])
def test_ancestral_draws_the_noise_of_a_seed_whatever_dtype_the_latents_have(noise_dtype: torch.dtype) -> None:
    state = audio()
    empty = replace(state, latent=torch.zeros_like(state.latent), clean=torch.zeros_like(state.latent))
    options = {} if noise_dtype is NOISE_DTYPE else {"noise_dtype": noise_dtype}
    know = partial(always, empty.latent)
    moved = ancestral(know, States(audio=empty), torch.tensor([0.9, 0.5]), quiet, **options).audio.latent
    noise = draw_noise(moved.shape, torch.Generator().manual_seed(1), noise_dtype).float()
    spread = moved.norm() / noise.norm()  # only noise remains
    assert torch.allclose(moved, spread * noise, atol=1e-6)


@pytest.mark.parametrize("length", [1e-12, 1e-4, 0.3, 5.0])
def test_res2s_weights_take_an_estimate_that_stays_as_the_exact_step_does(length: float) -> None:
    a21, b1, b2 = coefficients(length)
    assert length * a21 == pytest.approx(-math.expm1(-length / 2), rel=1e-9)
    assert length * (b1 + b2) == pytest.approx(-math.expm1(-length), rel=1e-9)


def test_res2s_without_new_noise_keeps_the_whole_step() -> None:
    keep, down, up = renoise_coefficients(torch.tensor(0.4), 0.0)
    assert (keep, down, up) == (1.0, torch.tensor(0.4), 0.0)


def test_a_seed_draws_noise_of_video_first() -> None:
    alone = ancestral(shrink, States(video=audio(1)), SIGMAS[-3:], quiet)
    both = ancestral(shrink, States(audio(1), audio(2)), SIGMAS[-3:], quiet)
    assert torch.equal(alone.video.latent, both.video.latent)


@pytest.mark.parametrize(
    ("sigma", "sigma_next", "is_corrected"),
    [(0.9, 0.7, True), (0.9, 0.5, False), (0.031, 0.03, True), (0.03, 0.029, False), (0.02, 0.001, False)],
)
def test_res2s_takes_the_start_back_from_the_middle_in_short_steps_at_high_noise(
    sigma: float, sigma_next: float, is_corrected: bool
) -> None:
    state, step = audio(), Step(sigma=sigma, sigma_next=sigma_next, eta=0.0)
    first, middle, second = (
        torch.randn(state.latent.shape, generator=torch.Generator().manual_seed(n)) for n in (1, 2, 3)
    )
    a21, b1, b2 = coefficients(step.length)
    own = state.latent.double()
    implied = (middle.double() - step.length * a21 * first) / (1 - step.length * a21)
    start = implied if is_corrected else own
    expected = start + step.length * (b1 * (first - start) + b2 * (second - start))
    end = step.to_end(state, first, middle, second, generator=torch.Generator())
    torch.testing.assert_close(end.latent.double(), expected, rtol=1e-4, atol=1e-4)
