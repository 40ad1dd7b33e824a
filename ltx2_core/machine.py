"""The choices of the machine about a render, as one record.

It is resolved together with the request, shown with it, stored with it, and is the only place that the engine reads
such choices from. Choices that affect bits depend on the hardware and never on the moment, so that a run can be
repeated.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Self

from .stored.layer import Format
from .tiles import TilePlan

Precision = Literal["bf16", "fp32"]
MemoryMode = Literal["resident", "streamed", "lean"]
Backend = Literal["cudnn", "flash", "efficient", "math", "flash3", "flash4", "int8"]  # kernels of attention
ITEM_BYTES: Mapping[Precision, int] = {"bf16": 2, "fp32": 4}
KEPT_SHARE = 0.6  # share of memory for weights between phases; the rest is for activations
RESIDENT_BLOCKS = 2  # resident blocks of a streamed transformer, which give the reader a head start
CHUNK_TOKENS, LEAN_CHUNK_TOKENS = 2048, 768  # tokens that the denoiser processes at a time
MOST_RANKS = 64
CPU_INFO, MEMORY_INFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True, slots=True)
class RankLayout:
    """How ranks share the work of a stage. parts: groups that share the guidance passes. width: ranks of a group, which
    share the rows of the video.
    """

    parts: int
    width: int

    @classmethod
    def of(cls, ranks: int, passes: int) -> Self:
        """As many groups as there are passes for, of equal size: passes need no exchange inside a block."""
        parts = max(count for count in range(1, min(ranks, passes) + 1) if ranks % count == 0)
        return cls(parts, ranks // parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Every choice that depends on the machine, and not on the request.

    Args: device: "cpu", "mps" or "cuda:N". precision: of the models; the vocoder is always float32. memory: how weights
    are loaded. "resident" keeps a whole model on the device while it runs. "streamed" keeps the first blocks of the
    transformer there and loads each of the others, and each layer of the text encoder, when it is needed. "lean" keeps
    no block, and needs less memory for activations: it processes fewer tokens at a time and computes their rotary
    embeddings in every block. resident_blocks: how many blocks of a streamed transformer stay there. chunk_tokens: how
    many tokens are processed at a time. kept_bytes: how many bytes of weights may stay loaded from one phase to the
    next. decode_tiles, encode_tiles: the tiles of the video VAE. batches_passes: whether all guidance passes run as one
    batch. keeps_text: whether keys and values of the text are computed once for all steps. products: the quantised
    formats that are multiplied as they are stored; others are decoded first. attention: the kernel of the denoiser, for
    inputs that it supports; "sdpa" leaves the choice to torch, "int8" is that of comfy-kitchen. neighbours: the
    attention of the diffusion decoder, boxes of queries or the kernel of comfy-kitchen. compiles: whether torch.compile
    is used. threads: CPU threads that compute, in each rank. ranks: how many processes share the clip. gpus: the
    numbers of their GPUs; none on the CPU.
    """

    device: str
    precision: Precision
    memory: MemoryMode = "resident"
    resident_blocks: int = 0
    chunk_tokens: int = CHUNK_TOKENS
    kept_bytes: int = 0
    decode_tiles: TilePlan
    encode_tiles: TilePlan
    batches_passes: bool = False
    keeps_text: bool = True
    products: tuple[Format, ...] = ()
    attention: Literal["sdpa"] | Backend = "sdpa"
    neighbours: Literal["boxes", "fused"] = "boxes"
    compiles: bool = False
    threads: int = 1
    ranks: int = 1
    gpus: tuple[int, ...] = ()

    @property
    def devices(self) -> tuple[str, ...]:
        """The device of each rank."""
        return tuple(f"cuda:{number}" for number in self.gpus) if self.gpus else (self.device,) * self.ranks

    def of_rank(self, number: int) -> Self:
        """The same machine, for one of its ranks."""
        return replace(self, device=self.devices[number])

    def in_mode(self, memory: MemoryMode) -> Self:
        """The same machine in another memory mode, with the values for that mode.

        On the CPU no block stays loaded: the file is mapped, and nothing has to be copied. "lean" computes keys and
        values of the text again in every step, which gives the same bits.
        """
        resident = RESIDENT_BLOCKS if memory == "streamed" and self.device != "cpu" else 0
        tokens = LEAN_CHUNK_TOKENS if memory == "lean" else CHUNK_TOKENS
        keeps_text = self.keeps_text and memory != "lean"
        return replace(self, memory=memory, resident_blocks=resident, chunk_tokens=tokens, keeps_text=keeps_text)


def has_fast_kernels() -> bool:
    """Whether the kernels of the extra `fast` are installed."""
    return find_spec("comfy_kitchen") is not None


def cpu_threads() -> int:
    """The number of compute threads: from OMP_NUM_THREADS, else the CPUs that this process may run on."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if asked.isascii() and asked.isdigit() and int(asked):
        return int(asked)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """The name of the CPU: from Linux, elsewhere from Python."""
    try:
        with CPU_INFO.open(encoding="utf-8", errors="replace") as lines:
            names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
            return next(names, "") or platform.machine()
    except OSError:
        return platform.processor() or platform.machine()


def ram_bytes() -> int:
    """The memory of this machine, or the limit of its container; 0 if the system does not tell."""
    whole, limit = physical_bytes(), container_bytes()
    return whole if limit is None or not whole else min(whole, limit)


def physical_bytes() -> int:
    """The installed memory; 0 if the system does not tell."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return 0
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def container_bytes() -> int | None:
    """The memory limit of a container; None if there is none."""
    texts = [file.read_text().strip() for file in CGROUP_LIMITS if file.is_file()]
    return min((int(text) for text in texts if text.isdigit()), default=None)


def available_bytes() -> int | None:
    """The memory available to a new program at this moment, as Linux reports it."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", MEMORY_INFO.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
