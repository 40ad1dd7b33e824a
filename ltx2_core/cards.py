"""What NVIDIA cards this machine has, without torch: from the driver's own library, which answers in milliseconds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import metadata
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One card. nbytes: its total memory. capability: its compute capability, such as (8, 9)."""

    name: str
    nbytes: int
    capability: tuple[int, int]

    @property
    def gb(self) -> int:
        """The memory as it is sold: the nearest whole number of GiB."""
        return round(self.nbytes / 2**30)


def has_cuda_build() -> bool:
    """Whether the installed torch can compute on NVIDIA cards at all."""
    return not metadata.version("torch").endswith("+cpu")


def find_card(number: int = 0) -> Card | None:
    """A card by its number among those that CUDA_VISIBLE_DEVICES shows, in the order of the bus.

    Returns: None where there is no such card, or no driver.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # there is no driver
        return None
    try:
        handle = _handle(pynvml, number)
        return None if handle is None else _card(pynvml, handle)
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _card(nvml: Any, handle: Any) -> Card:
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    name = nvml.nvmlDeviceGetName(handle)
    return Card(name=str(name), nbytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total), capability=(major, minor))


def _handle(nvml: Any, number: int) -> Any:
    """The handle of a card by its number among the visible ones; None if it is not visible."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return nvml.nvmlDeviceGetHandleByIndex(number)
    names = [name.strip() for name in visible.split(",")]
    if number >= len(names) or names[number] in ("", "-1"):
        return None
    name = names[number]
    return nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name)
