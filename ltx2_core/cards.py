"""The GPUs of this machine, without torch: NVIDIA's from the driver's library (NVML), AMD's from the driver's files.

Both take milliseconds. torch calls the GPUs of either maker `cuda:N`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

Maker = Literal["NVIDIA", "AMD"]
DRM = Path("/sys/class/drm")  # where Linux lists GPUs of all vendors
AMD_DRIVER = Path("/sys/module/amdgpu/version")  # exists for drivers that are installed separately from the kernel
AMD_ID = "0x1002"
AMD_FILTERS = (("ROCR_VISIBLE_DEVICES",), ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"))  # the first set one of each


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One GPU.

    Args: nbytes: its total memory; 0 if the driver does not report it. capability: the compute capability of an NVIDIA
    GPU, such as (8, 9). driver: its version. free_bytes: of its memory at this moment, for display only: a choice that
    depended on it could not be repeated.
    """

    name: str
    nbytes: int
    capability: tuple[int, int] | None = None
    maker: Maker = "NVIDIA"
    driver: str = ""
    free_bytes: int | None = None

    @property
    def gb(self) -> int:
        """The memory as it is sold: the nearest whole number of GiB. 0 where it is unknown."""
        return round(self.nbytes / 2**30)


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """The installed torch. cuda, hip: the version of CUDA or of HIP (in ROCm) that it is built for."""

    version: str
    cuda: str | None = None
    hip: str | None = None

    @property
    def maker(self) -> Maker | None:
        """The maker of the GPUs that it supports."""
        if self.hip:
            return "AMD"
        return "NVIDIA" if self.cuda else None


def torch_build() -> TorchBuild | None:
    """What torch's own version file says, read as text. None where torch is not installed."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    said = dict(re.findall(r"^(\w+)(?:: [^=\n]+)? = '([^'\n]*)'$", text, re.MULTILINE))
    return TorchBuild(said.get("__version__", ""), said.get("cuda"), said.get("hip"))


def has_cuda_build() -> bool:
    """Whether the installed torch supports GPUs, of NVIDIA or, in a build for ROCm, of AMD."""
    build = torch_build()
    return build is not None and build.maker is not None


def find_card(number: int = 0) -> Card | None:
    """The GPU that torch calls `cuda:N`: an AMD GPU in a build for ROCm, otherwise an NVIDIA GPU.

    N counts the GPUs that CUDA_VISIBLE_DEVICES (HIP_VISIBLE_DEVICES, ROCR_VISIBLE_DEVICES) makes visible.
    Returns: None if there is no such GPU, or no driver.
    """
    build = torch_build()
    if build is not None and build.maker == "AMD":
        return next(iter(_visible_amd_cards()[number : number + 1]), None)
    with _driver() as nvml:
        if nvml is None:
            return None
        try:
            handle = _handle(nvml, number)
            return None if handle is None else _nvidia_card(nvml, handle)
        except nvml.NVMLError:
            return None


def find_cards() -> list[Card]:
    """All GPUs of NVIDIA and AMD that drivers report, whatever torch is built for and whatever is hidden from it."""
    return [*_nvidia_cards(), *(card for _, card in _amd_cards())]


@contextmanager
def _driver() -> Iterator[Any]:
    """NVIDIA's library, ready to be asked; None where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _nvidia_cards() -> list[Card]:
    with _driver() as nvml:
        if nvml is None:
            return []
        try:
            handles = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(nvml.nvmlDeviceGetCount())]
            return [_nvidia_card(nvml, handle) for handle in handles]
        except nvml.NVMLError:
            return []


def _nvidia_card(nvml: Any, handle: Any) -> Card:
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Card(
        name=str(nvml.nvmlDeviceGetName(handle)),
        nbytes=int(memory.total),
        capability=(major, minor),
        driver=str(nvml.nvmlSystemGetDriverVersion()),
        free_bytes=int(memory.free),
    )


def _handle(nvml: Any, number: int) -> Any:
    """The handle of a card by its number among the visible ones; None if it is not visible."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return nvml.nvmlDeviceGetHandleByIndex(number)
    names = [name.strip() for name in visible.split(",")]
    if number >= len(names) or names[number] in ("", "-1"):
        return None
    name = names[number]
    return nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name)


def _amd_cards() -> list[tuple[str, Card]]:
    """The cards of AMD in the order of the driver, each with the name that ROCm gives it."""
    found = [path for path in DRM.glob("card*") if re.fullmatch(r"card\d+", path.name)]
    folders = [path / "device" for path in sorted(found, key=lambda path: int(path.name.removeprefix("card")))]
    return [_amd_card(folder) for folder in folders if _line(folder / "vendor") == AMD_ID]


def _amd_card(folder: Path) -> tuple[str, Card]:
    total, used = _bytes(folder / "mem_info_vram_total"), _bytes(folder / "mem_info_vram_used")
    card = Card(
        name=_line(folder / "product_name") or f"AMD GPU {_line(folder / 'device')}".strip(),
        nbytes=total or 0,
        maker="AMD",
        driver=_line(AMD_DRIVER),
        free_bytes=None if total is None or used is None else total - used,
    )
    return f"GPU-{_line(folder / 'unique_id')}", card


def _visible_amd_cards() -> list[Card]:
    """The AMD GPUs that its variables make visible, in their order; the second variable selects from those of the
    first.
    """
    cards = _amd_cards()
    for names in AMD_FILTERS:
        chosen = next((os.environ[name] for name in names if name in os.environ), None)
        if chosen is not None:
            cards = _chosen(cards, [name.strip() for name in chosen.split(",")])
    return [card for _, card in cards]


def _chosen(cards: Sequence[tuple[str, Card]], names: Sequence[str]) -> list[tuple[str, Card]]:
    """Cards by number or name, up to the first that is not there."""
    known = {str(number): card for number, card in enumerate(cards)} | {card[0]: card for card in cards}
    return [known[name] for name in takewhile(known.__contains__, names)]


def _line(path: Path) -> str:
    """The first line of a file of the driver; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip()
    except OSError:
        return ""


def _bytes(path: Path) -> int | None:
    text = _line(path)
    return int(text) if text.isascii() and text.isdigit() else None
