"""Shared parts of counting a render's costs: the records of a phase, and the weights of a component.

Source: docs/architecture.md, "From a command to a file".
"""

from __future__ import annotations

from dataclasses import dataclass

from ...costs.weights import component_bytes, converted_bytes
from ...headers import Header
from ...hub.find import ModelFiles
from ...lora_file import MatchedLora
from ...machine import ITEM_BYTES, Machine
from ...text.enhancers import EnhancerFiles
from ..events import Phase as Kind
from ..parts import ModelHeaders
from ..request import Request


@dataclass(frozen=True, slots=True)
class Load:
    """A model that a phase needs.

    Args: nbytes: of its weights on the device. moved: bytes that are copied there to load it. stays: whether it stays
    loaded afterwards, if there is room.
    """

    key: str
    nbytes: int
    moved: int
    stays: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One phase.

    Args: kind: of the work, as in a render's events. name: for the user. loads: one after another. active: bytes on the
    device beside the weights. flops: of the whole phase. moved: weights that are copied to the device while it runs.
    disk: bytes that it writes. host: memory of the computer in addition to that of every phase. workspace: additional
    bytes on the device for convolution kernels: on the CPU always, on a GPU as far as there is room.
    """

    kind: Kind
    name: str
    loads: tuple[Load, ...]
    active: int
    flops: float
    moved: int = 0
    disk: int = 0
    host: int = 0
    workspace: int = 0


@dataclass(frozen=True)
class Counting:
    """The inputs of counting a request's costs on a machine.

    Args: loras: the user's. enhancer: the model that rewrites the prompt, if it is not the text encoder. captures:
    whether the attention of the audio to the video is captured.
    """

    request: Request
    machine: Machine
    files: ModelFiles
    headers: ModelHeaders
    loras: tuple[MatchedLora, ...] = ()
    enhancer: EnhancerFiles | None = None
    captures: bool = False

    @property
    def itemsize(self) -> int:
        return ITEM_BYTES[self.machine.precision]

    @property
    def is_streamed(self) -> bool:
        return self.machine.memory != "resident"

    def component(self, name: str, itemsize: int | None = None) -> Load:
        header, itemsize = self.headers.header(name), itemsize or self.itemsize
        nbytes = component_bytes(header, name, itemsize)
        return Load(name.replace("_", " "), self.weights(header, name, nbytes, itemsize), nbytes)

    def weights(self, header: Header, component: str, nbytes: int, itemsize: int | None = None) -> int:
        """Bytes of weights on the device; on the CPU only those that do not stay mapped."""
        if self.machine.device != "cpu":
            return nbytes
        return converted_bytes(header, component, itemsize or self.itemsize)
