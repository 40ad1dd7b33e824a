"""Resolve everything that depends on the machine: device, precision, memory mode, tiles, threads.

It depends on the class of the GPU and on measurements on it, never on the moment, so that a run can be repeated.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import get_args

from ...costs.decoding import auto_plan
from ...costs.weights import component_bytes
from ...errors import RequestError
from ...grids import VideoGrid
from ...machine import ITEM_BYTES, KEPT_SHARE, Backend, Machine, MemoryMode, Precision, cpu_threads
from ...text.enhancers import EnhancerFiles
from ...tiles import Cut, TilePlan
from ..parts import ModelHeaders
from ..request import Request
from ..values import counted
from .basis import Basis
from .machine import (
    PRECISIONS,
    Device,
    backends_on,
    hardware,
    lacking_compiler,
    neighbours_on,
    place_of,
    products_on,
    tuning_for,
    with_measured,
)
from .phases import Costs
from .plan import class_bytes, with_memory
from .ranks import cards_of, check_ranks
from .settings import Settings, required
from .tuning import FILE, Tuning

ENCODE_TILES = TilePlan(frames=Cut(80, 24), height=Cut(768, 64), width=Cut(768, 64))  # the official sizes


def settle_machine(
    basis: Basis, request: Request, enhancer: EnhancerFiles | None, *, captures: bool
) -> tuple[Costs, tuple[str, ...], tuple[str, ...]]:
    """The costs of a request on the resolved machine; then notes about it, and warnings.

    Only `--precision auto` multiplies quantised weights as they are stored.
    Args: enhancer: the model that rewrites the prompt, if it is not the text encoder. captures: whether the attention
    of the audio to the video is captured, which compiled blocks do not allow.
    Raises: RequestError if the measurements on this machine cannot be read.
    """
    device, settings, headers = basis.device, basis.settings, basis.headers
    usual = _usual_machine(device, settings)
    check_ranks(usual, settings, request, headers.shapes.transformer)
    tuning, notes = tuning_for(device)
    machine = usual
    if tuning is not None:
        tokens = request.grid(basis.vae.factors).tokens
        machine = _tuned(usual, tuning, tokens, takes_precision=settings.precision == "auto")
    is_possible = usual.ranks == 1 and not captures
    machine, warnings = _with_compiler(machine, device, settings.compile, is_possible=is_possible)
    asked_for = usual if settings.compile is None else replace(usual, compiles=machine.compiles)
    notes = _measured_note(machine, asked_for) or notes
    neighbours = neighbours_on(device.card, machine.precision)
    tiles = decode_tiles(headers, request.decoded_grid(basis.vae.factors), device, machine.precision)
    machine = replace(machine, neighbours=neighbours, decode_tiles=tiles)
    backend = required(settings.attention_backend)
    if backend != "auto":
        machine = replace(machine, attention=_checked_backend(backend, device, machine.precision))
        notes = (*notes, f"attention: {backend}; for inputs that it does not support, torch's next kernel")
    if machine.compiles:
        notes = (*notes, "compile: the first step of each size takes longer; what is compiled is kept for later runs")
    loras = tuple(lora.matched for lora in basis.loras)
    costs = Costs(request, machine, basis.files, headers, loras, enhancer, captures)
    memory = required(settings.memory)
    costs = with_memory(costs, device, [mode for mode in get_args(MemoryMode) if memory in ("auto", mode)])
    if memory == "auto" and costs.machine.memory != "resident":
        notes = (*notes, _told_memory(costs.machine, device))
    return costs, notes, warnings


def _usual_machine(device: Device, settings: Settings) -> Machine:
    """The choices that follow from the device and the settings alone."""
    asked, ranks = required(settings.precision), required(settings.ranks)
    is_auto = asked == "auto"
    sharing = ranks if device.kind == "cpu" else 1  # the memory and the threads of the computer
    return Machine(
        device=device.name,
        precision=PRECISIONS[device.kind] if is_auto else _precision(asked),
        kept_bytes=int(KEPT_SHARE * device.nbytes) // sharing,
        decode_tiles=TilePlan(),
        encode_tiles=ENCODE_TILES,
        products=products_on(device.card) if is_auto else (),
        threads=max(1, cpu_threads() // sharing),
        ranks=ranks,
        gpus=cards_of(settings, device),
    )


def _measured_note(machine: Machine, usual: Machine) -> tuple[str, ...]:
    """The note about the choices that differ from the usual ones; none if there are none."""
    names = [one.name for one in fields(Machine) if getattr(machine, one.name) != getattr(usual, one.name)]
    chosen = ", ".join(f"{name} {_shown(getattr(machine, name))}" for name in names)
    return (f"{FILE}: {chosen}, as measured on this machine",) if names else ()


def _shown(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value)


def decode_tiles(headers: ModelHeaders, grid: VideoGrid, device: Device, precision: Precision) -> TilePlan:
    """The tiles for decoding a clip: the official plan of a decoder, or tiles that fit the class of the device."""
    limit, itemsize = class_bytes(device), ITEM_BYTES[precision]
    if limit is not None:
        limit -= component_bytes(headers.header("video_decoder"), "video_decoder", itemsize)
    return auto_plan(headers.shapes.video_vae, grid, itemsize, limit)


def _checked_backend(name: str, device: Device, precision: Precision) -> Backend:
    """An available attention kernel. Raises: RequestError for one that this machine does not have."""
    there = backends_on(device, precision)
    if name not in there:
        what = f"--attention-backend {name} cannot be used"
        why = f"{hardware(device.name)} has {', '.join(there)} for {precision}"
        raise RequestError(what, why, f"--attention-backend {there[0]}, or leave it out")
    return there[[*map(str, there)].index(name)]


def _with_compiler(
    machine: Machine, device: Device, asked: bool | None, *, is_possible: bool
) -> tuple[Machine, tuple[str, ...]]:
    """The machine with or without compiled blocks, and a warning if they are wanted and the compiler is missing.

    Args: asked: None uses the measurement. is_possible: whether the render allows it; ignored if the user asked for
    compiling, since that is refused elsewhere.
    """
    wanted = (machine.compiles and is_possible) if asked is None else asked
    lacking = lacking_compiler(device) if wanted else ""
    warnings = (f"compile: the blocks are not compiled, as {lacking}",) if lacking else ()
    return replace(machine, compiles=wanted and not lacking), warnings


def _told_memory(machine: Machine, device: Device) -> str:
    """The note about an automatically chosen memory mode."""
    blocks = machine.resident_blocks
    stays = f", {counted(blocks, 'block')} of the transformer stay{'s' * (blocks == 1)}" if blocks else ""
    return f"memory: {machine.memory}{stays}, as the models do not fit {place_of(device)} whole"


def _tuned(usual: Machine, tuning: Tuning, tokens: int, *, takes_precision: bool) -> Machine:
    """The machine with the measured choices for a clip of so many video tokens."""
    tuned, shape = usual, tuning.shape_of(tokens)
    if takes_precision:
        precision = usual.precision if tuning.precision is None else tuning.precision.chosen
        tuned = replace(tuned, precision=precision, products=with_measured(usual.products, tuning))
    if shape is not None:
        tuned = replace(tuned, batches_passes=shape.batches_passes.chosen, keeps_text=shape.keeps_text.chosen)
    if shape is not None and shape.attention is not None:
        tuned = replace(tuned, attention=shape.attention.chosen)
    if shape is not None and shape.compiles is not None:
        tuned = replace(tuned, compiles=shape.compiles.chosen)
    return tuned


def _precision(name: str) -> Precision:
    return "bf16" if name == "bf16" else "fp32"
