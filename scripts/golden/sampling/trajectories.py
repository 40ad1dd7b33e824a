"""Compare samplers: whole trajectories with a denoiser that is a formula, and single steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ltx2_core.latents import DenoiseMask, Latents, LatentState, States, to_denoised, to_velocity
from ltx2_core.sampling.noise import draw_standardised_noise
from ltx2_core.sampling.res2s import coefficients, renoise_coefficients, sample_res2s
from ltx2_core.sampling.samplers import sample_ancestral, sample_euler, sample_gradient_estimation
from ltx2_core.types import Streams

from ..report import GoldenFile
from .cases import CaseTable, Check, Parameters, close, exact, near, seeded


def start(golden: GoldenFile, init: str) -> States:
    """The two initial states of a trajectory; the denoiser reads neither grid nor positions."""

    def one(stream: str) -> LatentState:
        latent = golden[f"{init}/{stream}"]
        return LatentState(
            grid=tuple(latent.shape[1:2]),
            latent=latent,
            clean=golden[f"{init}/{stream}_clean"],
            mask=DenoiseMask.from_dense(golden[f"{init}/{stream}_mask"]),
            positions=torch.zeros(1, 1, latent.shape[1], 2),
        )

    return States(one("video"), one("audio"))


class Analytic:
    """The denoiser that the README defines; it records its inputs."""

    def __init__(self, golden: GoldenFile) -> None:
        self.mu = Streams(golden["denoiser/mu_video"], golden["denoiser/mu_audio"])
        self.s = Streams(golden["denoiser/s_video"], golden["denoiser/s_audio"])
        self.seen: list[States] = []
        self.sigmas: list[float] = []

    def __call__(self, states: States, sigma: float, step: int) -> Latents:
        self.seen.append(states)
        self.sigmas.append(sigma)

        def estimate(state: LatentState, other: LatentState, mu: Tensor, s: Tensor) -> Tensor:
            x = state.latent.float()
            velocity = torch.tanh(0.7 * x - mu) + 0.25 * s * x + 0.1 * other.latent.float().mean()
            return to_denoised(state.latent, velocity, state.timesteps(sigma))

        return states.map(estimate, Streams(states.audio, states.video), self.mu, self.s)


def trajectory(sample: Callable[..., States]) -> Check:
    def check(golden: GoldenFile, case: str, parameters: Parameters) -> None:
        denoiser = Analytic(golden)
        final = sample(
            denoiser, start(golden, parameters["init"]), golden[f"{parameters['sigmas']}/sigmas"], parameters
        )
        exact(golden, f"{case}/call_sigmas", torch.tensor(denoiser.sigmas, dtype=torch.float64))
        for stream in ("video", "audio"):
            latents = [getattr(states, stream).latent for states in (*denoiser.seen, final)]
            near(golden, f"{case}/{stream}", torch.stack(latents))

    return check


def on_step(done: int, total: int) -> None:
    """Progress, which is ignored."""


def euler(denoise: Analytic, states: States, sigmas: Tensor, parameters: Parameters) -> States:
    return sample_euler(denoise, states, sigmas, on_step)


def gradient_estimation(denoise: Analytic, states: States, sigmas: Tensor, parameters: Parameters) -> States:
    return sample_gradient_estimation(denoise, states, sigmas, on_step, gamma=parameters["gamma"])


def ancestral(denoise: Analytic, states: States, sigmas: Tensor, parameters: Parameters) -> States:
    options = {"generator": seeded(parameters["noise_seed"]), "noise_dtype": states.video.latent.dtype}
    return sample_ancestral(denoise, states, sigmas, on_step, eta=parameters["eta"], **options)


def res2s(denoise: Analytic, states: States, sigmas: Tensor, parameters: Parameters) -> States:
    generators = {
        "step_generator": seeded(parameters["noise_seed"]),
        "middle_generator": seeded(parameters["substep_seed"]),
    }
    return sample_res2s(denoise, states, sigmas, on_step, eta=parameters["eta"], **generators)


def res2s_coefficients(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    ours = [coefficients(length) for length in golden[f"{case}/h"].tolist()]
    weights = [(a21, b1, b2) for a21, b1, b2 in ours]
    close(golden, f"{case}/a21_b1_b2", torch.tensor(weights, dtype=torch.float64))


def res2s_renoise(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    keep, down, up = renoise_coefficients(golden[f"{case}/sigma_next"], 0.5)
    close(golden, f"{case}/alpha_ratio", keep)
    close(golden, f"{case}/sigma_down", down)
    close(golden, f"{case}/sigma_up", up)


def res2s_noise(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    close(golden, f"{case}/noise", draw_standardised_noise(parameters["shape"], seeded(parameters["seed"])))


def velocity(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    noisy, sigma = golden[f"{case}/x"], parameters["sigma"]
    ours = to_velocity(noisy, golden[f"{case}/x0"], sigma)
    close(golden, f"{case}/v", ours)
    close(golden, f"{case}/back", to_denoised(noisy, ours, sigma))


SAMPLERS = CaseTable(
    inputs=(
        "denoiser/*",
        "init_*",
        "sigmas_*",
        "velocity_*/x",
        "velocity_*/x0",
        "*/noise_*",
        "res2s_coefficients/h",
        "res2s_sde_coeff/sigma_next",
    ),
    checks={
        "euler_*": trajectory(euler),
        "ge[0-9]*": trajectory(gradient_estimation),
        "ancestral*": trajectory(ancestral),
        "res2s_coefficients": res2s_coefficients,
        "res2s_sde_coeff": res2s_renoise,
        "res2s_noise": res2s_noise,
        "res2s_*": trajectory(res2s),
        "velocity_*": velocity,
    },
)
