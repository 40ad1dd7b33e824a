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

from ...checkpoint import load_component
from ...errors import RequestError
from ...lora import Applied, fuse
from ...lora_file import match, read_lora
from ...memory import resident
from ...text.encode import ContextModels
from ...text.files import find_encoder
from ...text.gemma import Gemma, load_gemma
from ..job import Job
from ..parts import LatentShapes, Parts
from ..recipe import Stage
from ..request import Request

M = TypeVar("M")
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


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
    def parts(self) -> Parts:
        return Parts.of(self.job.files)

    @property
    def shapes(self) -> LatentShapes:
        return self.parts.shapes

    def resident(self, load: Callable[[], M]) -> AbstractContextManager[M]:
        """A model for the length of a `with` block."""
        return resident(load, self.device)

    def component(self, name: str, dtype: torch.dtype | None = None) -> AbstractContextManager[Any]:
        """A component of the model for the length of a `with` block."""
        return self.resident(partial(self.load, name, dtype))

    def load(self, component: str, dtype: torch.dtype | None = None) -> Any:
        """A component of the model, in the dtype of the run unless another is asked for."""
        return load_component(component, self.parts.header(component), device=self.device, dtype=dtype or self.dtype)

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
        transformer = self.parts.header("transformer")
        return [(match(read_lora(path), transformer, allow_partial=True), strength) for path, strength in chosen]

    def load_upsampler(self, role: str) -> tuple[Any, Any]:
        """A latent upsampler, and the statistics of the latents that it works between."""
        path = self.job.files.need(role, "--upsampler FILE")
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
