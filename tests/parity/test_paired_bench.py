"""The bench beside diffusers, on a model small enough for a test: does it compare the same work?"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from scripts import bench
from scripts.benchmarks import paired
from scripts.benchmarks.paired import Limits
from tests import tolerances

pytest.importorskip("diffusers", reason="diffusers is missing; `make parity` installs it")

SMALL = ["--cpu", "--layers", "2", "--heads", "1", "--runs", "3", "--sizes", "64x64x9"]


@pytest.mark.parametrize(("limits", "code"), [(Limits(1e9, tolerances.DIFFUSERS_STEP), 0), (Limits(0.0, 1.0), 1)])
def test_forward_and_guided_step_do_the_same_work(
    limits: Limits, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paired, "CPU", replace(paired.CPU, limits=limits))
    assert bench.main(SMALL) == code
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"ratio \d+\.\d{3} \(ours/theirs\), outputs agree to \S+", last)
