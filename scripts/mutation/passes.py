"""A pytest plugin that traces which lines each test runs over, and a reader for its output.

`pytest -p scripts.mutation.passes` writes one JSON file per process into the folder that the variable MUTATION_PASSES
names. Without that variable it traces nothing, and only removes the time limits of hypothesis, which busy machines
miss. Tests that fail are left out. In tests that start processes, only this process is traced.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import coverage
import pytest
from hypothesis import settings

FOLDER_VARIABLE = "MUTATION_PASSES"
SOURCES = ("ltx2_core", "ltx2_cli")

Lines = dict[str, set[int]]  # line numbers of each file, by its path from the root


@dataclass(frozen=True, slots=True)
class Passes:
    """For each test, without parameters: its duration, and the lines that it runs over."""

    seconds: Mapping[str, float]
    lines: Mapping[str, Mapping[str, set[int]]]

    @classmethod
    def read(cls, folder: Path) -> Passes:
        """Combine the files that the processes of one run wrote."""
        seconds: dict[str, float] = defaultdict(float)
        lines: dict[str, Lines] = defaultdict(lambda: defaultdict(set))
        for path in folder.glob("*.json"):
            for test, found in json.loads(path.read_text()).items():
                seconds[test] += found["seconds"]
                for file, numbers in found["lines"].items():
                    lines[test][file].update(numbers)
        return cls(seconds, lines)

    def over(self, file: str, numbers: Sequence[int]) -> list[str]:
        """The tests that run over any of some lines of a file, the fastest first. If there are no lines, over any line
        of the file.
        """
        wanted = set(numbers)
        tests = [test for test, files in self.lines.items() if files.get(file) and (not wanted or wanted & files[file])]
        return sorted(tests, key=lambda test: self.seconds[test])

    def quickest_first(self) -> list[str]:
        return sorted(self.seconds, key=lambda test: self.seconds[test])


_seconds: dict[str, float] = defaultdict(float)
_failed: set[str] = set()
_tracer: coverage.Coverage | None = None


def pytest_configure() -> None:
    global _tracer
    settings.register_profile("without deadlines", deadline=None)
    settings.load_profile("without deadlines")
    if FOLDER_VARIABLE in os.environ:
        included = [str(Path.cwd() / source / "*") for source in SOURCES]
        _tracer = coverage.Coverage(data_file=None, config_file=False, include=included)
        _tracer.set_option("run:disable_warnings", ["no-data-collected"])
        _tracer.start()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _failed.add(report.nodeid.partition("[")[0])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[object]:
    """Trace one test with its fixtures."""
    if _tracer is None:
        return (yield)
    test = item.nodeid.partition("[")[0]
    begin = time.perf_counter()
    _tracer.switch_context(test)
    try:
        return (yield)
    finally:
        _tracer.switch_context("")
        _seconds[test] += time.perf_counter() - begin


def pytest_sessionfinish() -> None:
    if _tracer is None:
        return
    _tracer.stop()
    lines = _lines_of_each_test(_tracer.get_data())
    passed = {
        test: {"seconds": seconds, "lines": lines[test]} for test, seconds in _seconds.items() if test not in _failed
    }
    folder = Path(os.environ[FOLDER_VARIABLE])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{os.getpid()}.json").write_text(json.dumps(passed, default=sorted))


def _lines_of_each_test(data: coverage.CoverageData) -> Mapping[str, Lines]:
    lines: dict[str, Lines] = defaultdict(lambda: defaultdict(set))
    for path in data.measured_files():
        for number, tests in data.contexts_by_lineno(path).items():
            for test in tests:
                lines[test][os.path.relpath(path)].add(number)
    return lines
