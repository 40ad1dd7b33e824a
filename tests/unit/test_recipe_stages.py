"""The settings of each stage of a recipe, and the engine's version of a stage."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from ltx2_core.conditioning.conditions import KeyframeSlots
from ltx2_core.errors import RequestError
from ltx2_core.grids import Factors, VideoGrid
from ltx2_core.pipeline.events import Watch
from ltx2_core.pipeline.recipe import Recipe
from ltx2_core.pipeline.render.stage_inputs import InputEncoder
from ltx2_core.pipeline.request import AutoLength, ReferenceInput, Request
from ltx2_core.pipeline.resolve.length import keyframes_within
from ltx2_core.pipeline.resolve.settings import COMMAND_LINE, Settings
from ltx2_core.pipeline.resolve.sizes import ClipLength
from ltx2_core.sampling.table import SAMPLERS
from tests.synthetic_media import write_video

TILES = (2, 3)


def recipe(*stages: dict[str, Any]) -> Recipe:
    return Recipe.model_validate({"summary": "", "stages": stages})


FIRST, REFINED = {"scale": 0.5}, {"start": "upsampled"}


@pytest.mark.parametrize(
    ("stages", "tiles"),
    [
        ([FIRST, REFINED], [None, TILES]),
        ([FIRST, REFINED | {"guided": True}], [None, None]),
        ([FIRST | {"guided": True}, REFINED | {"tiles": (1, 1)}], [None, (1, 1)]),
        ([{}], [None]),
    ],
)
def test_tiles_are_of_unguided_stages_that_begin_with_an_enlarged_video(stages: list, tiles: list) -> None:
    assert [stage.tiles for stage in recipe(*stages).adjusted(None, None, TILES).stages] == tiles


def test_one_tile_is_the_whole_video() -> None:
    stages = recipe({}, {"tiles": (1, 1)}, {"tiles": (2, 1)}, {"tiles": (1, 1), "windows": 2}).stages
    assert [stage.is_whole for stage in stages] == [True, True, False, False]


def test_sampler_and_sigmas_are_of_the_first_stage() -> None:
    adjusted = recipe(FIRST | {"sigmas": "distilled-8"}, REFINED | {"sigmas": "distilled-3"}).adjusted(
        "ancestral", (1.0, 0.5, 0.0), None
    )
    assert [(stage.sampler, stage.sigmas) for stage in adjusted.stages] == [
        ("ancestral", (1.0, 0.5, 0.0)),
        ("euler", "distilled-3"),
    ]


def test_what_is_not_given_stays() -> None:
    own = recipe(FIRST | {"sampler": "res2s"}, REFINED | {"tiles": (1, 2)})
    assert own.adjusted(None, None, None) == own


def test_seeds_of_samplers_are_those_of_the_official_code() -> None:
    seeds = {name: {own: seed.of(7) for own, seed in row.generators.items()} for name, row in SAMPLERS.items()}
    assert seeds == {
        "euler": {},
        "gradient": {},
        "ancestral": {"generator": 10_007},
        "res2s": {"step_generator": -1, "middle_generator": 9999},
    }


def asking_for_keyframes(given: int | tuple[int, ...], **others: Any) -> Request:
    """A request for a clip of 17 frames with only the fields that matter for keyframes."""
    return Request.model_construct(frames=17, fps=Fraction(24), generated_keyframes=given, **others)


@pytest.mark.parametrize(
    ("given", "stages", "frames"),
    [
        (0, [{}], [[]]),
        (2, [{}], [[5, 11]]),
        ((5, 12), [FIRST, REFINED], [[5, 12], []]),  # a refining stage keeps the frames of the stage before it
        (2, [{"rate": 0.5}, REFINED], [[3, 5], []]),
        ((4, 10), [{"rate": 0.5}, REFINED], [[2, 5], []]),
    ],
)
def test_keyframes_are_generated_in_stages_that_refine_nothing(
    given: int | tuple[int, ...], stages: list, frames: list[list[int]]
) -> None:
    request = asking_for_keyframes(given)
    assert [request.keyframes_of(stage) for stage in recipe(*stages).stages] == frames


def test_generated_keyframes_are_appended_behind_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    image = object()
    monkeypatch.setattr(InputEncoder, "images", lambda *args, **options: [image])
    request = asking_for_keyframes(2, images=(image,), recipe=recipe({}))
    task: Any = SimpleNamespace(request=request)
    grid, (stage,) = VideoGrid(frames=17, height=64, width=64, factors=Factors(8, 32, 32)), recipe({}).stages
    video, audio = InputEncoder(task, cast("Any", None), Watch()).conditions(request, stage, grid)
    assert video == [image, KeyframeSlots(frames=[5, 11], fps=Fraction(24), factors=grid.factors)]
    assert audio == []


def test_keyframes_have_room_in_the_shortest_clip_that_the_model_may_choose() -> None:
    def within(count: int) -> int:
        basis: Any = SimpleNamespace(
            settings=Settings(generated_keyframes=count),
            sources={"generated_keyframes": COMMAND_LINE},
            transformer=SimpleNamespace(has_keyframe_embedding=True),
            recipe=recipe(FIRST, REFINED),
            frames_per_latent=8,
        )
        auto = AutoLength(shortest_s=Fraction(1), longest_s=Fraction(20))
        return keyframes_within(basis, ClipLength(frames=153, fps=Fraction(8), auto=auto))

    assert within(7) == 7
    with pytest.raises(RequestError, match="--generated-keyframes 8 cannot be used") as refused:
        within(8)
    assert refused.value.why.startswith("the shortest clip that the model may choose has 7 frames between its ends")


@pytest.mark.parametrize(("scale", "frames"), [(1, [*range(17)]), (2, [0, *range(1, 17, 2)]), (4, [0, 1, 5, 9, 13])])
def test_reference_gives_its_first_frame_and_every_nth_after_it(scale: int, frames: list[int], tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=17, fps=Fraction(24), size=(64, 64))
    task: Any = SimpleNamespace(
        inputs={"r": path}, request=SimpleNamespace(frames=17, fps=Fraction(24), recipe=SimpleNamespace(edit=None))
    )
    reference = ReferenceInput(role="r", name="a.mp4", spatial_scale=2, temporal_scale=scale)
    grid = VideoGrid(frames=17, height=64, width=128, factors=Factors(8, 32, 32))
    models: Any = None
    pixels = InputEncoder(task, models, Watch()).reference_pixels(task.request, reference, grid)
    assert pixels.shape == (1, 3, len(frames), 32, 64)
    greys = (pixels[0, :, :, -4:, -4:].mean((0, 2, 3)) + 1) * 127.5
    assert torch.round((greys - 16) / 7).int().tolist() == frames
