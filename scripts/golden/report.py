"""What every family shares: read a golden file, compare tensors, and notice every tensor that nobody looked at."""

from __future__ import annotations

import fnmatch
import json
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

PASS, FAIL, LATER = "PASS", "FAIL", "LATER"


@dataclass(frozen=True, slots=True)
class Line:
    """One expected tensor and what became of it. `error` is relative unless the family says otherwise."""

    status: str
    where: str
    tensor: str
    error: float
    tolerance: float
    note: str = ""


@dataclass
class Report:
    """All lines of one run. `later`: glob patterns of "family/version/case", each with the reason why it waits."""

    later: dict[str, str] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)

    def add(self, line: Line) -> None:
        self.lines.append(line)

    def reason_to_wait(self, where: str) -> str | None:
        return next((why for pattern, why in self.later.items() if fnmatch.fnmatchcase(where, pattern)), None)

    def count(self, status: str) -> int:
        return sum(line.status == status for line in self.lines)


def relative_error(ours: Tensor, expected: Tensor) -> float:
    """max|ours − expected| / max|expected| in float64; infinite where only one of them is not finite."""
    a, b = ours.detach().double(), expected.double()
    same = (a == b) | (a.isnan() & b.isnan())
    difference = torch.where(same, torch.zeros_like(a), (a - b).abs())
    if not difference.isfinite().all():
        return float("inf")
    scale = b[b.isfinite()].abs().max().item() if b.isfinite().any() else 0.0
    return difference.max().item() / scale if scale else difference.max().item()


class GoldenFile:
    """One safetensors file of inputs and expected tensors.

    Args: where: "family/version". inputs: glob patterns of the tensors that are fed in; every other tensor must be
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
        """A metadata entry that holds JSON; empty where it is absent."""
        return json.loads(self.metadata.get(key, "{}"))

    def compare(
        self, name: str, ours: Tensor, tolerance: float, case: str = "", *, error: float | None = None, note: str = ""
    ) -> None:
        """Compare one expected tensor with ours; shapes must agree.

        `error` replaces the relative error (an own metric).
        """
        self.seen.add(name)
        expected = self.tensors[name]
        where = f"{self.where}/{case or name.split('/')[0]}"
        if tuple(ours.shape) != tuple(expected.shape):
            note = f"shape {tuple(ours.shape)}, expected {tuple(expected.shape)}"
            self.report.add(Line(FAIL, where, name, float("inf"), tolerance, note))
            return
        error = relative_error(ours, expected) if error is None else error
        self.report.add(Line(PASS if error <= tolerance else FAIL, where, name, error, tolerance, note))

    @contextmanager
    def case(self, name: str) -> Iterator[None]:
        """Run one case: an exception in it is a failure of that case, not of the run. A case that waits may break."""
        try:
            yield
        except Exception as exception:
            if self.waits(name):
                return
            last = traceback.extract_tb(exception.__traceback__)[-1]
            note = f"{type(exception).__name__}: {exception} ({Path(last.filename).name}:{last.lineno})".replace(
                "\n", " "
            )
            self.report.add(Line(FAIL, f"{self.where}/{name}", "*", float("inf"), 0.0, note))

    def waits(self, case: str) -> bool:
        """Whether this case stands in the table of what comes later."""
        return self.report.reason_to_wait(f"{self.where}/{case}") is not None

    def close(self, case_of=lambda name: name.split("/")[0]) -> None:
        """Account for every tensor that was not compared: an input, something for later, or a failure."""
        for name in sorted(self.tensors.keys() - self.seen):
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.inputs):
                continue
            where = f"{self.where}/{case_of(name)}"
            why = self.report.reason_to_wait(where)
            status = FAIL if why is None else LATER
            self.report.add(
                Line(status, where, name, float("nan"), 0.0, why or "nothing was compared with this tensor")
            )
