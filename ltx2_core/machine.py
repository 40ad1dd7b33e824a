"""What the machine decides about a render, as one record.

It is settled together with the request, shown with it, stored with it, and is the only place that the engine reads such
choices from. Choices that change a bit depend on the machine itself and never on the moment, so that a run repeats.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .tiles import TilePlan

Precision = Literal["bf16", "fp32"]
KEPT_SHARE = 0.6  # of the memory that weights may fill between phases; activations take the rest
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Everything that the machine, and not the request, decides.

    Args: device: "cpu", "mps" or "cuda:N". precision: what the models compute in; the vocoder is always float32.
    memory: how weights reach the device; "resident" holds a whole model there while it runs. kept_bytes: how much of
    the weights may stay loaded from one phase to the next. decode_tiles, encode_tiles: how the video VAE cuts a clip.
    batches_passes: whether all passes of guidance go through the denoiser as one batch. keeps_text: whether keys and
    values of the text are made once for all steps. attention: the backend. compiles: whether torch.compile is used.
    threads: of the CPU that compute.
    """

    device: str
    precision: Precision
    memory: Literal["resident"] = "resident"
    kept_bytes: int = 0
    decode_tiles: TilePlan
    encode_tiles: TilePlan
    batches_passes: bool = False
    keeps_text: bool = True
    attention: Literal["sdpa"] = "sdpa"
    compiles: bool = False
    threads: int = 1


def cpu_threads() -> int:
    """How many threads compute: what OMP_NUM_THREADS says, else the CPUs that this process may run on."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if asked.isascii() and asked.isdigit() and int(asked):
        return int(asked)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ram_bytes() -> int:
    """The memory of this machine, or what its container may use of it; 0 where the system does not tell."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return 0
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for file in CGROUP_LIMITS:
        if file.is_file() and (text := file.read_text().strip()).isdigit():
            limits.append(int(text))
    return min(limits)
