"""The plan of a render, phase by phase, and whether it fits: memory, disk, FLOPs, and seconds if known.

Source: docs/cards.md.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...machine import MemoryMode, available_bytes, ram_bytes
from ..events import Phase as Kind
from .counting import Phase
from .machine import Device
from .phases import TRANSFORMER, Costs
from .speeds import MEASURED, Work

if TYPE_CHECKING:
    from .clock import Clock

GIB = 2**30
MARGIN_BYTES = int(0.4 * GIB)  # free memory that a plan leaves unused
TAKEN_BYTES = int(0.8 * GIB)  # GPU memory that the driver and a desktop use before a render
BASE_BYTES = 300_000_000  # system memory of the program itself, including the tokenizer
RAM_SHARE = 0.9  # share of system memory that a render on the CPU may use
PAGES_SHARE = 0.8  # share of system memory that can cache pages of files
OF_MODEL: frozenset[Kind] = frozenset({"enhance", "text", "denoise"})  # phases whose weights have several precisions
UNIFIED_SHARE = 0.75  # share of system memory for a GPU that shares it
KEEPS_TEXT: Mapping[MemoryMode, tuple[bool, ...]] = {  # whether text keys and values are cached, as tried in order
    "resident": (True, False),
    "streamed": (True, False),
    "lean": (False,),
}
MODES: tuple[MemoryMode, ...] = tuple(KEEPS_TEXT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The peak of a phase, in bytes.

    Args: kind: of the work, as in a render's events. vram: None on the CPU. workspace: of the GPU, which kernels may
    use additionally; on the CPU a part of ram. seconds: None if unknown. source: of the seconds, as text.
    """

    kind: Kind
    name: str
    vram: int | None
    workspace: int
    ram: int
    disk: int
    flops: float
    seconds: float | None = None
    source: str = ""

    @property
    def is_estimate(self) -> bool:
        """Whether the seconds are not those of the same work on this machine."""
        return self.source != MEASURED

    @property
    def needed(self) -> int:
        """The required bytes on the device."""
        return self.ram if self.vram is None else self.vram + self.workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming:
    """How a transformer is streamed to a GPU.

    Args: limit: bytes of the GPU for the plan. resident: how many blocks stay loaded. blocks: bytes of each.
    """

    limit: int
    resident: int
    blocks: tuple[int, ...]

    def could_stay(self, peak: int) -> int:
        """How many more blocks could have stayed loaded, if denoising needed so many bytes."""
        room, count = self.limit - peak, 0
        for nbytes in self.blocks[self.resident :]:
            room -= nbytes
            if room < 0:
                break
            count += 1
        return count


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All phases of a render, and the available resources.

    Args: vram: free bytes of the GPU, without a margin; None on the CPU, and if unknown. ram: the same of the computer;
    None if unknown. is_assumed: whether files of the model are missing, and their sizes are those of the release.
    streaming: the streaming of the transformer; None if it stays on the GPU completely, and on the CPU. work: the key
    of measured seconds; None if no seconds are requested.
    """

    rows: tuple[Row, ...]
    vram: int | None
    ram: int | None
    is_assumed: bool = False
    streaming: Streaming | None = None
    work: Work | None = None

    @property
    def peak(self) -> Row:
        """The phase that needs most of the memory for weights."""
        return max(self.rows, key=lambda row: (row.vram or 0, row.ram))

    @property
    def flops(self) -> dict[Kind, float]:
        """FLOPs of all phases of a kind."""
        found: dict[Kind, float] = {}
        for row in self.rows:
            found[row.kind] = found.get(row.kind, 0.0) + row.flops
        return found

    @property
    def fits(self) -> bool:
        """Whether there is enough memory for every phase."""
        return not self.lacking

    @property
    def lacking(self) -> set[Kind]:
        """The kinds of phases with too little memory."""
        return {row.kind for row in self.rows if not (self._has_vram_for(row) and self._has_ram_for(row))}

    @property
    def lack(self) -> str:
        """The missing resource, as text."""
        row = max(self.rows, key=lambda row: row.needed)
        if not self._has_vram_for(row) and self.vram is not None:
            besides = f" and {gigabytes(row.workspace)} for its convolutions" if row.workspace else ""
            needed = f"{row.name} needs {gigabytes(row.vram or 0)} of the card's memory{besides}"
            return f"{needed}, and {gigabytes(self.vram)} can be used"
        row = max(self.rows, key=lambda row: row.ram)
        return f"{row.name} needs {gigabytes(row.ram)} of memory, and {gigabytes(self.ram or 0)} can be used"

    def _has_vram_for(self, row: Row) -> bool:
        return self.vram is None or row.needed <= self.vram

    def _has_ram_for(self, row: Row) -> bool:
        return self.ram is None or row.ram <= self.ram


def gigabytes(nbytes: float) -> str:
    """A size in the unit of GPU memory: 2**30 bytes."""
    return f"{nbytes / GIB:.1f} GB"


def make_plan(costs: Costs, device: Device, clock: Clock | None = None) -> Plan:
    """Count the costs of a request on a machine. clock: estimates the time."""
    rows = _rows(costs.phases, costs, device, clock)
    return Plan(
        rows=tuple(rows if costs.request.chain is None else _by_name(rows)),
        vram=None if device.kind == "cpu" else free_bytes(device),
        ram=_free_ram(device),
        is_assumed=bool(costs.files.assumed),
        streaming=_streaming(costs, device),
        work=None if clock is None else clock.work,
    )


def _by_name(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows of a chain, with those of one name in all windows as one: the maximum of memory, the sum of time."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.name, []).append(row)
    for name, same in found.items():
        most = max(same, key=lambda row: row.needed)
        seconds = [row.seconds for row in same if row.seconds is not None]
        yield replace(
            most,
            name=name if len(same) == 1 else f"{name}, {len(same)} times",
            disk=sum(row.disk for row in same),
            flops=sum(row.flops for row in same),
            seconds=sum(seconds) if len(seconds) == len(same) else None,
        )


def _streaming(costs: Costs, device: Device) -> Streaming | None:
    limit = class_bytes(device)
    if not costs.is_streamed or costs.machine.device == "cpu" or limit is None:
        return None
    return Streaming(limit=limit, resident=costs.machine.resident_blocks, blocks=tuple(costs.blocks.blocks))


def free_bytes(device: Device) -> int | None:
    """The memory of a GPU that a render may use at this moment, without a margin; for a GPU that is only planned for,
    the usual value. None if unknown.
    """
    if device.card is None or device.card.free_bytes is None:
        return class_bytes(device)
    return device.card.free_bytes - MARGIN_BYTES


def class_bytes(device: Device) -> int | None:
    """The memory that a render is planned for: it depends on the class of a GPU, never on the moment.

    None if the memory is unknown.
    """
    if device.card is not None:
        return device.card.gb * GIB - TAKEN_BYTES - MARGIN_BYTES if device.card.nbytes else None
    share = RAM_SHARE if device.kind == "cpu" else UNIFIED_SHARE
    return int(share * ram_bytes()) or None


def goes_well(costs: Costs, device: Device) -> bool:
    """Whether a model runs well on a GPU: its activations fit without `lean`, and streamed blocks stay in the
    computer's memory from step to step. It depends on the hardware, never on the moment.
    """
    limit, ram = class_bytes(device), ram_bytes()
    if device.card is None or limit is None:
        return True
    streamed = sum(costs.blocks.blocks[costs.machine.resident_blocks :]) if costs.is_streamed else 0
    rows = _rows(costs.phases, costs, device, None)
    fits = all(row.needed <= limit for row in rows if row.kind in OF_MODEL)
    return costs.machine.memory != "lean" and fits and (not ram or streamed <= PAGES_SHARE * ram)


def with_memory(costs: Costs, device: Device, modes: Sequence[MemoryMode] = MODES) -> Costs:
    """The same with the fastest of the given memory modes that fits the class of a device; with the one that needs the
    least memory if none fits.
    """
    limit = class_bytes(device)
    if limit is None:
        return replace(costs, machine=costs.machine.in_mode(modes[0]))
    chosen = costs
    tries: list[tuple[MemoryMode, bool]] = [(mode, keeps) for mode in modes for keeps in KEEPS_TEXT[mode]]
    for mode, keeps_text in tries:
        chosen = _settled(costs, mode, limit, keeps_text=keeps_text)
        if _fits(replace(chosen, captures=False), device, limit):  # an attention map does not change the result
            break
    return chosen


def _settled(costs: Costs, mode: MemoryMode, limit: int, *, keeps_text: bool) -> Costs:
    """The same in a memory mode, with as many resident blocks and kept models as fit the limit."""
    machine = costs.machine.in_mode(mode)
    costs = replace(costs, machine=replace(machine, keeps_text=keeps_text and machine.keeps_text))
    if machine.device == "cpu":
        return costs
    if mode == "streamed":
        costs = replace(costs, machine=replace(costs.machine, resident_blocks=_resident_blocks(costs, limit)))
    kept = max(0, limit - max(phase.active + phase.workspace for phase in costs.phases))
    return replace(costs, machine=replace(costs.machine, kept_bytes=kept))


def _resident_blocks(costs: Costs, limit: int) -> int:
    """How many blocks of a streamed transformer can stay loaded in every stage."""

    def needed(count: int) -> int:
        tried = replace(costs, machine=replace(costs.machine, resident_blocks=count))
        stages = [phase for phase in tried.phases if phase.loads[0].key == TRANSFORMER]
        return max(phase.loads[0].nbytes + phase.active for phase in stages)

    return max(0, bisect_right(range(len(costs.blocks.blocks)), limit, key=needed) - 1)


def _fits(costs: Costs, device: Device, limit: int) -> bool:
    rows = _rows(costs.phases, costs, device, None)
    return all(row.needed <= limit for row in rows)


def _rows(phases: Sequence[Phase], costs: Costs, device: Device, clock: Clock | None) -> Iterator[Row]:
    ranks = costs.machine.ranks
    for phase, weights, moved in loaded(phases, costs.machine.kept_bytes):
        vram, ram = weights + phase.active, ranks * costs.pinned_bytes
        if device.kind == "cpu":
            vram, ram = None, costs.ranks_in(phase) * (weights + phase.active + phase.workspace)
        row = Row(
            kind=phase.kind,
            name=phase.name,
            vram=vram,
            workspace=phase.workspace,
            ram=BASE_BYTES * ranks + phase.host + ram,
            disk=phase.disk,
            flops=phase.flops,
        )
        lasts = clock and clock.duration(phase, moved + phase.moved)
        yield replace(row, seconds=lasts.seconds, source=lasts.source) if lasts else row


def loaded(phases: Sequence[Phase], budget: int) -> Iterator[tuple[Phase, int, int]]:
    """Iterate over the phases as the engine does, which keeps models loaded as long as there is room.

    Yields: each phase, the bytes of all models that are loaded in it, and those that are copied to load its own.
    """
    models: dict[str, int] = {}  # least recently used first
    for phase in phases:
        moved = 0
        for load in phase.loads:
            if load.key not in models:
                moved += load.moved
                _make_room(models, load.nbytes, budget, {one.key for one in phase.loads})
            models[load.key] = models.pop(load.key, load.nbytes)
        yield phase, sum(models.values()), moved
        for load in phase.loads:
            if load.nbytes > budget or not load.stays:
                models.pop(load.key, None)


def _make_room(models: dict[str, int], nbytes: int, budget: int, in_use: set[str]) -> None:
    """Unload models until one of so many bytes fits beside the others."""
    for key in list(models):
        if sum(models.values()) + nbytes <= budget:
            return
        if key not in in_use:
            del models[key]


def _free_ram(device: Device) -> int | None:
    if device.card is not None and device.card.free_bytes is None:  # a card that is only planned for
        return None
    free = available_bytes()
    return None if free is None else free - MARGIN_BYTES
