"""Windows of a long clip: where they begin, what they overlap, and that their audio stays in sync."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ltx2_core.conditioning.conditions import GivenTokens
from ltx2_core.errors import RequestError
from ltx2_core.grids import audio_latent_count
from ltx2_core.latents import audio_positions, patchify_audio
from ltx2_core.pipeline.chain import Chain, WindowPlace
from ltx2_core.pipeline.recipe import Recipe, Stage
from ltx2_core.pipeline.render.seams import carried_audio, carried_video, first_new_latent, first_new_step, joined
from ltx2_core.pipeline.request import ImageInput, Request
from ltx2_core.pipeline.resolve.long_clips import until_of
from ltx2_core.pipeline.resolve.settings import COMMAND_LINE, Origin, Place, merge
from ltx2_core.pipeline.windows import runs_of, windows_of
from ltx2_core.types import Streams

RATES = ("24000/1001", "24", "25", "30000/1001", "30", "48", "50", "60000/1001", "60")
CHAIN = Chain(frames=49, overlap=16)
HALF_FIRST = Recipe.model_validate(
    {"summary": "", "stages": [{"scale": 0.5, "rate": 0.5}, {"start": "upsampled", "scale": 0.5}]}
)


def request(frames: int, fps: Fraction = Fraction(24), chain: Chain | None = CHAIN, **others: Any) -> Request:
    """A request with only the fields that windows use."""
    return Request.model_construct(
        frames=frames,
        fps=fps,
        chain=chain,
        images=others.pop("images", ()),
        video="generate",
        audio="generate",
        **others,
    )


@pytest.mark.parametrize("total", [57, 81, 97, 241, 1441])
def test_windows_cover_a_clip_without_a_gap_and_take_over_what_they_should(total: int) -> None:
    places = CHAIN.places(total)
    ends = [place.begin + CHAIN.frames for place in places]
    assert (places[0], ends[-1]) == (WindowPlace(), total)
    for place, end in zip(places[1:], ends[:-1], strict=True):
        assert place.begin + 1 + place.carried == end  # new frames begin where the window before ends
        assert place.carried >= CHAIN.overlap
        assert place.begin % 8 == place.carried % 8 == 0
    assert [place.carried for place in places[1:-1]] == [CHAIN.overlap] * (len(places) - 2)
    assert len(places) == CHAIN.count(total)


def test_clip_of_one_window_is_not_a_chain_and_neither_is_one_of_too_many_windows() -> None:
    for total in (49, 41, 10**9):
        with pytest.raises(ValueError, match="is not a chain"):
            CHAIN.count(total)
    with pytest.raises(ValidationError, match="no new frames"):
        Chain(frames=17, overlap=16)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("total", [97, 481, 3001])
def test_audio_of_all_windows_is_that_of_the_whole_clip_at_every_rate(rate: str, total: int) -> None:
    fps = Fraction(rate)
    windows = windows_of(request(total, fps))
    steps = torch.arange(audio_latent_count(total, fps)).view(1, 1, -1, 1)
    own = [steps[:, :, window.audio_steps.start : window.audio_steps.stop] for window in windows]
    whole = joined(own, [first_new_step(window) for window in windows])
    assert whole is not None
    assert whole.equal(steps)
    for window, (before, latent) in zip(windows[1:], pairwise(own), strict=True):
        count = first_new_step(window) - 1
        assert count > 0
        assert latent[:, :, 1 : 1 + count].equal(before[:, :, -count:])


@pytest.mark.parametrize("rate", RATES)
def test_audio_of_a_window_keeps_its_time_beside_the_video(rate: str) -> None:
    fps = Fraction(rate)
    for window in windows_of(request(3001, fps)):
        steps = window.audio_steps
        own = audio_positions(len(steps), steps.start, window.begin_s)[0, 0]
        usual = audio_positions(len(steps), steps.start)[0, 0].double() - float(window.begin_s)
        assert own.double().allclose(usual.clamp(min=0), atol=1e-4)
        assert 0 == own[0, 0] < own[0, 1] <= 0.04 + 1e-4  # shorter, like the first step of any clip
        assert own[-1, 1] <= float(window.frames / fps) + 0.04
    assert audio_positions(9, 0, Fraction(0)).equal(audio_positions(9))


@pytest.mark.parametrize("stage", [Stage(), Stage(rate=Fraction(1, 2))])
def test_video_of_all_windows_is_that_of_the_whole_clip_in_every_stage(stage: Stage) -> None:
    chain = Chain(frames=49, overlap=16)
    windows = windows_of(request(209, chain=chain, recipe=HALF_FIRST))
    cells = torch.arange((stage.frames(209) - 1) // 8 + 1).view(1, 1, -1, 1, 1).float()

    def of(window: Request) -> torch.Tensor:
        begin = int(window.place.begin * stage.rate) // 8
        return cells[:, :, begin : begin + (stage.frames(window.frames) - 1) // 8 + 1]

    whole = joined([of(window) for window in windows], [first_new_latent(window, stage, 8) for window in windows])
    assert whole is not None
    assert whole.equal(cells)
    for before, window in pairwise(windows):
        (given,) = carried_video(window, stage, Streams(of(before), None), 8)
        assert isinstance(given, GivenTokens)
        assert given.start == 1
        assert given.tokens.flatten().equal(of(window).flatten()[1 : 1 + given.tokens.shape[1]])


def test_audio_that_is_kept_is_not_taken_over() -> None:
    _, window, *_ = windows_of(request(209))
    latent = torch.arange(60.0).view(1, 1, -1, 1)
    (given,) = carried_audio(window, Streams(None, latent))
    assert isinstance(given, GivenTokens)
    assert given.tokens.equal(patchify_audio(latent)[:, -given.tokens.shape[1] :])
    kept = window.model_copy(update={"audio": "keep"})
    assert carried_audio(kept, Streams(None, latent)) == []


def test_each_image_is_of_the_window_that_makes_its_frame() -> None:
    frames = [0, 30, 48, 49, 80, 81, 112]
    images = tuple(ImageInput(role=f"image-{n}", name="a.png", frame=n, strength=1.0, crf=0) for n in frames)
    windows = windows_of(request(113, images=images))
    found = [image.frame + window.place.begin for window in windows for image in window.images]
    assert found == frames
    for window in windows[1:]:
        assert all(window.place.carried < image.frame < window.frames for image in window.images)


def test_a_request_without_a_chain_is_its_own_window() -> None:
    plain = request(49, chain=None, recipe=HALF_FIRST)
    assert windows_of(plain) == [plain]
    assert [run.name for run in runs_of(plain)] == ["stage 1 of 2", "stage 2 of 2"]
    assert (plain.place, plain.begin_s, plain.audio_steps) == (WindowPlace(), 0, range(51))


def test_a_stage_of_all_windows_comes_before_the_next_one() -> None:
    runs = runs_of(request(81, recipe=HALF_FIRST))
    assert [(run.number, run.request.place.number) for run in runs] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert runs[-1].name == "stage 2 of 2, window 2 of 2"


def test_until_and_duration_are_refused_in_one_place() -> None:
    file = Place(Origin.FILE, "a.yaml")
    flag, below = {"until": "60s"}, {"duration": "5s"}
    assert until_of(merge([(file, flag), (Place(Origin.MODEL, "toy"), below)])) == 60
    with pytest.raises(RequestError, match="--duration and --until set the same value"):
        until_of(merge([(COMMAND_LINE, flag | below)]))
