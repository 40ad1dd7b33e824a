"""Presets and the built-in model are found in an editable install and in a wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LIST = """
from ltx2_core.records import presets_folder
from ltx2_core.pipeline.resolve.presets import names, recipe
print(presets_folder())
print(*names("recipes"), recipe("one-stage").summary)
"""


@cache
def list_presets(folder: Path, *path: Path) -> list[str]:
    """The presets' location and content, from a separate process outside the checkout."""
    environment = {"PYTHONPATH": ":".join(map(str, path))}
    done = subprocess.run([sys.executable, "-c", LIST], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside the checkout."""
    return tmp_path_factory.mktemp("outside")


def test_presets_are_found_in_an_editable_install(outside: Path) -> None:
    folder, _ = list_presets(outside)
    assert Path(folder) == ROOT / "presets"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of a wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    # the function that `pip wheel` calls, without the overhead of pip
    command = [sys.executable, "-c", "import sys; from hatchling import build; build.build_wheel(sys.argv[1])", folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("ltx2-*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder / "installed")
    return folder / "installed"


def test_presets_are_found_in_a_wheel_and_say_the_same(installed: Path, outside: Path) -> None:
    folder, said = list_presets(outside, installed)
    assert Path(folder) == installed / "ltx2_core" / "presets"
    assert said == list_presets(outside)[1]


def test_a_wheel_brings_the_manual_page(installed: Path) -> None:
    (page,) = installed.glob("ltx2-*.data/data/share/man/man1/ltx2.1")
    assert page.read_bytes() == (ROOT / "docs" / "ltx2.1").read_bytes()


def test_a_wheel_renders_with_the_model_that_it_brings_and_writes_a_report(installed: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ltx2_cli", "t2v", "x", "--preset", "smoke", "--report", "-o", "x.mp4"]
    environment = {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "toy" in done.stderr
    assert (tmp_path / done.stdout.strip()).is_file()
    assert "<style>" in (tmp_path / "x.html").read_text()
