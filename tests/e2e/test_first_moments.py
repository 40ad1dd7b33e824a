"""Signals to a command before it has started its work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_ctrl_c_in_the_first_moments_ends_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "ltx2_cli", "t2v", "x", "--preset", "smoke"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, cwd=tmp_path, **pipes) as process:
        assert process.stderr is not None
        told = b""
        for line in process.stderr:
            told += line
            if b" typer." in line:  # one of the command line's own modules has been imported, but not yet all
                break
        process.send_signal(signal.SIGINT)
        told += process.communicate()[1]
    assert process.returncode == 130
    assert b"Traceback" not in told
