"""Generate many clips of the toy model at once; each equals the clip that `ltx2` renders with the same settings and
seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any, Self

import torch

from ltx2_core.hub.registry import registered_models
from ltx2_core.latents import DenoiseMask, Latents, LatentState, States
from ltx2_core.models.block_cache import BlockCache
from ltx2_core.models.capture import AttentionCapture
from ltx2_core.pipeline.render.models import Models
from ltx2_core.pipeline.render.stage_inputs import Given
from ltx2_core.pipeline.render.stages import StageRun
from ltx2_core.pipeline.request import RenderTask, Request
from ltx2_core.pipeline.resolve.resolve import resolve
from ltx2_core.pipeline.resolve.settings import COMMAND_LINE, Origin, Place
from ltx2_core.pipeline.resolved import Resolved
from ltx2_core.sampling.guidance import Contexts, GuidanceScales
from ltx2_core.text.encode import TextContext, encode_prompts
from ltx2_core.types import Streams
from scripts.toy.model import HOME

TOY = "toy"


def toy_request(folder: Path = HOME, **settings: Any) -> Resolved:
    """The default request of the toy with some settings changed. folder: of the weights, if they are not the shipped
    ones.
    """
    model = TOY if folder == HOME else str(folder)
    own = (Place(Origin.MODEL, TOY), registered_models()[TOY].defaults)
    return resolve("t2v", "x", [(COMMAND_LINE, {"model": model, "seed": 0, **settings}), own])


@dataclass(frozen=True)
class Generator:
    """The toy's text path and denoisers, kept in memory. In shapes, `b` are clips."""

    task: RenderTask
    models: Models

    @classmethod
    def of(cls, resolved: Resolved) -> Self:
        """A generator with the files and the device of a request."""
        return cls(resolved.task, Models(resolved.task.files, resolved.task.machine))

    @torch.inference_mode()
    def generate(
        self,
        request: Request,
        prompts: Sequence[str],
        seeds: Sequence[int],
        kept: Latents,
        capture: AttentionCapture | None = None,
        cache: BlockCache | None = None,
    ) -> Latents:
        """Latents (b c f h w) and (b c t m) float32 from prompts and seeds. kept: the latents of a stream that is
        given.

        capture: accumulates the attention of the audio of the first clips. cache: lets evaluations skip blocks.

        The recipe of the request needs to have one stage, and no setting that mixes the samples of a batch, such as
        rescaled guidance.
        """
        (stage,) = request.recipe.stages
        video, audio = ("generate" if latent is None else "keep" for latent in kept)
        modes = zip((video, audio), request.guidance, strict=True)
        own = (GuidanceScales() if mode == "keep" else scale for mode, scale in modes)
        request = request.model_copy(update={"video": video, "audio": audio, "guidance": Streams(*own)})
        assert not (stage.guided and any(scale.rescale for scale in request.guidance if scale is not None))
        contexts = self.contexts(request, prompts)
        each = (kept.map(itemgetter(slice(i, i + 1))) for i in range(len(seeds)))
        runs = [self._run(request, contexts, start, seed) for start, seed in zip(each, seeds, strict=True)]
        first = runs[0]
        states = _joined([run.states() for run in runs])
        with self.models.transformer(self.models.loras(self.task, stage)) as model:
            denoise = replace(first, capture=capture).denoiser(model)
            denoise.cache = cache
            states = first.sample(denoise, states, first.sigmas(), capture.note_step if capture else lambda *_: None)
        return first.finish(states).map(lambda latent: latent.float().cpu())

    def _run(self, request: Request, contexts: Streams[Contexts], kept: Latents, seed: int) -> StageRun:
        """The run of one clip."""
        noise = Streams(*(0.0 if mode == "keep" else 1.0 for mode in request.streams))
        return StageRun(
            stage=request.recipe.stages[0],
            request=request,
            shapes=self.models.shapes,
            given=Given(start=kept, noise=noise, conditions=Streams([], [])),
            contexts=contexts,
            device=self.models.device,
            dtype=self.models.dtype,
            machine=self.task.machine,
            generator=torch.Generator(self.models.device).manual_seed(seed),
        )

    def contexts(self, request: Request, prompts: Sequence[str]) -> Streams[Contexts]:
        """The contexts of both streams; a stream that is kept reads the prompt instead of the negative prompt."""
        *positive, negative = self.encode([*prompts, request.negative or ""], request.text_rows)

        def of(stream: str, mode: str) -> Contexts:
            features = torch.cat([getattr(context, stream) for context in positive])
            against = getattr(negative, stream).expand_as(features)
            return Contexts(features) if mode == "keep" else Contexts(features, against)

        return Streams(of("video", request.video), of("audio", request.audio))

    def encode(self, prompts: Sequence[str], rows: int) -> list[TextContext]:
        return encode_prompts(prompts, self.models.text_encoder, self.models.connectors, rows)


def _joined(states: Sequence[States]) -> States:
    """One batch of states that differ only in their tokens."""

    def join(first: LatentState, *others: LatentState) -> LatentState:
        every = (first, *others)
        names = ("latent", "clean", "positions", "keyframes_mask")
        tensors = {n: torch.cat([getattr(s, n) for s in every]) for n in names if getattr(first, n) is not None}
        return replace(first, mask=DenoiseMask.from_dense(torch.cat([s.mask.dense for s in every])), **tensors)

    return states[0].map(join, *states[1:])
