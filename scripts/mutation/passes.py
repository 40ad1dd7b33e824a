"""Which tests pass over which lines: a pytest plugin that traces each test, and what it wrote.

`pytest -p scripts.mutation.passes` writes one JSON file for each process into the folder that MUTATION_PASSES names;
without that variable it traces nothing, and only takes the deadlines off that busy machines miss. Tests that fail are
left out. Tests that start a process of their own are seen in this process only.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings

FOLDER_VARIABLE = "MUTATION_PASSES"
SOURCES = ("ltx2_core", "ltx2_cli")

Lines = dict[str, set[int]]  # of each file, by its path from the root


@dataclass(frozen=True, slots=True)
class Passes:
    """By test, without parameters: how long it takes, and the lines that it passes over."""

    seconds: Mapping[str, float]
    lines: Mapping[str, Mapping[str, set[int]]]

    @classmethod
    def read(cls, folder: Path) -> Passes:
        """Put together what the processes of one run wrote."""
        seconds: dict[str, float] = defaultdict(float)
        lines: dict[str, Lines] = defaultdict(lambda: defaultdict(set))
        for path in folder.glob("*.json"):
            for test, found in json.loads(path.read_text()).items():
                seconds[test] += found["seconds"]
                for file, numbers in found["lines"].items():
                    lines[test][file].update(numbers)
        return cls(seconds, lines)

    def over(self, file: str, numbers: Sequence[int]) -> list[str]:
        """The tests that pass over any of some lines of a file, the quickest first. No lines: over any of the file."""
        wanted = set(numbers)
        tests = [test for test, files in self.lines.items() if files.get(file) and (not wanted or wanted & files[file])]
        return sorted(tests, key=lambda test: self.seconds[test])

    def quickest_first(self) -> list[str]:
        return sorted(self.seconds, key=lambda test: self.seconds[test])


_current: Lines = {}
_found: dict[str, dict[str, Any]] = {}
_failed: set[str] = set()
_roots = tuple(f"{Path.cwd() / source}{os.sep}" for source in SOURCES)


def pytest_configure() -> None:
    settings.register_profile("without deadlines", deadline=None)
    settings.load_profile("without deadlines")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _failed.add(report.nodeid.partition("[")[0])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[object]:
    """Trace one test with its fixtures."""
    global _current
    if FOLDER_VARIABLE not in os.environ:
        return (yield)
    _current = {}
    begin = time.perf_counter()
    threading.settrace(_trace)
    sys.settrace(_trace)
    try:
        return (yield)
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        entry = _found.setdefault(item.nodeid.partition("[")[0], {"seconds": 0.0, "lines": {}})
        entry["seconds"] += time.perf_counter() - begin
        for file, numbers in _current.items():
            entry["lines"].setdefault(file, set()).update(numbers)


def pytest_sessionfinish() -> None:
    if FOLDER_VARIABLE not in os.environ:
        return
    folder = Path(os.environ[FOLDER_VARIABLE])
    folder.mkdir(parents=True, exist_ok=True)
    passed = {test: found for test, found in _found.items() if test not in _failed}
    (folder / f"{os.getpid()}.json").write_text(json.dumps(passed, default=sorted))


def _trace(frame: FrameType, event: str, argument: object) -> Any:
    path = frame.f_code.co_filename
    if not path.startswith(_roots):
        return None
    numbers = _current.setdefault(os.path.relpath(path), set())
    numbers.add(frame.f_lineno)

    def local(inner: FrameType, event: str, argument: object) -> Any:
        numbers.add(inner.f_lineno)
        return local

    return local
