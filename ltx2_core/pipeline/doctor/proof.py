"""Test an installed model: a render of two steps through the usual engine, with its time and memory.

Source: docs/cli.md, "The doctor".
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from ...components import ROLES
from ...disk import show_bytes
from ...errors import NotFiniteError
from ...latents import Latents
from ...machine import Machine, cpu_name
from ..events import Event, PhaseDone, PhaseStarted, Watch
from ..job import Job
from ..parts import ModelHeaders
from ..reads import files_of
from ..render.run import NOBODY, Result, run
from ..resolve import machine
from ..resolve.resolve import resolve
from ..resolve.setting_sources import Gathered
from ..resolve.settings import COMMAND_LINE, Layer
from ..resolved import Resolved
from .facts import show_card, show_gib
from .report import Diagnosis, Fact

PROMPT = "a yellow lamp blinks on the right, with low beeps"
SMALL = {  # two steps of the simplest recipe at a size that every model supports; always the same
    "preset": "distilled-one-stage",
    "sigmas": "1,0.6,0",
    "res": "256x192",
    "frames": 9,
    "fps": "24",
    "seed": 7,
    "cache": False,
    "keep_latents": True,
}
OF_THE_MACHINE = {*ROLES, "model_folders", "device", "precision"}  # settings of the user that apply here too
REST = "everything else"


def try_model(model: str, given: Gathered, watch: Watch = NOBODY) -> Diagnosis:
    """Render a small clip with a model into a temporary folder, and report the result.

    Args: model: a name, a file or a folder. given: the user's settings, of which only those that name files or the
    device and precision apply.
    Raises: whatever a render raises.
    """
    timed = _Phases(watch)
    with tempfile.TemporaryDirectory(prefix="ltx2-try-", ignore_cleanup_errors=True) as folder:
        small: Layer = (COMMAND_LINE, {**SMALL, "model": model, "output": str(Path(folder, "try.mp4"))})
        resolved = resolve("t2v", PROMPT, [small, *map(_of_the_machine, given.layers)])
        device = torch.device(resolved.task.machine.device)
        if device.type == "cuda" and torch.cuda.is_available():
            torch.cuda.init()  # without this, memory statistics are not available
            torch.cuda.reset_peak_memory_stats(device)
        result = run(resolved, Watch(on_event=timed.event, should_stop=watch.should_stop))
        latents = Job.open(resolved.job_dir).load(1).latents
        return Diagnosis(tuple(_facts(resolved, result, latents, timed)))


def _of_the_machine(layer: Layer) -> Layer:
    place, values = layer
    return place, {name: value for name, value in values.items() if name in OF_THE_MACHINE}


class _Phases:
    """Measures the time of each phase, and passes events on."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.seconds: dict[str, float] = {}
        self.name = ""
        self.start = time.perf_counter()

    def event(self, event: Event) -> None:
        if isinstance(event, PhaseStarted):
            self.name = event.name
        if isinstance(event, PhaseDone):
            self.seconds[self.name] = self.seconds.get(self.name, 0) + event.seconds
        self.watch.on_event(event)

    def whole(self) -> dict[str, float]:
        """The seconds of each phase, and of everything else."""
        rest = time.perf_counter() - self.start - sum(self.seconds.values())
        return {**self.seconds, REST: rest}


def _facts(resolved: Resolved, result: Result, latents: Latents, timed: _Phases) -> Iterator[Fact]:
    task, request = resolved.task, resolved.request
    digest = sha256_of(latents)
    width, height = request.file_size
    size = f"{request.steps} steps, {width}x{height}, {request.frames} frames, seed {request.seed}"
    warned = "; ".join(("", *result.report.warnings))
    yield Fact("result", f"it works: {size}; latents are finite, the file passed its check{warned}")
    yield Fact("model", task.files.name)
    files = dict.fromkeys(files_of(task, ModelHeaders.of(task.files)).values())
    yield Fact("files", ", ".join(f"{path.name} ({show_bytes(path.stat().st_size)})" for path in files))
    yield Fact("versions", f"torch {torch.__version__}, transformers {version('transformers')}, Python {_python()}")
    yield Fact("device", f"{task.machine.device}, {_device_name(task.machine)}, {task.machine.precision}")
    yield Fact("seconds", ", ".join(f"{name} {seconds:.1f}" for name, seconds in timed.whole().items()))
    yield Fact("peak memory", _peak(torch.device(task.machine.device)))
    yield Fact("latents", f"sha256 {digest}")


def sha256_of(latents: Latents) -> str:
    """The SHA-256 of the bytes of both latents, video first. Raises: NotFiniteError for NaN and infinity."""
    digest = hashlib.sha256()
    for latent in latents:
        if latent is None:
            continue
        if not latent.isfinite().all():
            raise NotFiniteError("the latents hold NaN or infinite values", hint="--precision fp32, or report it")
        digest.update(_bytes(latent))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor, row by row; numpy has no bfloat16."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _python() -> str:
    return ".".join(map(str, sys.version_info[:3]))


def _device_name(settled: Machine) -> str:
    card = machine.card_of(settled.device)
    return cpu_name() if card is None else show_card(replace(card, free_bytes=None))


def _peak(device: torch.device) -> str:
    """The peak memory, of the machine and of the GPU."""
    parts = []
    if sys.platform != "win32":
        from resource import RUSAGE_SELF, getrusage

        unit = 1 if sys.platform == "darwin" else 1024
        parts.append(f"{show_gib(getrusage(RUSAGE_SELF).ru_maxrss * unit)} of the machine's")
    if device.type == "cuda":
        parts.append(f"{show_gib(torch.cuda.max_memory_allocated(device))} of the card's")
    return ", ".join(parts) or "the system does not tell"
