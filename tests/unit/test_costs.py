"""Computed costs, compared with counts on tensors that have shapes and no data."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import ceil
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from ltx2_core import parallel
from ltx2_core.config.audio import AudioVAEConfig, VocoderConfig
from ltx2_core.config.released import released_configs
from ltx2_core.config.text import PROJECTED_ROWS, ProjectionConfig
from ltx2_core.config.transformer import TransformerConfig
from ltx2_core.config.upsampler import UpsamplerConfig
from ltx2_core.config.video_vae import VideoVAEConfig
from ltx2_core.costs import audio, decoding, diffusion_decoder, host, video_vae
from ltx2_core.costs.denoiser import (
    Evaluation,
    Walk,
    activation_bytes,
    attention_bytes,
    forward_flops,
    text_memory_bytes,
)
from ltx2_core.costs.text import LanguageModel, connecting_bytes
from ltx2_core.costs.upsampler import upsample_bytes, upsample_flops, upsample_workspace_bytes
from ltx2_core.costs.weights import streamed_bytes
from ltx2_core.grids import VideoGrid, audio_latent_count
from ltx2_core.hub.published import tensor_list
from ltx2_core.latents import LatentState
from ltx2_core.machine import RankLayout
from ltx2_core.models import diffusion_layers, neighbours
from ltx2_core.models.audio_vae import AudioDecoder, AudioEncoder
from ltx2_core.models.capture import AttentionCapture
from ltx2_core.models.chunks import Chunks
from ltx2_core.models.connector import TextProjection
from ltx2_core.models.diffusion_decoder import DiffusionDecoder
from ltx2_core.models.mel import mel_from_waveform
from ltx2_core.models.upsampler import LatentUpsampler
from ltx2_core.models.video_vae import VideoDecoder, VideoEncoder
from ltx2_core.models.vocoder import build_vocoder
from ltx2_core.parallel import Ranks, Split
from ltx2_core.pipeline.doctor.sample import random_transformer, scaled_settings
from ltx2_core.sampling.denoiser import GuidedDenoiser
from ltx2_core.sampling.guidance import Contexts, GuidanceScales
from ltx2_core.tiles import AUDIO_CONTEXT, Cut, TilePlan
from ltx2_core.tiling.audio import encode_audio
from ltx2_core.tiling.streamed_clip import StreamedClip
from ltx2_core.tiling.video import decode_video, encode_tiled
from ltx2_core.types import Streams
from scripts.benchmarks.meta import LiveBytes, flop_counter
from tests.diffusion_vae import vae_metadata
from tests.tolerances import LEAST_PLANNED, MOST_PLANNED
from tests.unit.test_manifests import manifest

FPS, ROWS, LAYERS = Fraction(24), 256, 2
CONFIG = released_configs()["2.0"]
VAE = VideoVAEConfig.from_metadata(CONFIG)


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def on_meta(build: Callable[[Any], nn.Module], config: Any, dtype: torch.dtype = torch.bfloat16) -> Any:
    with torch.device("meta"):
        return build(config).requires_grad_(False).to(dtype)


def counted(run: Callable[[], Any], model: nn.Module, *given: torch.Tensor) -> tuple[int, int]:
    """The peak of live bytes besides the model and its inputs, and the FLOPs."""
    with flop_counter() as flops:
        peak = peak_of(run, model, *given)
    return peak, flops.get_total_flops()


def peak_of(run: Callable[[], Any], model: nn.Module, *given: torch.Tensor) -> int:
    """The peak of live bytes besides the model and its inputs."""
    with torch.inference_mode(), LiveBytes([*given, *model.parameters(), *model.buffers()]) as memory:
        run()
    return memory.peak


@pytest.mark.parametrize("chunks", [Chunks(300, keeps_tables=False), Chunks()], ids=["lean", "whole"])
def test_denoiser_takes_what_is_said(chunks: Chunks) -> None:
    width, height, frames = 512, 384, 41
    config = TransformerConfig.from_metadata(scaled_settings(LAYERS, 8))
    grid = VideoGrid(frames=frames, height=height, width=width, factors=VAE.factors)
    model = random_transformer(config, torch.bfloat16, torch.device("meta"))
    model.work_in(chunks)
    steps = audio_latent_count(frames, FPS)
    video = LatentState.video(empty(1, 128, *grid.latent), FPS, VAE.factors)
    states = Streams(video, LatentState.audio(empty(1, 8, steps, 16)))
    text = empty(1, ROWS, config.caption_channels or 0)
    contexts, scales = Streams(Contexts(text), Contexts(text)), Streams(GuidanceScales(), GuidanceScales())
    denoise = GuidedDenoiser(model=model, contexts=contexts, scales=scales)
    walk = Walk(itemsize=2, chunk_tokens=chunks.tokens, keeps_tables=chunks.keeps_tables, keeps_text=True)
    evaluation = Evaluation(video=grid.tokens, audio=steps, text=ROWS)
    said = activation_bytes(config, evaluation, walk) + text_memory_bytes(config, evaluation, 2)
    given = [text, *(state.latent for state in states if state is not None)]
    peak, flops = counted(lambda: denoise(states, 0.7, 1), model, *given)
    assert forward_flops(config, evaluation, blocks=LAYERS) == pytest.approx(flops, rel=0.02)
    assert LEAST_PLANNED <= said / peak <= MOST_PLANNED


@pytest.mark.parametrize("chunks", [Chunks(), Chunks(1300)], ids=["whole", "chunks"])
def test_a_map_of_the_attention_takes_what_is_said(chunks: Chunks) -> None:
    config = TransformerConfig.from_metadata(scaled_settings(LAYERS, 1))
    grid = VideoGrid(frames=121, height=128, width=128, factors=VAE.factors)
    model = random_transformer(config, torch.bfloat16, torch.device("meta"))
    model.work_in(chunks)
    steps = 40 * audio_latent_count(121, FPS)  # so much audio that the captured weights are the largest part
    video = LatentState.video(empty(1, 128, *grid.latent), FPS, VAE.factors)
    states = Streams(video, LatentState.audio(empty(1, 8, steps, 16)))
    text = empty(1, ROWS, config.caption_channels or 0)
    contexts, scales = Streams(Contexts(text), Contexts(text)), Streams(GuidanceScales(), GuidanceScales())
    denoise = GuidedDenoiser(model=model, contexts=contexts, scales=scales, capture=AttentionCapture())
    walk = Walk(itemsize=2, chunk_tokens=chunks.tokens, keeps_tables=True, keeps_text=True, captures=True)
    evaluation = Evaluation(video=grid.tokens, audio=steps, text=ROWS)
    said = activation_bytes(config, evaluation, walk) + text_memory_bytes(config, evaluation, 2)
    said += attention_bytes(evaluation)
    given = [text, *(state.latent for state in states if state is not None)]
    peak = peak_of(lambda: denoise(states, 0.7, 1), model, *given)
    assert LEAST_PLANNED <= said / peak <= MOST_PLANNED


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("chunks", [Chunks(), Chunks(100)], ids=["whole", "chunks"])
def test_a_rank_that_has_some_rows_of_the_video_takes_what_is_said(
    width: int, chunks: Chunks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: Any, **__: Any) -> None:
        """Send nothing, because tensors without data need no communication."""

    talk = SimpleNamespace(all_to_all_single=nothing, all_gather=nothing, broadcast=nothing)
    monkeypatch.setattr(parallel, "dist", talk)
    config = TransformerConfig.from_metadata(scaled_settings(LAYERS, 8))
    grid = VideoGrid(frames=41, height=384, width=512, factors=VAE.factors)
    model = random_transformer(config, torch.bfloat16, torch.device("meta"))
    model.work_in(chunks)
    steps = audio_latent_count(41, FPS)
    video = LatentState.video(empty(1, 128, *grid.latent), FPS, VAE.factors)
    states = Streams(video, LatentState.audio(empty(1, 8, steps, 16)))
    text = empty(1, ROWS, config.caption_channels or 0)
    scales = Streams(GuidanceScales(), GuidanceScales())
    meta = torch.device("meta")
    split = Split(Ranks(0, width, meta, meta, None), RankLayout(1, width))
    contexts = Streams(Contexts(text), Contexts(text))
    denoise = GuidedDenoiser(model=model, contexts=contexts, scales=scales, split=split)
    walk = Walk(itemsize=2, chunk_tokens=chunks.tokens, keeps_tables=True, keeps_text=True, exchanges_rows=True)
    evaluation = Evaluation(video=ceil(grid.tokens / width), audio=steps, text=ROWS)
    said = activation_bytes(config, evaluation, walk) + text_memory_bytes(config, evaluation, 2)
    given = [text, *(state.latent for state in states if state is not None)]
    with split.over(model):
        peak = peak_of(lambda: denoise(states, 0.7, 1), model, *given)
    assert LEAST_PLANNED <= said / peak <= MOST_PLANNED


@pytest.mark.parametrize(
    ("plan", "size"),
    [
        (TilePlan(), (384, 256, 25)),
        (TilePlan(frames=Cut(32, 16), width=Cut(192, 64)), (256, 128, 41)),
    ],
)
def test_video_vae_takes_what_is_said(plan: TilePlan, size: tuple[int, int, int]) -> None:
    width, height, frames = size
    grid = VideoGrid(frames=frames, height=height, width=width, factors=VAE.factors)
    decoder, encoder = on_meta(VideoDecoder, VAE), on_meta(VideoEncoder, VAE)
    latent = empty(1, 128, *grid.latent)
    peak, flops = counted(lambda: [None for _ in decode_video(latent, decoder, plan)], decoder, latent)
    assert LEAST_PLANNED <= video_vae.decode_bytes(VAE, grid, plan, 2) / peak <= MOST_PLANNED
    assert video_vae.decode_flops(VAE, grid, plan) == flops
    assert 0 < video_vae.decode_workspace_bytes(VAE, grid, plan, 2) < peak
    peak, flops = counted(lambda: encoded(grid, encoder, plan), encoder)
    said = video_vae.encode_bytes(VAE, grid, plan, 2)
    said += video_vae.held_bytes(VAE, grid, plan, 2) * (plan != TilePlan())
    assert LEAST_PLANNED <= said / peak <= MOST_PLANNED
    assert video_vae.encode_flops(VAE, grid, plan) == flops


def test_a_single_frame_takes_what_is_said() -> None:
    """An upsampling in time drops the first of its frames, whose memory stays allocated with that of the other one."""
    grid = VideoGrid(frames=1, height=256, width=384, factors=VAE.factors)
    decoder, latent = on_meta(VideoDecoder, VAE), empty(1, 128, *grid.latent)
    peak = peak_of(lambda: [None for _ in decode_video(latent, decoder, TilePlan())], decoder, latent)
    assert video_vae.decode_bytes(VAE, grid, TilePlan(), 2) == pytest.approx(peak, rel=0.02)


def encoded(grid: VideoGrid, encoder: VideoEncoder, plan: TilePlan) -> torch.Tensor:
    """Encode a clip without data: read completely, or piece by piece during the encoding."""
    shape = torch.Size((1, 3, grid.frames, grid.height, grid.width))
    if plan == TilePlan():
        return encoder(empty(*shape))
    frames = (empty(1, 3, 1, grid.height, grid.width) for _ in range(grid.frames))
    return encode_tiled(StreamedClip(frames, shape, "meta", torch.bfloat16), encoder, plan)


def test_a_clip_that_is_read_while_it_is_encoded_takes_no_more_where_it_is_longer() -> None:
    encoder, plan = on_meta(VideoEncoder, VAE), TilePlan(frames=Cut(32, 16))
    short, long = (VideoGrid(frames=frames, height=64, width=256, factors=VAE.factors) for frames in (81, 129))
    peaks = [peak_of(lambda grid=grid: encoded(grid, encoder, plan), encoder) for grid in (short, long)]
    assert peaks[1] == pytest.approx(peaks[0], rel=0.01)
    for count in (video_vae.encode_bytes, video_vae.held_bytes):
        assert count(VAE, short, plan, 2) == count(VAE, long, plan, 2)


@pytest.mark.parametrize("size", [pytest.param((224, 192, 25), marks=pytest.mark.slow), (160, 128, 9)])
def test_diffusion_decoder_takes_what_is_said(size: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    plan = TilePlan()
    # Real kernels do not store the scores, but the one that is counted here would.
    monkeypatch.setattr(neighbours, "attention", lambda q, k, v, bias: torch.empty_like(q))
    width, height, frames = size
    changes = {"head_dim": 32, "stage_channels": [512, 256, 256, 256, 128]}
    config = VideoVAEConfig.from_metadata(vae_metadata(**changes))
    grid = VideoGrid(frames=frames, height=height, width=width, factors=config.factors)
    decoder, latent = on_meta(DiffusionDecoder, config), empty(1, 4, *grid.latent)
    peak = peak_of(lambda: [None for _ in decode_video(latent, decoder, plan)], decoder, latent)
    assert LEAST_PLANNED <= decoding.decode_bytes(config, grid, plan, 2) / peak <= MOST_PLANNED


def test_full_hd_is_decoded_by_the_diffusion_decoder_within_12_gb() -> None:
    config = VideoVAEConfig.from_metadata(tensor_list("video-vae-2.5-diffusion")["metadata_config"])
    grid = VideoGrid(frames=121, height=1088, width=1920, factors=config.factors)
    nbytes = 12 * 2**30 - 834_268_000  # without the decoder's weights
    plan = decoding.auto_plan(config, grid, 2, nbytes)
    assert decoding.decode_bytes(config, grid, plan, 2) <= nbytes
    assert (plan.frames, plan.height) == (Cut(128, 40), Cut(1088, 160))


def test_frames_that_were_handed_out_are_gone_before_the_next_are_made() -> None:
    decoder, plan = on_meta(VideoDecoder, VAE), TilePlan(frames=Cut(32, 16))
    peaks = []
    for frames in (41, 81):
        grid = VideoGrid(frames=frames, height=64, width=512, factors=VAE.factors)
        latent = empty(1, 128, *grid.latent)
        run = lambda latent=latent: [None for _ in decode_video(latent, decoder, plan)]  # noqa: E731
        peaks.append(peak_of(run, decoder, latent))
    assert peaks[1] == pytest.approx(peaks[0], rel=1e-3)


@pytest.mark.parametrize("steps", [pytest.param(50, marks=pytest.mark.slow), 126])
def test_vocoder_with_a_bandwidth_extension_takes_what_is_said(steps: int) -> None:
    config = VocoderConfig.from_metadata(manifest("vocoder-2.3")["config"] | manifest("audio-vae-2.3")["config"])
    model, spectrogram = on_meta(build_vocoder, config, torch.float32), empty(1, 2, 4 * steps - 3, 64).float()
    peak, flops = counted(lambda: model(spectrogram), model, spectrogram)
    assert LEAST_PLANNED <= audio.vocode_bytes(config, steps) / peak <= MOST_PLANNED
    assert audio.vocode_flops(config, steps) == pytest.approx(flops, rel=0.05)


@pytest.mark.parametrize("steps", [50, 126])
def test_audio_models_take_what_is_said(steps: int) -> None:
    config, vocoder = AudioVAEConfig.from_metadata(CONFIG), VocoderConfig.from_metadata(CONFIG)
    spectrogram = empty(1, 2, 4 * steps - 3, config.mel.bins)
    latent = empty(1, config.latent_channels, steps, config.latent_bins)
    decoding = audio.decode_bytes(config, steps, 2), audio.decode_flops(config, steps)
    encoding = audio.encode_bytes(config, steps, 2), audio.encode_flops(config, steps)
    vocoding = audio.vocode_bytes(vocoder, steps), audio.vocode_flops(vocoder, steps)
    cases = (
        (on_meta(AudioDecoder, config), latent, *decoding),
        (on_meta(AudioEncoder, config), spectrogram, *encoding),
        (on_meta(build_vocoder, vocoder, torch.float32), spectrogram.float(), *vocoding),
    )
    for model, given, nbytes, flops in cases:
        peak, total = counted(lambda model=model, given=given: model(given), model, given)
        assert LEAST_PLANNED <= nbytes / peak <= MOST_PLANNED
        assert flops == pytest.approx(total, rel=0.05)


@pytest.mark.parametrize(
    ("steps", "itemsize", "measured"), [(50, 4, 68.0e6), (125, 4, 177.2e6), (50, 2, 35.2e6), (125, 2, 88.8e6)]
)
def test_the_audio_decoder_takes_on_the_cpu_what_was_measured(steps: int, itemsize: int, measured: float) -> None:
    """Measured beside the weights, after a shorter run."""
    config = AudioVAEConfig.from_metadata(CONFIG)
    said = audio.decode_bytes(config, steps, itemsize) + audio.decode_workspace_bytes(config, steps, itemsize)
    assert LEAST_PLANNED <= said / measured <= MOST_PLANNED


@pytest.mark.parametrize(
    ("version", "steps", "measured"),
    [("2.0", 50, 96.5e6), ("2.0", 125, 257.0e6), ("2.3", 10, 52.5e6), ("2.3", 50, 128.0e6), ("2.3", 125, 345.3e6)],
)
def test_vocoders_take_on_the_cpu_what_was_measured(version: str, steps: int, measured: float) -> None:
    """Measured as for the decoder; 2.3 has a bandwidth extension."""
    config = VocoderConfig.from_metadata(released_configs()[version])
    said = audio.vocode_bytes(config, steps) + audio.vocode_workspace_bytes(config, steps)
    assert LEAST_PLANNED <= said / measured <= MOST_PLANNED


@pytest.mark.parametrize("seconds", [5, 100])
def test_reading_audio_takes_what_is_said(seconds: int) -> None:
    config, piece = AudioVAEConfig.from_metadata(CONFIG), 200
    encoder, wave = on_meta(AudioEncoder, config), empty(1, 2, 48000 * seconds).float()

    def read() -> None:
        mel = mel_from_waveform(wave, 48000, config.mel)
        encode_audio(mel.bfloat16(), encoder, piece)

    said = audio.reading_bytes(config, 25 * seconds, piece + 2 * AUDIO_CONTEXT, Fraction(seconds), 2)
    assert LEAST_PLANNED <= said / (peak_of(read, encoder, wave) + wave.nbytes) <= MOST_PLANNED


@pytest.mark.parametrize(("seconds", "itemsize", "measured"), [(2, 4, 54.1e6), (5, 4, 122.3e6), (5, 2, 73.2e6)])
def test_reading_audio_takes_on_the_cpu_what_was_measured(seconds: int, itemsize: int, measured: float) -> None:
    """Measured beside the weights and the samples, after a shorter run."""
    config, duration = AudioVAEConfig.from_metadata(CONFIG), Fraction(seconds)
    said = audio.reading_bytes(config, 25 * seconds, 25 * seconds, duration, itemsize, on_cpu=True)
    assert LEAST_PLANNED <= (said - audio.wave_bytes(duration)) / measured <= MOST_PLANNED


@pytest.mark.parametrize(
    ("size", "itemsize", "decoder", "encoder"),
    [((128, 128), 4, 453.1e6, None), ((256, 192), 4, 455.2e6, 453.0e6), ((256, 192), 2, None, 226.5e6)],
)
def test_convolutions_copy_their_weights_on_the_cpu(
    size: tuple[int, int], itemsize: int, decoder: float | None, encoder: float | None
) -> None:
    """Measured as before, for 9 frames, which need little beside the weights; for the encoder without the 50 MB of
    freed tensors that the system's allocator kept.
    """
    width, height = size
    grid, whole = VideoGrid(frames=9, height=height, width=width, factors=VAE.factors), TilePlan()
    given = VAE, grid, whole, itemsize
    if decoder is not None:
        said = video_vae.decode_bytes(*given) + video_vae.decode_workspace_bytes(*given, on_cpu=True)
        assert LEAST_PLANNED <= said / decoder <= MOST_PLANNED
    if encoder is not None:
        said = video_vae.encode_bytes(*given) + video_vae.encode_workspace_bytes(*given, on_cpu=True)
        assert LEAST_PLANNED <= said / encoder <= MOST_PLANNED


def test_an_upsampler_copies_its_weights_on_the_cpu() -> None:
    """Measured as before, for 12 rows and 16 columns of two latent frames, which were made in bfloat16."""
    config = UpsamplerConfig.from_metadata(released_configs()["upsampler-spatial-x2-rational"])
    said = upsample_bytes(config, 2 * 12 * 16, 2) + upsample_workspace_bytes(config, 2 * 12 * 16, 2, on_cpu=True)
    assert LEAST_PLANNED <= said / 82.7e6 <= MOST_PLANNED


@pytest.mark.parametrize("name", ["upsampler-spatial-x2-rational", "upsampler-temporal-x2"])
def test_upsamplers_take_what_is_said(name: str) -> None:
    config = UpsamplerConfig.from_metadata(released_configs()[name])
    model, latent = on_meta(LatentUpsampler, config), empty(1, 128, 6, 8, 12)
    after = 6 * 16 * 24 if config.in_space else 11 * 8 * 12
    peak, flops = counted(lambda: model(latent), model, latent)
    assert LEAST_PLANNED <= upsample_bytes(config, after, 2) / peak <= MOST_PLANNED
    assert upsample_flops(config, 6 * 8 * 12, after) == pytest.approx(flops, rel=0.15)


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 8, 5), (9, 20, 33)])
def test_boxes_of_the_diffusion_decoder_read_as_many_keys_as_is_said(size: tuple[int, int, int]) -> None:
    assert diffusion_decoder.QUERY_BOX == neighbours.QUERY_BOX
    assert diffusion_decoder.TOKENS_AT_A_TIME == diffusion_layers.TOKENS_AT_A_TIME
    stage = diffusion_decoder._diffusion(VideoVAEConfig.from_metadata(vae_metadata())).stages[0]
    lengths = [max(length, kernel) for length, kernel in zip(size, stage.kernel, strict=True)]
    spans = [
        {one.span for one in neighbours.Windows.shifted(length, kernel).boxes(min(box, length))}
        for length, kernel, box in zip(lengths, stage.kernel, neighbours.QUERY_BOX, strict=True)
    ]
    assert [{one} for one in diffusion_decoder._spans(stage, (lengths[0], lengths[1], lengths[2]), 0)] == spans


@pytest.mark.parametrize("generation", ["2.0", "2.3"])
@pytest.mark.parametrize(("tokens", "is_brought"), [(16, True), (16, False), (256, True), (256, False)])
def test_projecting_hidden_states_takes_what_is_said(tokens: int, is_brought: bool, generation: str) -> None:
    layers, width, is_shared = 49, 960, generation == "2.0"
    config = ProjectionConfig(features=layers * width, video_width=1024, audio_width=512, is_shared=is_shared)
    projection = on_meta(TextProjection, config, torch.float32 if is_brought else torch.bfloat16)
    hidden = empty(1, tokens, width, layers)
    model = LanguageModel(width=width, feed_forward=0, layers=layers - 1, parameters=0, kept=0)
    brought = is_brought * PROJECTED_ROWS * layers * width * 2
    peak = peak_of(lambda: projection(hidden), projection, hidden)
    said = connecting_bytes(model, [tokens], [], 128, 2, is_shared=is_shared, brought=brought)
    said -= model.hidden_bytes(tokens, 2)  # which exist before the call
    assert LEAST_PLANNED <= said / peak <= MOST_PLANNED


def test_frames_that_wait_for_the_encoder_are_counted_as_far_as_they_may_wait() -> None:
    def waiting(frames: int) -> int:
        grid = VideoGrid(frames=frames, height=1088, width=1920, factors=VAE.factors)
        return host.written_bytes(grid)

    assert waiting(17) - waiting(9) == 8 * 1.5 * 1088 * 1920
    assert waiting(1001) == waiting(2001)


def test_streamed_blocks_take_those_that_stay_and_two_slots_for_the_largest_of_the_others() -> None:
    blocks = (3, 5, 7, 2)
    assert [streamed_bytes(blocks, resident) for resident in range(5)] == [2 * 7, 3 + 2 * 7, 8 + 2 * 7, 15 + 2, 17]
    assert streamed_bytes((), 0) == 0
