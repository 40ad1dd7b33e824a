"""The devices of this machine, that of a render, and the formats that it multiplies. Without torch."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Literal

from ...cards import Card, find_card, has_cuda_build, torch_build
from ...errors import RequestError
from ...machine import Backend, Precision, cpu_name, has_fast_kernels, ram_bytes
from ...stored.layer import Format
from .tuning import AGAIN, FILE, MeasuredOn, Tuning, read_tuning

PRECISIONS: Mapping[str, Precision] = {"cuda": "bf16", "mps": "fp32", "cpu": "fp32"}  # by kind of device
MOST_CARDS = 64
# The lowest compute capability of NVIDIA GPUs that multiply in the stored format.
PRODUCTS: Mapping[Format, tuple[int, int]] = {"fp8": (8, 9), "fp8_rows": (8, 9), "mxfp8": (10, 0), "nvfp4": (10, 0)}
FUSED_NEIGHBOURS = (8, 0)  # oldest GPU for comfy-kitchen's kernel of neighbourhood attention
BACKENDS: Mapping[Backend, tuple[int, int]] = {"cudnn": (8, 0), "flash": (8, 0), "efficient": (5, 0)}
FLASH_PACKAGES: Mapping[Backend, tuple[str, str, tuple[int, ...]]] = {  # package, a module in it, GPU generations
    "flash3": ("flash_attn_interface", "", (9,)),
    "flash4": ("flash_attn", "cute", (9, 10)),
}
INT8_ATTENTION = (7, 5)  # oldest GPU for comfy-kitchen's kernel of int8 attention
ONLY_HALF: tuple[Backend, ...] = ("cudnn", "flash", "flash3", "flash4")  # GPU kernels without float32
INTEGER_PRODUCTS: Mapping[Format, tuple[int, int]] = {"int8": (7, 5), "w4a8": (7, 5), "w6a8": (7, 5)}


@dataclass(frozen=True, slots=True)
class Device:
    """The device of a render. name: "cpu", "mps" or "cuda:N". card: the facts about its GPU."""

    name: str
    card: Card | None = None

    @property
    def kind(self) -> str:
        return self.name.partition(":")[0]

    @property
    def nbytes(self) -> int:
        """Its memory; that of the whole machine if it has none of its own. 0 if unknown."""
        return ram_bytes() if self.card is None else self.card.nbytes


def choose_device(asked: str) -> Device:
    """The device for a name on this machine. asked: auto, cpu, mps, cuda or cuda:N.

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
    """All devices that torch should support, according to the drivers; the CPU last."""
    numbered = range(MOST_CARDS) if has_cuda_build() else ()
    cards = takewhile(lambda one: one[1] is not None, ((number, find_card(number)) for number in numbered))
    found = [Device(f"cuda:{number}", card) for number, card in cards]
    if has_mps():
        found.append(Device("mps"))
    return [*found, Device("cpu")]


def has_mps() -> bool:
    """Whether this is a Mac with a GPU of Apple's own."""
    return sys.platform == "darwin" and platform.machine() == "arm64"


def card_of(device: str) -> Card | None:
    """The card of a device; None if it has none. device: "cpu", "mps" or "cuda:N"."""
    kind, _, number = device.partition(":")
    return find_card(int(number or 0)) if kind == "cuda" else None


def hardware(device: str) -> str:
    """The name of the GPU or the CPU of a device. device: as for `card_of`."""
    card = card_of(device)
    return cpu_name() if card is None else card.name


def measured_on(device: Device) -> MeasuredOn:
    """The device as the key of measurements."""
    build = torch_build()
    version = "" if build is None else build.version
    name, driver = (cpu_name(), "") if device.card is None else (device.card.name, device.card.driver)
    return MeasuredOn(device=device.kind, name=name, torch=version, driver=driver)


def place_of(device: Device) -> str:
    """The memory of the weights, for messages."""
    return "this computer" if device.card is None else f"a card of {device.card.gb} GB"


def products_on(card: Card | None) -> tuple[Format, ...]:
    """The quantised formats that a GPU multiplies as they are stored; the others are decoded first.

    Integers are included only if a fused kernel is installed: torch's own int8 product can be slower than bfloat16 on
    some GPUs, so it is used only if it was measured to be faster.
    """
    if card is None or card.capability is None:
        return ()
    least: dict[Format, tuple[int, int]] = {**PRODUCTS}
    if has_fast_kernels():
        least |= INTEGER_PRODUCTS
    return tuple(form for form, capability in least.items() if card.capability >= capability)


def tuning_for(device: Device) -> tuple[Tuning | None, tuple[str, ...]]:
    """The measurements on a device, and a note if the stored ones are from another device."""
    tuning = read_tuning()
    if tuning is None or tuning.measured_on.is_same(measured_on(device)):
        return tuning, ()
    return None, (f"{FILE} is not used: it was measured on {tuning.measured_on}; {AGAIN}",)


def products_of(device: Device) -> tuple[Format, ...]:
    """The quantised formats that a device multiplies as they are stored, by its kind and by measurements on it.

    Raises: RequestError if the measurements on this machine cannot be read.
    """
    tuning, _ = tuning_for(device)
    found = products_on(device.card)
    return found if tuning is None else with_measured(found, tuning)


def with_measured(products: tuple[Format, ...], tuning: Tuning) -> tuple[Format, ...]:
    """The same with int8, if it was measured to be faster."""
    is_faster = tuning.int8 is not None and tuning.int8.chosen
    return (*products, "int8") if is_faster and "int8" not in products else products


def neighbours_on(card: Card | None, precision: Precision) -> Literal["boxes", "fused"]:
    """The attention of the diffusion decoder on a GPU: the fused kernel if it is installed and supports the dtype."""
    if card is None or card.capability is None or precision != "bf16":
        return "boxes"
    is_taken = card.capability >= FUSED_NEIGHBOURS and has_fast_kernels()
    return "fused" if is_taken else "boxes"


def backends_on(device: Device, precision: Precision) -> tuple[Backend, ...]:
    """The attention kernels that a device and the installed packages offer for a precision.

    Source: torch.nn.attention; FlashAttention 3 and 4 are separate packages.
    """
    if device.kind == "cpu":
        return ("flash", "math")
    if device.card is None or device.card.capability is None:
        return ("math",)
    capability = device.card.capability
    found: list[Backend] = [name for name, least in BACKENDS.items() if capability >= least]
    for name, (package, module, majors) in FLASH_PACKAGES.items():
        if capability[0] in majors and _is_installed(package, module):
            found.append(name)
    if capability >= INT8_ATTENTION and has_fast_kernels():
        found.append("int8")
    return (*(name for name in found if precision == "bf16" or name not in ONLY_HALF), "math")


def _is_installed(package: str, module: str) -> bool:
    """Whether a package exists, and a module in it, without importing either."""
    found = find_spec(package)
    if found is None:
        return False
    folders = found.submodule_search_locations or ()
    return not module or any((Path(folder) / module).exists() for folder in folders)


def lacking_compiler(device: Device) -> str:
    """Why torch.compile cannot be used on a device, as the end of a sentence; "" if it can.

    On the CPU it generates C++, on a GPU it generates Triton kernels, which start through a small C program. Both
    include Python.h.
    """
    if device.kind == "mps":
        return "torch.compile is not supported on mps here"
    if not _has_python_header():
        return "the headers of Python are not installed (Python.h, in a package like python3-dev)"
    if device.kind == "cpu":
        usual = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
        return "" if shutil.which(usual) else f"there is no C++ compiler on this machine ({usual})"
    if find_spec("triton") is None:
        return "triton is not installed"
    compilers = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang", "cl"]
    return "" if any(map(shutil.which, compilers)) else f"there is no C compiler on this machine ({compilers[0]})"


def _has_python_header() -> bool:
    """Whether Python.h exists. On a Mac, a framework keeps the header elsewhere."""
    return sys.platform == "darwin" or Path(sysconfig.get_path("include"), "Python.h").is_file()


def must_measure_int8(card: Card | None) -> bool:
    """Whether a GPU has only torch's own int8 product, whose benefit must be measured."""
    is_able = card is not None and card.capability is not None and card.capability >= INTEGER_PRODUCTS["int8"]
    return is_able and not has_fast_kernels()


def _why_not(kind: str, number: str) -> str:
    if kind == "mps":
        return "mps is the GPU of an Apple silicon Mac, and this machine is not one"
    if not has_cuda_build():
        return "the installed torch is a build for the CPU only"
    build = torch_build()
    maker = "AMD" if build is not None and build.maker == "AMD" else "NVIDIA"
    return f"the driver shows no {maker} card" + (f" with the number {number}" if number else "")
