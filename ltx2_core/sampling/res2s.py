"""The sampler of the HQ recipe: second order, with noise at each step and in its middle. Its arithmetic is float64.

Source: docs/reference/sampling.md, "res_2s".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..latents import LatentState, States
from .noise import draw_standardised_noise
from .samplers import Denoiser, OnStep, iterate_steps

LAST_SIGMA = 0.0011  # the steps end here; one more evaluation leads to 0
MIDDLE_ETA = 0.5


def sample_res2s(
    denoise: Denoiser,
    states: States,
    sigmas: Tensor,
    on_step: OnStep,
    *,
    step_generator: torch.Generator,
    middle_generator: torch.Generator,
    eta: float = 0.5,
) -> States:
    """Iterate over a schedule (k) that ends in 0: two evaluations for each step, and one at the end.

    Args: step_generator, middle_generator: of the noise at the end and in the middle of each step; in both, video's is
    drawn first. eta: the fraction of a noise level that is replaced by new noise.
    """
    steps = torch.cat([sigmas[:-1], sigmas.new_tensor([LAST_SIGMA, 0.0])])
    for index, sigma, sigma_next in iterate_steps(steps, on_step):
        first = states.map(LatentState.keep_given, denoise(states, sigma, index))
        if sigma_next == 0:
            states = states.map(LatentState.with_latent, first)
            continue
        step = Step(sigma=sigma, sigma_next=sigma_next, eta=eta)
        middle = states.map(partial(step.to_middle, generator=middle_generator), first)
        halfway = states.map(LatentState.with_latent, middle)
        second = halfway.map(LatentState.keep_given, denoise(halfway, step.middle, 0))  # step 0 is never skipped
        states = states.map(partial(step.to_end, generator=step_generator), first, middle, second)
    return states


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step between two noise levels, in which the logarithm of the noise level is linear."""

    sigma: float
    sigma_next: float
    eta: float

    @property
    def length(self) -> float:
        return math.log(self.sigma / self.sigma_next)

    @property
    def middle(self) -> float:
        """The noise level halfway, on the logarithmic scale."""
        return math.sqrt(self.sigma * self.sigma_next)

    def to_middle(self, state: LatentState, first: Tensor, *, generator: torch.Generator) -> Tensor:
        """From the clean estimate at the start (b n c), the noisy latent in the middle (b n c), float64."""
        start = state.latent.double()
        a21, _, _ = coefficients(self.length)
        middle = start + self.length * a21 * (first.double() - start)
        levels = torch.tensor([self.sigma, self.middle], dtype=torch.float64)
        return renoise(state, start, middle, levels, MIDDLE_ETA, generator)

    def to_end(
        self, state: LatentState, first: Tensor, middle: Tensor, second: Tensor, *, generator: torch.Generator
    ) -> LatentState:
        """From the estimates at the start and in the middle (b n c), the state at the end."""
        start, first, second = state.latent.double(), first.double(), second.double()
        a21, b1, b2 = coefficients(self.length)
        if self.length < 0.5 and self.sigma > 0.03:
            # The start from which a step without noise gives the noised middle; the reference iterates to it.
            start = (middle - self.length * a21 * first) / (1 - self.length * a21)
        end = start + self.length * (b1 * (first - start) + b2 * (second - start))
        levels = torch.tensor([self.sigma, self.sigma_next])  # in float32, unlike the levels in the middle
        return state.with_latent(renoise(state, start, end, levels, self.eta, generator))


def coefficients(length: float) -> tuple[float, float, float]:
    """Weights a21, b1, b2 of a step of some length, with the second evaluation in the middle."""
    b2 = 2 * _phi_2(-length)
    return _phi_1(-length / 2) / 2, _phi_1(-length) - b2, b2


def _phi_1(z: float) -> float:
    return math.expm1(z) / z if abs(z) > 1e-10 else 1.0


def _phi_2(z: float) -> float:
    return (math.expm1(z) - z) / z**2 if abs(z) > 1e-10 else 0.5


def renoise_coefficients(sigma_next: Tensor, eta: float) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients for reaching a noise level with new noise: how much to keep, the level to reach first, and how much
    noise to add.

    Args and returns: scalars of one dtype, which the arithmetic keeps.
    """
    up = (sigma_next * eta).clamp(max=sigma_next * 0.9999)
    residual = (sigma_next**2 - up**2).clamp(min=0).sqrt()
    keep = 1 - sigma_next + residual
    return keep, residual / keep, up


def renoise(
    state: LatentState, start: Tensor, end: Tensor, levels: Tensor, eta: float, generator: torch.Generator
) -> Tensor:
    """Replace a part of the noise that a step from `start` to `end` (b n c) leaves by new noise; conditioned tokens do
    not change.

    Args: levels: the noise levels at start and end, in the dtype that the coefficients are computed in.
    """
    noise = draw_standardised_noise(state.latent.shape, generator).to(end.device)
    sigma, sigma_next = levels
    keep, down, up = renoise_coefficients(sigma_next, eta)
    direction = (start - end) / (sigma - sigma_next)
    clean = start - sigma * direction
    return state.keep_given(keep * (clean + down * direction) + up * noise)
