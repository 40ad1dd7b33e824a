"""Our code against golden tensors of the official code, as far as they are part of the repository."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scripts.check_golden import FAIL, Report, Target, check, count, main, targets
from scripts.subset_golden import QUANTISED

GOLDEN = Path(__file__).parents[1] / "golden"
TARGETS = list(targets(GOLDEN))
# The smallest number of tensors that have to be compared: an empty folder is not a success.
COMPARED = {
    "transformer/2.0": 60,
    "text/2.0": 35,
    "text/2.5": 35,
    "audio/2.0": 14,
    "audio/2.5": 15,
    "video_vae/2.0": 4,
    "video_vae/2.0-timestep": 15,
    "video_vae/2.5-diffusion": 1,
    "video_vae/tile_plans": 43,
    "sampling": 300,
    "e2e/2.0": 95,
    **{f"quantised/{case}": 4 for case in QUANTISED},
}


def test_every_golden_folder_is_here():
    assert {target.where for target in TARGETS} >= COMPARED.keys()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.where)
def test_our_tensors_are_those_of_the_official_code(target: Target, golden: Path):
    report = check(replace(target, path=golden / target.path.relative_to(GOLDEN)))
    assert [line for line in report.lines if line.status == FAIL] == []
    assert count(report.lines)["compared"] >= COMPARED.get(target.where, 0)


@pytest.mark.parametrize("family", ["transformer", "sampling"])
def test_an_empty_folder_is_a_failure(tmp_path: Path, family: str):
    (tmp_path / family).mkdir()
    (target,) = targets(tmp_path)
    assert [line.status for line in check(target).lines] == [FAIL]


def test_a_family_that_breaks_is_a_failure_and_stops_nothing(tmp_path: Path):
    def broken(folder: Path, where: str, report: Report) -> None:
        raise RuntimeError("broken")

    (line,) = check(Target(tmp_path, "transformer/2.0", broken)).lines
    assert (line.status, line.where) == (FAIL, "transformer/2.0/*")
    assert "broken" in line.note


@pytest.mark.parametrize("arguments", [["nowhere"], [str(GOLDEN), "--only", "9.9"]])
def test_an_unknown_root_or_version_is_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "has no folder of" in capsys.readouterr().err
