"""What card this machine has, without torch: from the driver's own library, which answers in milliseconds.

Source: spec cli, "Presets, tiers, models".
"""

from __future__ import annotations

import os
from importlib import metadata
from typing import Any


def card_gb(device: str) -> int | None:
    """The memory of the card that a device name means, as it is sold: the nearest whole number of GiB.

    Args: device: as `--device`; cuda:1 is the second card that CUDA_VISIBLE_DEVICES shows, in the order of the bus.
    Returns: None where there is no such card, or this torch computes on none.
    """
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cuda") or metadata.version("torch").endswith("+cpu"):
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # there is no driver
        return None
    try:
        handle = _handle(pynvml, int(number or 0))
        memory: Any = None if handle is None else pynvml.nvmlDeviceGetMemoryInfo(handle)
        return None if memory is None else round(memory.total / 2**30)
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


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
