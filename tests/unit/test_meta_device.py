"""Every model and its arithmetic on a device without data: no tensor is on another device, and no code reads values.

The meta device replaces a GPU. Masks and positions, which determine shapes, are on the CPU by design; all other inputs
of a computation must be on the device of the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ltx2_core.conditioning.conditions import (
    GivenTokens,
    Keyframe,
    KeyframeSlots,
    ReferenceAudio,
    ReferenceVideo,
    TimeWindow,
    WithAttention,
    before_start,
)
from ltx2_core.config.text import ConnectorConfig, ProjectionConfig
from ltx2_core.grids import Factors
from ltx2_core.latents import Latents, LatentState, States, audio_positions, to_denoised
from ltx2_core.models.audio_vae import AudioDecoder, AudioEncoder
from ltx2_core.models.connector import Connector, TextProjection
from ltx2_core.models.mel import mel_from_waveform
from ltx2_core.models.transformer import Transformer
from ltx2_core.models.upsampler import LatentUpsampler, upsample_latent
from ltx2_core.models.video_vae import ChannelStatistics, VideoDecoder, VideoEncoder
from ltx2_core.models.vocoder import build_vocoder
from ltx2_core.pipeline.render.tiled import TiledDenoiser, tiled
from ltx2_core.sampling.denoiser import GuidedDenoiser
from ltx2_core.sampling.guidance import Contexts, GuidanceScales
from ltx2_core.sampling.noise import add_noise
from ltx2_core.sampling.res2s import sample_res2s
from ltx2_core.sampling.samplers import sample_ancestral, sample_euler, sample_gradient_estimation
from ltx2_core.sampling.schedules import ltx2_schedule
from ltx2_core.text.encode import ContextModels
from ltx2_core.tiles import Cut, TilePlan
from ltx2_core.tiling.video import decode_video, encode_tiled
from ltx2_core.types import Streams
from tests.unit import test_audio, test_text, test_transformer, test_upsampler, test_video_vae
from tests.unit.test_transformer import LATER_GENERATION

FPS, FACTORS = Fraction(24), Factors(8, 32, 32)
COPIES = (torch.ops.aten.to, torch.ops.aten._to_copy, torch.ops.aten.copy_)
TILES = TilePlan(frames=Cut(16, 8), height=Cut(32, 16), width=Cut(32, 16))


class OneDevice(TorchDispatchMode):
    """Refuse operations on tensors of two devices, except for copies and single numbers.

    The meta device itself allows products and in-place changes.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.dim()]
        devices = {tensor.device.type for tensor in tensors}
        if len(devices) > 1 and func.overloadpacket not in COPIES:
            raise RuntimeError(f"{func} mixes {' and '.join(sorted(devices))}")
        return func(*args, **(kwargs or {}))


def on_meta(module: Callable[..., nn.Module], *args: Any) -> Any:
    with torch.device("meta"):
        return module(*args).requires_grad_(False).to(torch.bfloat16)


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def noisy_states() -> States:
    """Both streams with every kind of condition, and noise."""
    latent = empty(1, 12, 2, 12, 18)
    still, half = latent[:, :, :1], latent[..., ::2, ::2]
    reference = ReferenceVideo(latent=half, fps=FPS, factors=FACTORS, spatial_scale=2, strength=0.8)
    conditions = [
        TimeWindow(start_s=0.1, end_s=0.3),
        GivenTokens.frames(still, strength=0.9),
        Keyframe(latent=still, frame=5, fps=FPS, factors=FACTORS, strength=0.5),
        WithAttention(reference, empty(1, 2 * 6 * 9, dtype=torch.float32)),
        KeyframeSlots(frames=(3,), fps=FPS, factors=FACTORS, seeds=still),
    ]
    sound = empty(1, 5, 7, 2)
    heard = ReferenceAudio(tokens=empty(1, 7, 10), positions=before_start(audio_positions(7)))
    video, audio = LatentState.video(latent, FPS, FACTORS), heard.apply(LatentState.audio(sound))
    for condition in conditions:
        video = condition.apply(video)
    generator = seeded()
    return Streams(video, audio).map(lambda state: add_noise(state, generator, 0.9, torch.bfloat16))


def guided(changes: dict, **options: bool) -> GuidedDenoiser:
    model = on_meta(Transformer, test_transformer.config(num_layers=2, **changes))
    config = model.config
    contexts = config.streams.map(
        lambda stream: Contexts(*(empty(1, 5, config.caption_channels or stream.width) for _ in range(2)))
    )
    scales = GuidanceScales(st=3, sm=3, stg=1, stg_blocks=(1,), rescale=0.7)
    return GuidedDenoiser(model=model, contexts=contexts, scales=Streams(scales, scales), **options)


def assert_on_meta(made: object) -> None:
    tensors = [leaf for leaf in tree_leaves(made) if leaf is not None]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {}),
        ({"rope_type": "interleaved"}, {"keeps_text": False}),
        (LATER_GENERATION, {}),
        (LATER_GENERATION | {"use_prompt_adaln_single": False}, {"is_batched": True}),
    ],
    ids=["plain", "interleaved, text made anew", "gated and modulated", "no prompt adaln, batched"],
)
def test_guided_denoiser_computes_where_its_states_are(changes: dict, options: dict) -> None:
    denoise, states = guided(changes, **options), noisy_states()
    with torch.inference_mode(), OneDevice():
        assert_on_meta(denoise(states, 0.7, 0))


def test_tiles_of_the_denoiser_are_cut_and_joined_where_its_states_are() -> None:
    denoise, states = guided({}), noisy_states()
    with torch.inference_mode(), OneDevice():
        in_tiles = tiled(denoise, states, (1, 2, 1), FACTORS, Fraction(24))
        assert isinstance(in_tiles, TiledDenoiser)
        assert_on_meta(in_tiles(states, 0.7, 0))


SAMPLERS: dict[str, Callable[..., States]] = {
    "euler": sample_euler,
    "gradient": sample_gradient_estimation,
    "ancestral": partial(sample_ancestral, generator=seeded()),
    "res2s": partial(sample_res2s, step_generator=seeded(), middle_generator=seeded()),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_conditions_noise_and_samplers_compute_where_the_latent_is(name: str) -> None:
    def denoise(states: States, sigma: float, step: int) -> Latents:
        return states.map(lambda state: to_denoised(state.latent, state.latent, state.timesteps(sigma)))

    with torch.inference_mode(), OneDevice():
        states = SAMPLERS[name](denoise, noisy_states(), ltx2_schedule(3), lambda *_: None)
        assert_on_meta(states.map(lambda state: state.base))
        assert_on_meta(
            states.map(LatentState.freeze).map(lambda state: [state.timesteps(0.5), state.stream_sigma(0.5)])
        )


@pytest.mark.parametrize("config", [test_text.SHARED, test_text.SEPARATE], ids=["shared", "separate"])
def test_text_projection_and_connectors_compute_where_their_weights_are(config: dict) -> None:
    connectors = (on_meta(Connector, ConnectorConfig.from_metadata(config, stream)) for stream in ("video", "audio"))
    shapes = {"aggregate_embed.weight": (1, 96)}
    projection = on_meta(TextProjection, ProjectionConfig.from_metadata({**config, "shapes": shapes}))
    with torch.inference_mode(), OneDevice():
        context = ContextModels(projection, *connectors).connect(empty(1, 5, 24, 4), 64)
        assert_on_meta([context.video, context.audio])


@pytest.mark.parametrize("tiles", [TilePlan(), TILES], ids=["whole", "tiles"])
@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_video_encoder_computes_where_its_weights_are(padding: str, tiles: TilePlan) -> None:
    encoder = on_meta(VideoEncoder, test_video_vae.config(spatial_padding_mode=padding))
    with torch.inference_mode(), OneDevice():
        assert_on_meta(encode_tiled(empty(1, 3, 17, 48, 32), encoder, tiles))


@pytest.mark.parametrize("tiles", [TilePlan(), TILES], ids=["whole", "tiles"])
@pytest.mark.parametrize(
    ("padding", "is_conditioned", "generator"),
    [("zeros", False, None), ("reflect", True, None), ("reflect", True, seeded())],
    ids=["plain", "conditioned", "conditioned-by-a-generator"],
)
def test_video_decoder_computes_where_its_weights_are(
    padding: str, is_conditioned: bool, generator: torch.Generator | None, tiles: TilePlan
) -> None:
    changes = {"spatial_padding_mode": padding, "timestep_conditioning": is_conditioned}
    decoder = on_meta(VideoDecoder, test_video_vae.config(**changes))
    with torch.inference_mode(), OneDevice():
        assert_on_meta(list(decode_video(empty(1, 4, 5, 6, 4), decoder, tiles, generator)))


@pytest.mark.parametrize(
    "changes", [{}, {"rational_resampler": True, "spatial_scale": 1.5}, test_upsampler.TIME], ids=str
)
def test_upsampler_computes_where_its_weights_are(changes: dict) -> None:
    upsampler = on_meta(LatentUpsampler, test_upsampler.config(**changes))
    with torch.inference_mode(), OneDevice():
        assert_on_meta(upsample_latent(empty(1, 2, 3, 4, 6), upsampler, on_meta(ChannelStatistics, 2)))


@pytest.mark.parametrize(("channels", "rate"), [(1, 48000), (2, 16000), (6, 44100)])
def test_audio_models_compute_where_their_weights_are(channels: int, rate: int) -> None:
    encoder, decoder = on_meta(AudioEncoder, test_audio.VAE), on_meta(AudioDecoder, test_audio.VAE)
    vocoders = [on_meta(build_vocoder, config).float() for config in (test_audio.VOCODER, test_audio.EXTENDED)]
    with torch.inference_mode(), OneDevice():
        mel = mel_from_waveform(empty(1, channels, rate // 4, dtype=torch.float32), rate, test_audio.VAE.mel)
        latent = encoder(mel.bfloat16())
        waves = [vocoder(empty(1, 2, 9, 16, dtype=torch.float32)) for vocoder in vocoders]
        assert_on_meta([mel, latent, decoder(latent), *waves])


MIXED: dict[str, Callable[[Tensor], object]] = {
    "sum": lambda x: x + torch.ones(4, 4),
    "product": lambda x: x @ torch.ones(4, 4),
    "in place": lambda x: x.mul_(torch.ones(4)),
    "index": lambda x: x[:, torch.tensor([0, 1])],
    "value": lambda x: x.sum().item(),
    "choice": lambda x: x.unique(),
}


@pytest.mark.parametrize("what", MIXED)
def test_what_mixes_devices_or_asks_for_values_is_noticed(what: str) -> None:
    with torch.inference_mode(), OneDevice(), pytest.raises((RuntimeError, NotImplementedError)):
        MIXED[what](empty(4, 4, dtype=torch.float32))
