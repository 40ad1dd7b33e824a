"""Memory and time of each phase of a running render, compared with the plan.

Source: docs/cards.md, "After a render".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event as Flag
from threading import Thread

import torch

from ..events import Event, PhaseDone, StepDone, Watch
from ..events import Phase as Kind
from ..resolve.plan import Plan, gigabytes
from ..resolve.speeds import keep_speeds, speeds_of
from ..resolved import Resolved

STATUS = Path("/proc/self/status")  # exists on Linux only
OFTEN_S = 0.02  # interval of memory measurements


class CardPeak:
    """The peak memory of tensors on a GPU, as torch counts every allocation."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        torch.cuda.init()  # without this there are no statistics before the first computation
        torch.cuda.reset_peak_memory_stats(device)

    def take(self) -> int | None:
        """The peak since the last call."""
        peak = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return peak


class ProcessPeak:
    """The peak memory of this process without pages of files, which the system can free.

    The system has no counter for this, so a thread samples it often.
    """

    def __init__(self) -> None:
        self._most = held_bytes()
        self.is_over = Flag()

    def look(self) -> None:
        """Sample until it is stopped."""
        while self._most is not None and not self.is_over.wait(OFTEN_S):
            self.look_once()

    def look_once(self) -> None:
        self._most = max(self._most or 0, held_bytes() or 0)

    def take(self) -> int | None:
        """The peak since the last call; None if the system does not tell."""
        if self._most is None:
            return None
        now = held_bytes() or 0
        peak, self._most = max(self._most, now), now
        return peak


def held_bytes() -> int | None:
    """The present memory of this process without pages of files; None if the system does not tell."""
    try:
        found = re.search(r"^RssAnon:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None


@dataclass
class Meter:
    """Passes events on, with the peak of each phase, and sums the time of each kind of phase.

    Args: prompts: how many were encoded, and not in the cache.
    """

    outer: Watch
    peak: CardPeak | ProcessPeak
    seconds: dict[Kind, float] = field(default_factory=dict)
    peaks: dict[Kind, int] = field(default_factory=dict)
    prompts: int = 0

    @property
    def watch(self) -> Watch:
        return Watch(on_event=self._note, should_stop=self.outer.should_stop)

    def _note(self, event: Event) -> None:
        match event:
            case StepDone(phase="text", done=done):
                self.prompts = done
            case PhaseDone(phase=kind):
                event = replace(event, peak_bytes=self.peak.take())
                self.seconds[kind] = self.seconds.get(kind, 0.0) + event.seconds
                self.peaks[kind] = max(self.peaks.get(kind, 0), event.peak_bytes or 0)
        self.outer.on_event(event)

    def conclude(self, resolved: Resolved) -> None:
        """Compare with the plan, and store the speed of a finished render for later plans."""
        plan, request = resolved.plan, resolved.request
        if plan is None:
            return
        for line in compared(plan, self.peaks):
            self.outer.tell(line)
        if plan.work is None or request.auto_length is not None:
            return
        if self.prompts < len(request.prompts):
            self.seconds.pop("text", None)
        if problem := keep_speeds(speeds_of(plan.work, plan.flops, self.seconds)):
            self.outer.tell(f"how long this took is not kept: {problem}")


def compared(plan: Plan, peaks: dict[Kind, int]) -> Iterator[str]:
    """Lines about the measured and the planned peak, and about blocks that could have stayed on the GPU."""
    kind = max(peaks, key=lambda one: peaks[one], default=None)
    if kind is None or not peaks[kind]:
        return
    row, is_card = plan.peak, plan.peak.vram is not None
    where = "of the card's memory" if is_card else "of memory"
    planned = gigabytes(row.ram if row.vram is None else row.vram)
    most = max((one for one in plan.rows if one.kind == kind), key=lambda one: one.vram or one.ram, default=row)
    yield f"peak: {gigabytes(peaks[kind])} {where} in {most.name}; planned: {planned} in {row.name}"
    if plan.streaming is None or "denoise" not in peaks:
        return
    count, left = plan.streaming.could_stay(peaks["denoise"]), len(plan.streaming.blocks) - plan.streaming.resident
    if count == left:
        yield "the whole transformer could have stayed on the card"
    elif count:
        yield f"{count} more of the {left} blocks that were streamed could have stayed on the card"
    else:
        yield "no other block of the transformer could have stayed on the card"


@contextmanager
def measured(watch: Watch, device: torch.device) -> Iterator[Meter]:
    """A meter for the length of a render."""
    if device.type == "cuda":
        yield Meter(watch, CardPeak(device))
        return
    peak = ProcessPeak()
    looks = Thread(target=peak.look, name="memory", daemon=True)
    looks.start()
    try:
        yield Meter(watch, peak)
    finally:
        peak.is_over.set()
        looks.join()
