"""One denoising run, from noise to latents, and how it is stopped in the middle and resumed.

Source: docs/reference/pipelines.md, "Order of one run"; docs/reference/sampling.md, "Order of construction".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from importlib import import_module
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from ... import sampling
from ...conditioning.conditions import Condition
from ...errors import NotFiniteError, StorageError
from ...grids import VideoGrid
from ...latents import Latents, LatentState, States, unpatchify_audio, unpatchify_video
from ...machine import Machine, RankLayout
from ...models.attention import attending
from ...models.block_cache import BlockCache
from ...models.capture import AttentionCapture
from ...models.segments import TextTimes
from ...models.transformer import Transformer
from ...parallel import Ranks, Split
from ...sampling.denoiser import GuidedDenoiser
from ...sampling.guidance import Contexts, plan_passes
from ...sampling.noise import NOISE_DTYPE, add_noise
from ...sampling.samplers import Denoiser, OnStep
from ...sampling.schedules import from_level, ltx2_schedule, with_level
from ...sampling.table import SAMPLERS
from ...types import Streams
from ..events import StoppedError, Watch
from ..job import Saved
from ..parts import LatentShapes
from ..recipe import Stage
from ..request import Request
from .looping import LoopDenoiser
from .preview import LastEstimate
from .stage_inputs import Given
from .tiled import TiledDenoiser, tiled

Estimator = GuidedDenoiser | TiledDenoiser | LoopDenoiser
OnEstimate = Callable[[int, int, Tensor], None]


class Finished(NamedTuple):
    """The result of a stage.

    keyframes: (1 c k h w), generated single frames; None if there are none. attention: (na nv) float32, the summed
    attention of each audio token to each token of the video's own grid; None if it was not captured.
    """

    latents: Latents
    keyframes: Tensor | None
    attention: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRun:
    """The inputs of a stage beside the model.

    Args: given: its start, at this stage's size. contexts: of the streams that are present. saved: where the stage was
    stopped before. capture: sums the attention of the audio. ranks: those that run it together; None for one process.
    on_estimate: called after each step with its number, from 1, the number of steps, and the clean estimate of the
    video (1 c f h w).
    """

    stage: Stage
    request: Request
    shapes: LatentShapes
    given: Given
    contexts: Streams[Contexts]
    device: torch.device
    dtype: torch.dtype
    machine: Machine
    generator: torch.Generator
    saved: Saved | None = None
    capture: AttentionCapture | None = None
    ranks: Ranks | None = None
    on_estimate: OnEstimate | None = None

    def run(self, model: Transformer, watch: Watch, name: str) -> Finished:
        """Denoise from noise to latents (1 c f h w) and (1 c t m), and the generated keyframes.

        Raises: StoppedError with the tokens so far if the watcher stops it; NotFiniteError.
        """
        states = self.states()
        if self.capture is None and self.is_given(states):
            watch.tell(f"{name}: nothing is left to generate")
            return Finished(self.finish(states), None, None)
        done, attention = 0, None
        if self.saved is not None:
            states = states.map(_with_tokens, self.saved.latents)
            done, attention = self.saved.step, self.saved.attention
        if self.capture is not None:
            self.capture.begin(done + 1, attention)
        tokens = Streams(*(0 if state is None else state.latent.shape[1] for state in states))
        watch.tell(f"{name}: {tokens.video:,} video and {tokens.audio:,} audio tokens")
        if (ranks := self.ranks) is not None:
            asked = watch.should_stop
            watch = replace(watch, should_stop=lambda: ranks.agree(asked()))
        states = self._denoised(model, states, done, watch, name)
        video = states.video
        keyframes = video.slots if video is not None and video.slot_tokens else None
        return Finished(self.finish(states), keyframes, self._attention(states))

    def _denoised(self, model: Transformer, states: States, done: int, watch: Watch, name: str) -> States:
        """Both streams after the last step. done: the number of steps that are finished already."""
        sigmas = self.sigmas()
        total = len(sigmas) - 1
        with watch.phase("denoise", name, total) as on_step, self._shared(self.denoiser(model)) as denoiser:

            def step_done(step: int, _: int) -> None:
                if self.capture is not None:
                    self.capture.note_step(done + step, total)
                on_step(min(done + step, total))
                if self.on_estimate is not None and last.latent is not None and done + step <= total:
                    self.on_estimate(done + step, total, last.latent)

            denoise = self._held(self._guarded(self._tiled(denoiser, states), watch, done, total))
            last = LastEstimate(denoise)
            if self.on_estimate is not None:
                denoise = last
            with attending(self.machine.attention):
                states = self.sample(denoise, states, sigmas[done:], step_done)
        if (cache := denoiser.cache) is not None:
            watch.tell(f"{cache.skipped} of {cache.evaluations} evaluations skipped all blocks but the first")
        return states

    def _attention(self, states: States) -> Tensor | None:
        """The attention map, without the tokens that conditions appended."""
        summed = self.capture and self.capture.summed
        if summed is None or states.video is None:
            return None
        heard = len(summed) if states.audio is None else states.audio.base_tokens
        return summed[:heard, : states.video.base_tokens].clone()

    def states(self) -> States:
        """Both streams before the first step: conditions applied, then noise, video's drawn first.

        Noise is drawn for a kept stream too, but not used.
        """

        def ready(state: LatentState, conditions: Sequence[Condition], noise: float, mode: str) -> LatentState:
            for condition in conditions:
                state = condition.apply(state)
            state = add_noise(state, self.generator, noise, NOISE_DTYPE)
            return state.freeze() if mode == "keep" else state

        return self.initial_states().map(ready, self.given.conditions, self.given.noise, self.request.streams)

    def is_given(self, states: States) -> bool:
        """Whether nothing is left to denoise, as in the windows of a chain that lie inside an input clip.

        In a window that follows another one, the first latent frame and audio step do not count: they are discarded.
        """
        is_first = self.request.place.number == 0

        def is_kept(state: LatentState) -> bool:
            discarded = 0 if is_first else prod(state.grid[1:])
            return not state.mask.values[:, discarded:].any()

        return all(is_kept(state) for state in states if state is not None)

    def initial_states(self) -> States:
        """Both streams before conditions and noise."""
        request, shapes = self.request, self.shapes
        blank = partial(torch.zeros, dtype=self.dtype, device=self.device)
        video, audio = self.given.start.map(lambda latent: latent.to(self.device, self.dtype))
        if request.video != "off" and video is None:
            video = blank(1, shapes.video_vae.latent_channels, *self.grid.latent)
        if request.audio != "off" and audio is None:
            steps = len(request.audio_steps)
            audio = blank(1, shapes.audio_vae.latent_channels, steps, shapes.audio_vae.latent_bins)
        states = Streams(video, audio).map_each(
            lambda latent: LatentState.video(latent, self.fps, self.grid.factors),
            lambda latent: LatentState.audio(latent, request.audio_steps.start, request.begin_s),
        )
        return states.map(lambda state: replace(state, origin_s=float(request.begin_s)))

    @property
    def grid(self) -> VideoGrid:
        return self.request.grid(self.shapes.video_vae.factors, self.stage)

    @property
    def fps(self) -> Fraction:
        return self.request.fps * self.stage.rate

    def sigmas(self) -> Tensor:
        """The schedule (steps + 1)."""
        return schedule(self.stage, self.request, self.grid)

    def sample(self, denoise: Denoiser, states: States, sigmas: Tensor, on_step: OnStep) -> States:
        """Iterate over the schedule with the sampler of the stage."""
        sampler = SAMPLERS[self.stage.sampler]
        sample = getattr(import_module(f"{sampling.__name__}.{sampler.module}"), sampler.function)
        return sample(denoise, states, sigmas, on_step, **self.generators())

    def generators(self) -> dict[str, torch.Generator]:
        """The sampler's own generators, by name, before its first step."""
        own, number = SAMPLERS[self.stage.sampler].generators, self.request.place.number
        seeds = {name: seed.of(self.request.seed, number) for name, seed in own.items()}
        return {name: torch.Generator(self.device).manual_seed(seed) for name, seed in seeds.items()}

    def finish(self, states: States) -> Latents:
        """The latents of the grids themselves, without what conditions appended."""
        channels = self.shapes.audio_vae.latent_channels
        return states.map_each(
            lambda video: unpatchify_video(video.base, video.grid),
            lambda audio: unpatchify_audio(audio.base, channels),
        )

    def denoiser(self, model: Transformer) -> GuidedDenoiser:
        """The model with the guidance of this stage."""
        scales = self.request.guidance_in(self.stage)
        return GuidedDenoiser(
            model=model,
            contexts=self.contexts,
            scales=self.contexts.map(lambda _, scale: scale, scales),
            is_batched=self.machine.batches_passes,
            keeps_text=self.machine.keeps_text,
            capture=self.capture,
            times=self.times,
            cache=self._cache(),
        )

    @property
    def times(self) -> TextTimes | None:
        """When each of several texts applies, with a transition of a latent frame between two of them; None for one
        text.
        """
        request, texts = self.request, [*self.request.texts]
        if len(texts) == 1:
            return None
        spans = request.text_spans
        return TextTimes(
            texts=tuple(texts.index(span.text) for span in spans),
            borders=tuple(float(span.end_s) for span in spans[:-1]),
            ramp_s=float(self.grid.factors.time / self.fps),
        )

    def _cache(self) -> BlockCache | None:
        """The block cache for evaluations of this stage."""
        return BlockCache(bound=self.request.cache_steps) if self.request.caches_blocks_in(self.stage) else None

    @contextmanager
    def _shared(self, denoise: GuidedDenoiser) -> Iterator[GuidedDenoiser]:
        """The denoiser, whose work is shared by the ranks."""
        if self.ranks is None:
            yield denoise
            return
        split = Split.of(self.ranks, RankLayout.of(self.ranks.count, len(plan_passes(denoise.scales, 0))))
        with split.over(denoise.model):
            yield replace(denoise, split=split)

    def _tiled(self, denoise: GuidedDenoiser, states: States) -> Estimator:
        stage = self.stage
        if self.request.loops:
            return LoopDenoiser(denoise, self.fps, self.grid.factors)
        if stage.is_whole:
            return denoise
        across, down = stage.tiles or (1, 1)
        return tiled(denoise, states, (stage.windows, across, down), self.grid.factors, self.fps)

    def _held(self, denoise: Denoiser) -> Denoiser:
        """The denoiser; above the strength of a restyling, the source is the clean estimate of the streams that start
        from it.

        So a video stays on the line between noise and the source while audio without a source is generated.
        """
        strength = self.request.strength
        if strength is None or self.stage.start != "source":
            return denoise
        level = torch.tensor(strength).item()  # rounded as the schedule is

        def held(states: States, sigma: float, step: int) -> Latents:
            estimate = denoise(states, sigma, step)
            if sigma <= level:
                return estimate
            return estimate.map(lambda x, s, start: x if start is None else s.clean.to(x), states, self.given.start)

        return held

    def _guarded(self, denoise: Estimator, watch: Watch, done: int, total: int) -> Denoiser:
        """The denoiser, with a check before each step whether to stop, and after it whether its values are finite."""
        cache = denoise.cache if isinstance(denoise, GuidedDenoiser) else None

        def guarded(states: States, sigma: float, step: int) -> Latents:
            # Guidance that skips this step would need the estimate of an earlier one, which is not kept. Nor is what a
            # cache holds: with one, a stage stops before an evaluation that turns out to use nothing of it.
            is_fresh = all(scales.runs_at(done + step) for scales in denoise.scales if scales is not None)
            stops = step > 0 and is_fresh and watch.should_stop()
            estimate = denoise(states, sigma, done + step) if cache is not None or not stops else Streams()
            if stops and (cache is None or not cache.has_skipped):
                latents = states.map(lambda s: s.latent)
                attention = self.capture and self.capture.summed
                saved = Saved(latents, self.generator.get_state(), done + step, attention=attention)
                is_resumable = SAMPLERS[self.stage.sampler].is_resumable
                raise StoppedError(f"after step {done + step} of {total}", saved if is_resumable else None)
            if not all(x.isfinite().all() for x in estimate if x is not None):
                why = f"step {done + step + 1} of {total} gave them"
                hint = "another --seed" if self.dtype == torch.float32 else "another --seed, or --precision fp32"
                raise NotFiniteError("the model produced NaN or infinite values", why, hint)
            return estimate

        return guarded


def schedule(stage: Stage, request: Request, grid: VideoGrid) -> Tensor:
    """The noise levels of a stage (steps + 1): a list, or the schedule with the request's number of steps.

    Restyling starts at its strength, unless audio is generated with it.
    """
    listed = stage.listed_sigmas()
    tokens = grid.tokens if stage.schedule_tokens == "grid" else request.schedule_tokens
    steps = min(request.steps, stage.steps or request.steps)
    sigmas = ltx2_schedule(steps, tokens) if listed is None else torch.tensor(listed)
    if request.strength is None or stage.start != "source":
        return sigmas
    return with_level(sigmas, request.strength) if request.has_new_audio else from_level(sigmas, request.strength)


def _with_tokens(state: LatentState, latent: Tensor) -> LatentState:
    if latent.shape != state.latent.shape:
        what = f"the tokens on disk are {tuple(latent.shape)}, and this stage has {tuple(state.latent.shape)}"
        raise StorageError("the job folder is damaged", what, "--overwrite renders again")
    return state.with_latent(latent.to(state.latent.device))
