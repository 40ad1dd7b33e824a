"""Prompts of spans of a clip: the text that each token reads, and equalities with a clip of one text."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ltx2_core.latents import Latents, LatentState, States, audio_positions, video_positions
from ltx2_core.models.chunks import Chunks
from ltx2_core.models.segments import Run, TextShares, TextTimes
from ltx2_core.models.transformer import Transformer
from ltx2_core.pipeline.render.tiled import cut_into, tiled
from ltx2_core.pipeline.segments import Segment, parse_segment, text_spans
from ltx2_core.sampling.denoiser import GuidedDenoiser
from ltx2_core.sampling.guidance import Contexts
from ltx2_core.types import Streams
from tests.tolerances import BATCHED_PASSES, CHUNKED_TOKENS, EQUAL_TEXTS
from tests.unit.test_denoiser import FACTORS, GUIDED, PLAIN, relative
from tests.unit.test_transformer import VARIANTS, build, config

FPS = Fraction(24)
RAMP_S = float(8 / FPS)
TIMES = TextTimes(texts=(0, 1, 0), borders=(0.5, 1.25), ramp_s=RAMP_S)
GRID = (6, 2, 3)


def text(seed: int, channels: int = 20) -> Tensor:
    return torch.randn(1, 5, channels, generator=torch.Generator().manual_seed(seed))


def states(grid: tuple[int, int, int] = GRID) -> States:
    torch.manual_seed(3)
    return Streams(
        LatentState.video(torch.randn(1, 12, *grid), FPS, FACTORS), LatentState.audio(torch.randn(1, 5, 42, 2))
    )


def denoiser(model: Transformer, texts: list[int], times: TextTimes | None = TIMES, **options: Any) -> GuidedDenoiser:
    """A denoiser that reads these texts, given by their seeds."""

    def contexts(channels: int) -> Contexts:
        return Contexts(torch.cat([text(seed, channels) for seed in texts], dim=1), text(99, channels))

    assert model.config.video is not None
    assert model.config.audio is not None
    widths = (model.config.caption_channels or stream.width for stream in (model.config.video, model.config.audio))
    options = {"scales": GUIDED, **options}
    return GuidedDenoiser(model=model, contexts=Streams(*map(contexts, widths)), times=times, **options)


def estimate(denoise: GuidedDenoiser, given: States, tiles: tuple[int, int, int] | None = None) -> Latents:
    return (denoise if tiles is None else tiled(denoise, given, tiles, FACTORS, FPS))(given, 0.7, 0)


def test_weights_of_a_token_add_up_and_change_over_one_latent_frame() -> None:
    video = TIMES.weights(video_positions((6, 1, 1), FPS, FACTORS))
    middles = [0.5 / 24, *((8 * frame - 3) / 24 for frame in range(1, 6))]
    begun, over = ([min(max((m - border) / RAMP_S + 0.5, 0), 1) for m in middles] for border in TIMES.borders)
    assert video[1].tolist() == pytest.approx([a - b for a, b in zip(begun, over, strict=True)], abs=1e-6)
    assert {*video[1].tolist()} >= {0.0, 1.0}
    audio = TIMES.weights(audio_positions(42))
    for weights in (video, audio):
        assert weights.sum(0).tolist() == pytest.approx([1.0] * weights.shape[1], abs=1e-6)
    mixed = ((audio[1] > 0) & (audio[1] < 1)).sum().item()
    assert mixed == 2 * 8, "25 steps a second, and two borders of a third of a second"


def test_runs_name_no_text_without_weight_and_can_be_cut() -> None:
    weights = torch.tensor([[1, 1, 0.5, 0, 0, 1], [0, 0, 0.5, 1, 1, 0]])
    shares = TextShares.of(weights, torch.device("cpu"))
    assert shares.runs == (Run(0, 2, (0,)), Run(2, 3, (0, 1)), Run(3, 5, (1,)), Run(5, 6, (0,)))
    cut = shares.of_tokens(slice(1, 4))
    assert cut.runs == (Run(0, 1, (0,)), Run(1, 2, (0, 1)), Run(2, 3, (1,)))
    assert cut.weights.equal(weights[:, 1:4])
    assert shares.of_tokens(slice(None)) is shares


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_batched": True},
        {"keeps_text": False},
        {"scales": PLAIN, "chunks": Chunks(5, keeps_tables=False)},
        {"scales": PLAIN, "tiles": (1, 2, 1), "grid": (6, 1, 11)},
    ],
    ids=["kept text", "batched", "text made again", "chunks", "tiles"],
)
def test_equal_texts_equal_one_text(changes: dict, options: dict[str, Any]) -> None:
    options = dict(options)
    chunks, tiles, grid = options.pop("chunks", Chunks()), options.pop("tiles", None), options.pop("grid", GRID)
    model = build(config(**changes))
    model.work_in(chunks)
    plain = estimate(denoiser(model, [1], None, **options), states(grid), tiles)
    assert relative(estimate(denoiser(model, [1, 1], **options), states(grid), tiles), plain) <= EQUAL_TEXTS


@pytest.mark.parametrize("changes", VARIANTS)
def test_ways_of_running_segments_agree(changes: dict) -> None:
    model = build(config(**changes))
    usual = estimate(denoiser(model, [1, 2]), states())
    assert relative(usual, estimate(denoiser(model, [1], None), states())) > 0.01, "the second text counts"
    assert relative(estimate(denoiser(model, [1, 2], is_batched=True), states()), usual) <= BATCHED_PASSES
    assert relative(estimate(denoiser(model, [1, 2], keeps_text=False), states()), usual) <= BATCHED_PASSES
    model.work_in(Chunks(5))
    assert relative(estimate(denoiser(model, [1, 2]), states()), usual) <= BATCHED_PASSES


@pytest.mark.parametrize("changes", VARIANTS)
def test_tokens_inside_a_span_read_its_text_alone(changes: dict) -> None:
    attention = build(config(**changes)).blocks[1].video.text_attn
    width = attention.to_q.in_features
    queries = torch.randn(1, 36, width, generator=torch.Generator().manual_seed(5))
    first, second = text(1, width), text(2, width)
    weights = TIMES.weights(video_positions(GRID, FPS, FACTORS))
    shares = TextShares.of(weights, torch.device("cpu"))
    memory = attention.keys_values(torch.cat([first, second], dim=1))
    read = attention(queries, memory, shares=shares)
    plain = [attention(queries, attention.keys_values(one)) for one in (first, second)]
    for own, expected in zip(weights, plain, strict=True):
        is_inside = own == 1
        assert is_inside.any()
        difference = (read - expected)[:, is_inside].abs().max() / expected.abs().max()
        assert difference <= CHUNKED_TOKENS
    border = ((weights > 0) & (weights < 1)).all(0)
    mixed = weights[0, border, None] * plain[0][:, border] + weights[1, border, None] * plain[1][:, border]
    assert (read[:, border] - mixed).abs().max() / mixed.abs().max() <= CHUNKED_TOKENS


def test_tokens_in_windows_of_time_read_the_text_of_their_time_in_the_clip() -> None:
    video, audio = (
        LatentState.video(torch.zeros(1, 12, 24, 1, 1), FPS, FACTORS),
        LatentState.audio(torch.zeros(1, 5, 192, 2)),
    )
    times = TextTimes(texts=(0, 1, 0), borders=(2.0, 5.5), ramp_s=RAMP_S)
    denoise = denoiser(build(config()), [1, 2], times)
    windows = cut_into(Streams(video, audio), (3, 1, 1), FACTORS, FPS)
    assert len(windows) == 3
    for window in windows:
        for part, state in zip(window, (video, audio), strict=True):
            assert part is not None
            weights = times.weights(state.positions)
            shares = denoise._text_shares(part.state, slice(None))
            assert shares is not None
            assert (shares.weights - weights[:, part.tokens]).abs().max() < 1e-5


def test_appended_tokens_read_the_text_of_their_own_time() -> None:
    video = states().video
    assert video is not None
    late = video.positions[:, :, -6:]  # the positions of the last latent frame, repeated
    grown = replace(video, positions=torch.cat([video.positions, late], dim=2))
    weights = TIMES.weights(grown.positions)
    assert weights[:, -6:].equal(weights[:, -12:-6])


def test_a_stream_that_is_kept_reads_all_texts_in_every_pass() -> None:
    model = build(config())
    denoise = denoiser(model, [1, 2])
    video, audio = denoise.contexts
    assert audio is not None
    kept = replace(denoise, contexts=Streams(video, Contexts(audio.positive)))
    assert relative(estimate(replace(kept, is_batched=True), states()), estimate(kept, states())) <= BATCHED_PASSES


def segment(start: object, end: object, prompt: str) -> Segment:
    return Segment(start_s=Fraction(str(start)), end_s=Fraction(str(end)), prompt=prompt)


SEGMENTS = (segment(1, 2, "one"), segment(2, "3.5", "two"), segment(4, 5, "three"))


def test_spans_cover_the_clip_without_a_gap() -> None:
    spans = text_spans("all", SEGMENTS, Fraction(6))
    assert [span.text for span in spans] == ["all", "one", "two", "all", "three", "all"]
    assert (spans[0].start_s, spans[-1].end_s) == (0, 6)
    assert all(one.end_s == other.start_s for one, other in pairwise(spans))
    assert [span.text for span in text_spans("all", [segment(0, 6, "whole")], Fraction(6))] == ["whole"]


@pytest.mark.parametrize("written", ["0s-3s", "0s-3s=", "3s-0s=text", "3s=text", "0s-3s=@file.txt", "a-b=text"])
def test_what_is_no_segment_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"its? (is|must|prompt)"):
        parse_segment(written)


def test_a_prompt_may_hold_an_equals_sign() -> None:
    assert parse_segment("0.5s-1m2s=E = mc²") == (Fraction("0.5"), Fraction(62), "E = mc²")
