"""Noise levels, and the order in which samplers use them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ltx2_core.errors import RequestError
from ltx2_core.sampling.distilled import DISTILLED_SIGMAS
from ltx2_core.sampling.schedules import DEFAULT_TOKENS, ltx2_schedule

steps = st.integers(2, 60)
tokens = st.integers(1, 10000)


@given(steps=steps, tokens=tokens)
@settings(max_examples=50, deadline=None)
def test_schedule_falls_from_one_over_the_terminal_to_zero(steps: int, tokens: int) -> None:
    sigmas = ltx2_schedule(steps, tokens)
    assert sigmas.shape == (steps + 1,)
    assert sigmas.dtype == torch.float32
    assert (sigmas.diff() < 0).all()
    assert sigmas[0].item() == pytest.approx(1, abs=1e-5)
    assert sigmas[-2].item() == pytest.approx(0.1, abs=1e-6)
    assert sigmas[-1] == 0


@given(steps=steps)
@settings(max_examples=20, deadline=None)
def test_more_tokens_stay_noisy_for_longer(steps: int) -> None:
    few, many = (ltx2_schedule(steps, count, terminal=None) for count in (2000, 9000))
    assert (many[1:-1] > few[1:-1]).all()


def test_default_does_not_depend_on_the_size_of_the_clip() -> None:
    assert torch.equal(ltx2_schedule(8), ltx2_schedule(8, DEFAULT_TOKENS))


def test_published_values_of_eight_steps() -> None:
    published = [1, 0.965712, 0.921875, 0.863856, 0.783445, 0.664579, 0.471003, 0.1, 0]
    assert torch.allclose(ltx2_schedule(8), torch.tensor(published), atol=1e-6)


def test_schedule_without_a_terminal_is_the_plain_shift() -> None:
    sigmas = ltx2_schedule(4, base_shift=0.0, max_shift=0.0, terminal=None)
    assert torch.allclose(sigmas, torch.linspace(1, 0, 5))


def test_a_single_step_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match="steps 1"):
        ltx2_schedule(1)


@pytest.mark.parametrize("name", DISTILLED_SIGMAS)
def test_distilled_lists_fall_to_zero_in_the_steps_of_their_name(name: str) -> None:
    sigmas = DISTILLED_SIGMAS[name]
    assert list(sigmas) == sorted(set(sigmas), reverse=True)
    assert sigmas[-1] == 0
    assert len(sigmas) - 1 == int(name.rsplit("-", 1)[1])
