"""Planned memory for denoising, compared with counts while a stage runs on tensors that have shapes and no data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ltx2_core.grids import VideoGrid
from ltx2_core.models.block_cache import BlockCache
from ltx2_core.models.capture import AttentionCapture
from ltx2_core.models.chunks import Chunks
from ltx2_core.models.transformer import Transformer
from ltx2_core.pipeline.doctor.sample import random_transformer
from ltx2_core.pipeline.events import Watch
from ltx2_core.pipeline.render.stage_inputs import InputEncoder
from ltx2_core.pipeline.render.stages import StageRun, schedule
from ltx2_core.pipeline.request import AudioInput, Extension, ReferenceInput, Request
from ltx2_core.pipeline.resolve.basis import Planned
from ltx2_core.pipeline.resolve.phases import Costs
from ltx2_core.pipeline.resolve.resolve import planned_card
from ltx2_core.pipeline.resolve.settings import COMMAND_LINE
from ltx2_core.pipeline.resolve.settle import Asked
from ltx2_core.pipeline.windows import StageOfWindow, runs_of
from ltx2_core.sampling.guidance import Contexts, GuidanceScales
from ltx2_core.types import Streams
from scripts.benchmarks.meta import LiveBytes
from tests.tolerances import LEAST_PLANNED, MOST_PLANNED

META, LAYERS = torch.device("meta"), 2
UNGUIDED = Streams(GuidanceScales(), GuidanceScales())
BATCHED, ANEW = {"batches_passes": True}, {"keeps_text": False}
LEAN = {"memory": "lean", "chunk_tokens": 768, "keeps_text": False}


def empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device=META)


class Shapes(InputEncoder):
    """The inputs of a stage: the shapes of tensors that would be read and encoded."""

    def encode(self, name: str, clips: Any) -> list[Tensor]:
        vae = self.models.shapes.video_vae
        grids = [
            VideoGrid(frames=f, height=h, width=w, factors=vae.factors) for *_, f, h, w in (x.shape for x in clips)
        ]
        return [empty(1, vae.latent_channels, *grid.latent) for grid in grids]

    def clip(self, grid: VideoGrid, stage: Any) -> Tensor:
        return empty(1, self.models.shapes.video_vae.latent_channels, *grid.latent)

    def image_pixels(self, image: Any, grid: VideoGrid) -> Tensor:
        return empty(1, 3, 1, grid.height, grid.width)

    def reference_pixels(self, request: Request, reference: ReferenceInput, grid: VideoGrid) -> Tensor:
        height, width = (side // reference.spatial_scale for side in (grid.height, grid.width))
        return empty(1, 3, 1 + -(-(request.frames - 1) // reference.temporal_scale), height, width)

    def enlarged(self, video: Tensor, stage: Any) -> Tensor:
        return self.clip(self.task.request.grid(self.models.shapes.video_vae.factors, stage), stage)

    @cached_property
    def _encoded_audio(self) -> Tensor:
        return empty(1, 8, len(self.task.request.audio_steps), 16)

    @cached_property
    def _encoded_voice(self) -> Tensor:
        return empty(1, 8, self.task.request.voice_steps, 16)


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to denoise. change: to the request. machine: fields that differ. run: index of the stage among those of all
    windows. steps: number of steps.
    """

    mode: str = "t2v"
    flags: tuple[tuple[str, Any], ...] = ()
    change: Callable[[Request], dict[str, Any]] = lambda _: {}
    machine: Any = None
    is_guided: bool = False
    captures: bool = False
    run: int = 0
    steps: int = 1

    @property
    def costs(self) -> Costs:
        costs = settled(self.mode, self.flags)
        request = costs.request.model_copy(update=self.change(costs.request))
        if not self.is_guided:
            request = request.model_copy(update={"guidance": UNGUIDED, "negative": None})
        machine = replace(costs.machine, **{"memory": "resident"} | (self.machine or {}))
        return replace(costs, request=request, machine=machine, captures=self.captures)


@cache
def settled(mode: str, flags: tuple[tuple[str, Any], ...]) -> Costs:
    """The memory plan of a request on a GPU of 80 GB, for a transformer with only a few blocks."""
    usual = {"model": "ltx-2", "res": "512x384", "preset": "one-stage", "seed": 1, "stg_blocks": (1,)}
    if "until" not in dict(flags):
        usual["frames"] = 41
    given = {name: value for name, value in {**usual, **dict(flags)}.items() if value is not None}
    asked = Asked(mode=mode, prompt="x", layers=[(COMMAND_LINE, given)])
    costs = asked.settle(Planned(planned_card(80))).costs
    shapes = costs.headers.shapes
    vars(costs.headers)["shapes"] = replace(shapes, transformer=replace(shapes.transformer, layers=LAYERS))
    return costs


def stage_run(costs: Costs, run: StageOfWindow, contexts: Streams[Contexts]) -> StageRun:
    """A stage of a window as the engine creates it."""
    shapes, stage = costs.headers.shapes, run.stage
    grid = run.request.grid(shapes.video_vae.factors, stage)
    made = Streams(empty(1, 128, *grid.latent), empty(1, 8, len(run.request.audio_steps), 16))
    models: Any = SimpleNamespace(shapes=shapes, device=META, dtype=torch.bfloat16)
    task: Any = SimpleNamespace(request=costs.request, machine=costs.machine)
    before = made if stage.start == "upsampled" else None
    carried = made if run.request.place.number else None
    sigma = schedule(stage, run.request, grid)[0].item()
    return StageRun(
        stage=stage,
        request=run.request,
        shapes=shapes,
        given=Shapes(task, models, Watch()).given(run.request, stage, before, carried, sigma),
        contexts=contexts,
        device=META,
        dtype=torch.bfloat16,
        machine=costs.machine,
        generator=torch.Generator().manual_seed(0),
        capture=AttentionCapture() if costs.captures else None,
    )


def contexts_of(costs: Costs) -> Streams[Contexts]:
    """The features of the prompts, without data."""
    config, request = costs.headers.shapes.transformer, costs.request

    def of(stream: Any, mode: str) -> Contexts | None:
        if mode == "off":
            return None
        size = request.text_rows, config.caption_channels or stream.width
        negative = [] if request.negative is None or mode == "keep" else [empty(1, *size)]
        return Contexts(empty(1, len(request.texts) * size[0], size[1]), *negative)

    return Streams(of(config.video, request.video), of(config.audio, request.audio))


@contextmanager
def counting(model: Transformer) -> Iterator[LiveBytes]:
    with torch.inference_mode(), LiveBytes([*model.parameters(), *model.buffers()]) as memory:
        yield memory


def counted_bytes(costs: Costs, run: StageOfWindow, steps: int) -> int:
    """The peak of live bytes besides the model during the first steps of a stage."""
    model = random_transformer(costs.headers.shapes.transformer, torch.bfloat16, META)
    model.work_in(Chunks(costs.machine.chunk_tokens, keeps_tables=costs.machine.memory != "lean"))
    with counting(model) as memory:
        stage = stage_run(costs, run, contexts_of(costs))
        if stage.capture is not None:
            stage.capture.begin(1, None)
        states = stage.states()
        denoise = stage._tiled(stage.denoiser(model), states)
        stage.sample(denoise, states, stage.sigmas()[: steps + 1], lambda *_: None)
    return memory.peak


def in_parts(windows: int, tiles: tuple[int, int]) -> Callable[[Request], dict[str, Any]]:
    def change(request: Request) -> dict[str, Any]:
        (stage,) = request.recipe.stages
        stages = (stage.model_copy(update={"windows": windows, "tiles": tiles}),)
        return {"recipe": request.recipe.model_copy(update={"stages": stages})}

    return change


def shown(**fields: Any) -> Callable[[Request], dict[str, Any]]:
    reference = ReferenceInput(role="clip", name="x", **fields)
    return lambda _: {"references": (reference,)}


def more_images(request: Request) -> dict[str, Any]:
    (image,) = request.images
    return {"images": (image, *(image.model_copy(update={"frame": frame}) for frame in (16, 40)))}


CACHED = (("cache_steps", 0.1),)
SPANS = (("segment", ("0s-0.8s=a", "0.8s-1.5s=b")),)
ONE = (("res", "256x192"), ("frames", 9))
WAYS = {
    "guided": Way(is_guided=True),
    "guided in one batch": Way(is_guided=True, machine=BATCHED),
    "guided in one batch of chunks": Way(is_guided=True, machine={**BATCHED, "chunk_tokens": 500}),
    "text read again": Way(is_guided=True, machine=ANEW, flags=ONE),
    "text that is modulated": Way(flags=(("model", "ltx-2.3"), *ONE)),
    "chunks": Way(machine={"chunk_tokens": 300}),
    "lean": Way(machine=LEAN),
    "second of two stages": Way(flags=(("preset", "two-stage"), ("stg_blocks", None)), run=1),
    "segments": Way(flags=SPANS),
    "segments in one batch": Way(flags=SPANS, is_guided=True, machine=BATCHED),
    "segments, text read again": Way(flags=SPANS, machine=ANEW),
    "images": Way(mode="i2v", change=more_images),
    "a clip to follow": Way(change=shown(spatial_scale=1)),
    "a smaller clip to follow, in one batch": Way(change=shown(spatial_scale=2), is_guided=True, machine=BATCHED),
    "images to take from": Way(change=shown(is_still=True, temporal_scale=4)),
    "a voice": Way(change=lambda _: {"voice": AudioInput(role="voice", name="x", duration_s=Fraction(5))}),
    "a map of the attention": Way(captures=True),
    "cached steps": Way(flags=CACHED, is_guided=True, steps=2),
    "cached steps in one batch": Way(flags=CACHED, is_guided=True, machine=BATCHED, steps=2),
    "given audio": Way(mode="a2v"),
    "a clip that is extended": Way(
        mode="v2v",
        flags=(("preset", "restyle-guided"), ("stg_blocks", None)),
        change=lambda _: {"extension": Extension(after=16), "strength": None},
    ),
    "a window of a chain": Way(flags=(("until", "8s"), ("window", "2s")), run=1),
    "a loop": Way(mode="i2v", flags=(("loop", True),), steps=4),
    "tiles and windows": Way(flags=(("frames", 81),), change=in_parts(2, (2, 1))),
    "tiles with a clip to follow": Way(change=lambda x: in_parts(2, (2, 1))(x) | shown(spatial_scale=2)(x), steps=2),
}


@pytest.mark.parametrize("name", WAYS)
def test_denoising_takes_what_is_planned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BlockCache, "is_close", lambda *_: False)  # tensors without data cannot be compared
    way = WAYS[name]
    run = runs_of(way.costs.request)[way.run]
    planned = replace(way.costs, request=run.request).denoising(run.stage, run.number).active
    assert LEAST_PLANNED <= planned / counted_bytes(way.costs, run, way.steps) <= MOST_PLANNED
