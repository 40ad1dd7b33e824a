"""Code that files with many small cases share: a table of checks by the name of the case, and tolerances.

The tolerances come from the README of the golden tensors of sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..report import GoldenFile, Report, first_match

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}

Parameters = dict[str, Any]
Check = Callable[[GoldenFile, str, Parameters], None]


@dataclass(frozen=True)
class CaseTable:
    """The cases of one file. inputs: glob patterns of the input tensors. checks: functions by a glob pattern of
    cases.
    """

    checks: Mapping[str, Check]
    inputs: tuple[str, ...] = ()

    def run(self, path: Path, where: str, report: Report) -> None:
        golden = GoldenFile(path, where, report, self.inputs)
        for case, parameters in golden.json("cases").items():
            check = first_match(self.checks, case)
            if check is not None:
                with golden.case(case):
                    check(golden, case, parameters)
        golden.close()


def exact(golden: GoldenFile, name: str, ours: Tensor) -> None:
    golden.compare(name, ours, 0.0)


def difference(golden: GoldenFile, name: str, ours: Tensor) -> Tensor:
    """|ours − expected| in float64; 0 if the shapes differ, which the comparison itself reports."""
    expected = golden[name]
    if ours.shape != expected.shape:
        return torch.zeros(1, dtype=torch.float64)
    return (ours.double() - expected.double()).abs()


def close(golden: GoldenFile, name: str, ours: Tensor) -> None:
    """Compare the result of one operation: to 1e-5 absolute and relative in float32, to one unit in the last place in
    bfloat16.
    """
    expected = golden[name].double()
    if golden[name].dtype == torch.bfloat16:
        _, exponent = torch.frexp(expected)
        allowed, note = torch.exp2(exponent - 8.0), "bf16 ulp"
    else:
        allowed, note = 1e-5 + 1e-5 * expected.abs(), "of 1e-5 + 1e-5 |expected|"
    error = difference(golden, name, ours) / allowed
    golden.compare(name, ours, 1.0, error=error.max().item(), note=note)


def near(golden: GoldenFile, name: str, ours: Tensor) -> None:
    """Compare a whole trajectory: to 1e-4 absolute in float32, to 0.05 with a mean of 0.005 in bfloat16."""
    off = difference(golden, name, ours)
    if golden[name].dtype == torch.bfloat16:
        error = max(off.max().item() / 0.05, off.mean().item() / 0.005)
        golden.compare(name, ours, 1.0, error=error, note="of 0.05, mean 0.005")
    else:
        golden.compare(name, ours, 1e-4, error=off.max().item(), note="absolute")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
