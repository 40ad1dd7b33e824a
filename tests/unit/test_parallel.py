"""Several gloo ranks: their common result equals that of one rank."""

from __future__ import annotations

import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from ltx2_core.latents import DenoiseMask, Latents, LatentState, States
from ltx2_core.machine import RankLayout
from ltx2_core.models.attention import PLAIN as PLAIN_KERNEL
from ltx2_core.models.attention import Attention
from ltx2_core.models.chunks import Chunks
from ltx2_core.models.segments import TextTimes
from ltx2_core.parallel import Dealt, PeerLostError, Ranks, Split
from ltx2_core.pipeline.render.tiled import tiled
from ltx2_core.sampling.denoiser import GuidedDenoiser
from ltx2_core.sampling.guidance import GuidanceScales, PassKind, plan_passes, share_passes
from ltx2_core.types import Streams
from tests.ranks import on_ranks
from tests.tolerances import RANKS
from tests.unit.test_denoiser import FACTORS, GUIDED, PLAIN, make_denoiser, relative
from tests.unit.test_transformer import LATER_GENERATION, build, config

HEADS = {"num_attention_heads": 6, "attention_head_dim": 16, "cross_attention_dim": 96}
HEADS |= {"audio_num_attention_heads": 6, "audio_attention_head_dim": 8, "audio_cross_attention_dim": 48}
CASES: dict[str, dict[str, Any]] = {
    "one pass": {"scales": PLAIN},
    "four passes": {},
    "four passes in a batch": {"is_batched": True},
    "no kept text": {"keeps_text": False},
    "chunks": {"scales": PLAIN, "chunks": Chunks(3, keeps_tables=False)},
    "tiles": {"scales": PLAIN, "tiles": (2, 1)},
    "modulated": {"changes": LATER_GENERATION | {"caption_proj_before_connector": False}},
    "reference": {"scales": PLAIN, "masked": True},
    "one row": {"scales": PLAIN, "grid": (1, 1, 1)},
    "video alone": {"scales": PLAIN, "audio": False},
    "two texts": {"times": TextTimes(texts=(0, 1), borders=(0.4,), ramp_s=0.3), "grid": (3, 1, 5)},
    "skipped": {"scales": Streams(GuidanceScales(st=3), GuidanceScales(st=3, skip_step=1)), "step": 1},
}


def states_of(grid: tuple[int, int, int] = (1, 3, 12), *, masked: bool = False, audio: bool = True) -> States:
    """States with an odd number of tokens. masked: some are given, and some have reduced attention to each other."""
    torch.manual_seed(3)
    video = LatentState.video(torch.randn(1, 12, *grid), Fraction(24), FACTORS)
    if masked:
        count = video.latent.shape[1]
        strengths, levels = torch.rand(1, count, count), torch.randint(2, (1, count, 1)).float()
        video = replace(video, attention_mask=strengths, mask=DenoiseMask.from_dense(levels))
    return Streams(video, LatentState.audio(torch.randn(1, 5, 7, 2)) if audio else None)


def evaluated(ranks: Ranks | None, name: str) -> Latents:
    """One evaluation of a case, by all ranks or by one."""
    case = dict(CASES[name])
    changes, chunks, step = case.pop("changes", {}), case.pop("chunks", None), case.pop("step", 0)
    scales, tiles, grid = case.pop("scales", GUIDED), case.pop("tiles", None), case.pop("grid", (1, 3, 11))
    states = states_of(grid, masked=case.pop("masked", False), audio=case.get("audio", True))
    model = build(config(**HEADS, **changes))
    if chunks is not None:
        model.work_in(chunks)
    denoise = make_denoiser(model, scales, **{key: value for key, value in case.items() if key != "audio"})
    if states.audio is None:
        denoise = replace(denoise, contexts=Streams(denoise.contexts.video), scales=Streams(scales.video))
    if ranks is None:
        return estimate(denoise, states, tiles, step)
    split = Split.of(ranks, RankLayout.of(ranks.count, len(plan_passes(denoise.scales, 0))))
    with split.over(model):
        return estimate(replace(denoise, split=split), states, tiles, step)


def estimate(denoise: GuidedDenoiser, states: States, tiles: tuple[int, int] | None, step: int) -> Latents:
    whole = denoise if tiles is None else tiled(denoise, states, (1, *tiles), FACTORS, Fraction(24))
    return whole(states, 0.7, step)


def all_cases(ranks: Ranks) -> dict[str, Any]:
    """The estimates of all cases, and other operations of ranks."""
    found: dict[str, Any] = {name: evaluated(ranks, name) for name in CASES}
    found["handed over"] = ranks.from_first({"x": torch.arange(3), "of": ranks.number})
    found["agreed"] = [ranks.agree(ranks.number == 0), ranks.agree(ranks.number != 0)]
    tiles = Dealt(ranks, lambda place: torch.full((2,), place + 0.5), lambda place: torch.empty(2))
    if ranks.is_first:
        found["dealt"] = [tiles(place)[0].item() for place in range(7)]
    else:
        tiles.serve((place,) for place in range(7))
    return found


@pytest.mark.parametrize("count", [2, 3])
def test_ranks_together_estimate_what_one_does(count: int, tmp_path: Path) -> None:
    found = on_ranks(count, all_cases, tmp_path)
    for name in CASES:
        with torch.inference_mode():
            alone = evaluated(None, name)
        assert relative(found[0][name], alone) <= RANKS, name
        for other in found[1:]:
            assert all(torch.equal(a, b) for a, b in zip(other[name], found[0][name], strict=True) if a is not None)
    for one in found:
        assert one["handed over"]["x"].equal(torch.arange(3))
        assert one["handed over"]["of"] == 0
        assert one["agreed"] == [True, False]
    assert found[0]["dealt"] == [place + 0.5 for place in range(7)]


def lost(ranks: Ranks) -> str:
    """The error of a rank when another one is lost."""
    if not ranks.is_first:
        os._exit(0)
    with pytest.raises(PeerLostError) as error:
        ranks.shared(torch.zeros(1), 1)
    ranks.part = lambda: None
    return str(error.value)


def test_a_rank_that_is_gone_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"1\.pt"):
        on_ranks(2, lost, tmp_path)
    assert torch.load(tmp_path / "0.pt")


@pytest.mark.parametrize(
    ("ranks", "passes", "expected"),
    [(1, 4, (1, 1)), (2, 4, (2, 1)), (3, 4, (3, 1)), (4, 3, (2, 2)), (6, 4, (3, 2)), (8, 4, (4, 2)), (5, 4, (1, 5))],
)
def test_passes_are_shared_first_and_then_rows(ranks: int, passes: int, expected: tuple[int, int]) -> None:
    assert RankLayout.of(ranks, passes) == RankLayout(*expected)


def test_the_perturbed_pass_stays_with_that_of_the_prompt_while_parts_are_few() -> None:
    plan = plan_passes(GUIDED, 0)
    assert [one.kind for one in plan] == [*PassKind]
    assert share_passes(plan, 1) == [[0, 1, 2, 3]]
    assert share_passes(plan, 2) == [[0, 2], [1, 3]]
    assert share_passes(plan, 3) == [[0, 2], [1], [3]]
    assert share_passes(plan, 4) == [[0], [1], [2], [3]]


@pytest.mark.parametrize("tokens", [1, 2, 5, 6, 7, 24])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_every_row_belongs_to_one_rank_and_all_have_as_many(tokens: int, width: int) -> None:
    found: list[int] = []
    for seat in range(width):
        split = Split(fake(seat, width), RankLayout(1, width))
        rows = range(tokens)[split.own_rows(tokens)]
        assert len(rows) == -(-tokens // width)
        found += rows[split.fresh(seat)]
    assert found == [*range(tokens)]


def fake(number: int, count: int) -> Ranks:
    """A rank that was never connected to the others."""
    return Ranks(number, count, torch.device("cpu"), torch.device("cpu"), None)


def test_attention_is_as_before_when_a_stage_is_over() -> None:
    model = build(config())
    split = Split(fake(0, 2), RankLayout(1, 2))
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    with split.over(model):
        changed = [module for module in attentions if module.kernel is not PLAIN_KERNEL]
        assert len(changed) == 2 * len(model.blocks)
    assert all(module.kernel is PLAIN_KERNEL for module in attentions)
