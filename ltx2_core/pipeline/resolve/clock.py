"""The time of a phase: as measured on this machine, else estimated from the GPU's published peak and its FLOPs.

Only for display; no choice depends on it. Source: docs/cards.md, "Seconds".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import inf, log2

from ...headers import generation
from ..events import Phase as Kind
from .counting import Phase
from .machine import PRECISIONS, Device, measured_on, tuning_for
from .peaks import Rates, rates_of
from .phases import Costs
from .speeds import MEASURED, SCALED, Speeds, Work, read_speeds
from .tuning import Tuning

# Largest difference between measured and planned work, in doublings; beyond it, a time is marked as an estimate.
MOST_DOUBLINGS = 2


@dataclass(frozen=True, slots=True)
class Duration:
    """The time of a phase. source: of the number, as text."""

    seconds: float
    source: str


@dataclass(frozen=True)
class Clock:
    """Estimates the time of the phases of a request on a device.

    Args: speeds: of finished renders. tuning: the measurements of `ltx2 doctor --tune` on the same device.
    """

    costs: Costs
    device: Device
    speeds: Speeds
    tuning: Tuning | None

    @classmethod
    def of_this_machine(cls, costs: Costs, device: Device) -> Clock:
        """A clock with the measurements of this machine. Raises: RequestError if the tuning cannot be read."""
        tuning, _ = tuning_for(device)
        return cls(costs, device, read_speeds(), tuning)

    @cached_property
    def work(self) -> Work:
        """The key of valid measurements: the device, the kind of model, its precision and memory mode."""
        costs, shapes = self.costs, self.costs.headers.shapes
        header, config, machine = costs.headers.header("transformer"), shapes.transformer, costs.machine
        formats = sorted({layer.format for layer in header.stored.layers.values()})
        parts = [
            f"{generation(header) or 'unknown'}: {config.layers} blocks of {config.width}",
            "+".join(formats) or "plain",
            f"{shapes.video_vae.decoder_name} decoder",
            machine.precision,
            machine.memory,
        ]
        if machine.compiles:
            parts.append("compiled")
        if costs.request.cache_steps > 0:
            parts.append(f"steps cached up to {costs.request.cache_steps:g}")
        if machine.ranks > 1:
            parts.append(f"{machine.ranks} ranks")
        if machine.attention != "sdpa":
            parts.append(f"{machine.attention} attention")
        return Work(measured_on=measured_on(self.device), model=", ".join(parts))

    @cached_property
    def flops(self) -> dict[Kind, float]:
        """The FLOPs of all phases of a kind, which is the unit of measurements."""
        found: dict[Kind, float] = {}
        for phase in self.costs.phases:
            found[phase.kind] = found.get(phase.kind, 0.0) + phase.flops
        return found

    def duration(self, phase: Phase, moved: int) -> Duration | None:
        """The time of a phase. moved: bytes that are copied to the device for it."""
        if phase.flops <= 0:
            return None
        total = self.flops[phase.kind]
        if known := self.speeds.nearest(self.work, phase.kind, total):
            is_near = abs(log2(known.flops / total)) <= MOST_DOUBLINGS
            return Duration(phase.flops / known.flops_per_s, MEASURED if is_near else SCALED)
        flops = phase.flops / self.costs.ranks_in(phase)
        if phase.kind == "denoise" and (tuned := self._tuned) is not None:
            return Duration(tuned.seconds(flops, moved), tuned.source)
        rates = self._published
        return None if rates is None else Duration(rates.seconds(flops, moved), rates.source)

    @cached_property
    def _tuned(self) -> Rates | None:
        """The doctor's measurement, if its model was as wide as this one, and this one is not quantised."""
        costs, tuning = self.costs, self.tuning
        header, shapes, machine = costs.headers.header("transformer"), costs.headers.shapes, costs.machine
        if tuning is None or tuning.width != shapes.transformer.width or header.stored.layers:
            return None
        precision = tuning.precision.chosen if tuning.precision is not None else PRECISIONS[self.device.kind]
        known = tuning.shape_of(costs.request.grid(shapes.video_vae.factors).tokens)
        shape = known or max(tuning.shapes, key=lambda one: one.tokens)
        link = inf if machine.device == "cpu" else tuning.link_bytes_per_s
        if precision != machine.precision or shape.flops_per_s is None or link is None:
            return None
        return Rates(shape.flops_per_s, link, MEASURED if known else SCALED)

    @cached_property
    def _published(self) -> Rates | None:
        return rates_of(self.device.card, self.costs.machine)
