"""Compare states: initial states, the effects of conditions and noise, masks and timesteps."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import torch
from torch import Tensor

from ltx2_core.conditioning.conditions import (
    Condition,
    GivenTokens,
    Keyframe,
    KeyframeSlots,
    ReferenceAudio,
    ReferenceVideo,
    TimeWindow,
    WithAttention,
    before_start,
)
from ltx2_core.grids import Factors
from ltx2_core.latents import DenoiseMask, LatentState, audio_positions, patchify_audio
from ltx2_core.sampling.noise import add_noise, draw_noise

from ..report import GoldenFile
from .cases import DTYPES, CaseTable, Parameters, close, exact, seeded

FACTORS = Factors(8, 32, 32)


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
    """The state of an initial case: from its latent, or from zeros if it has none."""
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
    given = golden.tensors.get(parameters.get("latent", f"{case}/input"), torch.zeros(0))  # slots have no latent
    latent = given.to(DTYPES[parameters.get("dtype", "f32")])
    match parameters["item"]:
        case "latent_index":
            return GivenTokens.frames(latent, parameters["latent_idx"], strength)
        case "keyframe":
            at, count = parameters["frame_idx"], parameters.get("num_pixel_frames", 1)
            return Keyframe(latent=latent, frame=at, fps=fps, factors=FACTORS, strength=strength, pixel_frames=count)
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
    """The first reference twice, with these weights; in one case a keyframe without weights follows."""
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


def bare_state(latent: Tensor, clean: Tensor, mask: Tensor) -> LatentState:
    """A state of which only the tokens and the mask are used."""
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


def post_process(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    estimate = golden[f"{case}/x0"]
    state = bare_state(estimate, golden[f"{case}/clean"], golden[f"{case}/mask"])
    close(golden, f"{case}/out", state.keep_given(estimate))


def timesteps(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    mask = golden[f"{case}/mask"]
    state, sigma = bare_state(mask, mask, mask), parameters["sigma"]
    exact(golden, f"{case}/out", state.timesteps(sigma))
    unique, index = state.unique_timesteps(sigma), state.mask.index
    per_token = unique.expand(mask.shape[:2]) if index is None else unique[index]
    golden.compare_value(case, case, torch.equal(per_token.unsqueeze(-1), golden[f"{case}/out"]), True)


CONDITIONING = CaseTable(
    inputs=(
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
    checks={
        "*_initial*": initial,
        "latent_index_*": condition,
        "keyframe_*": condition,
        "reference_[0-9]": condition,
        "reference_*_attn_*": weighted_reference,
        "two_references*": weighted_references,
        "region_*": region,
        "audio_reference_*": audio_reference,
        "noise_cond_*": noise_given,
        "noise_*": noise,
        "post_process_*": post_process,
        "timesteps": timesteps,
    },
)
