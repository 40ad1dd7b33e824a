"""Processes that answer through a pipe."""

from __future__ import annotations

import subprocess
import sys

FIRST_START = """
import signal
from multiprocessing.resource_tracker import ensure_running
from ltx2_core.pipeline.processes import SIGNALS, _signals_wait

with _signals_wait():
    ensure_running()  # as the first process of a program does when it starts
    assert {*SIGNALS} <= signal.pthread_sigmask(signal.SIG_BLOCK, ())
assert not {*SIGNALS} & signal.pthread_sigmask(signal.SIG_BLOCK, ())
"""


def test_the_first_process_begins_with_its_signals_blocked_too() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_START], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
