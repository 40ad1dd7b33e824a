"""The bench against diffusers, on a model that is small enough for a test: does it compare the same work?"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from scripts import bench
from scripts.benchmarks import decoders, paired
from scripts.benchmarks.paired import Limits
from tests import tolerances
from tests.benches import narrow_the_decoders

pytest.importorskip("diffusers", reason="diffusers is missing; `make parity` installs it")

SMALL = [
    "--cpu",
    "--only",
    "forward",
    "guided-step",
    "decoders",
    "--layers",
    "2",
    "--heads",
    "1",
    "--runs",
    "3",
    "--decoded",
    "64x64x1",
    "--sizes",
    "64x64x9",
]


@pytest.mark.parametrize(("limits", "code"), [(Limits(1e9, tolerances.DIFFUSERS_STEP), 0), (Limits(0.0, 1.0), 1)])
def test_denoisers_and_decoders_do_the_same_work(
    limits: Limits, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow_the_decoders(monkeypatch)
    monkeypatch.setattr(paired, "CPU", replace(paired.CPU, limits=dict.fromkeys(paired.WORKS, limits)))
    monkeypatch.setattr(decoders, "LIMITS", dict.fromkeys(decoders.LIMITS, limits))
    assert bench.main(SMALL) == code
    lines = capsys.readouterr().out.splitlines()
    ratios = (
        r"forward \S+, guided step \S+ \(ours/theirs\), outputs agree to \S+(; beyond its limit: forward, guided step)?"
    )
    (told,) = (found for line in lines if (found := re.fullmatch(ratios, line)))
    assert bool(told[1]) == bool(code)
    assert re.fullmatch(r"video decoder \S+ \(ours/theirs\), vocoder \S+ \(ours/theirs\), agree to \S+", lines[-1])
