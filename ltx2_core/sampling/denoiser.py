"""The guided denoiser: from noisy states to clean estimates, with as many calls of the model as the guidance needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..latents import Latents, LatentState, States, to_denoised
from ..models.block_cache import BlockCache
from ..models.capture import AttentionCapture
from ..models.chunks import ALL_TOKENS
from ..models.passes import ALL_BLOCKS, Pass, Perturbation, StreamInput, TextMemory
from ..models.rope import StreamRope
from ..models.segments import TextShares, TextTimes
from ..models.transformer import StreamIO, Transformer, run_passes
from ..parallel import Split
from ..types import Streams
from .guidance import Contexts, GuidancePass, GuidanceScales, PassKind, guide, plan_passes, share_passes

Text = Tensor | TextMemory


class PlacedRope(NamedTuple):
    """The rotary tables of a stream, and the positions that they were computed from."""

    positions: Tensor
    tables: StreamRope


@dataclass(kw_only=True)
class GuidedDenoiser:
    """Estimate the clean latents of both streams.

    Remembers its last estimates, for guidance that skips steps, and what stays the same from pass to pass and from step
    to step: rotary tables, as long as a stream comes with the same tensor of positions, and the text's keys and values.

    Args: contexts: text features (b l d), of the batch size of the states. is_batched: whether all passes go through
    the model as one batch, which is faster for small grids and holds more at a time. keeps_text: whether the text's
    keys and values are made once instead of in every call, where the model allows it; they take memory. split: how
    several ranks share the work; None for one rank. capture: sums the map of the audio's attention to the video, in
    the passes that read the prompt and leave nothing out. times: the times of the texts that the positive contexts
    hold one after another, (b texts·l d); None if these hold one text. cache: lets an evaluation skip blocks whose
    effect has hardly changed since the evaluation before.
    """

    model: Transformer
    contexts: Streams[Contexts]
    scales: Streams[GuidanceScales]
    is_batched: bool = False
    keeps_text: bool = True
    split: Split | None = None
    capture: AttentionCapture | None = None
    times: TextTimes | None = None
    cache: BlockCache | None = None
    _last: Latents = field(default_factory=Streams, init=False)
    _texts: dict[bool, Streams[Text]] = field(default_factory=dict, init=False)
    _ropes: dict[StreamIO, PlacedRope] = field(default_factory=dict, init=False)
    _shares: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary, init=False)

    def __call__(self, states: States, sigma: float, step: int) -> Latents:
        """Estimate at a noise level; steps count from 0."""
        plan = plan_passes(self.scales, step)
        if not plan:
            return self._last

        def mix(scales: GuidanceScales, *estimates: Tensor) -> Tensor:
            return guide(dict(zip((one.kind for one in plan), estimates, strict=True)), scales)

        fresh = self.scales.map(mix, *self.estimates(plan, states, sigma))
        last = Streams([self._last.video], [self._last.audio])
        self._last = fresh.map(lambda new, enabled, old: new if enabled else old[0], plan[0].enabled, last)
        return self._last

    def estimates(self, plan: Sequence[GuidancePass], states: States, sigma: float) -> list[Latents]:
        """The clean estimates of each pass of a plan."""
        velocities = self._velocities(plan, states, sigma) if self.split is None else self._shared(plan, states, sigma)

        def estimate(state: LatentState, velocity: Tensor) -> Tensor:
            return to_denoised(state.latent, velocity, state.timesteps(sigma))

        return [states.map(estimate, velocity) for velocity in velocities]

    def _velocities(self, plan: Sequence[GuidancePass], states: States, sigma: float) -> list[Streams[Tensor]]:
        if self.cache is not None:
            self.cache.begin([(one.kind, one.enabled) for one in plan])
        run = run_batched if self.is_batched else run_passes
        return run(self.model, self._passes(plan, states, sigma), capture=self.capture, cache=self.cache)

    def _shared(self, plan: Sequence[GuidancePass], states: States, sigma: float) -> list[Streams[Tensor]]:
        """The same on all ranks, each of which computes some of the passes with its rows of the video."""
        assert self.split is not None
        shares = share_passes(plan, self.split.layout.parts)
        own = [plan[place] for place in shares[self.split.part]]
        made = self._velocities(own, states, sigma)
        return self.split.gathered(made, shares, states.map(lambda state: state.latent))

    def _passes(self, plan: Sequence[GuidancePass], states: States, sigma: float) -> list[Pass]:
        """The calls of the model. Those that read the prompt have the inputs of the first of them, and share its first
        blocks.
        """
        passes: list[Pass] = []
        first: int | None = None  # the first pass that reads the prompt
        for number, one in enumerate(plan):
            reads_prompt = one.kind is not PassKind.UNCOND
            follows = first if reads_prompt else None
            inputs = self._inputs(one, states, sigma) if follows is None else passes[follows].inputs
            if reads_prompt and first is None:
                first = number
            batch = next(state for state in states if state is not None).latent.shape[0]
            passes.append(Pass(inputs=inputs, perturbations=[_perturbation(one)] * batch, follows=follows))
        return passes

    def _inputs(self, one: GuidancePass, states: States, sigma: float) -> Streams[StreamInput]:
        texts, rows = self._text(one.kind), Streams(ALL_TOKENS, ALL_TOKENS)
        if self.split is not None and states.video is not None:
            rows = Streams(self.split.own_rows(states.video.latent.shape[1]), ALL_TOKENS)

        def stream(
            state: LatentState, text: Text, contexts: Contexts, is_enabled: bool, io: StreamIO, rows: slice
        ) -> StreamInput:
            has_texts = self.is_batched or contexts.of(one.kind) is contexts.positive
            return StreamInput(
                latent=state.latent[:, rows],
                sigma=state.stream_sigma(sigma),
                unique_timesteps=state.unique_timesteps(sigma).expand(state.latent.shape[0], -1),
                timestep_index=_rows(state.mask.index, rows),
                positions=self._rope(state, io, rows),
                context=text,
                attention_mask=_rows(state.attention_mask, rows),
                keyframes_mask=_rows(state.keyframes_mask, rows),
                text_shares=self._text_shares(state, rows) if has_texts else None,
                is_enabled=is_enabled,
            )

        return states.map(stream, texts, self.contexts, one.enabled, self.model.streams, rows)

    def _rope(self, state: LatentState, io: StreamIO, rows: slice) -> StreamRope:
        placed = self._ropes.get(io)
        if placed is None or placed.positions is not state.positions:
            self._ropes.pop(io, None)  # freed before the next tables are computed
            tables = io.rotary_tables(state.positions[:, :, rows].to(state.latent.device))
            placed = self._ropes[io] = PlacedRope(state.positions, tables)
        return placed.tables

    def _text_shares(self, state: LatentState, rows: slice) -> TextShares | None:
        if self.times is None:
            return None
        if state.positions not in self._shares:
            self._shares[state.positions] = {}
        by_origin: dict[float, TextShares] = self._shares[state.positions]
        if state.origin_s not in by_origin:
            weights = self.times.weights(state.positions[:, :, rows], state.origin_s)
            by_origin[state.origin_s] = TextShares.of(weights, state.latent.device)
        return by_origin[state.origin_s]

    def _text(self, kind: PassKind) -> Streams[Text]:
        """The text of the streams in a pass: features, or the keys and values computed from them."""
        is_negative = kind is PassKind.UNCOND
        if is_negative not in self._texts:
            text: Streams[Any] = self.contexts.map(lambda contexts: self._features(contexts, kind))
            if self.keeps_text and not self.is_batched and self.model.config.has_static_text:
                text = self.model.text_memory(text)
            self._texts[is_negative] = text
        return self._texts[is_negative]

    def _features(self, contexts: Contexts, kind: PassKind) -> Tensor:
        """The text features of a stream in a pass; in a batch, whose samples are equally long, the negative prompt is
        repeated.
        """
        features = contexts.of(kind)
        if self.times is None or not self.is_batched or features is contexts.positive:
            return features
        return features.repeat(1, self.times.count, 1)


def run_batched(
    model: Transformer,
    passes: Sequence[Pass],
    capture: AttentionCapture | None = None,
    cache: BlockCache | None = None,
) -> list[Streams[Tensor]]:
    """The same velocities as `run_passes`, with all passes as one batch and nothing shared between them.

    Their tokens have the same positions. capture: of the first samples of the batch, which are the first pass. cache:
    as there.
    """
    first, *others = (one.inputs for one in passes)
    inputs = first.map(lambda *streams: _concatenate(streams), *others)
    perturbations = [p for one in passes for p in one.perturbations]
    (velocity,) = run_passes(model, [Pass(inputs=inputs, perturbations=perturbations)], capture=capture, cache=cache)
    parts = velocity.map(lambda v: v.chunk(len(passes)))
    return [parts.map(lambda chunks, i=i: chunks[i]) for i in range(len(passes))]


def _rows(x: Tensor | None, rows: slice) -> Tensor | None:
    return None if x is None else x[:, rows]


def _concatenate(inputs: Sequence[StreamInput]) -> StreamInput:
    """One input with the samples of several; they have the same fields, with other values."""

    def joined(name: str) -> Tensor | StreamRope | None:
        first, *others = (getattr(one, name) for one in inputs)
        if isinstance(first, StreamRope):
            return first.repeated(len(inputs))
        return None if first is None else torch.cat([first, *others])

    timesteps = ("sigma", "unique_timesteps", "timestep_index")
    names = ("latent", *timesteps, "positions", "context", "attention_mask", "keyframes_mask")
    return replace(inputs[0], **{name: joined(name) for name in names})


def _perturbation(one: GuidancePass) -> Perturbation:
    across = ALL_BLOCKS if one.is_isolated else frozenset()
    video, audio = (frozenset(blocks or ()) for blocks in one.perturbed)
    return Perturbation(video_self=video, audio_self=audio, audio_to_video=across, video_to_audio=across)
