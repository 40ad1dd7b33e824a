"""The meaning of a seed: the numbers that are drawn, and where they are used."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from ltx2_core.grids import Factors
from ltx2_core.latents import DenoiseMask, LatentState
from ltx2_core.sampling.noise import add_noise, draw_noise, draw_standardised_noise


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def state(dtype: torch.dtype = torch.float32) -> LatentState:
    latent = torch.randn(1, 4, 3, 2, 2, generator=seeded()).to(dtype)
    return LatentState.video(latent, Fraction(24), Factors(8, 32, 32))


def with_mask(state: LatentState, level: float) -> LatentState:
    mask = torch.ones(1, state.latent.shape[1], 1)
    mask[:, :4] = level
    return replace(state, mask=DenoiseMask.from_dense(mask), clean=torch.full_like(state.latent, 5.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_full_noise_leaves_nothing_of_the_latent(dtype: torch.dtype) -> None:
    noise = draw_noise((1, 12, 4), seeded(), dtype)
    assert torch.equal(add_noise(state(dtype), seeded(), 1.0, dtype).latent, noise)


def test_no_noise_leaves_the_latent_but_draws_all_the_same() -> None:
    drawn, silent = seeded(), seeded()
    draw_noise((1, 12, 4), drawn, torch.float32)
    assert torch.equal(add_noise(state(), silent, 0.0, torch.float32).latent, state().latent)
    assert torch.equal(torch.randn(3, generator=silent), torch.randn(3, generator=drawn))


def test_appended_tokens_do_not_change_the_noise_of_the_others() -> None:
    short = add_noise(state(), seeded(), 1.0, torch.float32).latent
    long = add_noise(appended(state(), 16), seeded(), 1.0, torch.float32).latent
    assert torch.equal(long[:, :12], short)


def test_noise_is_drawn_in_the_dtype_that_was_asked_for() -> None:
    as_half = add_noise(state(), seeded(), 1.0, torch.bfloat16).latent
    assert torch.equal(as_half, draw_noise((1, 12, 4), seeded(), torch.bfloat16).float())


def test_given_tokens_start_clean_and_the_rest_does_not_notice() -> None:
    given = add_noise(with_mask(state(), 0.0), seeded(), 0.9, torch.float32).latent
    plain = add_noise(state(), seeded(), 0.9, torch.float32).latent
    assert (given[:, :4] == 5).all()
    assert torch.equal(given[:, 4:], plain[:, 4:])


def test_tokens_given_in_part_start_between_clean_and_noisy() -> None:
    half = add_noise(with_mask(state(), 0.25), seeded(), 0.9, torch.float32).latent
    plain = add_noise(state(), seeded(), 0.9, torch.float32).latent
    assert torch.allclose(half[:, :4], 0.75 * 5 + 0.25 * plain[:, :4], atol=1e-6)


def test_standardised_noise_has_mean_zero_and_deviation_one_per_sample() -> None:
    noise = draw_standardised_noise((3, 7, 5), seeded())
    assert noise.dtype == torch.float64
    for sample in noise:
        assert sample.mean().item() == pytest.approx(0, abs=1e-12)
        assert sample.std().item() == pytest.approx(1, rel=1e-12)


def appended(state: LatentState, count: int) -> LatentState:
    more = torch.zeros(1, count, state.latent.shape[-1])
    tokens = torch.cat([state.latent, more], dim=1)
    return replace(state, latent=tokens, clean=tokens, mask=DenoiseMask.full((1, tokens.shape[1]), 1.0))
