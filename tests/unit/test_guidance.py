"""The passes of a step, the inputs of each stream in them, and how their estimates are combined."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ltx2_core.sampling.guidance import Contexts, GuidanceScales, PassKind, guide, plan_passes
from ltx2_core.types import Streams

COND, UNCOND, PERTURBED, ISOLATED = PassKind
VIDEO = GuidanceScales(st=3.0, sm=3.0, stg=1.0, stg_blocks=(29,), rescale=0.7)
AUDIO = GuidanceScales(st=7.0, sm=3.0, stg=1.0, stg_blocks=(28,), rescale=0.7)
NEUTRAL = GuidanceScales()

weights = st.floats(-2, 8)


def estimates(dtype: torch.dtype = torch.float32) -> dict[PassKind, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {kind: torch.randn(1, 6, 4, generator=generator).to(dtype) for kind in PassKind}


def kinds(video: GuidanceScales | None, audio: GuidanceScales | None, step: int = 0) -> list[PassKind]:
    return [one.kind for one in plan_passes(Streams(video, audio), step)]


def test_default_guidance_takes_all_four_passes_in_order() -> None:
    assert kinds(VIDEO, AUDIO) == [COND, UNCOND, PERTURBED, ISOLATED]


def test_neutral_scales_take_the_prompt_pass_alone() -> None:
    assert kinds(NEUTRAL, NEUTRAL) == [COND]


@pytest.mark.parametrize(
    ("scales", "kind"),
    [({"st": 2.0}, UNCOND), ({"st": 0.0}, UNCOND), ({"stg": 1.0}, PERTURBED), ({"sm": 0.5}, ISOLATED)],
)
def test_one_stream_is_enough_to_need_a_pass(scales: dict[str, float], kind: PassKind) -> None:
    assert kinds(NEUTRAL, GuidanceScales(**scales)) == [COND, kind]


def test_only_the_stream_that_asks_for_it_is_perturbed() -> None:
    (perturbed,) = [one for one in plan_passes(Streams(VIDEO, NEUTRAL), 0) if one.kind is PERTURBED]
    assert perturbed.perturbed == Streams((29,), ())


def test_no_stream_is_perturbed_outside_of_the_perturbed_pass() -> None:
    for one in plan_passes(Streams(VIDEO, AUDIO), 0):
        assert any(one.perturbed) == (one.kind is PERTURBED)
        assert one.is_isolated == (one.kind is ISOLATED)


def test_a_stream_that_is_off_stays_off_in_every_pass() -> None:
    for one in plan_passes(Streams(None, AUDIO), 0):
        assert one.enabled == Streams(None, True)
        assert one.perturbed.video is None


def test_a_skipped_stream_is_disabled_and_no_pass_runs_when_both_skip() -> None:
    video, audio = GuidanceScales(skip_step=1), GuidanceScales(skip_step=2)
    enabled = [[one.enabled for one in plan_passes(Streams(video, audio), step)] for step in range(4)]
    assert enabled == [[Streams(True, True)], [], [Streams(True, False)], [Streams(False, True)]]


@settings(deadline=None)
@given(skip=st.integers(0, 5), step=st.integers(0, 50))
def test_skipping_leaves_one_step_of_each_group(skip: int, step: int) -> None:
    group = range(step, step + skip + 1)
    assert sum(GuidanceScales(skip_step=skip).runs_at(one) for one in group) == 1


def test_negative_text_is_read_in_the_uncond_pass_alone_and_replaced_where_missing() -> None:
    positive, negative = torch.zeros(1), torch.ones(1)
    for kind in PassKind:
        assert Contexts(positive, negative).of(kind) is (negative if kind is UNCOND else positive)
        assert Contexts(positive).of(kind) is positive


def test_neutral_guidance_returns_the_prompt_estimate() -> None:
    assert torch.equal(guide(estimates(), NEUTRAL), estimates()[COND])


def test_estimates_that_a_stream_does_not_need_do_not_count() -> None:
    scales = GuidanceScales(st=4.0, rescale=0.3)
    needed = {kind: estimate for kind, estimate in estimates().items() if kind in (COND, UNCOND)}
    assert torch.equal(guide(estimates(), scales), guide(needed, scales))


@given(st_=weights, sm=weights, stg=weights)
@settings(max_examples=25, deadline=None)
def test_directions_add_up(st_: float, sm: float, stg: float) -> None:
    given_all, cond = estimates(), estimates()[COND]
    alone = [GuidanceScales(st=st_), GuidanceScales(sm=sm), GuidanceScales(stg=stg)]
    together = guide(given_all, GuidanceScales(st=st_, sm=sm, stg=stg))
    assert torch.allclose(together - cond, sum(guide(given_all, one) - cond for one in alone), atol=1e-4)


def test_scale_zero_returns_the_other_estimate() -> None:
    given_all = estimates()
    assert torch.allclose(guide(given_all, GuidanceScales(st=0.0)), given_all[UNCOND], atol=1e-6)
    assert torch.allclose(guide(given_all, GuidanceScales(sm=0.0)), given_all[ISOLATED], atol=1e-6)


def test_full_rescale_restores_the_spread_of_the_prompt_estimate() -> None:
    guided = guide(estimates(), GuidanceScales(st=7.0, rescale=1.0))
    assert guided.std().item() == pytest.approx(estimates()[COND].std().item(), rel=1e-5)


def test_arithmetic_is_float32_whatever_comes_in() -> None:
    half = estimates(torch.bfloat16)
    whole = guide({kind: estimate.float() for kind, estimate in half.items()}, VIDEO)
    assert torch.equal(guide(half, VIDEO), whole.bfloat16())


def test_planning_passes_does_not_import_torch() -> None:
    code = "import sys, ltx2_core.sampling.guidance, ltx2_core.sampling.distilled; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
