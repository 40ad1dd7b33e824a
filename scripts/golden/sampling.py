"""Schedules, guidance, samplers, states and noise. Source of the tolerances: golden/sampling/README.md."""

from __future__ import annotations

import fnmatch
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ltx2_core.conditioning.conditions import (
    Condition,
    GivenCells,
    GivenTokens,
    Keyframe,
    KeyframeSlots,
    ReferenceAudio,
    ReferenceVideo,
    TimeWindow,
    WithAttention,
    attention_weights,
    before_start,
)
from ltx2_core.grids import Factors, VideoGrid, audio_latent_count, evenly_spaced, snap_down
from ltx2_core.latents import (
    DenoiseMask,
    Latents,
    LatentState,
    States,
    audio_positions,
    patchify_audio,
    to_denoised,
    to_velocity,
)
from ltx2_core.media.image import compress, read_image
from ltx2_core.media.inputs import ImageSource, check_input
from ltx2_core.media.pixels import to_i420
from ltx2_core.media.resize import cover, to_clip
from ltx2_core.media.sound import to_pcm16
from ltx2_core.sampling.distilled import DISTILLED_SIGMAS
from ltx2_core.sampling.guidance import Contexts, GuidanceScales, PassKind, guide, plan_passes, value_at
from ltx2_core.sampling.noise import add_noise, draw_noise, draw_standardised_noise
from ltx2_core.sampling.res2s import coefficients, renoise_coefficients, sample_res2s
from ltx2_core.sampling.samplers import sample_ancestral, sample_euler, sample_gradient_estimation
from ltx2_core.sampling.schedules import ltx2_schedule
from ltx2_core.types import Streams

from .report import FAIL, PASS, GoldenFile, Line, Report

FACTORS = Factors(8, 32, 32)
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
SCALES = {
    "cfg_scale": "st",
    "modality_scale": "sm",
    "stg_scale": "stg",
    "stg_blocks": "stg_blocks",
    "rescale_scale": "rescale",
    "skip_step": "skip_step",
}
PASS_NAMES = {
    PassKind.COND: "cond",
    PassKind.UNCOND: "uncond",
    PassKind.PERTURBED: "ptb",
    PassKind.ISOLATED: "mod",
}
DISTILLED_CASES = {
    "distilled_stage_1": "distilled-8",
    "distilled_stage_2": "distilled-3",
    "distilled_dfr_temporal": "temporal-4",
}

I420_SHARE = 0.001
CODED_RMS = 255 * 10 ** (-45 / 20)  # a peak signal to noise ratio of 45 dB

Parameters = dict[str, Any]
Case = Callable[[GoldenFile, str, Parameters], None]


def run(folder: Path, where: str, report: Report) -> None:
    for name, inputs in FILES.items():
        path = folder / f"{name}.safetensors"
        if not path.exists():
            continue
        golden = GoldenFile(path, where, report, inputs)
        for case, parameters in golden.json("cases").items():
            check = next((check for pattern, check in CASES.items() if fnmatch.fnmatchcase(case, pattern)), None)
            if check is not None:
                with golden.case(case):
                    check(golden, case, parameters)
        golden.close()


# What may differ


def exact(golden: GoldenFile, name: str, ours: Tensor) -> None:
    golden.compare(name, ours, 0.0)


def close(golden: GoldenFile, name: str, ours: Tensor) -> None:
    """One operation: 1e-5 absolute and relative in float32, one unit in the last place in bfloat16."""
    expected = golden[name]
    difference = (ours.double() - expected.double()).abs() if ours.shape == expected.shape else torch.zeros(1)
    if expected.dtype == torch.bfloat16:
        _, exponent = torch.frexp(expected.double())
        golden.compare(name, ours, 1.0, error=(difference / torch.exp2(exponent - 8.0)).max().item(), note="bf16 ulp")
    else:
        allowed = 1e-5 + 1e-5 * expected.double().abs()
        golden.compare(name, ours, 1.0, error=(difference / allowed).max().item(), note="of 1e-5 + 1e-5 |expected|")


def near(golden: GoldenFile, name: str, ours: Tensor) -> None:
    """A whole trajectory: 1e-4 absolute in float32, 0.05 with a mean of 0.005 in bfloat16."""
    expected = golden[name]
    difference = (ours.double() - expected.double()).abs() if ours.shape == expected.shape else torch.zeros(1)
    if expected.dtype == torch.bfloat16:
        error = max(difference.max().item() / 0.05, difference.mean().item() / 0.005)
        golden.compare(name, ours, 1.0, error=error, note="of 0.05, mean 0.005")
    else:
        golden.compare(name, ours, 1e-4, error=difference.max().item(), note="absolute")


def equal(golden: GoldenFile, case: str, ours: Any, expected: Any) -> None:
    """Compare a value that stands in the metadata."""
    note = "" if ours == expected else f"{ours}, expected {expected}"
    status = PASS if ours == expected else FAIL
    golden.report.add(Line(status, f"{golden.where}/{case}", f"{case} (metadata)", 0.0, 0.0, note))


# Schedules


def schedule(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    options = {name: parameters[name] for name in ("max_shift", "base_shift", "terminal") if name in parameters}
    if parameters.get("stretch") is False:
        options["terminal"] = None
    tokens = parameters.get("tokens", parameters.get("default_number_of_tokens", 4096))
    exact(golden, f"{case}/sigmas", ltx2_schedule(parameters["steps"], tokens, **options))


def distilled(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    exact(golden, f"{case}/sigmas", torch.tensor(DISTILLED_SIGMAS[DISTILLED_CASES[case]]))


# Guidance


def scales_of(parameters: Parameters) -> GuidanceScales:
    values = {ours: parameters[theirs] for theirs, ours in SCALES.items() if theirs in parameters}
    return GuidanceScales(**values | {"stg_blocks": tuple(values.get("stg_blocks", ()))})


def guided(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    stream, _, dtype = case.split("_")
    scales = scales_of(parameters)
    estimates = {kind: golden[f"inputs_{stream}/{kind}"].to(DTYPES[dtype]) for kind in PassKind if scales.needs(kind)}
    close(golden, f"{case}/out", guide(estimates, scales))


def delta(kind: PassKind, scale: str) -> Case:
    def check(golden: GoldenFile, case: str, parameters: Parameters) -> None:
        cond, other = golden["inputs_video/cond"], golden["inputs_video/uncond"]  # the same for every kind
        scales = GuidanceScales(**{scale: parameters["scale"]})
        close(golden, f"{case}/delta", guide({PassKind.COND: cond, kind: other}, scales) - cond)

    return check


def passes(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    given = Streams(parameters["video_params"], parameters["audio_params"])
    scales: Streams[GuidanceScales] = given.map(scales_of)
    contexts = scales.map(lambda one: Contexts("pos", "neg" if one.needs(PassKind.UNCOND) else None))
    plan = plan_passes(scales, parameters["step_index"])
    exact(golden, f"{case}/count", torch.tensor(len(plan)))
    ours = [
        {
            "name": PASS_NAMES[one.kind],
            "video_context": contexts.video and contexts.video.of(one.kind),
            "audio_context": contexts.audio and contexts.audio.of(one.kind),
            "skip_video_self_attn_blocks": list(one.perturbed.video or ()),
            "skip_audio_self_attn_blocks": list(one.perturbed.audio or ()),
            "isolate_modalities": one.is_isolated,
            "video_enabled": one.enabled.video,
            "audio_enabled": one.enabled.audio,
        }
        for one in plan
    ]
    equal(golden, case, ours, parameters["passes"])


def skipped(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    scales = scales_of(parameters)
    steps = range(len(golden[f"{case}/skipped"]))
    exact(golden, f"{case}/skipped", torch.tensor([not scales.runs_at(step) for step in steps]))


def sigma_bins(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    bins = {float(bound): scale for bound, scale in parameters["bins_upper_bound_to_cfg_scale"].items()}
    ours = [value_at(bins, sigma) for sigma in golden[f"{case}/sigma"].tolist()]
    exact(golden, f"{case}/cfg_scale", torch.tensor(ours, dtype=torch.float64))


# Samplers


def start(golden: GoldenFile, init: str) -> States:
    """The two states of a trajectory; the denoiser there looks at neither grid nor positions."""

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
    """The denoiser that the README defines; it remembers what it saw."""

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


def trajectory(sample: Callable[..., States]) -> Case:
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
    """Progress, which nobody looks at."""


def euler(denoise: Analytic, states: States, sigmas: Tensor, parameters: Parameters) -> States:
    return sample_euler(denoise, states, sigmas, on_step)


def gradient_estimation(denoise: Analytic, states: States, sigmas: Tensor, parameters: Parameters) -> States:
    return sample_gradient_estimation(denoise, states, sigmas, on_step, gamma=parameters["gamma"])


def ancestral(denoise: Analytic, states: States, sigmas: Tensor, parameters: Parameters) -> States:
    generator = seeded(parameters["noise_seed"])
    return sample_ancestral(denoise, states, sigmas, on_step, generator=generator, eta=parameters["eta"])


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


# States, noise and what is given


def compare_state(golden: GoldenFile, case: str, state: LatentState) -> None:
    values = SimpleNamespace(
        latent=state.latent,
        clean=state.clean,
        mask=state.mask.dense,
        positions=state.positions,
        keyframes_mask=state.keyframes_mask,
        attention_mask=state.attention_mask,
    )
    for name, ours in vars(values).items():
        if ours is not None:
            exact(golden, f"{case}/{name}", ours)


def initial(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    compare_state(golden, case, initial_state(golden, case))


def initial_state(golden: GoldenFile, initial: str, dtype: torch.dtype = torch.float32) -> LatentState:
    """The state of an initial case: from its latent, or from zeros where it has none."""
    parameters = golden.json("cases")[initial]
    if initial == "audio_initial":
        return LatentState.audio(torch.zeros(parameters["latent_shape_bctf"]))
    given = golden.tensors.get(f"{initial}/input")
    latent = torch.zeros(parameters["latent_shape_bcfhw"]) if given is None else given
    return LatentState.video(latent.to(dtype), Fraction(parameters["fps"]), FACTORS)


def base_state(golden: GoldenFile, parameters: Parameters) -> LatentState:
    """The video state that conditions are applied to."""
    return initial_state(golden, parameters.get("initial", "video_initial"), DTYPES[parameters.get("dtype", "f32")])


def condition_of(golden: GoldenFile, case: str, parameters: Parameters) -> Condition:
    """The condition that a case describes."""
    fps = Fraction(golden.json("cases")[parameters.get("initial", "video_initial")]["fps"])
    strength = parameters.get("strength", 1.0)
    given = golden.tensors.get(parameters.get("latent", f"{case}/input"), torch.zeros(0))  # slots have none
    latent = given.to(DTYPES[parameters.get("dtype", "f32")])
    match parameters["item"]:
        case "latent_index":
            return GivenTokens.frames(latent, parameters["latent_idx"], strength)
        case "keyframe":
            at, count = parameters["frame_idx"], parameters.get("num_pixel_frames", 1)
            return Keyframe(latent=latent, frame=at, fps=fps, factors=FACTORS, strength=strength, pixel_frames=count)
        case "mask":
            return GivenCells(latent=latent, cells=golden[f"{case}/input_mask"], strength=strength)
        case "generated_keyframe_slots":
            seeds = golden.tensors.get(f"{case}/initial")
            return KeyframeSlots(frames=parameters["pixel_frame_indices"], fps=fps, factors=FACTORS, seeds=seeds)
        case "reference":
            return ReferenceVideo(
                latent=latent,
                fps=fps,
                factors=FACTORS,
                spatial_scale=parameters["downscale_factor"],
                temporal_scale=parameters["temporal_scale_factor"],
                strength=strength,
            )
    raise LookupError(f"no condition is called {parameters['item']}")


def condition(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    state = base_state(golden, parameters)
    compare_state(golden, case, condition_of(golden, case, parameters).apply(state))


def weighted_reference(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    name, weights = parameters["reference"], parameters["scalar"]
    reference = condition_of(golden, name, golden.json("cases")[name])
    weighted = WithAttention(reference, golden[f"{case}/weights"] if weights is None else weights)
    state = weighted.apply(base_state(golden, parameters))
    exact(golden, f"{case}/attention_mask", state.attention_mask)


def weighted_references(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    """The first reference twice, with these weights, and in one case a keyframe without any behind them."""
    reference = condition_of(golden, "reference_0", golden.json("cases")["reference_0"])
    state = base_state(golden, {})
    for weight in golden.json("cases")["two_references_attn"]["attention"]:
        state = WithAttention(reference, weight).apply(state)
    if "note" in parameters:
        state = Keyframe(latent=golden["inputs/image"], frame=8, fps=Fraction(24), factors=FACTORS).apply(state)
    exact(golden, f"{case}/attention_mask", state.attention_mask)


def region(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    state = initial_state(golden, parameters.get("state", "audio_initial"))
    window = TimeWindow(start_s=parameters["start"], end_s=parameters["end"])
    exact(golden, f"{case}/mask", window.apply(state).mask.dense)


def audio_reference(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    latent = golden[f"{case}/input"]
    tokens, positions = patchify_audio(latent), before_start(audio_positions(latent.shape[2]))
    exact(golden, f"{case}/tokens", tokens)
    exact(golden, f"{case}/positions", positions)
    condition = ReferenceAudio(tokens=tokens, positions=positions)
    listening = condition.apply(initial_state(golden, "audio_initial"))
    exact(golden, f"{case}/all_positions", listening.positions)


def mask_downsample(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    close(golden, f"{case}/out", attention_weights(golden[f"{case}/input"], parameters["target_fhw"]))


def bare_state(latent: Tensor, clean: Tensor, mask: Tensor) -> LatentState:
    """A state of which only tokens and mask count."""
    n = latent.shape[1]
    positions = torch.zeros(1, 3, n, 2)
    return LatentState(grid=(n,), latent=latent, clean=clean, mask=DenoiseMask.from_dense(mask), positions=positions)


def noise(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    latent = golden[f"{case}/latent"]
    exact(golden, f"{case}/noise", draw_noise(latent.shape, seeded(parameters["seed"]), latent.dtype))
    state = bare_state(latent, latent, torch.ones_like(latent[..., :1]))
    noised = add_noise(state, seeded(parameters["seed"]), parameters["noise_scale"], latent.dtype)
    close(golden, f"{case}/out", noised.latent)


def noise_given(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    plain = golden.json("cases")[parameters["noise"]]
    latent = golden[f"{parameters['noise']}/latent"]
    state = bare_state(latent, golden[f"{case}/clean"], golden[f"{case}/mask"])
    noised = add_noise(state, seeded(plain["seed"]), parameters["noise_scale"], latent.dtype)
    close(golden, f"{case}/out", noised.latent)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def post_process(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    estimate = golden[f"{case}/x0"]
    state = bare_state(estimate, golden[f"{case}/clean"], golden[f"{case}/mask"])
    close(golden, f"{case}/out", state.keep_given(estimate))


def timesteps(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    mask = golden[f"{case}/mask"]
    state, sigma = bare_state(mask, mask, mask), parameters["sigma"]
    exact(golden, f"{case}/out", state.timesteps(sigma))
    levels, index = state.timestep_levels(sigma), state.mask.index
    per_token = levels.expand(mask.shape[:2]) if index is None else levels[index]
    equal(golden, case, torch.equal(per_token.unsqueeze(-1), golden[f"{case}/out"]), True)


# Grids


def token_counts(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    rows = []
    for frames, fps, *_ in golden[f"{case}/table"].tolist():
        grid = VideoGrid(frames=int(frames), height=32, width=32, factors=FACTORS)
        rows.append([frames, fps, grid.latent[0], audio_latent_count(int(frames), Fraction(fps))])
    exact(golden, f"{case}/table", torch.tensor(rows, dtype=torch.float64))


# Media


def snapped(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    ours = [snap_down(frames) for frames in golden[f"{case}/n"].tolist()]
    exact(golden, f"{case}/out", torch.tensor(ours))


def spaced(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    exact(golden, f"{case}/out", torch.tensor(evenly_spaced(parameters["num_keyframes"], parameters["num_frames"])))


def i420(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    name = f"{case}/i420"
    ours, expected = to_i420(rearrange(golden[f"{case}/rgb"], "F H W c -> F c H W")), golden[name]
    same_shape = ours.shape == expected.shape
    codes = (ours.int() - expected.int()).abs() if same_shape else torch.zeros(1)
    share = codes.bool().double().mean().item() if codes.max() <= 1 else float("inf")
    golden.compare(name, ours, I420_SHARE, error=share, note="share of bytes that are one code off")


def resized(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    given, (height, width) = golden[f"{case}/input"], parameters["target_hw"]
    pictures = rearrange(given if given.dim() == 4 else given.unsqueeze(0), "F H W c -> F c H W")
    close(golden, f"{case}/resized", rearrange(cover(pictures, height, width), "F c H W -> 1 c F H W"))
    for name, dtype in DTYPES.items():
        if f"{case}/{name}" in golden:
            close(golden, f"{case}/{name}", to_clip([pictures], height, width).to(dtype))


def compressed(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    name, given = f"{case}/output", golden[f"{parameters['input']}/input"]
    ours = rearrange(compress(rearrange(given, "H W c -> 1 c H W"), parameters["crf"]), "1 c H W -> H W c")
    expected = golden[name]
    difference = ours.double() - expected if ours.shape == expected.shape else torch.zeros(1)
    golden.compare(name, ours, CODED_RMS, error=difference.square().mean().sqrt().item(), note="root mean square")


def decoded(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        file.write(bytes(golden[f"{case}/png"].tolist()))
        file.flush()
        picture = read_image(check_input(Path(file.name), ImageSource))
    exact(golden, f"{case}/rgb", rearrange(picture, "1 c H W -> H W c"))


def pcm16(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    exact(golden, f"{case}/pcm", to_pcm16(golden[f"{case}/wav"]))


FILES = {
    "schedules": (),
    "guidance": ("inputs_*", "sigma_bins/sigma"),
    "samplers": (
        "denoiser/*",
        "init_*",
        "sigmas_*",
        "velocity_*/x",
        "velocity_*/x0",
        "*/noise_*",
        "res2s_coefficients/h",
        "res2s_sde_coeff/sigma_next",
    ),
    "conditioning": (
        "inputs/*",
        "*/input",
        "*/input_mask",
        "*/weights",
        "keyframe_slots_seeded/initial",
        "noise_*/latent",
        "noise_cond_*/clean",
        "noise_cond_*/mask",
        "post_process_*/x0",
        "post_process_*/clean",
        "post_process_*/mask",
        "timesteps/mask",
    ),
    "grids": ("snap_down/n",),
    "media": ("i420_*/rgb", "pcm16/wav", "image_*/input", "clip/input", "decode_*/png"),
}

CASES: dict[str, Case] = {
    "ltx2_*": schedule,
    "distilled_*": distilled,
    "*_initial*": initial,
    "video_[0-9]*": guided,
    "audio_[0-9]*": guided,
    "delta_cfg_[0-9]*": delta(PassKind.UNCOND, "st"),
    "delta_stg_[0-9]*": delta(PassKind.PERTURBED, "stg"),
    "passes_*": passes,
    "skip_step_*": skipped,
    "sigma_bins": sigma_bins,
    "euler_*": trajectory(euler),
    "ge[0-9]*": trajectory(gradient_estimation),
    "ancestral*": trajectory(ancestral),
    "res2s_coefficients": res2s_coefficients,
    "res2s_sde_coeff": res2s_renoise,
    "res2s_noise": res2s_noise,
    "res2s_*": trajectory(res2s),
    "velocity_*": velocity,
    "latent_index_*": condition,
    "keyframe_*": condition,
    "mask_s*": condition,
    "reference_[0-9]": condition,
    "reference_*_attn_*": weighted_reference,
    "two_references*": weighted_references,
    "region_*": region,
    "audio_reference_*": audio_reference,
    "mask_downsample_*": mask_downsample,
    "noise_cond_*": noise_given,
    "noise_*": noise,
    "post_process_*": post_process,
    "timesteps": timesteps,
    "token_counts": token_counts,
    "snap_down": snapped,
    "evenly_spaced_*": spaced,
    "i420_*": i420,
    "pcm16": pcm16,
    "image_*_crf*": compressed,
    "image_*": resized,
    "clip": resized,
    "decode_*": decoded,
}
