"""Many clips of the toy model at once, each the one that the tool makes alone with the same settings and seed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch

from ltx2_core.latents import DenoiseMask, Latents, LatentState, States
from ltx2_core.pipeline.job import Job
from ltx2_core.pipeline.recipe import Stage
from ltx2_core.pipeline.render.models import Models, settle
from ltx2_core.pipeline.render.stage_inputs import Given
from ltx2_core.pipeline.render.stages import NEUTRAL, StageRun
from ltx2_core.pipeline.request import Mode, Request, Resolved
from ltx2_core.pipeline.resolve.presets import registered_models
from ltx2_core.pipeline.resolve.resolve import resolve
from ltx2_core.sampling.guidance import Contexts
from ltx2_core.text.encode import ContextModels, TextContext, encode_prompts
from ltx2_core.text.gemma import Gemma
from ltx2_core.types import Streams
from scripts.toy.model import HOME

TOY = "toy"


def toy_request(folder: Path = HOME, **settings: Any) -> Resolved:
    """The toy's own request with some settings changed. folder: of its weights, where they are not the shipped ones."""
    model = TOY if folder == HOME else str(folder)
    own = ("the toy's entry", registered_models()[TOY].defaults)
    return resolve(Mode.T2V, "x", [("the caller", {"model": model, "seed": 0, **settings}), own])


@dataclass(frozen=True)
class Generator:
    """The toy's text path and denoisers, kept in memory. In shapes, `b` are clips."""

    models: Models
    denoisers: dict[float | None, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, resolved: Resolved) -> Self:
        """With the files and the device of a request."""
        job = Job(
            folder=resolved.job_dir,
            request=settle(resolved.request),
            output=resolved.output,
            files=resolved.files,
            inputs=resolved.inputs,
            target=resolved.target,
            overwrite=False,
            uses_cache=False,
            identities={},
        )
        return cls(Models(job))

    @cached_property
    def gemma(self) -> Gemma:
        return self.models.load_text_encoder()

    @cached_property
    def connectors(self) -> ContextModels:
        return self.models.load_connectors()

    @torch.inference_mode()
    def generate(self, request: Request, prompts: Sequence[str], seeds: Sequence[int], kept: Latents) -> Latents:
        """Latents (b c f h w) and (b c t m) float32 from prompts and seeds. kept: those of a stream that is given.

        The recipe of the request has one stage, and nothing that looks across a batch, as rescaled guidance does.
        """
        (stage,) = request.recipe.stages
        video, audio = ("generate" if latent is None else "keep" for latent in kept)
        own = (
            NEUTRAL if mode == "keep" else scale for mode, scale in zip((video, audio), request.guidance, strict=True)
        )
        request = request.model_copy(update={"video": video, "sound": audio, "guidance": Streams(*own)})
        assert not (stage.guided and any(scale.rescale for scale in request.guidance if scale is not None))
        contexts = self.contexts(request, prompts)
        runs = [
            StageRun(
                stage=stage,
                request=request,
                shapes=self.models.shapes,
                given=Given(
                    start=Streams(*(None if latent is None else latent[i : i + 1] for latent in kept)),
                    noise=Streams(*(0.0 if mode == "keep" else 1.0 for mode in request.modes)),
                    conditions=Streams([], []),
                ),
                contexts=contexts,
                device=self.models.device,
                dtype=self.models.dtype,
                generator=torch.Generator(self.models.device).manual_seed(seed),
            )
            for i, seed in enumerate(seeds)
        ]
        first = runs[0]
        denoise = first.denoiser(self.transformer(stage))
        states = first.sample(denoise, _joined([run.states() for run in runs]), first.sigmas(), lambda *_: None)
        return first.finish(states).map(lambda latent: latent.float().cpu())

    def contexts(self, request: Request, prompts: Sequence[str]) -> Streams[Contexts]:
        """What both streams read; one that is kept reads the prompt in place of the negative one."""
        *positive, negative = self.encode([*prompts, request.negative or ""], request.text_rows)

        def of(stream: str, mode: str) -> Contexts:
            features = torch.cat([getattr(context, stream) for context in positive])
            against = getattr(negative, stream).expand_as(features)
            return Contexts(features) if mode == "keep" else Contexts(features, against)

        return Streams(of("video", request.video), of("audio", request.sound))

    def encode(self, prompts: Sequence[str], rows: int) -> list[TextContext]:
        return encode_prompts(prompts, lambda: nullcontext(self.gemma), lambda: nullcontext(self.connectors), rows)

    def transformer(self, stage: Stage) -> Any:
        """The denoiser of a stage, loaded once."""
        if stage.distilled_lora not in self.denoisers:
            self.denoisers[stage.distilled_lora] = self.models.load_transformer(stage)
        return self.denoisers[stage.distilled_lora]


def _joined(states: Sequence[States]) -> States:
    """One batch of states that differ in their tokens alone."""

    def join(first: LatentState, *others: LatentState) -> LatentState:
        every = (first, *others)
        names = ("latent", "clean", "positions", "keyframes_mask")
        tensors = {n: torch.cat([getattr(s, n) for s in every]) for n in names if getattr(first, n) is not None}
        return replace(first, mask=DenoiseMask.from_dense(torch.cat([s.mask.dense for s in every])), **tensors)

    return states[0].map(join, *states[1:])
