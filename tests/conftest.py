"""What several test modules share."""

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
    "1"  # before torch is there: tiny tensors, for which more threads only wait for each other
)
testing._get_command = cache(testing._get_command)  # the commands are the same in each call, and take 20 ms to be made
hypothesis.settings.register_profile(
    "untimed", deadline=None, max_examples=40
)  # an example takes its time on a busy machine
hypothesis.settings.load_profile("untimed")
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a script starts the tests with `&`


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the settings, models, caches and cards of whoever runs it."""
    for name in [name for name in os.environ if name.startswith("LTX2_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LTX2_HOME", str(tmp_path_factory.getbasetemp() / "home"))
    monkeypatch.setattr(machine, "find_card", lambda number: None)
    monkeypatch.setattr(machine, "has_mps", lambda: False)
    monkeypatch.setattr(facts, "find_cards", list)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a disk takes up to 20 ms, and a test need outlive none


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of golden tensors, unpacked; do not change it."""
    from scripts.golden.packed import unpack

    return unpack(Path(__file__).parent / "golden", tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a complete tiny random model; do not change it."""
    from scripts.make_tiny_checkpoint import make_tiny_checkpoint  # torch and transformers: no part of the controller

    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def _made(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The folder of a tiny model of a generation in a precision, in the layout in which it is published."""
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
    """The folder of the tiny model in a precision, "bf16" or another of its script; do not change it."""
    return lambda precision: _made("2.0", precision)


@pytest.fixture(scope="session")
def tiny_of(_made: Callable[[str, str], Path]) -> Callable[[str], Path]:
    """The folder of the tiny model of a generation; do not change it."""
    return lambda version: _made(version, "bf16")


@pytest.fixture(scope="session")
def _loaded() -> deque[tuple[Models, Stamps]]:
    """What `kept_models` has loaded, the last few models, with how their files were then."""
    return deque(maxlen=4)


@pytest.fixture
def kept_models(_loaded: deque[tuple[Models, Stamps]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands keep their models for the next test whose files are the same, as `run(models=…)` does in one process.

    That this gives the bytes of models of one's own is what test_models.py tests.
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
    """What changes whenever one of some files, or a file in one of some folders, does."""
    files = [file for path in paths for file in (path.iterdir() if path.is_dir() else [path])]
    return {file: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for file in files if (stat := file.stat())}
