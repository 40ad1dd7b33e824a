"""Choose what the machine decides: device, precision, tiles, threads. Without torch, from the class of the card."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from itertools import takewhile
from typing import get_args

from ...cards import Card, find_card, has_cuda_build, torch_build
from ...components import COMPONENTS
from ...errors import RequestError
from ...headers import Header
from ...machine import (
    CHUNK_TOKENS,
    KEPT_SHARE,
    LEAN_CHUNK_TOKENS,
    Machine,
    MemoryMode,
    Precision,
    cpu_name,
    cpu_threads,
    ram_bytes,
)
from ...stored.layer import Format
from ...tiles import Cut, TilePlan
from ..parts import ModelHeaders
from ..request import Request
from .settings import Settings, required
from .tuning import AGAIN, FILE, MeasuredOn, Tuning, read_tuning

PRECISIONS: Mapping[str, Precision] = {"cuda": "bf16", "mps": "fp32", "cpu": "fp32"}  # by kind of device
ITEM_BYTES: Mapping[Precision, int] = {"bf16": 2, "fp32": 4}
MOST_CARDS = 64
# The least compute capability of the cards of NVIDIA that multiply a format as it is stored.
PRODUCTS: Mapping[Format, tuple[int, int]] = {"fp8": (8, 9), "fp8_rows": (8, 9), "mxfp8": (10, 0), "nvfp4": (10, 0)}
INTEGER_PRODUCTS: Mapping[Format, tuple[int, int]] = {"int8": (7, 5), "w4a8": (7, 5), "w6a8": (7, 5)}
ACTIVATION_BYTES = 4_000_000_000  # beside the weights of a resident transformer
ENCODE_TILES = TilePlan(frames=Cut(80, 24), height=Cut(768, 64), width=Cut(768, 64))  # the official sizes


@dataclass(frozen=True, slots=True)
class Device:
    """Where a render runs. name: "cpu", "mps" or "cuda:N". card: what is known of that card."""

    name: str
    card: Card | None = None

    @property
    def kind(self) -> str:
        return self.name.partition(":")[0]

    @property
    def nbytes(self) -> int:
        """Its memory; that of the whole machine where it has none of its own. 0 if unknown."""
        return ram_bytes() if self.card is None else self.card.nbytes


def choose_device(asked: str) -> Device:
    """The device that a name means on this machine. asked: auto, cpu, mps, cuda or cuda:N.

    Raises: RequestError if there is no such device.
    """
    kind, _, number = asked.partition(":")
    if kind in ("auto", "cuda") and has_cuda_build() and (card := find_card(int(number or 0))):
        return Device(f"cuda:{int(number or 0)}", card)
    if kind in ("auto", "mps") and has_mps():
        return Device("mps")
    if kind in ("auto", "cpu"):
        return Device("cpu")
    raise RequestError(f"--device {asked} cannot be used", _why_not(kind, number), "--device cpu always works")


def devices() -> list[Device]:
    """All devices that torch should be able to compute on, as far as the drivers say; the CPU last."""
    numbered = range(MOST_CARDS) if has_cuda_build() else ()
    cards = takewhile(lambda one: one[1] is not None, ((number, find_card(number)) for number in numbered))
    found = [Device(f"cuda:{number}", card) for number, card in cards]
    return [*found, *([Device("mps")] if has_mps() else []), Device("cpu")]


def has_mps() -> bool:
    """Whether this is a Mac with a GPU of Apple's own."""
    return sys.platform == "darwin" and platform.machine() == "arm64"


def measured_on(device: Device) -> MeasuredOn:
    """The device as measurements are kept for it."""
    build = torch_build()
    version = "" if build is None else build.version
    name, driver = (cpu_name(), "") if device.card is None else (device.card.name, device.card.driver)
    return MeasuredOn(device=device.kind, name=name, torch=version, driver=driver)


def settle_machine(
    device: Device, settings: Settings, request: Request, headers: ModelHeaders
) -> tuple[Machine, tuple[str, ...]]:
    """Everything that this machine decides about a request, and what a person should know of it.

    Only `--precision auto` multiplies quantised weights as they are stored.
    Raises: RequestError if what was measured on this machine cannot be read.
    """
    vae, asked = headers.shapes.video_vae, required(settings.precision)
    grid, is_auto = request.grid(vae.factors), asked == "auto"
    precision = PRECISIONS[device.kind] if is_auto else _precision(asked)
    memory = memory_mode(required(settings.memory), device, precision, headers.header("transformer"))
    usual = Machine(
        device=device.name,
        precision=precision,
        memory=memory,
        chunk_tokens=LEAN_CHUNK_TOKENS if memory == "lean" else CHUNK_TOKENS,
        kept_bytes=int(KEPT_SHARE * device.nbytes),
        decode_tiles=TilePlan.auto(grid.latent, vae.factors),
        encode_tiles=ENCODE_TILES,
        products=products_on(device.card) if is_auto else (),
        threads=cpu_threads(),
    )
    tuning, notes = _tuning_for(device)
    if tuning is None:
        return usual, notes
    tuned = _tuned(usual, tuning, grid.tokens, takes_precision=is_auto)
    names = [one.name for one in fields(Machine) if getattr(tuned, one.name) != getattr(usual, one.name)]
    if not names:
        return usual, ()
    chosen = ", ".join(f"{name} {getattr(tuned, name)}" for name in names)
    return tuned, (f"{FILE}: {chosen}, as measured on this machine",)


def memory_mode(asked: str, device: Device, precision: Precision, transformer: Header) -> MemoryMode:
    """The memory mode that a name means. asked: auto, resident, streamed or lean.

    On the CPU weights are mapped, so that they may be larger than its memory.
    """
    if asked != "auto":
        return next(mode for mode in get_args(MemoryMode) if mode == asked)
    if device.card is None:
        return "resident"
    nbytes = transformer.loaded_bytes(COMPONENTS["transformer"].names_in(transformer), ITEM_BYTES[precision])
    return "resident" if nbytes + ACTIVATION_BYTES <= device.nbytes else "streamed"


def products_on(card: Card | None) -> tuple[Format, ...]:
    """The quantised formats that a card multiplies as they are stored; the others are decoded first.

    Integers are among them only where a fused kernel is installed: torch's own product of int8 is said to be slower
    than bfloat16 on some cards.
    """
    if card is None or card.capability is None:
        return ()
    least: dict[Format, tuple[int, int]] = {**PRODUCTS}
    if has_fused_int8():
        least |= INTEGER_PRODUCTS
    return tuple(form for form, capability in least.items() if card.capability >= capability)


def has_fused_int8() -> bool:
    """Whether the kernels of the extra `fast` are installed."""
    return find_spec("comfy_kitchen") is not None


def _tuning_for(device: Device) -> tuple[Tuning | None, tuple[str, ...]]:
    """What was measured on a device, and a line where what is kept was measured on another."""
    tuning = read_tuning()
    if tuning is None or tuning.measured_on.is_same(measured_on(device)):
        return tuning, ()
    return None, (f"{FILE} is not used: it was measured on {tuning.measured_on}; {AGAIN}",)


def _tuned(usual: Machine, tuning: Tuning, tokens: int, *, takes_precision: bool) -> Machine:
    """The machine with what was measured as the faster choice, for a clip of so many video tokens."""
    tuned, shape = usual, tuning.shape_of(tokens)
    if takes_precision and tuning.precision is not None:
        tuned = replace(tuned, precision=tuning.precision.chosen)
    if shape is not None:
        tuned = replace(tuned, batches_passes=shape.batches_passes.chosen, keeps_text=shape.keeps_text.chosen)
    return tuned


def _precision(name: str) -> Precision:
    return "bf16" if name == "bf16" else "fp32"


def _why_not(kind: str, number: str) -> str:
    if kind == "mps":
        return "mps is the GPU of an Apple silicon Mac, and this machine is none"
    if not has_cuda_build():
        return "the installed torch is a build for the CPU alone"
    build = torch_build()
    maker = "AMD" if build is not None and build.maker == "AMD" else "NVIDIA"
    return f"the driver shows no {maker} card" + (f" with the number {number}" if number else "")
