"""Where the audio attends to the video: the weights that are captured while passes run through the blocks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ltx2_core.models import attention
from ltx2_core.models.capture import AttentionCapture
from ltx2_core.models.chunks import Chunks
from ltx2_core.models.passes import Pass
from ltx2_core.models.transformer import run_passes
from ltx2_core.sampling.denoiser import GuidedDenoiser
from tests.unit.test_denoiser import GUIDED, make_denoiser, make_states
from tests.unit.test_transformer import LATER_GENERATION, build, config, make_inputs

AUDIO, VIDEO = 7, 9  # numbers of tokens in `make_inputs`
CLOSE = 1e-5  # float32 sums in another order


def captured(changes: dict, *, chunks: Chunks | None = None, **options: object) -> Tensor:
    model = build(config(**changes))
    if chunks is not None:
        model.work_in(chunks)
    capture = AttentionCapture(**options)
    run_passes(model, [Pass(inputs=make_inputs(model.config, timesteps=3))], capture=capture)
    assert capture.weights is not None
    return capture.weights


@pytest.mark.parametrize("changes", [{}, LATER_GENERATION, {"rope_type": "interleaved"}])
def test_the_map_is_the_softmax_of_what_the_kernel_is_given(changes: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = torch.zeros(1, AUDIO, VIDEO)
    usual = attention.attention

    def watched(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        if (q.shape[-2], k.shape[-2]) == (AUDIO, VIDEO):
            expected.add_((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1).mean(1))
        return usual(q, k, v, bias)

    monkeypatch.setattr(attention, "attention", watched)
    found = captured(changes)
    assert torch.allclose(found, expected, rtol=CLOSE, atol=CLOSE)
    assert torch.allclose(found.sum(-1), torch.full((1, AUDIO), 4.0), rtol=CLOSE)  # the number of blocks
    assert not torch.allclose(found, found.mean(-1, keepdim=True), rtol=0.01)


@pytest.mark.parametrize("most", [1, 3 * VIDEO])
def test_a_map_in_chunks_equals_a_whole_one(most: int) -> None:
    whole = captured({})
    assert torch.allclose(captured({}, most_weights=most), whole, rtol=CLOSE, atol=CLOSE)
    chunked = captured({}, most_weights=most, chunks=Chunks(4, keeps_tables=False))
    assert torch.allclose(chunked, whole, rtol=CLOSE, atol=CLOSE)


def test_blocks_add_up_to_all_of_them() -> None:
    parts = [captured({}, blocks={0, 3}), captured({}, blocks={1, 2})]
    assert torch.allclose(sum(parts, torch.zeros(())), captured({}), rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("is_batched", [False, True])
def test_only_the_pass_that_reads_the_prompt_is_captured_and_nothing_changes(is_batched: bool) -> None:
    model, states = build(config()), make_states()

    def run(denoise: GuidedDenoiser, capture: AttentionCapture | None) -> tuple[Tensor, ...]:
        denoise.capture = capture
        estimate = denoise(states, 0.7, 0)
        return tuple(one for one in estimate if one is not None)

    of_guided, of_plain = AttentionCapture(), AttentionCapture()
    guided = make_denoiser(model, GUIDED, is_batched=is_batched)
    watched, plain = run(guided, of_guided), run(make_denoiser(model, GUIDED, is_batched=is_batched), None)
    assert all(a.equal(b) for a, b in zip(watched, plain, strict=True))
    run(make_denoiser(model, GUIDED.map(lambda _: type(GUIDED[0])())), of_plain)
    assert of_guided.weights is not None
    assert of_plain.weights is not None
    assert torch.allclose(of_guided.weights, of_plain.weights, rtol=1e-4, atol=CLOSE)


def test_steps_that_do_not_count_are_not_captured_and_leave_no_hook() -> None:
    model = build(config())
    one = Pass(inputs=make_inputs(model.config))
    capture = AttentionCapture(steps={2})
    run_passes(model, [one], capture=capture)
    assert capture.weights is None
    capture.begin(2)
    run_passes(model, [one], capture=capture)
    first = capture.weights
    assert first is not None
    capture.begin(2, first[0])
    run_passes(model, [one], capture=capture)
    assert torch.allclose(capture.weights, 2 * first, rtol=CLOSE)  # pyright: ignore[reportArgumentType]
    assert all(not block.exchange._forward_pre_hooks for block in model.blocks)
