"""What files of many small cases share: a table of checks by the name of the case, and how close results must be.

Source of the tolerances: the README of the golden tensors of sampling.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..report import FAIL, PASS, GoldenFile, Line, Report

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}

Parameters = dict[str, Any]
Check = Callable[[GoldenFile, str, Parameters], None]


@dataclass(frozen=True)
class CaseTable:
    """The cases of one file. inputs: glob patterns of the tensors fed in. checks: by a glob pattern of cases."""

    checks: Mapping[str, Check]
    inputs: tuple[str, ...] = ()

    def run(self, path: Path, where: str, report: Report) -> None:
        golden = GoldenFile(path, where, report, self.inputs)
        for case, parameters in golden.json("cases").items():
            check = next((check for pattern, check in self.checks.items() if fnmatch.fnmatchcase(case, pattern)), None)
            if check is not None:
                with golden.case(case):
                    check(golden, case, parameters)
        golden.close()


def exact(golden: GoldenFile, name: str, ours: Tensor) -> None:
    golden.compare(name, ours, 0.0)


def close(golden: GoldenFile, name: str, ours: Tensor) -> None:
    """One operation: 1e-5 absolute and relative in float32, one unit in the last place in bfloat16."""
    expected = golden[name]
    difference = (ours.double() - expected.double()).abs() if ours.shape == expected.shape else torch.zeros(1)
    if expected.dtype == torch.bfloat16:
        _, exponent = torch.frexp(expected.double())
        golden.compare(name, ours, 1.0, error=(difference / torch.exp2(exponent - 8.0)).max().item(), note="bf16 ulp")
    else:
        allowed = 1e-5 + 1e-5 * expected.double().abs()
        golden.compare(name, ours, 1.0, error=(difference / allowed).max().item(), note="of 1e-5 + 1e-5 |expected|")


def near(golden: GoldenFile, name: str, ours: Tensor) -> None:
    """A whole trajectory: 1e-4 absolute in float32, 0.05 with a mean of 0.005 in bfloat16."""
    expected = golden[name]
    difference = (ours.double() - expected.double()).abs() if ours.shape == expected.shape else torch.zeros(1)
    if expected.dtype == torch.bfloat16:
        error = max(difference.max().item() / 0.05, difference.mean().item() / 0.005)
        golden.compare(name, ours, 1.0, error=error, note="of 0.05, mean 0.005")
    else:
        golden.compare(name, ours, 1e-4, error=difference.max().item(), note="absolute")


def equal(golden: GoldenFile, case: str, ours: Any, expected: Any) -> None:
    """Compare a value that stands in the metadata."""
    note = "" if ours == expected else f"{ours}, expected {expected}"
    status = PASS if ours == expected else FAIL
    golden.report.add(Line(status, f"{golden.where}/{case}", f"{case} (metadata)", 0.0, 0.0, note))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
