"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from typer import testing

from ltx2_core.pipeline.doctor import facts
from ltx2_core.pipeline.resolve import machine

if TYPE_CHECKING:
    from ltx2_core.pipeline.render.models import Models
    from ltx2_core.pipeline.request import RenderTask

Stamps = dict[Path, tuple[int, int, int]]

os.environ["OMP_NUM_THREADS"] = (
    "1"  # set before torch is imported: with tiny tensors, more threads would only wait for each other
)
testing._get_command = cache(testing._get_command)  # building the commands takes 20 ms
hypothesis.settings.register_profile(
    "untimed", deadline=None, max_examples=40
)  # an example may take long on a busy machine
hypothesis.settings.load_profile("untimed")
signal.signal(signal.SIGINT, signal.default_int_handler)  # SIGINT is ignored if a script starts the tests with `&`


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the settings, models, caches and GPUs of the user who runs the tests."""
    for name in [name for name in os.environ if name.startswith("LTX2_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LTX2_HOME", str(tmp_path_factory.getbasetemp() / "home"))
    monkeypatch.setattr(machine, "find_card", lambda number: None)
    monkeypatch.setattr(machine, "has_mps", lambda: False)
    monkeypatch.setattr(facts, "find_cards", list)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a disk takes up to 20 ms, and tests need no durability


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of golden tensors, decompressed; do not change it."""
    from scripts.golden.packed import unpack

    return unpack(Path(__file__).parent / "golden", tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a complete tiny random model; do not change it."""
    from scripts.make_tiny_checkpoint import make_tiny_checkpoint  # torch and transformers, not for the controller

    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def _made(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The folder of a tiny model of a generation in a precision, in the published layout."""
    from scripts.make_tiny_checkpoint import make_tiny_checkpoint

    @cache
    def made(version: str, precision: str) -> Path:
        if (version, precision) == ("2.0", "bf16"):
            return tiny
        folder = tmp_path_factory.mktemp(f"{version}-{precision}")
        make_tiny_checkpoint(folder, version=version, precision=precision)
        return folder

    return made


@pytest.fixture(scope="session")
def tiny_in(_made: Callable[[str, str], Path]) -> Callable[[str], Path]:
    """The folder of the tiny model in a precision, "bf16" or another one of its script; do not change it."""
    return lambda precision: _made("2.0", precision)


@pytest.fixture(scope="session")
def tiny_of(_made: Callable[[str, str], Path]) -> Callable[[str], Path]:
    """The folder of the tiny model of a generation; do not change it."""
    return lambda version: _made(version, "bf16")


@pytest.fixture(scope="session")
def _loaded() -> deque[tuple[Models, Stamps]]:
    """The last few models that `kept_models` has loaded, each with the state of its files at that time."""
    return deque(maxlen=4)


@pytest.fixture
def kept_models(_loaded: deque[tuple[Models, Stamps]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands keep their models for the next test with the same files, like `run(models=…)` in one process.

    test_models.py tests that this gives the same bytes as loading the models again.
    """
    from ltx2_core.pipeline.render import run

    usual = run._models_for

    @contextmanager
    def kept(task: RenderTask, models: Models | None) -> Iterator[Models]:
        if models is None:
            stamps = _stamps(task.files.paths.values())
            models = next((one for one, known in _loaded if known == stamps and one.are_of(task)), None)
            if models is None:
                models = run.Models(task.files, task.machine)
                _loaded.append((models, stamps))
        with usual(task, models) as ready:
            yield ready

    monkeypatch.setattr(run, "_models_for", kept)


def _stamps(paths: Iterable[Path]) -> Stamps:
    """A value that changes whenever one of some files, or a file in one of some folders, changes."""
    files = [file for path in paths for file in (path.iterdir() if path.is_dir() else [path])]
    return {file: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for file in files if (stat := file.stat())}
