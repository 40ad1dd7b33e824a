"""A simulated GPU: tensors that report the device `cuda:0`, while their numbers are in the memory of the test.

An operation with tensors of both devices fails as on a real GPU, and so does an operation that GPUs do not support.
Everything is computed on the CPU, so a render on the simulated GPU can be compared with a render on the CPU, bit by
bit.

A copy on a separate stream takes place as late as its events allow, so code that does not wait for it reads the
previous content. Code that overwrites or frees memory that may still be in use fails.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from ltx2_core.cards import Card
from ltx2_core.pipeline.resolve import machine

NAME = torch.device("cuda:0")
CPU = torch.device("cpu")
GIB = 2**30
aten = torch.ops.aten
COPIES = (aten.to, aten._to_copy, aten.copy_)
PRODUCTS = (aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten.matmul, aten.linear, aten.einsum)
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu)
# The operations that a GPU supports for 8-bit numbers, besides views. The CPU supports more of them.
WITH_FP8 = (*COPIES, aten.clone, aten.contiguous, aten.cat, aten._scaled_mm, aten._scaled_mm_v2)
LOOKING = ("reshape", "flatten", "unflatten", "detach", "detach_", "equal")


class OnCard(Tensor):
    """A tensor on the simulated GPU. inner: its numbers, on the CPU."""

    inner: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnCard:
        own = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=NAME,
        )
        own.inner = inner
        return own

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Some methods ask the driver for the GPU first; they are implemented here without it."""
        with torch._C.DisableTorchFunctionSubclass():
            if func in ASKING:
                return ASKING[func](*args, **(kwargs or {}))
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class Generator(torch.Generator):
    """A generator on the simulated GPU or on the CPU. Both give the numbers of the CPU's generator."""

    place = CPU

    def __new__(cls, device: Any = CPU) -> Generator:
        own = super().__new__(cls)
        own.place = torch.device(device)
        return own

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.place


class Stream:
    """A stream besides the main one. Copies wait in it until another stream waits for them.

    known: the moment of the main stream up to which it has waited.
    """

    def __init__(self, device: Any = None) -> None:
        self.known = 0
        self.waiting: list[Callable[[], None]] = []

    def wait_event(self, event: Event) -> None:
        self.known = max(self.known, event.moment)

    def run(self, count: int) -> None:
        for _ in range(count):
            self.waiting.pop(0)()


class MainStream(Stream):
    """The stream in which operations are computed, immediately."""

    def wait_event(self, event: Event) -> None:
        event.synchronize()


class Event:
    """An event in a stream. moment: the moment of the main stream at which it was recorded. last: the last pending copy
    before it in its stream, if any.
    """

    def __init__(self, **options: Any) -> None:
        self.moment = 0
        self.stream: Any = None
        self.last: Any = None

    def record(self, stream: Any = None) -> None:
        self.stream = CARD.stream if stream is None else stream
        self.moment = CARD.moment
        self.last = self.stream.waiting[-1] if self.stream.waiting else None

    def synchronize(self) -> None:
        if self.stream is not None and self.last in self.stream.waiting:
            self.stream.run(self.stream.waiting.index(self.last) + 1)


class State:
    """The state of the simulated GPU.

    moment: number of operations computed so far. uses: for each memory address, the moment of its last use. copied:
    number of copies in separate streams.
    """

    def __init__(self) -> None:
        self.main = MainStream()
        self.moment = self.copied = 0
        self.uses: dict[int, int] = {}
        self._of_thread = threading.local()

    @property
    def stream(self) -> Stream:
        """The current stream of this thread."""
        return getattr(self._of_thread, "stream", self.main)

    @stream.setter
    def stream(self, stream: Stream) -> None:
        self._of_thread.stream = stream


CARD = State()


def computed(func: Any, args: Any, kwargs: Any) -> Any:
    """Compute an operation with tensors on the simulated GPU, or with a result on it."""
    kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, OnCard)]
    devices = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)]
    is_copy = func.overloadpacket in COPIES
    if func is aten.to.other:
        devices = [args[1].device]
    if not ours and not any(device.type == "cuda" for device in devices):
        return func(*args, **kwargs)
    if func.overloadpacket is aten._has_compatible_shallow_copy_type:  # modules call this in to_empty
        return False
    if ours and not is_copy and any(tensor.dim() and not isinstance(tensor, OnCard) for tensor in tensors):
        raise RuntimeError(f"{func} mixes the CPU and the card")
    _refuse_what_cards_lack(func, ours)
    given, named = tree_map(_inner, (args, kwargs))
    if CARD.stream is not CARD.main:
        assert func is aten.copy_.default, f"{func} on a stream of its own"
        return _queued(args[0], given)
    made = func(*given, **named)
    if isinstance(generator := kwargs.get("generator"), Generator):
        wanted = devices[0] if devices else ours[0].device
        assert generator.device.type == wanted.type, f"{func} with a generator of {generator.device}"
    goes_to = devices[0].type if devices else "cuda"
    if is_copy and func is not aten.copy_.default and not (ours and goes_to == "cuda"):
        made = made.clone() if any(made is one for one in tree_leaves((given, named))) else made
    results = [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
    if not _is_view(ours, results, func):
        _note_use(*ours, *results)
    known = {id(one.inner): one for one in ours}
    if func is aten.copy_.default and not isinstance(args[0], OnCard):
        return args[0]

    def placed(one: Tensor) -> Tensor:
        if id(one) in known:
            return known[id(one)]
        return OnCard(one) if goes_to == "cuda" else one

    return tree_map_only(Tensor, placed, made)


def _picked(tensor: Tensor, index: Any) -> Tensor:
    """The result of indexing a tensor."""
    found = _of_one_place(tensor, index)
    made = _inner(tensor)[tree_map(_inner, index)]
    if found:
        _note_use(tensor, made)
    return OnCard(made) if isinstance(tensor, OnCard) else made


def _put(tensor: Tensor, index: Any, value: Any) -> None:
    _of_one_place(tensor, (index, value))
    _inner(tensor)[tree_map(_inner, index)] = _inner(value)
    _note_use(tensor)


def _of_one_place(tensor: Tensor, others: Any) -> list[Tensor]:
    """The tensors among other arguments, which must be on the same device as the given tensor."""
    found = [leaf for leaf in tree_leaves(others) if isinstance(leaf, Tensor)]
    if any(one.dim() and isinstance(one, OnCard) != isinstance(tensor, OnCard) for one in found):
        raise RuntimeError("indexing mixes the CPU and the card")
    return found


def _note_use(*tensors: Tensor) -> None:
    CARD.moment += 1
    for tensor in tensors:
        CARD.uses[_address(_inner(tensor))] = CARD.moment


def _queued(target: OnCard, given: Any) -> OnCard:
    """Copy into memory of the simulated GPU later, on a separate stream."""
    stream, gone = CARD.stream, weakref.ref(target)
    assert stream.known >= CARD.uses.get(_address(target.inner), 0), "what is overwritten may still be in use"
    del target

    def copy() -> None:
        assert gone() is not None, "memory that is filled was let go"
        given[0].copy_(*given[1:])
        CARD.copied += 1

    stream.waiting.append(copy)
    return gone()  # pyright: ignore[reportReturnType]


def _inner(leaf: Any) -> Any:
    if isinstance(leaf, torch.device) and leaf.type == "cuda":
        return CPU
    return leaf.inner if isinstance(leaf, OnCard) else leaf


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _is_view(ours: list[OnCard], results: list[Tensor], func: Any) -> bool:
    places = {_address(one.inner) for one in ours}
    return not func._schema.is_mutable and bool(results) and all(_address(one) in places for one in results)


def _refuse_what_cards_lack(func: Any, tensors: list[OnCard]) -> None:
    """Raises: NotImplementedError, like torch, for an operation without a kernel for GPUs."""
    packet, dtypes = func.overloadpacket, {tensor.dtype for tensor in tensors}
    if packet in PRODUCTS and not all(dtype.is_floating_point for dtype in dtypes):
        raise NotImplementedError(f"{func} of integers on a card")
    if packet is aten._int_mm:
        (rows, inside), columns = tensors[0].shape, tensors[1].shape[1]
        assert rows > 16, "torch._int_mm takes at least 17 rows"
        assert inside % 8 == columns % 8 == 0, "torch._int_mm takes multiples of 8"
    if dtypes & {*FP8} and packet not in WITH_FP8 and not _looks(func):
        raise NotImplementedError(f"{func} of fp8 on a card")


def _looks(func: Any) -> bool:
    return func.is_view or func.overloadpacket.__name__ in LOOKING


ASKING: dict[Any, Callable[..., Any]] = {
    Tensor.__getitem__: _picked,
    Tensor.__setitem__: _put,
    Tensor.__bool__: lambda one: bool(one.inner),
    Tensor.__int__: lambda one: int(one.inner),
    Tensor.__float__: lambda one: float(one.inner),
    Tensor.__index__: lambda one: one.inner.__index__(),
    Tensor.contiguous: aten.contiguous.default,
    Tensor.copy_: lambda one, other, non_blocking=False: aten.copy_.default(one, other, non_blocking),
    Tensor.float: lambda one: one.to(torch.float32),
    Tensor.double: lambda one: one.to(torch.float64),
    Tensor.bfloat16: lambda one: one.to(torch.bfloat16),
    Tensor.int: lambda one: one.to(torch.int32),
    Tensor.char: lambda one: one.to(torch.int8),
    Tensor.byte: lambda one: one.to(torch.uint8),
    Tensor.new_tensor: lambda one, data: torch.tensor(data, dtype=one.dtype, device=one.device),
    Tensor.tolist: lambda one: one.inner.tolist(),
}


class OnCards(TorchDispatchMode):
    """Tensors that are created on the GPU or moved to it become tensors of the simulated GPU, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


@contextmanager
def _chosen(stream: Stream) -> Iterator[None]:
    before, CARD.stream = CARD.stream, stream
    try:
        yield
    finally:
        CARD.stream = before


@contextmanager
def card_of(monkeypatch: pytest.MonkeyPatch, **facts: Any) -> Iterator[State]:
    """A machine with one GPU, for the length of a `with` block. facts: additional facts of the GPU besides its name and
    memory.
    """
    card = Card(**{"name": "a card", "nbytes": 24 * GIB, "capability": (8, 0)} | facts)
    with monkeypatch.context() as patch, OnCards():
        patch.setattr(machine, "find_card", lambda number: None if number else card)
        patch.setattr(machine, "has_cuda_build", lambda: True)
        patch.setattr(torch, "Generator", Generator)
        begun: list[None] = []

        def reset(device: Any = None) -> None:
            if not begun:
                raise RuntimeError("Invalid device argument 0: did you call init?")

        fakes = {
            "init": lambda: begun.append(None),
            "_lazy_init": lambda: begun.append(None),
            "device_count": lambda: 1,
            "is_available": lambda: True,
            "empty_cache": lambda: None,
            "reset_peak_memory_stats": reset,
            "max_memory_allocated": lambda device=None: 1,
            "Stream": Stream,
            "Event": Event,
            "device": nullcontext,
            "stream": _chosen,
            "current_stream": lambda device=None: CARD.stream,
        }
        for name, fake in fakes.items():
            patch.setattr(torch.cuda, name, fake)
        before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # otherwise torch.tensor would ask the driver for the GPU
        try:
            yield CARD
        finally:
            torch._C._set_only_lift_cpu_tensors(before)
