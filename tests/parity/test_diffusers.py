"""Our modules against those of diffusers, an independent implementation, with the same random weights in float32.

Only what the two define alike is compared. Sources: docs/reference/transformer.md, "Differences from diffusers";
docs/reference/text.md, "Differences from diffusers"; docs/reference/video-vae.md, "Differences from diffusers";
docs/reference/audio.md, "Differences from diffusers"; docs/reference/sampling.md, "Differences from diffusers".
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from ltx2_core.checkpoint import load_component
from ltx2_core.grids import Factors
from ltx2_core.headers import read_header
from ltx2_core.latents import audio_positions, video_positions
from ltx2_core.models.passes import ALL_BLOCKS, Perturbation, StreamInput
from ltx2_core.sampling.guidance import GuidanceScales, PassKind, guide
from ltx2_core.sampling.schedules import ltx2_schedule
from ltx2_core.text.encode import ContextModels
from ltx2_core.types import Streams
from scripts import tiny_text
from scripts import tiny_versions as tiny
from scripts.diffusers_names import REFERENCES, transformer_arguments
from scripts.make_tiny_checkpoint import make_tiny_checkpoint
from tests import tolerances

diffusers = pytest.importorskip("diffusers", reason="diffusers is missing; `make parity` installs it")

CHECKPOINT = "ltx-2-tiny-dev.safetensors"
UPSAMPLERS = [f"ltx-2-tiny-{axis}-upscaler-x2-1.0.safetensors" for axis in ("spatial", "temporal")]
# What the released model has and the tiny one leaves out: residual blocks in the video encoder, changes of width.
*DOWNS, (LAST_DOWN, _) = tiny.VIDEO_VAE["encoder_blocks"]
ENCODER_BLOCKS = [b for down in (*DOWNS, [LAST_DOWN, {"multiplier": 2}]) for b in (tiny.RES_X, down)] + [tiny.RES_X]
AUDIO_MULTIPLIERS = [1, 1, 2]
GRID, FPS, AUDIO_TOKENS, TEXT_TOKENS = (2, 3, 4), Fraction(24), 9, 7
POSITIONS = Streams(video_positions(GRID, FPS, Factors(8, 32, 32)), audio_positions(AUDIO_TOKENS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with every kind of layer."""
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny.VIDEO_VAE, "encoder_blocks", ENCODER_BLOCKS)
        patch.setitem(tiny.AUDIO_VAE, "ch", 128)  # as released: diffusers keeps a mean for each of them
        patch.setitem(tiny.AUDIO_VAE, "ch_mult", AUDIO_MULTIPLIERS)
        patch.setitem(tiny.VERSIONS["2.0"].changes, "vocoder", tiny.VOCODER)
        make_tiny_checkpoint(folder)
    return folder


ours: Any = partial(load_component, dtype=torch.float32)


def theirs(name: str, path: Path, **settings: Any) -> Any:
    """A class of diffusers with those tensors of an official file that are its own: exactly what it expects."""
    reference, tensors = REFERENCES[name], load_file(path)
    module = resolve_name(reference.path)(**reference.settings(read_header(path).config), **settings)
    state = {renamed: tensors[official].float() for official, renamed in reference.names(tensors).items()}
    module.load_state_dict(state, strict=True)
    return module.requires_grad_(False).eval()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_close(own: Tensor, reference: Tensor, tolerance: float) -> None:
    assert own.shape == reference.shape
    assert (own - reference).abs().max() / reference.abs().max() <= tolerance


def test_every_tensor_of_the_checkpoint_belongs_to_one_class_of_diffusers(folder: Path) -> None:
    official = load_file(folder / CHECKPOINT)
    owned = [name for key, reference in REFERENCES.items() if key != "upsampler" for name in reference.names(official)]
    assert sorted(owned) == sorted(official)


def stream_input(positions: Tensor, seed: int) -> StreamInput:
    """Two samples, each with a noise level that all its tokens share; the exchange agrees only if both streams do."""
    return StreamInput(
        latent=random(2, positions.shape[2], 128, seed=seed),
        sigma=torch.tensor([0.6, 0.9]),
        unique_timesteps=torch.tensor([[0.6], [0.9]]),
        positions=positions.expand(2, -1, -1, -1),
        context=random(2, TEXT_TOKENS, tiny_text.WIDTH, seed=seed + 1),
    )


VIDEO, AUDIO = stream_input(POSITIONS.video, 1), stream_input(POSITIONS.audio, 3)
TOKENS = torch.arange(VIDEO.latent.shape[1])
TEXT_MASK = (torch.arange(TEXT_TOKENS) < torch.tensor([[TEXT_TOKENS], [4]])).long()
UNIFORM = Streams(VIDEO, AUDIO)
PER_TOKEN = Streams(  # half of the video given in part or whole, and all of the audio
    replace(
        VIDEO,
        unique_timesteps=torch.tensor([[0.6, 0.0], [0.9, 0.3]]),
        timestep_index=(TOKENS < 12).long().expand(2, -1),
    ),
    replace(AUDIO, sigma=torch.zeros(2), unique_timesteps=torch.zeros(2, 1)),
)
MASKED = Streams(
    replace(VIDEO, context_mask=TEXT_MASK, attention_mask=torch.ones(2, len(TOKENS), len(TOKENS)).tril()),
    replace(AUDIO, context_mask=TEXT_MASK),
)
PERTURBED = Perturbation(video_self={2}, audio_self={2})
ISOLATED = Perturbation(audio_to_video=ALL_BLOCKS, video_to_audio=ALL_BLOCKS)
THEIR_BLOCKS = {"spatio_temporal_guidance_blocks": [2]}
CASES = {
    "whole": (UNIFORM, [], {}),
    "perturbed": (UNIFORM, [PERTURBED] * 2, THEIR_BLOCKS),
    "one-sample-perturbed": (
        UNIFORM,
        [PERTURBED, Perturbation()],
        THEIR_BLOCKS | {"perturbation_mask": torch.tensor([0.0, 1.0])},
    ),
    "isolated-with-given-tokens": (PER_TOKEN, [ISOLATED] * 2, {"isolate_modalities": True}),
    "masked": (MASKED, [], {}),
}


@pytest.fixture(scope="module")
def denoisers(folder: Path) -> tuple[Any, Any]:
    return ours("transformer", folder / CHECKPOINT), theirs("transformer", folder / CHECKPOINT, perturbed_attn=True)


@pytest.mark.parametrize("case", CASES)
def test_denoiser_agrees(denoisers: tuple[Any, Any], case: str) -> None:
    (own, reference), (inputs, perturbations, settings) = denoisers, CASES[case]
    expected = reference(**transformer_arguments(inputs), **settings, return_dict=False)
    for a, b in zip(own(inputs, perturbations), expected, strict=True):
        assert_close(a, b, tolerances.DIFFUSERS_ATTENTION)


def test_positions_are_the_same(denoisers: tuple[Any, Any]) -> None:
    _, reference = denoisers
    cpu = torch.device("cpu")
    assert POSITIONS.video.equal(reference.rope.prepare_video_coords(1, *GRID, cpu, fps=float(FPS)))
    assert POSITIONS.audio.equal(reference.audio_rope.prepare_audio_coords(1, AUDIO_TOKENS, cpu))


def test_text_contexts_agree(folder: Path) -> None:
    rows, lengths, layers = (
        256,
        (5, 200),
        tiny_text.LAYERS["gemma3"] + 1,
    )  # twice the registers; the second prompt skips some
    hidden = random(2, rows, tiny_text.WIDTH, layers)
    mask = torch.stack([torch.arange(rows) >= rows - length for length in lengths]).long()
    *expected, _ = theirs("connectors", folder / CHECKPOINT, text_proj_in_factor=layers)(hidden, mask)
    parts = ("text_projection", "video_connector", "audio_connector")
    models = ContextModels(*(ours(part, folder / CHECKPOINT) for part in parts))
    for i, length in enumerate(lengths):
        context = models.connect(hidden[i : i + 1, rows - length :], rows)
        for own, reference in zip((context.video, context.audio), expected, strict=True):
            assert_close(own, reference[i : i + 1], tolerances.DIFFUSERS_ATTENTION)


VAES = {  # sizes of what is encoded and of the latent that is decoded, and how statistics lie on a latent
    "video": ((2, 3, 17, 64, 96), (2, 128, *GRID), "c -> c 1 1 1"),
    "audio": ((2, 2, 18, 64), (2, 8, 5, 16), "(c m) -> c 1 m"),
}


@pytest.mark.parametrize("vae", VAES)
def test_vae_agrees(folder: Path, vae: str) -> None:
    source, shape, axes = VAES[vae]
    given, latent = random(*source), random(*shape)
    reference = theirs(f"{vae}_vae", folder / CHECKPOINT)
    both = (reference.latents_mean, reference.latents_std)  # diffusers leaves them to its pipelines
    mean, std = (rearrange(statistics, axes, c=shape[1]) for statistics in both)
    encoded = (reference.encode(given).latent_dist.mode() - mean) / std
    decoded = reference.decode(latent * std + mean).sample
    assert_close(ours(f"{vae}_encoder", folder / CHECKPOINT)(given), encoded, tolerances.DIFFUSERS_CONVOLUTIONS)
    assert_close(ours(f"{vae}_decoder", folder / CHECKPOINT)(latent), decoded, tolerances.DIFFUSERS_CONVOLUTIONS)


@pytest.mark.parametrize("file", [CHECKPOINT, *UPSAMPLERS])
def test_vocoder_and_upsamplers_agree(folder: Path, file: str) -> None:
    name, shape = ("vocoder", (2, 2, 17, 64)) if file == CHECKPOINT else ("upsampler", (2, 128, *GRID))
    own, reference = (load(name, folder / file)(random(*shape)) for load in (ours, theirs))
    assert_close(own, reference, tolerances.DIFFUSERS_CONVOLUTIONS)


@pytest.mark.parametrize("tokens", [96, 4096, 8160])
@pytest.mark.parametrize("steps", [2, 8, 40])
def test_schedule_agrees_for_the_same_token_count(steps: int, tokens: int) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.1)
    calculate_shift = resolve_name("diffusers.pipelines.ltx2.pipeline_ltx2:calculate_shift")
    shift = calculate_shift(tokens, base_seq_len=1024, max_seq_len=4096, base_shift=0.95, max_shift=2.05)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist(), mu=shift)
    assert_close(ltx2_schedule(steps, tokens), scheduler.sigmas, tolerances.DIFFUSERS_SCHEDULE)


def test_guidance_agrees_for_one_sample() -> None:
    """With more samples the official rule takes one spread of all of them, diffusers one of each."""
    estimates = {kind: random(1, 24, 128, seed=seed) for seed, kind in enumerate(PassKind)}
    scales = {"guidance_scale": 3.0, "stg_scale": 1.0, "modality_scale": 4.0, "guidance_rescale": 0.7}
    reference = diffusers.LTX2Guidance(**scales, **THEIR_BLOCKS).forward(*estimates.values()).pred
    own = guide(estimates, GuidanceScales(st=3.0, stg=1.0, stg_blocks=(2,), sm=4.0, rescale=0.7))
    assert_close(own, reference, tolerances.DIFFUSERS_GUIDANCE)
