"""The small changes of scripts/mutate.py, on a small tree of test files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts import mutate
from scripts.mutation.changes import Change, changes_of
from scripts.mutation.passes import Passes

SOURCE = '''"""Words, which stay."""

import os

LIMIT = 3


def clipped(values: list[int], low: int = 0) -> list[int]:
    """More words."""
    kept = [value for value in values[1:] if low <= value]
    if not kept or LIMIT < 0:
        kept.append(LIMIT + 1)
    return kept


def unused(value: float) -> float:
    return value * 2.5
'''
TESTS = """
from ltx2_core.small import LIMIT, clipped


def test_clipped() -> None:
    assert clipped([9, 0, -1, 0]) == [0, 0]
    assert clipped([9], 1) == [4]
    assert LIMIT == 3
"""
PRESET = """summary: 3 words
stages:
  - {scale: 0.5, guided: true, sigmas: distilled-8}
text: >-
  many words
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(mutate, "LARGE", ())  # these tests need no library
    (tmp_path / "ltx2_core").mkdir()
    (tmp_path / "ltx2_cli").mkdir()
    (tmp_path / "presets").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "ltx2_core" / "__init__.py").touch()
    (tmp_path / "scripts").symlink_to(Path(mutate.__file__).parent)
    (tmp_path / "ltx2_core" / "small.py").write_text(SOURCE)
    (tmp_path / "presets" / "a.yaml").write_text(PRESET)
    (tmp_path / "tests" / "test_small.py").write_text(TESTS)
    return tmp_path


def changed_lines(changes: list[Change]) -> set[tuple[str, str]]:
    """The kind of each change, and the changed line."""
    return {(change.kind, change.diff.splitlines()[-1]) for change in changes}


def test_every_kind_of_change_is_made_and_texts_and_types_stay(tree: Path) -> None:
    assert changed_lines(changes_of(tree, "ltx2_core/small.py")) == {
        ("constant", "+LIMIT = 4"),
        ("constant", "+def clipped(values: list[int], low: int = 1) -> list[int]:"),
        ("constant", "+    kept = [value for value in values[2:] if low <= value]"),
        ("slice", "+    kept = [value for value in values[:] if low <= value]"),
        ("comparison", "+    kept = [value for value in values[1:] if low < value]"),
        ("condition", "+    kept = [value for value in values[1:] if (not (low <= value))]"),
        ("condition", "+    if (not kept and LIMIT < 0):"),
        ("condition", "+    if kept or LIMIT < 0:"),
        ("condition", "+    if (not (not kept or LIMIT < 0)):"),
        ("comparison", "+    if not kept or LIMIT <= 0:"),
        ("constant", "+    if not kept or LIMIT < 1:"),
        ("dropped call", "+        pass"),
        ("operator", "+        kept.append(LIMIT - 1)"),
        ("constant", "+        kept.append(LIMIT + 2)"),
        ("operator", "+    return value / 2.5"),
        ("constant", "+    return value * 3.75"),
    }


def test_values_of_presets_are_changed_and_their_summary_stays(tree: Path) -> None:
    assert changed_lines(changes_of(tree, "presets/a.yaml")) == {
        ("preset", "+  - {scale: 1.0, guided: true, sigmas: distilled-8}"),
        ("preset", "+  - {scale: 0.5, guided: false, sigmas: distilled-8}"),
        ("preset", "+  - {scale: 0.5, guided: true, sigmas: distilled-3}"),
        ("preset", "+  many words x"),
    }


def test_a_seed_draws_the_same_changes_again(tree: Path) -> None:
    drawn = mutate.choose(tree, 8, seed=1)
    assert len(drawn) == 8
    assert sum(change.file.endswith(".yaml") for change in drawn) == 1
    assert mutate.choose(tree, 8, seed=1) == drawn
    assert mutate.choose(tree, 8, seed=2) != drawn


def test_changes_are_judged_by_the_tests_that_pass_over_them(tree: Path) -> None:
    test = "tests/test_small.py::test_clipped"
    passes = Passes({test: 0.1}, {test: {"ltx2_core/small.py": {10, 11, 12, 13}}})
    changes = changes_of(tree, "ltx2_core/small.py")
    some = [change for change in changes if change.kind == "dropped call" or "/ 2.5" in change.diff]
    verdicts = mutate.try_all(tree, some, passes)
    found = {verdict.change.diff.splitlines()[-1].strip("+ "): verdict for verdict in verdicts}
    assert {line for line, verdict in found.items() if not verdict.is_noticed} == {"return value / 2.5"}
    assert found["return value / 2.5"].why == "no test passes over it"
    assert found["pass"].why.startswith(f"FAILED {test}")
    assert (tree / "ltx2_core" / "small.py").read_text() == SOURCE


def test_defaults_of_arguments_are_judged_by_every_test_of_their_file(tree: Path) -> None:
    passes = Passes(
        {"tests/test_small.py::test_clipped": 0.1}, {"tests/test_small.py::test_clipped": {"ltx2_core/small.py": {13}}}
    )
    (default,) = [change for change in changes_of(tree, "ltx2_core/small.py") if "low: int = 1" in change.diff]
    (verdict,) = mutate.try_all(tree, [default], passes)
    assert verdict.is_noticed, verdict.why


def test_lines_of_each_test_are_traced(tree: Path) -> None:
    command = "from pathlib import Path; from scripts.mutate import collect"
    command += "; (lines,) = collect(Path.cwd(), ['tests']).lines.values()"
    command += "; print({name: sorted(numbers) for name, numbers in lines.items()})"
    done = subprocess.run([sys.executable, "-c", command], cwd=tree, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "{'ltx2_core/small.py': [10, 11, 12, 13]}", done.stderr
