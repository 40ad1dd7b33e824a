"""The facts about a machine, as rows for its owner and as a block to share.

Source: docs/cli.md, "The doctor".
"""

from __future__ import annotations

import getpass
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...errors import LTX2Error
from ...home import ltx2_home
from ...version import __version__

PATH = re.compile(r"(?<![\w/.])(?:~|[A-Za-z]:|\.{1,2})?[/\\][^\s,;:'\"()]+")
FENCE = "```"  # marks a block of code in Markdown, as in bug reports


@dataclass(frozen=True, slots=True)
class Fact:
    """One row.

    Args: todo: what to do, if something is missing or wrong. shared: the text for the shared block; None for the same,
    "" to leave it out.
    """

    name: str
    value: str
    todo: str = ""
    shared: str | None = None

    def __str__(self) -> str:
        return f"{self.value}. To do: {self.todo}" if self.todo else self.value

    @property
    def for_others(self) -> str:
        """The text for others, without names and paths of this machine; empty if nothing is left."""
        return anonymous(str(self) if self.shared is None else self.shared)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The facts. devices: those that torch should support besides the CPU, by torch's names."""

    facts: tuple[Fact, ...]
    devices: tuple[str, ...] = ()

    @property
    def rows(self) -> dict[str, str]:
        """A value by name, for the owner of the machine."""
        return {fact.name: str(fact) for fact in self.facts}

    @property
    def report(self) -> str:
        """The block to paste into a bug report."""
        return block([(fact.name, text) for fact in self.facts if (text := fact.for_others)])


def block(rows: Sequence[tuple[str, str]]) -> str:
    """Lines to paste, after the version of this program. Names and paths of this machine are removed."""
    lines = [f"{name}: {anonymous(value)}" for name, value in rows]
    return "\n".join((FENCE, f"ltx2 {__version__}", *lines, FENCE))


def anonymous(text: str) -> str:
    """A text without the names of the user and of the host, and without paths."""
    for place, word in _places():
        text = text.replace(place, word)
    text = PATH.sub("PATH", text)
    for name, word in _names():
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", word, text, flags=re.IGNORECASE)
    return text


def _places() -> Iterator[tuple[str, str]]:
    """Folders that may be in messages, the inner ones first, and their replacements."""
    with suppress(LTX2Error, RuntimeError):
        yield str(ltx2_home()), "LTX2_HOME"
    with suppress(RuntimeError):
        yield str(Path.home()), "~"


def _names() -> Iterator[tuple[str, str]]:
    """The names of user and host."""
    users: set[str] = set()
    with suppress(OSError, KeyError, ImportError):
        users.add(getpass.getuser())
    with suppress(RuntimeError):
        users.add(Path.home().name)
    host = platform.node()
    yield from ((name, "USER") for name in sorted(users, key=len, reverse=True) if name)
    yield from ((name, "HOST") for name in (host, host.partition(".")[0]) if name)
