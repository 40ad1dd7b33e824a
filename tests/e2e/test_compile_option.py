"""`--compile` through the real command line: it is reported, stored, reproduced, and skipped without a compiler."""

from __future__ import annotations

from pathlib import Path

import pytest

import ltx2_core as core
from ltx2_core.pipeline.resolve import machine
from tests.commands import UNGUIDED, ltx2, made_in, rendered

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
    assert not any("measured" in note for note in asked.notes)


def test_without_a_compiler_the_render_is_a_plain_one_and_a_line_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXX", "no-such-compiler")
    asked = resolved(compile=True)
    assert asked.task.machine == resolved().task.machine
    assert asked.warnings == (
        "compile: the blocks are not compiled, as there is no C++ compiler on this machine (no-such-compiler)",
    )
    small = (*CLIP[:4], "--res", "64x64", "--frames", 9, *CLIP[4:6], "--steps", 2, *UNGUIDED)
    shown = ltx2(*small, "--compile", "-o", "plain.mp4").stderr
    assert shown.count("warning: compile: the blocks are not compiled") == 1
    made = rendered(*small, "-o", "usual.mp4")
    assert made.read_bytes() == Path("plain.mp4").read_bytes()
    assert rendered("rerun", "plain.mp4", "-o", "again.mp4").read_bytes() == made.read_bytes()


@pytest.mark.parametrize(
    ("device", "lacks", "why"),
    [
        ("cpu", "header", "Python.h"),
        ("cpu", "compiler", "no C++ compiler"),
        ("cuda:0", "header", "Python.h"),
        ("cuda:0", "triton", "triton is not installed"),
        ("cuda:0", "compiler", "no C compiler"),
        ("mps", "nothing", "not supported on mps"),
        ("cpu", "nothing", ""),
        ("cuda:0", "nothing", ""),
    ],
)
def test_what_the_compiler_needs_is_looked_for_before_anything_is_loaded(
    device: str, lacks: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    if lacks != "header":
        (tmp_path / "Python.h").touch()
    monkeypatch.setattr(machine.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(machine, "find_spec", lambda name: None if lacks == "triton" else object())
    monkeypatch.setattr(machine.shutil, "which", lambda name: None if lacks == "compiler" else name)
    found = machine.lacking_compiler(machine.Device(device))
    assert why in found
    assert bool(found) == bool(why)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_compiled_render_repeats_and_its_recipe_says_that_it_was_compiled(tmp_path: Path) -> None:
    first, again = (rendered(*CLIP, "--compile", "-o", tmp_path / name) for name in ("first.mp4", "again.mp4"))
    assert first.read_bytes() == again.read_bytes()
    assert made_in(first).machine.compiles
    assert rendered("rerun", first, "-o", tmp_path / "rerun.mp4").read_bytes() == first.read_bytes()
    plain = rendered(*CLIP, "-o", tmp_path / "plain.mp4")
    assert not made_in(plain).machine.compiles
