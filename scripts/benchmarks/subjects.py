"""The work of the benches: the denoiser of 2.0 with random weights at any size, and the same weights in diffusers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor

from ltx2_core import keymap
from ltx2_core.compiling import compile_blocks
from ltx2_core.components import DIT
from ltx2_core.config.transformer import TransformerConfig
from ltx2_core.grids import Factors, VideoGrid, audio_latent_count
from ltx2_core.latents import DenoiseMask, Latents, LatentState, audio_positions, to_denoised, video_positions
from ltx2_core.models.passes import StreamInput
from ltx2_core.models.transformer import Transformer
from ltx2_core.pipeline.doctor.sample import guidance, stg_block
from ltx2_core.sampling.denoiser import GuidedDenoiser
from ltx2_core.sampling.guidance import Contexts
from ltx2_core.types import Streams
from scripts.diffusers_names import REFERENCES, Settings, transformer_arguments

Size = tuple[int, int, int]  # width, height, frames
Call = Callable[[], Latents]
FPS, FACTORS, SIGMA, TEXT_ROWS = Fraction(24), Factors(8, 32, 32), 0.7, 1024


def make_inputs(
    config: TransformerConfig, size: Size, dtype: torch.dtype, device: torch.device
) -> Streams[StreamInput]:
    """Random inputs of one text-to-video step: batch 1, the same noise level everywhere."""
    width, height, frames = size
    grid = VideoGrid(frames=frames, height=height, width=width, factors=FACTORS)

    def stream(one: Any, positions: Tensor) -> StreamInput:
        return StreamInput(
            latent=torch.randn(1, positions.shape[2], one.in_channels, dtype=dtype, device=device),
            sigma=torch.full((1,), SIGMA, device=device),
            unique_timesteps=torch.full((1, 1), SIGMA, device=device),
            positions=positions.to(device),
            context=torch.randn(1, TEXT_ROWS, config.caption_channels or one.width, dtype=dtype, device=device),
        )

    positions = Streams(video_positions(grid.latent, FPS, FACTORS), audio_positions(audio_latent_count(frames, FPS)))
    return config.streams.map(stream, positions)


def with_other_text(inputs: Streams[StreamInput]) -> Streams[StreamInput]:
    """The same inputs with the text of another prompt."""
    return inputs.map(lambda one: replace(one, context=torch.randn_like(one.context)))


class Ours:
    """This implementation."""

    def __init__(self, model: Transformer) -> None:
        self.model = model

    def forward(self, inputs: Streams[StreamInput]) -> Call:
        """One call of the model; its velocities."""
        return lambda: self.model(inputs)

    def compiled(self) -> Ours:
        """The same weights in a model whose blocks are compiled at the first call."""
        with torch.device("meta"):
            model = Transformer(self.model.config)
        model.load_state_dict(self.model.state_dict(), assign=True)
        compile_blocks(model.requires_grad_(False).eval())
        return Ours(model)

    def guided_step(self, inputs: Streams[StreamInput], negative: Streams[StreamInput]) -> Call:
        """One evaluation with guidance, as in the middle of a render: the keys and values of the text are already
        cached.
        """

        def state(one: StreamInput) -> LatentState:
            b, n, _ = one.latent.shape
            mask = DenoiseMask.full((b, n), 1.0, one.latent.device)
            return LatentState(grid=(n,), latent=one.latent, clean=one.latent, mask=mask, positions=one.positions)

        contexts = inputs.map(lambda one, other: Contexts(one.context, other.context), negative)
        denoise = GuidedDenoiser(model=self.model, contexts=contexts, scales=guidance(self.model.config.layers))
        states = inputs.map(state)
        return lambda: denoise(states, SIGMA, 0)


class Theirs:
    """The diffusers implementation with our weights. Raises: ImportError if diffusers is not installed."""

    def __init__(self, model: Transformer, settings: Settings) -> None:
        self.settings = settings
        self.layers = model.config.layers
        rows = keymap.TRANSFORMER
        self.official = {DIT + keymap.to_official(name, rows): tensor for name, tensor in model.state_dict().items()}
        self.plain, self.perturbed = self._build(perturbed_attn=False), self._build(perturbed_attn=True)

    def _build(self, **options: bool) -> Any:
        reference = REFERENCES["transformer"]
        with torch.device("meta"):
            model = resolve_name(reference.path)(**reference.settings(self.settings), **options)
        names = reference.names(self.official)
        model.load_state_dict({theirs: self.official[name] for name, theirs in names.items()}, assign=True)
        return model.requires_grad_(False).eval()

    def forward(self, inputs: Streams[StreamInput]) -> Call:
        """One call of the model; its velocities."""
        arguments = transformer_arguments(inputs)
        return lambda: Streams(*self.plain(**arguments, return_dict=False))

    def guided_step(self, inputs: Streams[StreamInput], negative: Streams[StreamInput]) -> Call:
        """The same four passes, one by one: prompt, negative prompt, perturbed, isolated."""
        blocks = {"spatio_temporal_guidance_blocks": [stg_block(self.layers)]}
        passes = [{}, {}, blocks, {"isolate_modalities": True}]
        arguments = [transformer_arguments(one) for one in (inputs, negative, inputs, inputs)]
        mix = resolve_name("diffusers:LTX2Guidance")
        guiders = guidance(self.layers).map(
            lambda scale: mix(
                guidance_scale=scale.st,
                stg_scale=scale.stg,
                modality_scale=scale.sm,
                guidance_rescale=scale.rescale,
                **blocks,
            )
        )

        def estimate(one: StreamInput, guider: Any, *velocities: Tensor) -> Tensor:
            return guider.forward(*(to_denoised(one.latent, v, SIGMA) for v in velocities)).pred

        def step() -> Latents:
            calls = zip(arguments, passes, strict=True)
            velocities = [Streams(*self.perturbed(**given, **how, return_dict=False)) for given, how in calls]
            return inputs.map(estimate, guiders, *velocities)

        return step
