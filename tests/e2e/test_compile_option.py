"""`--compile` through the command line: said, stored, repeated, and left out where there is no compiler."""

from __future__ import annotations

from pathlib import Path

import pytest

import ltx2_core as core
from ltx2_core.media.probe import probe
from ltx2_core.pipeline.made import Made
from tests.commands import UNGUIDED, ltx2, rendered

CLIP = ("t2v", "a ball bounces", "--model", "toy", "--seed", 3, "--steps", 2, "--duration", "1s", *UNGUIDED)


def resolved(**flags: object) -> core.Resolved:
    given = core.gather({"model": "toy", "seed": 1, **flags})
    return core.resolve("t2v", "a ball bounces", given.layers)


def test_blocks_are_compiled_only_where_that_is_asked_for_and_the_machine_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not resolved().task.machine.compiles
    asked = resolved(compile=True)
    assert asked.task.machine.compiles
    assert any(note.startswith("compile: the first step") for note in asked.notes)


def test_without_a_compiler_the_render_is_a_plain_one_and_a_line_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXX", "no-such-compiler")
    asked = resolved(compile=True)
    assert asked.task.machine == resolved().task.machine
    assert "compile: not used, as there is no C++ compiler on this machine (no-such-compiler)" in asked.notes
    assert "compile: not used" in ltx2(*CLIP[:2], "--model", "toy", "--res", "64x64", "--compile", "--steps", 2).stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_compiled_render_repeats_and_its_recipe_says_that_it_was_compiled(tmp_path: Path) -> None:
    first, again = (rendered(*CLIP, "--compile", "-o", tmp_path / name) for name in ("first.mp4", "again.mp4"))
    assert first.read_bytes() == again.read_bytes()
    assert Made.parse(probe(first).comment).machine.compiles
    assert rendered("rerun", first, "-o", tmp_path / "rerun.mp4").read_bytes() == first.read_bytes()
    plain = rendered(*CLIP, "-o", tmp_path / "plain.mp4")
    assert not Made.parse(probe(plain).comment).machine.compiles
