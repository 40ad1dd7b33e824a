"""Our modules against those of diffusers, an independent implementation, with the same random weights in float32.

Only what the two define alike is compared. Sources: docs/reference/transformer.md, "Differences from diffusers";
docs/reference/text.md, "Differences from diffusers"; docs/reference/video-vae.md, "Differences from diffusers";
docs/reference/video-diffusion-decoder.md, "Differences from diffusers"; docs/reference/audio.md, "Differences from
diffusers"; docs/reference/sampling.md, "Differences from diffusers".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
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
from ltx2_core.latents import Latents, LatentState, States, audio_positions, patchify_video, video_positions
from ltx2_core.models import vocoder
from ltx2_core.models.passes import ALL_BLOCKS, Perturbation, StreamInput
from ltx2_core.sampling.guidance import GuidanceScales, PassKind, guide
from ltx2_core.sampling.samplers import sample_ancestral
from ltx2_core.sampling.schedules import ltx2_schedule
from ltx2_core.text.encode import ContextModels
from ltx2_core.types import Streams
from scripts import tiny_text
from scripts import tiny_versions as tiny
from scripts.diffusers_names import REFERENCES, transformer_arguments
from scripts.make_tiny_checkpoint import make_tiny_checkpoint
from tests import tolerances

diffusers = pytest.importorskip("diffusers", reason="diffusers is missing; `make parity` installs it")

# Features of the released model that the tiny one lacks: residual blocks in the video encoder, changes of width.
*DOWNS, (LAST_DOWN, _) = tiny.VIDEO_VAE["encoder_blocks"]
ENCODER_BLOCKS = [b for down in (*DOWNS, [LAST_DOWN, {"multiplier": 2}]) for b in (tiny.RES_X, down)] + [tiny.RES_X]
# Different numbers of blocks at the pixels and at the latent, so that the order of the lists matters.
DECODER_BLOCKS = [["res_x", {"num_layers": 2, "inject_noise": False}], *tiny.CONV_VAE["decoder_blocks"][1:]]
AUDIO_MULTIPLIERS = [1, 1, 2]
GRID, FPS, FACTORS, AUDIO_TOKENS, TEXT_TOKENS = (2, 3, 4), Fraction(24), Factors(8, 32, 32), 9, 7
POSITIONS = Streams(video_positions(GRID, FPS, FACTORS), audio_positions(AUDIO_TOKENS))
# The files of a model in parts, for our components and for classes of diffusers. The others are in one file.
IN_PARTS = {
    "transformer": ["dev-transformer"],
    "connectors": ["dev-transformer", "text-encoder"],
    "video_connector": ["dev-transformer"],
    "audio_connector": ["dev-transformer"],
    "text_projection": ["text-encoder", "dev-transformer"],
    "video_vae": ["video-vae-conv"],
    "video_encoder": ["video-vae"],
    "video_decoder": ["video-vae-conv"],
    "diffusion_decoder": ["video-vae"],
    "audio_vae": ["audio-vae"],
    "audio_encoder": ["audio-vae"],
    "audio_decoder": ["audio-vae"],
    "vocoder": ["audio-vae"],
    "extended_vocoder": ["audio-vae"],
    "duration_head": ["duration-head", "dev-transformer"],
}
ALWAYS = ("transformer", "connectors", "video_vae", "audio_vae")
CLASSES = {
    "2.0": (*ALWAYS, "vocoder"),
    "2.3": (*ALWAYS, "extended_vocoder"),
    "2.5": (*ALWAYS, "extended_vocoder", "diffusion_decoder", "duration_head"),
}


@dataclass(frozen=True)
class Model:
    """A tiny model of one generation, with every kind of layer."""

    version: str
    folder: Path

    def paths(self, part: str) -> list[Path]:
        """The files of one of our components or of a class of diffusers."""
        made = tiny.VERSIONS[self.version]
        names = ["dev"] if made.layout == "single" else IN_PARTS[part]
        return [self.folder / f"{made.stem}-{name}.safetensors" for name in names]

    @property
    def upsamplers(self) -> list[Path]:
        return sorted(self.folder.glob("*-upscaler-*"))

    def ours(self, name: str, *paths: Path) -> Any:
        """One of our components. paths: its weights first, then other files for its config; by default the published
        files.
        """
        read = paths or self.paths(name)
        return load_component(name, read[0], dtype=torch.float32, config=config_of(read))

    def theirs(self, name: str, *paths: Path, **settings: Any) -> Any:
        """A class of diffusers, loaded with exactly those tensors of official files that it expects."""
        reference, read = REFERENCES[name], paths or self.paths(name)
        state = {key: tensor for path in read for key, tensor in reference.state(load_file(path)).items()}
        module = resolve_name(reference.path)(**reference.settings(config_of(read)), **settings)
        module.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=True)
        return module.requires_grad_(False).eval()


def config_of(paths: Sequence[Path]) -> dict[str, Any]:
    return {key: section for path in paths for key, section in read_header(path).config.items()}


@pytest.fixture(scope="module", params=tiny.VERSIONS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        for vae in (tiny.VIDEO_VAE, tiny.CONV_VAE):
            patch.setitem(vae, "encoder_blocks", ENCODER_BLOCKS)
        patch.setitem(tiny.CONV_VAE, "decoder_blocks", DECODER_BLOCKS)
        patch.setitem(tiny.DIFFUSION_VAE["encoder"], "blocks", ENCODER_BLOCKS)
        patch.setitem(tiny.AUDIO_VAE, "ch", 128)  # the released width, because diffusers stores a mean for each channel
        patch.setitem(tiny.AUDIO_VAE, "ch_mult", AUDIO_MULTIPLIERS)
        patch.setitem(tiny.VERSIONS["2.0"].changes, "vocoder", tiny.VOCODER)
        for generator in ("vocoder", "bwe"):
            patch.setitem(tiny.TWO_VOCODERS, generator, tiny.VOCODER)
        make_tiny_checkpoint(folder, version=request.param)
    return Model(request.param, folder)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_close(own: Tensor, reference: Tensor, tolerance: float) -> None:
    assert own.shape == reference.shape
    assert (own - reference).abs().max() / reference.abs().max() <= tolerance


def test_every_tensor_of_the_checkpoint_belongs_to_one_class_of_diffusers(model: Model) -> None:
    read = [(path, name) for name in CLASSES[model.version] for path in model.paths(name)]
    owned = [(path, tensor) for path, name in read for tensor in REFERENCES[name].names(load_file(path))]
    official = {tensor for path in {path for path, _ in read} for tensor in load_file(path) if not is_of_gemma(tensor)}
    assert len(owned) == len(set(owned))
    assert {tensor for _, tensor in owned} == official


def is_of_gemma(tensor: str) -> bool:
    """Whether a tensor belongs to the language model or its tokenizer, which both programs run with transformers."""
    return re.match(r"model\.(?!diffusion_model)|hf_asset__|tokenizer_json", tensor) is not None


def stream_input(positions: Tensor, width: int, seed: int) -> StreamInput:
    """Two samples, each with one noise level for all tokens; the exchange only agrees if both streams share it."""
    return StreamInput(
        latent=random(2, positions.shape[2], 128, seed=seed),
        sigma=torch.tensor([0.6, 0.9]),
        unique_timesteps=torch.tensor([[0.6], [0.9]]),
        positions=positions.expand(2, -1, -1, -1),
        context=random(2, TEXT_TOKENS, width, seed=seed + 1),
    )


TOKENS = torch.arange(POSITIONS.video.shape[2])
TEXT_MASK = (torch.arange(TEXT_TOKENS) < torch.tensor([[TEXT_TOKENS], [4]])).long()


def as_it_is(inputs: Streams[StreamInput]) -> Streams[StreamInput]:
    return inputs


def with_given_tokens(inputs: Streams[StreamInput]) -> Streams[StreamInput]:
    """Half of the video tokens are given completely or partly, and all of the audio tokens."""
    timesteps, index = torch.tensor([[0.6, 0.0], [0.9, 0.3]]), (TOKENS < 12).long().expand(2, -1)
    return Streams(
        replace(inputs.video, unique_timesteps=timesteps, timestep_index=index),
        replace(inputs.audio, sigma=torch.zeros(2), unique_timesteps=torch.zeros(2, 1)),
    )


def with_masks(inputs: Streams[StreamInput]) -> Streams[StreamInput]:
    triangle = torch.ones(2, len(TOKENS), len(TOKENS)).tril()
    return Streams(
        replace(inputs.video, context_mask=TEXT_MASK, attention_mask=triangle),
        replace(inputs.audio, context_mask=TEXT_MASK),
    )


def with_marked_frame(inputs: Streams[StreamInput]) -> Streams[StreamInput]:
    """The first frame is marked as in a render; only models of 2.5 use the marker."""
    state = LatentState.video(torch.zeros(2, 128, *GRID), FPS, FACTORS)
    return Streams(replace(inputs.video, keyframes_mask=state.keyframes_mask), inputs.audio)


PERTURBED = Perturbation(video_self={2}, audio_self={2})
ISOLATED = Perturbation(audio_to_video=ALL_BLOCKS, video_to_audio=ALL_BLOCKS)
THEIR_BLOCKS = {"spatio_temporal_guidance_blocks": [2]}
CASES = {
    "whole": (as_it_is, [], {}),
    "perturbed": (as_it_is, [PERTURBED] * 2, THEIR_BLOCKS),
    "one-sample-perturbed": (
        as_it_is,
        [PERTURBED, Perturbation()],
        THEIR_BLOCKS | {"perturbation_mask": torch.tensor([0.0, 1.0])},
    ),
    "isolated-with-given-tokens": (with_given_tokens, [ISOLATED] * 2, {"isolate_modalities": True}),
    "masked": (with_masks, [], {}),
    "marked": (with_marked_frame, [], {}),
}


@pytest.fixture(scope="module")
def denoisers(model: Model) -> tuple[Any, Any]:
    return model.ours("transformer"), model.theirs("transformer", perturbed_attn=True)


@pytest.mark.parametrize("case", CASES)
def test_denoiser_agrees(denoisers: tuple[Any, Any], case: str) -> None:
    (own, reference), (change, perturbations, settings) = denoisers, CASES[case]
    channels = own.config.caption_channels
    video, audio = (channels or stream.width for stream in (own.config.video, own.config.audio))
    inputs = change(Streams(stream_input(POSITIONS.video, video, 1), stream_input(POSITIONS.audio, audio, 3)))
    expected = reference(**transformer_arguments(inputs), **settings, return_dict=False)
    for a, b in zip(own(inputs, perturbations), expected, strict=True):
        assert_close(a, b, tolerances.DIFFUSERS_ATTENTION)


def test_positions_are_the_same(denoisers: tuple[Any, Any]) -> None:
    _, reference = denoisers
    cpu = torch.device("cpu")
    assert POSITIONS.video.equal(reference.rope.prepare_video_coords(1, *GRID, cpu, fps=float(FPS)))
    assert POSITIONS.audio.equal(reference.audio_rope.prepare_audio_coords(1, AUDIO_TOKENS, cpu))


def test_text_contexts_agree(model: Model) -> None:
    rows, lengths = 256, (5, 200)  # twice the registers; the second prompt skips some
    layers = tiny_text.LAYERS[tiny.VERSIONS[model.version].encoder] + 1
    hidden = random(2, rows, tiny_text.WIDTH, layers)
    mask = torch.stack([torch.arange(rows) >= rows - length for length in lengths]).long()
    *expected, _ = model.theirs("connectors", text_proj_in_factor=layers)(hidden, mask)
    models = ContextModels(*(model.ours(part) for part in ("text_projection", "video_connector", "audio_connector")))
    for i, length in enumerate(lengths):
        context = models.connect(hidden[i : i + 1, rows - length :], rows)
        for own, reference in zip((context.video, context.audio), expected, strict=True):
            assert_close(own, reference[i : i + 1], tolerances.DIFFUSERS_ATTENTION)


VAES = {  # shapes of the encoder's input and of the latent to decode, and the layout of the statistics
    "video": ((2, 3, 17, 64, 96), (2, 128, *GRID), "c -> c 1 1 1"),
    "audio": ((2, 2, 18, 64), (2, 8, 5, 16), "(c m) -> c 1 m"),
}


@pytest.mark.parametrize("vae", VAES)
def test_vae_agrees(model: Model, vae: str) -> None:
    source, shape, axes = VAES[vae]
    given, latent = random(*source), random(*shape)
    reference = model.theirs(f"{vae}_vae")
    both = (reference.latents_mean, reference.latents_std)  # diffusers applies them in its pipelines
    mean, std = (rearrange(statistics, axes, c=shape[1]) for statistics in both)
    encoded = (reference.encode(given).latent_dist.mode() - mean) / std
    decoded = reference.decode(latent * std + mean).sample
    assert_close(model.ours(f"{vae}_encoder")(given), encoded, tolerances.DIFFUSERS_CONVOLUTIONS)
    assert_close(model.ours(f"{vae}_decoder")(latent), decoded, tolerances.DIFFUSERS_CONVOLUTIONS)


def test_vocoder_agrees(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is in float64, because rounding to float32 alone changes the waveform of 2.3 and 2.5 by up to
    3e-5.
    """
    taps = vocoder.upsampling_filter
    monkeypatch.setattr(vocoder, "upsampling_filter", lambda *given: taps(*given).double())
    name = "vocoder" if model.version == "2.0" else "extended_vocoder"
    own, reference = (
        made.double()(random(2, 2, 17, 64).double()) for made in (model.ours("vocoder"), model.theirs(name))
    )
    assert_close(own, reference, tolerances.DIFFUSERS_CONVOLUTIONS)


def test_upsamplers_agree(model: Model) -> None:
    latent = random(2, 128, *GRID)
    for path in model.upsamplers:
        own, reference = (load("upsampler", path)(latent) for load in (model.ours, model.theirs))
        assert_close(own, reference, tolerances.DIFFUSERS_CONVOLUTIONS)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("model", ["2.5"], indirect=True)
def test_diffusion_decoder_agrees_without_repeated_edges(model: Model) -> None:
    latent = random(1, 128, 3, 2, 3)  # diffusers refuses latents that are smaller than the windows
    reference, own = model.theirs("diffusion_decoder"), model.ours("video_decoder", model.paths("diffusion_decoder")[0])
    own.repeats_edges = False  # diffusers shifts the windows inwards instead
    mean, std = (rearrange(one, "c -> c 1 1 1") for one in (reference.latents_mean, reference.latents_std))
    expected = reference.decode(latent * std + mean, torch.Generator().manual_seed(0)).sample
    decoded = own(latent, torch.Generator().manual_seed(0))
    assert_close(decoded, expected, tolerances.DIFFUSERS_DIFFUSION_DECODER)


@pytest.mark.parametrize("model", ["2.5"], indirect=True)
@pytest.mark.parametrize("streams", [("video", "audio"), ("video",), ("audio",)])
def test_duration_head_agrees(model: Model, streams: tuple[str, ...]) -> None:
    own, reference = model.ours("duration_head"), model.theirs("duration_head")
    widths = {"video": own.config.video_width, "audio": own.config.audio_width}
    contexts = {name: random(2, 12, width) if name in streams else None for name, width in widths.items()}
    expected = reference(contexts["video"], contexts["audio"])
    assert_close(own(**contexts), expected, tolerances.DIFFUSERS_ATTENTION)


@pytest.mark.parametrize("tokens", [96, 4096, 8160])
@pytest.mark.parametrize("steps", [2, 8, 40])
def test_schedule_agrees_for_the_same_token_count(steps: int, tokens: int) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.1)
    calculate_shift = resolve_name("diffusers.pipelines.ltx2.pipeline_ltx2:calculate_shift")
    shift = calculate_shift(tokens, base_seq_len=1024, max_seq_len=4096, base_shift=0.95, max_shift=2.05)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist(), mu=shift)
    assert_close(ltx2_schedule(steps, tokens), scheduler.sigmas, tolerances.DIFFUSERS_SCHEDULE)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_ancestral_sampler_agrees(eta: float) -> None:
    sigmas = torch.tensor([1.0, 0.975, 0.725, 0.421875, 0.0])
    noise = random(1, 128, *GRID)
    states = States(video=LatentState.video(noise, FPS, FACTORS))
    generator = torch.Generator().manual_seed(1)
    options = {"generator": generator, "eta": eta, "noise_dtype": torch.float32}
    own = sample_ancestral(halve, states, sigmas, lambda *_: None, **options)
    scheduler = diffusers.LTXEulerAncestralRFScheduler(eta=eta)
    scheduler.set_timesteps(sigmas=sigmas.tolist())
    generator.manual_seed(1)
    sample = patchify_video(noise)
    for sigma, timestep in zip(sigmas[:-1], scheduler.timesteps[:-1], strict=True):
        velocity = (sample - sample / 2) / sigma
        sample = scheduler.step(velocity, timestep, sample, generator=generator, return_dict=False)[0]
    assert_close(own.video.latent, sample, tolerances.DIFFUSERS_ANCESTRAL)


def halve(states: States, sigma: float, step: int) -> Latents:
    """A model whose clean estimate is half of the noisy latent."""
    return states.map(lambda state: state.latent / 2)


def test_guidance_agrees_for_one_sample() -> None:
    """For several samples, the official rule uses the standard deviation over all of them, diffusers that of each."""
    estimates = {kind: random(1, 24, 128, seed=seed) for seed, kind in enumerate(PassKind)}
    scales = {"guidance_scale": 3.0, "stg_scale": 1.0, "modality_scale": 4.0, "guidance_rescale": 0.7}
    reference = diffusers.LTX2Guidance(**scales, **THEIR_BLOCKS).forward(*estimates.values()).pred
    own = guide(estimates, GuidanceScales(st=3.0, stg=1.0, stg_blocks=(2,), sm=4.0, rescale=0.7))
    assert_close(own, reference, tolerances.DIFFUSERS_GUIDANCE)
