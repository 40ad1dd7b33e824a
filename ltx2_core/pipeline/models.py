"""The models of a job: which files they come from, in which dtype, and on the device one after another.

Source: spec pipelines, "Order of one run".
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

import torch

from ..checkpoint import load_component
from ..config.audio import AudioVAEConfig
from ..config.released import effective_config
from ..config.transformer import TransformerConfig
from ..config.video_vae import VideoVAEConfig
from ..errors import RequestError
from ..grids import VideoGrid
from ..headers import Header, read_header
from ..lora import Applied, fuse
from ..lora_file import match, read_lora
from ..memory import resident
from ..text.encode import ContextModels
from ..text.files import find_encoder
from ..text.gemma import Gemma, load_gemma
from .job import Job
from .recipe import Stage
from .request import Request

M = TypeVar("M")
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentShapes:
    """What a checkpoint's latents look like: channels, bins, and pixels to a cell."""

    transformer: TransformerConfig
    video_vae: VideoVAEConfig
    audio_vae: AudioVAEConfig

    def grid(self, request: Request, scale: float) -> VideoGrid:
        """The video grid of a stage."""
        width, height = (round(side * scale) for side in (request.width, request.height))
        return VideoGrid(frames=request.frames, height=height, width=width, factors=self.video_vae.factors)


@dataclass(frozen=True)
class Models:
    """Loads the models of a job. `resident` takes one of the loaders and lets go of the model afterwards."""

    job: Job

    @cached_property
    def device(self) -> torch.device:
        return torch.device(self.job.request.device)

    @cached_property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.job.request.precision]

    @cached_property
    def header(self) -> Header:
        return read_header(self.job.files.need("checkpoint"))

    @cached_property
    def shapes(self) -> LatentShapes:
        config = effective_config(self.header)
        return LatentShapes(
            transformer=TransformerConfig.from_metadata(config),
            video_vae=VideoVAEConfig.from_metadata(config),
            audio_vae=AudioVAEConfig.from_metadata(config),
        )

    def resident(self, load: Callable[[], M]) -> AbstractContextManager[M]:
        """A model for the length of a `with` block."""
        return resident(load, self.device)

    def component(self, name: str, dtype: torch.dtype | None = None) -> AbstractContextManager[Any]:
        """A component of the checkpoint for the length of a `with` block."""
        return self.resident(partial(self.load, name, dtype))

    def load(self, component: str, dtype: torch.dtype | None = None) -> Any:
        """A component of the checkpoint, in the dtype of the run unless another is asked for."""
        return load_component(component, self.header, device=self.device, dtype=dtype or self.dtype)

    def load_transformer(self, stage: Stage) -> Any:
        """The denoiser with the LoRAs of a stage.

        Its tables, float32 in the files, are rounded here instead of wherever they are used: the bits are the same.
        """
        model = self.load("transformer")
        fuse(model, self.loras(stage))
        return model

    def loras(self, stage: Stage) -> list[Applied]:
        """The LoRAs that act in a stage, in their order: the user's, then the distilled one."""
        chosen = [(self.job.inputs[lora.role], lora.strength) for lora in self.job.request.loras if stage.user_loras]
        if stage.distilled_lora is not None:
            chosen.append((self.job.files.need("distilled_lora"), stage.distilled_lora))
        return [(match(read_lora(path), self.header, allow_partial=True), strength) for path, strength in chosen]

    def load_upsampler(self) -> tuple[Any, Any]:
        """The latent upsampler, and the statistics of the latents that it works between."""
        path = self.job.files.need("upsampler", "--upsampler FILE")
        upsampler = load_component("upsampler", path, device=self.device, dtype=self.dtype)
        return upsampler, self.load("video_statistics")

    def load_text_encoder(self) -> Gemma:
        return load_gemma(find_encoder(self.job.files.need("text_encoder")), device=self.device, dtype=self.dtype)

    def load_connectors(self) -> ContextModels:
        return ContextModels(*(self.load(name) for name in ("text_projection", "video_connector", "audio_connector")))


def settle(request: Request) -> Request:
    """Choose device and precision where the request leaves them to the machine.

    Raises: RequestError if there is no such device.
    """
    name = request.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= there[device.type]:
        why = "this machine has no such device"
        raise RequestError(f"--device {request.device} cannot be used", why, "--device cpu always works")
    precision = request.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    return request.model_copy(update={"device": str(device), "precision": precision})
