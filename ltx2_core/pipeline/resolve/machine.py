"""Choose what the machine decides: device, precision, tiles, threads. Without torch, from the class of the card."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from ...cards import Card, find_card, has_cuda_build, torch_build
from ...config.video_vae import VideoVAEConfig
from ...errors import RequestError
from ...machine import KEPT_SHARE, Machine, Precision, cpu_threads, ram_bytes
from ...tiles import Cut, TilePlan
from ..request import Request

PRECISIONS: Mapping[str, Precision] = {"cuda": "bf16", "mps": "fp32", "cpu": "fp32"}  # by kind of device
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


def has_mps() -> bool:
    """Whether this is a Mac with a GPU of Apple's own."""
    return sys.platform == "darwin" and platform.machine() == "arm64"


def settle_machine(device: Device, precision: str, request: Request, vae: VideoVAEConfig) -> Machine:
    """Everything that this machine decides about a request. precision: auto, bf16 or fp32."""
    grid = request.grid(vae.factors)
    return Machine(
        device=device.name,
        precision=PRECISIONS[device.kind] if precision == "auto" else _precision(precision),
        kept_bytes=int(KEPT_SHARE * device.nbytes),
        decode_tiles=TilePlan.auto(grid.latent, vae.factors),
        encode_tiles=ENCODE_TILES,
        threads=cpu_threads(),
    )


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
