"""Code that all families share: read a golden file, compare tensors, and report every tensor that was not compared."""

from __future__ import annotations

import fnmatch
import json
import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor

T = TypeVar("T")
PASS, FAIL, LATER = "PASS", "FAIL", "LATER"
NOTHING = "nothing was compared with this tensor"


@dataclass(frozen=True, slots=True)
class Line:
    """The result for one expected tensor. `error` is relative unless the family states a different measure."""

    status: str
    where: str
    tensor: str
    error: float
    tolerance: float
    note: str = ""


@dataclass
class Report:
    """All lines of one run. `later`: glob patterns of "family/version/case", each with the reason why the case is not
    implemented yet.
    """

    later: dict[str, str] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)

    def add(self, line: Line) -> None:
        self.lines.append(line)

    def add_compared(self, where: str, tensor: str, error: float, tolerance: float, note: str = "") -> None:
        """Add the result of a comparison. An error that is NaN is a failure."""
        status = PASS if error <= tolerance else FAIL
        self.add(Line(status, where, tensor, error, tolerance, note))

    def add_uncompared(self, where: str, tensor: str, note: str) -> None:
        """Add a tensor that was not compared: its case is not implemented yet, or it is a failure."""
        reason = self.reason_to_wait(where)
        status = FAIL if reason is None else LATER
        self.add(Line(status, where, tensor, math.nan, 0.0, reason or note))

    def add_broken(self, where: str, exception: Exception) -> None:
        """Add an exception, as the failure of a whole case."""
        last = traceback.extract_tb(exception.__traceback__)[-1]
        note = f"{type(exception).__name__}: {exception} ({Path(last.filename).name}:{last.lineno})".replace("\n", " ")
        self.add(Line(FAIL, where, "*", math.inf, 0.0, note))

    def reason_to_wait(self, where: str) -> str | None:
        return first_match(self.later, where)


def first_match(table: Mapping[str, T], name: str) -> T | None:
    """The value of the first glob pattern in a table that matches a name."""
    return next((value for pattern, value in table.items() if fnmatch.fnmatchcase(name, pattern)), None)


def relative_error(ours: Tensor, expected: Tensor) -> float:
    """max|ours − expected| / max|expected| in float64; infinite if only one of them is finite at some place."""
    a, b = ours.detach().double(), expected.double()
    same = (a == b) | (a.isnan() & b.isnan())
    difference = torch.where(same, torch.zeros_like(a), (a - b).abs())
    if not difference.isfinite().all():
        return math.inf
    scale = b.abs().where(b.isfinite(), 0).max().item()
    return difference.max().item() / (scale or 1.0)


class GoldenFile:
    """One safetensors file of inputs and expected tensors.

    Args: where: "family/version". inputs: glob patterns of the tensors that are inputs; every other tensor must be
    compared.
    """

    def __init__(self, path: Path, where: str, report: Report, inputs: Sequence[str]) -> None:
        self.path, self.where, self.report, self.inputs = path, where, report, tuple(inputs)
        with safe_open(path, "pt") as file:
            self.metadata: dict[str, str] = file.metadata() or {}
            self.tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.seen: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def json(self, key: str) -> dict:
        """A metadata entry with JSON content; empty if it is absent."""
        return json.loads(self.metadata.get(key, "{}"))

    def compare(
        self, name: str, ours: Tensor, tolerance: float, case: str = "", *, error: float | None = None, note: str = ""
    ) -> None:
        """Compare one expected tensor with ours; shapes must be equal.

        `error` replaces the relative error with another measure.
        """
        self.seen.add(name)
        expected = self.tensors[name]
        where = f"{self.where}/{case or name.split('/')[0]}"
        if ours.shape != expected.shape:
            error, note = math.inf, f"shape {tuple(ours.shape)}, expected {tuple(expected.shape)}"
        elif error is None:
            error = relative_error(ours, expected)
        self.report.add_compared(where, name, error, tolerance, note)

    def compare_value(self, case: str, name: str, ours: Any, expected: Any) -> None:
        """Compare a value from the description of a case: equal or wrong."""
        is_wrong = ours != expected
        note = f"{ours}, expected {expected}" if is_wrong else ""
        self.report.add_compared(f"{self.where}/{case}", f"{name} (metadata)", float(is_wrong), 0.0, note)

    @contextmanager
    def case(self, name: str) -> Iterator[None]:
        """Run one case. An exception in it is a failure of that case, not of the run. A case that is not implemented
        yet may raise.
        """
        try:
            yield
        except Exception as exception:
            if not self.waits(name):
                self.report.add_broken(f"{self.where}/{name}", exception)

    def waits(self, case: str) -> bool:
        """Whether this case is in the table of cases that are not implemented yet."""
        return self.report.reason_to_wait(f"{self.where}/{case}") is not None

    def close(self, case_of: Callable[[str], str] = lambda name: name.split("/")[0]) -> None:
        """Add every tensor that was not compared and is not an input."""
        for name in sorted(self.tensors.keys() - self.seen):
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.inputs):
                self.report.add_uncompared(f"{self.where}/{case_of(name)}", name, NOTHING)
