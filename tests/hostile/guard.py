"""Record which files a process changes and which connections it opens, with an audit hook, which Python calls for each
such act.

Actions inside C libraries, such as FFmpeg writing a clip, are not recorded; the folders of a test show them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {  # calls that change a path: the arguments with paths, and the one with their base folder
    "os.link": ((1,), 3),
    "os.mkdir": ((0,), 2),
    "os.remove": ((0,), 1),
    "os.rename": ((0, 1), 2),
    "os.rmdir": ((0,), 1),
    "os.symlink": ((1,), 2),
    "os.truncate": ((0,), None),
}
CALLS = ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname")


@dataclass
class Guard:
    """The recorded acts. allowed: folders in which everything may be changed. faults: acts outside them."""

    allowed: tuple[str, ...]
    faults: list[str] = field(default_factory=list)

    def see(self, event: str, args: Sequence[Any]) -> None:
        """Record an act that is not allowed."""
        if event in CALLS:
            self.faults.append(f"{event} {args[1:]!r}")
        elif event == "open":
            path, _, flags = args
            if isinstance(flags, int) and flags & WRITING and not isinstance(path, int):
                place = os.path.realpath(os.fsdecode(path))
                if not Path(place).is_dir():  # a temporary file that only tests whether the folder is writable
                    self._note(event, place)
        elif event in CHANGES:
            places, folder = CHANGES[event]
            if folder is None or args[folder] in (-1, None):
                for place in places:
                    parent, name = os.path.split(os.fsdecode(args[place]))
                    self._note(event, f"{os.path.realpath(parent)}{os.sep}{name}")

    def _note(self, event: str, path: str) -> None:
        if path != os.devnull and not any(path == one or path.startswith(one + os.sep) for one in self.allowed):
            self.faults.append(f"{event} {path}")


_watching: list[Guard] = []


def _hook(event: str, args: Sequence[Any]) -> None:
    for guard in _watching:
        try:
            guard.see(event, args)
        except (TypeError, ValueError):  # the value is not a path; the call itself refuses it
            continue


@contextmanager
def guarded(*allowed: Path) -> Iterator[Guard]:
    """Watch this process. allowed: folders that it may write to. Nothing is prevented; the guard only reports."""
    if not hasattr(sys, "_ltx2_hook"):  # a hook cannot be removed, so there is only one per process
        sys.addaudithook(_hook)
        sys._ltx2_hook = True  # pyright: ignore[reportAttributeAccessIssue]
    guard = Guard(tuple(os.path.realpath(folder) for folder in allowed))
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    _watching.append(guard)
    try:
        yield guard
    finally:
        _watching.remove(guard)
        sys.dont_write_bytecode = before
