"""Read weights that are needed next into the page cache, while something else computes.

The system reads pages of the files and keeps them as long as it has room; a program that maps the files afterwards
finds them there. Nothing is copied into this process, and no bit of a result depends on it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from .headers import Header
from .machine import available_bytes

PIECE = 128 * 1024  # bytes per request: the system truncates longer ones to its read-ahead
MOST_SHARE = 0.5  # share of available memory
Advise = Callable[[int, int, int], None]  # an open file, an offset, a length


@dataclass(frozen=True, slots=True)
class Part:
    """A range of a file, in bytes."""

    path: Path
    start: int
    end: int


def parts_of(header: Header, names: Iterable[str]) -> list[Part]:
    """The ranges of tensors in a file, in file order; adjacent ones are merged."""
    found: list[Part] = []
    for info in sorted((header.tensors[name] for name in names), key=lambda one: one.start):
        if found and found[-1].end == info.start:
            found[-1] = Part(header.path, found[-1].start, info.end)
        else:
            found.append(Part(header.path, info.start, info.end))
    return found


@contextmanager
def reading_ahead(parts: list[Part], beside: int = 0) -> Iterator[None]:
    """Read ranges of files in a thread for the length of a `with` block, in their order.

    It ends with the block, or after half of the memory that is free now and not needed meanwhile. If the system does
    not support it, or does not report free memory, nothing is read.

    Args: beside: bytes that the work in the block needs.
    """
    free, advise = available_bytes(), _advise()
    limit = 0 if free is None else int((free - beside) * MOST_SHARE)
    if not parts or limit <= 0 or advise is None:
        yield
        return
    stop = Event()
    thread = Thread(target=_read, args=(parts, limit, advise, stop), name="ahead", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _read(parts: list[Part], limit: int, advise: Advise, stop: Event) -> None:
    """Errors are ignored here; the later reader of the file reports them."""
    for part in parts:
        try:
            file = os.open(part.path, os.O_RDONLY)
        except OSError:
            continue
        try:
            for offset in range(part.start, part.end, PIECE):
                limit -= PIECE
                if limit < 0 or stop.is_set():
                    return
                advise(file, offset, min(PIECE, part.end - offset))
        except OSError:
            continue
        finally:
            os.close(file)


def _advise() -> Advise | None:
    """The system call that reads pages of a file in the background; None on systems without one."""
    if not hasattr(os, "posix_fadvise"):
        return None
    return lambda file, offset, length: os.posix_fadvise(file, offset, length, os.POSIX_FADV_WILLNEED)
