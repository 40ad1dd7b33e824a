"""First-block caching: what is skipped, what replaces it, and that nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ltx2_core.latents import LatentState, States
from ltx2_core.models.block_cache import BlockCache, relative_change
from ltx2_core.models.chunks import Chunks
from ltx2_core.sampling.denoiser import GuidedDenoiser
from ltx2_core.sampling.guidance import GuidanceScales
from ltx2_core.types import Streams
from tests.unit.test_denoiser import GUIDED, make_denoiser, make_states
from tests.unit.test_transformer import build, config

SIGMAS = (0.9, 0.7, 0.5)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # float32 sums in another order
LATE = GUIDED.map(lambda _: GuidanceScales(st=3.0, sm=2.0, stg=1.0, stg_blocks=(2,)))


def estimates(denoise: GuidedDenoiser, states: States, sigmas: tuple[float, ...] = SIGMAS) -> list[Tensor]:
    """The estimates of a denoiser for states that change a little from step to step."""
    found: list[Tensor] = []
    for step, sigma in enumerate(sigmas):
        moved = states.map(lambda s, by=step: s.with_latent(s.latent * (1 - 0.01 * by)))
        found += [one for one in denoise(moved, sigma, step) if one is not None]
    return found


def with_cache(bound: float, scales: Streams[GuidanceScales] = LATE, **options: bool) -> GuidedDenoiser:
    denoise = make_denoiser(build(config()), scales, **options)
    denoise.cache = BlockCache(bound=bound)
    return denoise


def cache_of(denoise: GuidedDenoiser) -> BlockCache:
    assert denoise.cache is not None
    return denoise.cache


@pytest.mark.parametrize("chunks", [Chunks(), Chunks(3)], ids=["whole", "chunks"])
@pytest.mark.parametrize("is_batched", [False, True])
def test_where_nothing_is_skipped_nothing_changes(is_batched: bool, chunks: Chunks) -> None:
    plain, cached = make_denoiser(build(config()), LATE, is_batched=is_batched), with_cache(0.0, is_batched=is_batched)
    for denoise in (plain, cached):
        denoise.model.work_in(chunks)
    found = zip(estimates(plain, make_states()), estimates(cached, make_states()), strict=True)
    assert all(one.equal(other) for one, other in found)
    assert (cache_of(cached).evaluations, cache_of(cached).skipped) == (3, 0)


@pytest.mark.parametrize("chunks", [Chunks(), Chunks(3)], ids=["whole", "chunks"])
@pytest.mark.parametrize("is_batched", [False, True])
def test_the_same_evaluation_again_gives_the_same_without_the_other_blocks(is_batched: bool, chunks: Chunks) -> None:
    denoise, states, ran = with_cache(1.0, is_batched=is_batched), make_states(), []
    denoise.model.work_in(chunks)
    for number, block in enumerate(denoise.model.blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    first = denoise(states, 0.7, 0)
    passes = 1 if is_batched else 4
    assert ran.count(0) == (1 if is_batched else 3)  # the perturbed pass continues from the pass of the prompt
    assert ran.count(3) == passes
    ran.clear()
    again = denoise(states, 0.7, 1)
    assert set(ran) == {0}
    assert cache_of(denoise).has_skipped
    for one, other in zip(first, again, strict=True):
        assert torch.allclose(one, other, **CLOSE)


def test_separate_passes_skip_as_a_batch_does() -> None:
    one, other = with_cache(1e6), with_cache(1e6, is_batched=True)
    pairs = zip(estimates(one, make_states()), estimates(other, make_states()), strict=True)
    assert all(torch.allclose(*pair, **CLOSE) for pair in pairs)
    assert cache_of(one).skipped == cache_of(other).skipped == 2


def test_the_bound_is_that_of_the_pass_the_stream_and_the_sample_that_change_most() -> None:
    new, old = torch.ones(2, 3, 4), torch.ones(2, 3, 4)
    new[1, 0] = 1.5
    assert torch.allclose(relative_change(new, old), torch.tensor([0.0, 0.5 / 3]))
    assert relative_change(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)).item() == 0
    denoise, changes = with_cache(0.0), []
    usual = BlockCache.is_close

    def noted(self: BlockCache, added: dict[int, Streams[Tensor]]) -> bool:
        kept = self._first
        for number, one in added.items():
            one.map(lambda a, b: changes.append(relative_change(a, b).max().item()), kept[number])
        return usual(self, added)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BlockCache, "is_close", noted)
        estimates(denoise, make_states(), SIGMAS[:2])
    assert len(changes) == 3 * 2  # passes through the first block, times streams
    for bound, skipped in ((0.999 * max(changes), 0), (1.001 * max(changes), 1)):
        again = with_cache(bound)
        estimates(again, make_states(), SIGMAS[:2])
        assert cache_of(again).skipped == skipped


def test_evaluations_of_other_passes_are_not_compared() -> None:
    scales = Streams(GuidanceScales(st=3.0, skip_step=1), GuidanceScales(st=3.0))
    denoise = with_cache(1.0, scales)
    states = make_states()
    for step in range(4):  # the video is evaluated at every second step
        denoise(states, 0.7, step)
    assert cache_of(denoise).skipped == 0
    assert isinstance(states.video, LatentState)
