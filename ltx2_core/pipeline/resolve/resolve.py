"""The entry point of a render: resolve a request, and refuse what does not fit before anything is loaded; or only plan
it.

Source: docs/cards.md.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...cards import Card
from ...errors import DoesNotFitError, LTX2Error
from ...hub.registry import BUILT_PRECISIONS, registered_models
from ..events import Phase as Kind
from ..resolved import Resolved
from ..values import parse_size
from .auto import AUTO_NOTE
from .basis import Planned
from .clock import Clock
from .machine import Device, place_of
from .plan import GIB, OF_MODEL, Plan, goes_well, make_plan
from .presets import names, read_tier
from .settings import Layer, Origin, Place
from .settle import Asked, Settled

FILE_PRECISIONS = ("fp8", "int8")  # precisions that may be chosen instead of bf16
AUTO_PLACE = Place(Origin.PRESET, "auto")
NEAREST = 3  # largest number of fitting settings in a message
SHARES = (2, 4)  # a half and a quarter of the duration are tried
SIZED: frozenset[Kind] = frozenset({"inputs", "denoise", "upsample", "sound", "video"})
ACTS_ON: Mapping[str, frozenset[Kind]] = {  # the kinds of phases whose memory a setting reduces
    "decoder": frozenset({"video"}),
    "memory": OF_MODEL,
    "model": OF_MODEL,
    "res": SIZED,
    "duration": SIZED,
    "window": SIZED,
}


@dataclass(frozen=True, kw_only=True)
class Planning:
    """A planned request. nearest: flags with which it fits, if it does not fit as it is."""

    resolved: Resolved
    plan: Plan
    nearest: tuple[str, ...] = ()


def resolve(
    mode: str,
    prompt: str,
    layers: Sequence[Layer],
    own_presets: Mapping[str, Any] | None = None,
    main: Path | None = None,
) -> Resolved:
    """Resolve a request for a render, and check that it fits into the free memory.

    Args: as `Asked`.
    Raises: RequestError, StorageError, CheckpointError, MediaError; DoesNotFitError for a request that does not fit,
    unless that is forced.
    """
    asked = Asked(mode=mode, prompt=prompt, layers=layers, own_presets=own_presets or {}, main=main)
    return require_fit(asked, asked.settle())


def require_fit(asked: Asked, settled: Settled) -> Resolved:
    """The resolved request, which fits into the free memory. Raises: DoesNotFitError, unless that is forced."""
    if settled.resolved.is_done:
        return settled.resolved
    settled = _with_what_fits(asked, settled, None)
    plan = _planned(settled)
    if not plan.fits and not settled.is_forced:
        found = " or ".join(_nearest(asked, settled, Planned()))
        hint = f"{found}; --force renders anyway" if found else "--force renders anyway"
        raise DoesNotFitError("this does not fit into the memory of this machine", plan.lack, hint)
    return replace(settled.resolved, plan=plan)


def plan_render(
    mode: str,
    prompt: str,
    layers: Sequence[Layer],
    own_presets: Mapping[str, Any] | None = None,
    main: Path | None = None,
    *,
    vram_gb: int | None = None,
) -> Planning:
    """Resolve a request like a render, and count its costs. The files of a registered model may be missing.

    Args: as `Asked`. vram_gb: plan for a GPU that is sold with so many GB.
    Raises: as `resolve`.
    """
    asked = Asked(mode=mode, prompt=prompt, layers=layers, own_presets=own_presets or {}, main=main)
    planned = Planned(None if vram_gb is None else planned_card(vram_gb))
    settled = _with_what_fits(asked, asked.settle(planned), planned)
    plan = _planned(settled)
    nearest = () if plan.fits else tuple(_nearest(asked, settled, planned))
    return Planning(resolved=settled.resolved, plan=plan, nearest=nearest)


def _planned(settled: Settled) -> Plan:
    """The plan of a resolved request, with the known seconds."""
    return make_plan(settled.costs, settled.device, Clock.of_this_machine(settled.costs, settled.device))


def _with_what_fits(asked: Asked, settled: Settled, planned: Planned | None) -> Settled:
    """The resolved request, or the same with other files of the model if its own are too large."""
    if settled.is_forced:
        return settled
    return _with_fitting_decoder(asked, _with_fitting_files(asked, settled, planned), planned)


def _with_fitting_files(asked: Asked, settled: Settled, planned: Planned | None) -> Settled:
    """The resolved request, or the same model in 8 bits if that is installed and only that runs well on the GPU."""
    if not settled.chooses_files or goes_well(settled.costs, settled.device):
        return settled
    name, device = settled.resolved.task.files.name, settled.device
    installed = None if planned is None else replace(planned, needs_files=True)
    for other_name in _smaller_models(name, FILE_PRECISIONS):
        try:
            other = asked.settle(installed, {"model": other_name}, AUTO_PLACE)
        except LTX2Error:
            continue
        if goes_well(other.costs, device):
            why = f"as {name} is too large for {place_of(device)}"
            return replace(other, resolved=_told(other.resolved, f"{other_name}, {why}"))
    return settled


def _told(resolved: Resolved, chosen: str) -> Resolved:
    """The same with an addition to the note about `--preset auto`."""
    notes = (f"{note}; {chosen}" if note.startswith(AUTO_NOTE) else note for note in resolved.notes)
    return replace(resolved, notes=tuple(notes))


def _with_fitting_decoder(asked: Asked, settled: Settled, planned: Planned | None) -> Settled:
    """The resolved request, or the same with the convolutional decoder if only that fits and no decoder is set."""
    is_diffusion = settled.costs.headers.shapes.video_vae.decoder_name == "diffusion"
    if not (is_diffusion and settled.chooses_decoder) or fits(settled):
        return settled
    try:
        other = asked.settle(planned, {"decoder": "conv"}, AUTO_PLACE)
    except LTX2Error:
        return settled
    if not fits(other):
        return settled
    note = "decoder: conv, as the diffusion decoder does not fit"
    return replace(other, resolved=replace(other.resolved, notes=(*other.resolved.notes, note)))


def fits(settled: Settled) -> bool:
    """Whether a request fits into the free memory."""
    return make_plan(settled.costs, settled.device).fits


def planned_card(vram_gb: int) -> Device:
    """A GPU of which only the memory is known."""
    return Device("cuda:0", Card(name=f"a card with {vram_gb} GB", nbytes=vram_gb * GIB))


def _nearest(asked: Asked, settled: Settled, planned: Planned) -> Iterator[str]:
    """Flags with which it fits, the smallest change first."""
    found, lacking = 0, make_plan(settled.costs, settled.device).lacking
    if settled.device.kind == "cpu":  # because models that one phase leaves loaded may use the memory of another
        lacking = set()
    for flags in _changes(settled):
        if not lacking <= frozenset().union(*(ACTS_ON[name] for name in flags)):
            continue
        try:
            other = asked.settle(planned, flags)
        except LTX2Error:
            continue
        if fits(other):
            found += 1
            yield " ".join(f"--{name} {shlex.quote(value)}" for name, value in flags.items())
        if found == NEAREST:
            return


def _changes(settled: Settled) -> Iterator[dict[str, str]]:
    """Changes that may make a request smaller, the smallest change first."""
    request, machine = settled.resolved.request, settled.costs.machine
    if settled.costs.headers.shapes.video_vae.decoder_name == "diffusion" and not settled.chooses_decoder:
        yield {"decoder": "conv"}
    if machine.memory != "lean":
        yield {"memory": "auto"}
        yield {"memory": "lean"}
    models = _smaller_models(settled.resolved.task.files.name)
    yield from ({"model": name} for name in models)
    pixels = request.width * request.height
    sizes = {name: parse_size(read_tier(name).one_stage) for name in names("tiers")}
    smaller = [name for name, (width, height) in sizes.items() if width * height < pixels]
    for name in sorted(smaller, key=lambda name: -sizes[name][0]):
        yield {"res": name}
    name, lasts_s = "duration", request.duration_s
    if request.chain is not None:  # the windows determine the memory
        name, lasts_s = "window", request.chain.frames / request.fps
    for share in SHARES:
        yield {name: f"{float(lasts_s / share):.2g}s"}
    for name in sorted(smaller, key=lambda name: -sizes[name][0]):
        yield {"res": name, "memory": "lean"}
        yield from ({"res": name, "model": model, "memory": "lean"} for model in models)


def _smaller_models(name: str, precisions: Collection[str] = BUILT_PRECISIONS) -> list[str]:
    """Registered models that are the same in another precision, and need less memory."""
    models = registered_models()
    own = models.get(name)
    if own is None:
        return []
    return [
        other
        for other, its in models.items()
        if other == f"{name}-{its.precision}"
        and its.precision in precisions
        and its.generation == own.generation
        and its.lacking is None
    ]
