"""Blocks of a model that are loaded one after another while it runs, and freed again.

A reader thread copies the tensors of a block from the mapped file into a slot, in the dtype of the computation, while
the block before it computes. On the CPU a slot is ordinary memory; on CUDA it is device memory that is filled through
pinned memory on a separate stream.
"""

from __future__ import annotations

import re
import sys
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from .costs.weights import SLOTS, aligned, pinned_bytes
from .headers import Header
from .log import warn_once
from .machine import container_bytes, ram_bytes
from .quantize.linear import QuantisedLinear
from .weights import require_unchanged

PINNED_SHARE, PINNED_SHARE_WSL, LEFT_BYTES = 0.5, 0.25, 4_000_000_000
WAIT_S = 0.1  # interval in which a waiting reader checks whether it is still needed


class Source(NamedTuple):
    """A tensor of a file, mapped, and its dtype in the model."""

    tensor: Tensor
    dtype: torch.dtype
    header: Header

    @property
    def nbytes(self) -> int:
        return self.tensor.numel() * self.dtype.itemsize


Block = Mapping[str, Source]  # sources by tensor name


class Slot:
    """Memory for one block, on the device."""

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self.memory = torch.empty(nbytes, dtype=torch.uint8, device=device)
        self.host = self.memory
        self.stream: Any = None
        if device.type != "cpu":
            self.host = _host_memory(nbytes, pinned=device.type == "cuda")
        if device.type == "cuda":
            self.stream, self.filled, self.used = torch.cuda.Stream(device), torch.cuda.Event(), torch.cuda.Event()
            self.end()  # an earlier computation may still use this memory

    def fill(self, block: Block) -> dict[str, Tensor]:
        """Copy a block here. Raises: StorageError if its file has changed."""
        for header in {id(source.header): source.header for source in block.values()}.values():
            require_unchanged(header)
        if self.stream is not None:
            self.filled.synchronize()  # the copy from the host's memory has ended
        for view, source in zip(self._views(self.host, block).values(), block.values(), strict=True):
            view.copy_(source.tensor)
        if self.stream is not None:
            # With its own device first: the stream's context manager returns to the thread's current device, which
            # would take memory of a first GPU on which nothing is computed.
            with torch.cuda.device(self.memory.device), torch.cuda.stream(self.stream):
                self.stream.wait_event(self.used)
                self.memory.copy_(self.host, non_blocking=True)
                self.filled.record(self.stream)
        elif self.host is not self.memory:
            self.memory.copy_(self.host)
        return self._views(self.memory, block)

    def begin(self) -> None:
        """Make the computation wait until the block is here."""
        if self.stream is not None:
            torch.cuda.current_stream(self.memory.device).wait_event(self.filled)

    def end(self) -> None:
        """Make the next block wait until the computation has used this one."""
        if self.stream is not None:
            self.used.record(torch.cuda.current_stream(self.memory.device))

    def _views(self, memory: Tensor, block: Block) -> dict[str, Tensor]:
        views, start = {}, 0
        for name, source in block.items():
            part = memory[start : start + source.nbytes]
            views[name] = part.view(source.dtype).reshape(source.tensor.shape)
            start += aligned(source.nbytes)
        return views


class StreamedBlocks(nn.ModuleList):
    """The blocks of a model, of which all but the first few have their weights only during iteration.

    Args: blocks: on the meta device, as their file stores them. sources: their weights. arrived: called with the number
    of a block that has just been loaded, before it is used; it may change the weights in place, because their memory is
    not shared. resident: how many of the first blocks stay loaded, from their first use on.
    """

    def __init__(
        self, blocks: Sequence[nn.Module], sources: Sequence[Block], device: torch.device, *, resident: int = 0
    ) -> None:
        super().__init__(blocks)
        self.sources, self.device, self.resident = sources, device, min(resident, len(blocks))
        self.arrived: Callable[[int], None] = lambda _: None
        self._kept: set[int] = set()
        states = [(block.state_dict(), own) for block, own in self._pairs()]
        self._empty = [{name: state[name] for name in own} for state, own in states]
        self._slots: list[Slot] = []
        self._walk: Callable[[], Generator[nn.Module] | None] = lambda: None

    def __iter__(self) -> Iterator[nn.Module]:
        """Iterate over every block once; an unfinished iteration is ended.

        Raises: StorageError if a file cannot be read any more.
        """
        self._end_walk()
        walk = self._visits()
        self._walk = weakref.ref(walk)
        return walk

    def _visits(self) -> Generator[nn.Module]:
        ready: Queue[Any] = Queue()
        free: Queue[Slot] = Queue()
        stop = Event()
        for slot in self._made_slots():
            free.put(slot)
        reader = Thread(target=self._read, args=(free, ready, stop), name="weights", daemon=True)
        reader.start()
        try:
            for number in range(len(self)):
                if number < self.resident:
                    yield self._resident(number)
                    continue
                found = ready.get()
                if isinstance(found, BaseException):
                    raise found
                slot, tensors = found
                slot.begin()
                with closing(self._visited(number, tensors)) as visit:
                    yield from visit
                slot.end()
                free.put(slot)
        finally:
            stop.set()
            reader.join()

    def __getitem__(self, index: Any) -> Any:
        """A block by its number, without weights, or all of them; transformers takes a slice of its layers."""
        if not isinstance(index, slice):
            return super().__getitem__(index)
        assert range(len(self))[index] == range(len(self)), "blocks are visited from the first to the last"
        return self

    def let_go(self) -> None:
        """Free everything that is loaded. It is loaded again on demand."""
        self._end_walk()
        for slot in self._slots:
            slot.begin()  # the next computation in this memory waits until it is filled
        self._slots.clear()
        for number in self._kept:
            self._empty_block(number)
        self._kept.clear()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Called when the module is moved or emptied, as by `to`: everything that is loaded is freed."""
        self.let_go()
        return super()._apply(fn, recurse)

    def _end_walk(self) -> None:
        """End an iteration that an exception interrupted; the traceback would keep it, and its reader, alive for a
        while.
        """
        walk = self._walk()
        if walk is not None:
            walk.close()

    def _visited(self, number: int, tensors: dict[str, Tensor]) -> Generator[nn.Module]:
        try:
            yield self._loaded(number, tensors)
        finally:
            self._empty_block(number)

    def _resident(self, number: int) -> nn.Module:
        """A block that stays loaded."""
        if number not in self._kept:
            block = self.sources[number]
            slot = Slot(_block_bytes(block), self.device)
            tensors = slot.fill(block)
            slot.begin()
            self._kept.add(number)
            self._loaded(number, tensors)
        return self[number]

    def _loaded(self, number: int, tensors: dict[str, Tensor]) -> nn.Module:
        self[number].load_state_dict(tensors, assign=True)
        self.arrived(number)
        return self[number]

    def _empty_block(self, number: int) -> None:
        for layer in self[number].modules():
            if isinstance(layer, QuantisedLinear):
                layer.branch_off(())
        self[number].load_state_dict(self._empty[number], assign=True)

    def _read(self, free: Queue[Slot], ready: Queue[Any], stop: Event) -> None:
        """Fill slots until all blocks are read or nothing waits for them."""
        try:
            for block in self.sources[self.resident :]:
                slot = _next(free, stop)
                if slot is None:
                    return
                # A thread starts outside inference mode, where memory from inference mode cannot be written.
                with torch.inference_mode(slot.memory.is_inference()):
                    ready.put((slot, slot.fill(block)))
        except BaseException as error:  # raised again by the iteration over the blocks
            ready.put(error)

    def _made_slots(self) -> list[Slot]:
        if not self._slots and self.resident < len(self):
            largest = max(_block_bytes(block) for block in self.sources[self.resident :])
            self._slots = [Slot(largest, self.device) for _ in range(SLOTS)]
        return self._slots

    def _pairs(self) -> Iterator[tuple[nn.Module, Block]]:
        return zip(self._modules.values(), self.sources, strict=True)  # pyright: ignore[reportReturnType]


def pinnable_bytes() -> int:
    """How much memory may be pinned: half of the RAM, less under WSL and in a container that is nearly full."""
    share = PINNED_SHARE_WSL if "microsoft" in _kernel().lower() else PINNED_SHARE
    limit, most = container_bytes(), int(share * ram_bytes())
    return most if limit is None else max(0, min(most, limit - _used_bytes() - LEFT_BYTES))


def _host_memory(nbytes: int, *, pinned: bool) -> Tensor:
    """Memory for filling the device; pageable if it cannot be pinned."""
    if pinned and pinned_bytes(nbytes) <= pinnable_bytes():
        try:
            return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
        except RuntimeError:
            pinned = True
    if pinned:
        warn_once("weights are loaded through pageable memory, which is slower")
    return torch.empty(nbytes, dtype=torch.uint8)


def _next(free: Queue[Slot], stop: Event) -> Slot | None:
    while not stop.is_set():
        try:
            return free.get(timeout=WAIT_S)
        except Empty:
            continue
    return None


def _block_bytes(block: Block) -> int:
    return sum(aligned(source.nbytes) for source in block.values())


def _kernel() -> str:
    file = Path("/proc/version")
    return file.read_text() if sys.platform == "linux" and file.is_file() else ""


def _used_bytes() -> int:
    """The resident memory of this process."""
    file = Path("/proc/self/status")
    found = re.search(r"^VmRSS:\s+(\d+) kB", file.read_text(), re.MULTILINE) if file.is_file() else None
    return int(found[1]) * 1024 if found else 0
