"""The guided denoiser: equalities between ways of running the same passes."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from ltx2_core.grids import Factors
from ltx2_core.latents import Latents, LatentState, States
from ltx2_core.models import transformer
from ltx2_core.models.rope import Rope, rope_tables
from ltx2_core.models.transformer import Transformer
from ltx2_core.pipeline.render.tiled import tiled
from ltx2_core.sampling.denoiser import GuidedDenoiser
from ltx2_core.sampling.guidance import Contexts, GuidanceScales, plan_passes
from ltx2_core.sampling.samplers import sample_euler
from ltx2_core.types import Streams
from tests.tolerances import BATCHED_PASSES
from tests.unit.test_transformer import build, config

FACTORS = Factors(8, 32, 32)
GUIDED = Streams(
    GuidanceScales(st=3, sm=3, stg=1, stg_blocks=(2,), rescale=0.7),
    GuidanceScales(st=7, sm=3, stg=1, stg_blocks=(3,), rescale=0.7),
)
PLAIN = Streams(GuidanceScales(), GuidanceScales())


@pytest.fixture(scope="module")
def model() -> Transformer:
    return build(config())


def make_states(seed: int = 3, batch: int = 1) -> States:
    torch.manual_seed(seed)
    return Streams(
        LatentState.video(torch.randn(batch, 12, 2, 2, 3), Fraction(24), FACTORS),
        LatentState.audio(torch.randn(batch, 5, 7, 2)),
    )


def make_denoiser(
    model: Transformer, scales: Streams[GuidanceScales], batch: int = 1, **options: Any
) -> GuidedDenoiser:
    generator = torch.Generator().manual_seed(9)
    positive, negative = (torch.randn(batch, 5, 20, generator=generator) for _ in range(2))
    contexts = Streams(Contexts(positive, negative), Contexts(positive, negative))
    return GuidedDenoiser(model=model, contexts=contexts, scales=scales, **options)


def relative(ours: Latents, expected: Latents) -> float:
    return max(
        ((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, expected, strict=True) if b is not None
    )


@pytest.mark.parametrize("batch", [1, 2])
def test_batched_passes_equal_separate_ones(batch: int, model: Transformer) -> None:
    states = make_states(batch=batch)
    batched = make_denoiser(model, GUIDED, batch, is_batched=True)(states, 0.7, 0)
    assert relative(batched, make_denoiser(model, GUIDED, batch)(states, 0.7, 0)) <= BATCHED_PASSES


@pytest.mark.parametrize("options", [{}, {"is_batched": True}, {"tiles": (2, 1)}], ids=["plain", "batched", "tiled"])
def test_rotary_tables_are_made_once_in_a_run(
    options: dict[str, Any], model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, ...]] = []

    def counted(coordinates: Tensor, *args: Any, **kwargs: Any) -> Rope:
        made.append(tuple(coordinates.shape))
        return rope_tables(coordinates, *args, **kwargs)

    monkeypatch.setattr(transformer, "rope_tables", counted)
    video = LatentState.video(torch.randn(1, 12, 1, 3, 12), Fraction(24), FACTORS)
    states = make_states()._replace(video=video)
    tiles = options.get("tiles", (1, 1))
    denoise = tiled(
        make_denoiser(model, GUIDED, is_batched="is_batched" in options), states, (1, *tiles), FACTORS, Fraction(24)
    )
    sample_euler(denoise, states, torch.tensor([1.0, 0.7, 0.3, 0.0]), lambda *_: None)
    tokens = 36 if tiles == (1, 1) else 27  # two tiles of nine columns have the same positions
    assert sorted(made) == [(1, 7, 1), (1, 7, 1), (1, tokens, 1), (1, tokens, 3)]


def test_other_positions_have_rotary_tables_of_their_own(model: Transformer) -> None:
    states, denoise = make_states(), make_denoiser(model, GUIDED)
    assert states.video is not None
    first = denoise(states, 0.7, 0)
    moved = states._replace(video=replace(states.video, positions=states.video.positions * 2))
    assert relative(denoise(moved, 0.7, 0), first) > 1e-3
    assert all(a.equal(b) for a, b in zip(denoise(states, 0.7, 0), first, strict=True))


def test_text_that_is_kept_changes_nothing(model: Transformer) -> None:
    states = make_states()
    kept = make_denoiser(model, GUIDED)(states, 0.7, 0)
    assert all(
        a.equal(b) for a, b in zip(kept, make_denoiser(model, GUIDED, keeps_text=False)(states, 0.7, 0), strict=True)
    )


def test_neutral_scales_take_one_pass_and_give_its_estimate(model: Transformer) -> None:
    states = make_states()
    denoiser = make_denoiser(model, PLAIN)
    velocity = model(denoiser._inputs(plan_passes(PLAIN, 0)[0], states, 0.7))
    expected = states.map(lambda s, v: s.latent - 0.7 * v, velocity)
    assert relative(denoiser(states, 0.7, 0), expected) <= 1e-6
    assert len(plan_passes(PLAIN, 0)) == 1


def test_guidance_moves_the_estimate(model: Transformer) -> None:
    states = make_states()
    assert relative(make_denoiser(model, GUIDED)(states, 0.7, 0), make_denoiser(model, PLAIN)(states, 0.7, 0)) > 0.05


def test_skipped_step_gives_the_last_estimate_again(model: Transformer) -> None:
    scales = Streams(GuidanceScales(st=3, skip_step=1), GuidanceScales(st=3, skip_step=1))
    denoiser = make_denoiser(model, scales)
    first = denoiser(make_states(), 0.9, 0)
    assert denoiser(make_states(4), 0.8, 1) is first
    assert relative(denoiser(make_states(4), 0.7, 2), first) > 1e-3


def test_stream_that_skips_a_step_keeps_its_estimate_while_the_other_moves(model: Transformer) -> None:
    denoiser = make_denoiser(model, Streams(GuidanceScales(st=3, skip_step=1), GuidanceScales(st=3)))
    first, second = denoiser(make_states(), 0.9, 0), denoiser(make_states(4), 0.8, 1)
    assert second.video is first.video
    assert second.audio is not None
    assert not second.audio.equal(first.audio)


def test_single_stream_is_guided_alone(model: Transformer) -> None:
    denoiser = make_denoiser(model, GUIDED)
    denoiser.contexts, denoiser.scales = Streams(denoiser.contexts.video), Streams(GUIDED.video)
    estimate = denoiser(Streams(make_states().video), 0.7, 0)
    assert estimate.audio is None
    assert estimate.video is not None
