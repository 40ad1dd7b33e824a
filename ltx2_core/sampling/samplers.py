"""Samplers: solvers that iterate over a schedule. They know nothing of models, prompts or guidance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from operator import attrgetter
from typing import Protocol

import torch
from torch import Tensor

from ..latents import Latents, LatentState, States, to_denoised, to_velocity
from .noise import NOISE_DTYPE, draw_noise

OnStep = Callable[[int, int], None]  # called after each step with the number of finished steps and of all steps


class Denoiser(Protocol):
    """Estimates the clean latents (b n c) of each stream, in its dtype, at a noise level. Steps count from 0."""

    def __call__(self, states: States, sigma: float, step: int) -> Latents: ...


def iterate_steps(sigmas: Tensor, on_step: OnStep) -> Iterator[tuple[int, float, float]]:
    """Iterate over a schedule (k): the step from 0, its noise level and the next one."""
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist())):
        yield step, sigma, sigma_next
        on_step(step + 1, len(sigmas) - 1)


def sample_euler(denoise: Denoiser, states: States, sigmas: Tensor, on_step: OnStep) -> States:
    """One Euler step from each noise level (k) to the next: the default sampler.

    Source: docs/reference/sampling.md, "Euler".
    """
    for step, sigma, sigma_next in iterate_steps(sigmas, on_step):
        clean = states.map(LatentState.keep_given, denoise(states, sigma, step))
        states = states.map(partial(LatentState.euler_step, sigma=sigma, sigma_next=sigma_next), clean)
    return states


def sample_gradient_estimation(
    denoise: Denoiser, states: States, sigmas: Tensor, on_step: OnStep, *, gamma: float = 2.0
) -> States:
    """Euler steps along a velocity that is extrapolated from the last two. gamma 1 makes it plain Euler.

    Source: docs/reference/sampling.md, "Gradient estimation".
    """
    previous: Latents | None = None
    for step, sigma, sigma_next in iterate_steps(sigmas, on_step):
        clean = states.map(LatentState.keep_given, denoise(states, sigma, step))
        if sigma_next == 0:
            states = states.map(LatentState.with_latent, clean)
            continue
        latents = states.map(attrgetter("latent"))
        velocity = latents.map(partial(to_velocity, sigma=sigma), clean)
        if previous is not None:
            ahead = velocity.map(lambda v, before: gamma * (v - before) + before, previous)
            clean = latents.map(partial(to_denoised, timesteps=sigma), ahead)
        previous = velocity
        states = states.map(partial(LatentState.euler_step, sigma=sigma, sigma_next=sigma_next), clean)
    return states


def sample_ancestral(
    denoise: Denoiser,
    states: States,
    sigmas: Tensor,
    on_step: OnStep,
    *,
    generator: torch.Generator,
    eta: float = 1.0,
    noise_dtype: torch.dtype = NOISE_DTYPE,
) -> States:
    """Go below the next noise level and back up with new noise, video's drawn first; eta is how far below.

    Args: noise_dtype: of the drawn noise, whatever dtype the latents have.
    Source: docs/reference/sampling.md, "Ancestral Euler".
    """
    for step, sigma, sigma_next in iterate_steps(sigmas, on_step):
        draw = partial(draw_noise, generator=generator, dtype=noise_dtype)
        move = partial(_ancestral_step, sigma=sigma, sigma_next=sigma_next, draw=draw, eta=eta)
        states = states.map(move, denoise(states, sigma, step))
    return states


def _ancestral_step(
    state: LatentState,
    denoised: Tensor,
    *,
    sigma: float,
    sigma_next: float,
    draw: Callable[[Sequence[int]], Tensor],
    eta: float,
) -> LatentState:
    clean = state.keep_given(denoised.float())
    if sigma_next == 0:
        return state.with_latent(clean)
    noise = draw(state.latent.shape).to(state.latent.device, torch.float32)
    now, after = torch.tensor([sigma, sigma_next])  # float32 including the coefficients, as in the reference
    down = after * (1 + (after / now - 1) * eta)
    ratio = down / now
    moved = ratio * state.latent.float() + (1 - ratio) * clean
    signal = (1 - after) / (1 - down)
    spread = (after**2 - down**2 * (1 - after) ** 2 / (1 - down) ** 2).clamp(min=0).sqrt()
    return state.with_latent(state.keep_given(signal * moved + spread * noise))
