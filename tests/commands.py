"""The real command line, run inside the process of a test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from ltx2_cli.app import app
from ltx2_core.media.probe import probe
from ltx2_core.pipeline.made import Made

ROOT = Path(__file__).parent.parent
# one pass of the model per step instead of four, for tests that are not about guidance
VIDEO_UNGUIDED = ("--video-st=1", "--video-sm=1", "--video-stg=0")
AUDIO_UNGUIDED = ("--audio-st=1", "--audio-sm=1", "--audio-stg=0")
UNGUIDED = (*VIDEO_UNGUIDED, *AUDIO_UNGUIDED)


def ltx2(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], prog_name="ltx2")


def rendered(*words: object) -> Path:
    """The file that a command has written; stdout contains only its path."""
    result = ltx2(*words)
    assert result.exit_code == 0, result.stderr
    (path,) = result.stdout.splitlines()
    return Path(path)


def refused(exit_code: int, *words: object) -> str:
    """The message on stderr of a command that fails without a result, as one line."""
    result = ltx2(*words)
    assert (result.exit_code, result.stdout) == (exit_code, ""), result.stderr
    return " ".join(result.stderr.split())


def made_in(path: Path) -> Made:
    """The recipe in a file."""
    comment = probe(path).comment
    assert comment is not None
    return Made.parse(comment)


# the command line is built once, not for each command
ONCE = """
from functools import cache
from typer import testing
testing._get_command = cache(testing._get_command)
"""


def run_in_process(script: str, cases: list[Any], home: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in a separate process without imports. cases: its input on stdin, as JSON."""
    return subprocess.run(
        [sys.executable, "-c", ONCE + script],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "LTX2_HOME": str(home), "OMP_NUM_THREADS": "1"},
    )


def in_shell(folder: Path, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with `ltx2` on the path. environment: variables in addition to those of this
    process.
    """
    program = folder / "bin" / "ltx2"
    if not program.exists():
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ltx2_cli "$@"\n')
        program.chmod(0o755)
    own = {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return subprocess.run(words, cwd=folder, env={**os.environ, **own, **environment}, capture_output=True, text=True)
