"""Measures of similarity, compared with values that can be computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scripts.likeness import CONTRAST, LUMINANCE, psnr, relative_l2, ssim

FRAMES, HEIGHT, WIDTH = 3, 24, 20


def clip(seed: int = 0) -> Tensor:
    """Random frames (F H W 3), neither black nor white."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(40, 200, (FRAMES, HEIGHT, WIDTH, 3), generator=generator, dtype=torch.uint8)


def test_a_clip_is_like_itself():
    assert psnr(clip(), clip()) == math.inf
    assert ssim(clip(), clip()) == pytest.approx(1, abs=1e-12)
    assert relative_l2(clip(), clip()) == 0


@pytest.mark.parametrize("step", [1, 5, 40])
def test_an_offset_of_every_value_has_its_psnr(step: int):
    assert psnr(clip() + step, clip()) == pytest.approx(20 * math.log10(255 / step))


def test_random_noise_has_the_psnr_of_its_spread():
    noise = torch.randint(-10, 11, (64, 32, 32, 3), generator=torch.Generator().manual_seed(1))
    grey = torch.full_like(noise, 128)
    assert psnr(grey + noise, grey) == pytest.approx(10 * math.log10(255**2 / (20 * 22 / 12)), abs=0.05)


@pytest.mark.parametrize(("a", "b"), [(100, 120), (10, 200)])
def test_flat_frames_differ_in_luminance_alone(a: int, b: int):
    flat = torch.ones(FRAMES, HEIGHT, WIDTH, 3, dtype=torch.uint8)
    expected = (2 * a * b + LUMINANCE) / (a * a + b * b + LUMINANCE)
    assert ssim(flat * a, flat * b) == pytest.approx(expected, abs=1e-9)


def test_frames_without_likeness_have_an_ssim_near_zero():
    assert abs(ssim(clip(1), clip(2)) - CONTRAST / (2 * 160**2 / 12)) < 0.02


def test_ssim_falls_as_noise_rises_and_does_not_care_about_the_order():
    values = []
    for spread in (2, 8, 32):
        noise = torch.randint(
            -spread, spread + 1, (FRAMES, HEIGHT, WIDTH, 3), generator=torch.Generator().manual_seed(3)
        )
        noisy = clip().int() + noise
        assert ssim(noisy, clip()) == pytest.approx(ssim(clip(), noisy), abs=1e-12)
        values.append(ssim(noisy, clip()))
    assert 1 > values[0] > values[1] > values[2] > 0


@pytest.mark.parametrize("factor", [0.0, 0.9, 3.0])
def test_relative_l2_of_a_scaled_sound_is_the_change_of_scale(factor: float):
    sound = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    assert relative_l2(factor * sound, sound) == pytest.approx(abs(factor - 1))
