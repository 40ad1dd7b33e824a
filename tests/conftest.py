"""What several test modules share."""

from __future__ import annotations

import os
import signal
from functools import cache
from pathlib import Path

import hypothesis
import pytest
import torch
from typer import testing

from ltx2_core.pipeline.doctor import facts
from ltx2_core.pipeline.resolve import machine
from scripts.make_tiny_checkpoint import make_tiny_checkpoint

os.environ["OMP_NUM_THREADS"] = "1"  # tiny tensors: more threads only wait for each other
torch.set_num_threads(1)
testing._get_command = cache(testing._get_command)  # the commands are the same in each call, and take 20 ms to be made
hypothesis.settings.register_profile("untimed", deadline=None)  # how long an example takes depends on the machine
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


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a complete tiny random model; do not change it."""
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_checkpoint(folder)
    return folder
