"""The guided denoiser: equalities between ways of running the same passes."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from ltx2_core.grids import Factors
from ltx2_core.latents import Latents, LatentState, States
from ltx2_core.models.transformer import Transformer
from ltx2_core.sampling.denoiser import GuidedDenoiser
from ltx2_core.sampling.guidance import Contexts, GuidanceScales, plan_passes
from ltx2_core.types import Streams
from tests.tolerances import BATCHED_PASSES
from tests.unit.test_transformer import build, config

GUIDED = Streams(
    GuidanceScales(st=3, sm=3, stg=1, stg_blocks=(2,), rescale=0.7),
    GuidanceScales(st=7, sm=3, stg=1, stg_blocks=(3,), rescale=0.7),
)
PLAIN = Streams(GuidanceScales(), GuidanceScales())


@pytest.fixture(scope="module")
def model() -> Transformer:
    return build(config())


def make_states(seed: int = 3) -> States:
    torch.manual_seed(seed)
    return Streams(
        LatentState.video(torch.randn(1, 12, 2, 2, 3), Fraction(24), Factors(8, 32, 32)),
        LatentState.audio(torch.randn(1, 5, 7, 2)),
    )


def make_denoiser(model: Transformer, scales: Streams[GuidanceScales], **options: bool) -> GuidedDenoiser:
    generator = torch.Generator().manual_seed(9)
    positive, negative = (torch.randn(1, 5, 20, generator=generator) for _ in range(2))
    contexts = Streams(Contexts(positive, negative), Contexts(positive, negative))
    return GuidedDenoiser(model=model, contexts=contexts, scales=scales, **options)


def relative(ours: Latents, expected: Latents) -> float:
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, expected, strict=True))


def test_batched_passes_equal_separate_ones(model: Transformer) -> None:
    states = make_states()
    batched = make_denoiser(model, GUIDED, is_batched=True)(states, 0.7, 0)
    assert relative(batched, make_denoiser(model, GUIDED)(states, 0.7, 0)) <= BATCHED_PASSES


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
