"""Run pytest repeatedly without importing large libraries each time: every run is a fork of one process.

`python -m scripts.mutation.server LIBRARY...` imports the libraries, but none of our modules. Then it reads runs from
standard input, one JSON line each, and answers each with one line. POSIX only.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

LARGE = ("torch", "transformers", "pydantic", "typer.testing", "rich.progress", "hypothesis", "av", "soundfile")
POLL_S = 0.02


class Run(NamedTuple):
    """The result of pytest. code: its exit code, None if it was killed at the time limit. said: its output."""

    code: int | None
    said: str


class Server:
    """A process that runs pytest in a copy of the tree, with the libraries already imported."""

    def __init__(self, folder: Path, libraries: Sequence[str] = LARGE) -> None:
        command = [sys.executable, "-B", "-m", "scripts.mutation.server", *libraries]
        environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.__exit__(kind, error, trace)  # this closes its standard input, so the process ends

    def run(self, words: Sequence[str], limit_s: float) -> Run:
        """Run pytest. words: its command line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"words": words, "limit_s": limit_s}), file=self._process.stdin, flush=True)
        return Run(*json.loads(self._process.stdout.readline()))


def serve(libraries: Sequence[str]) -> None:
    """Answer until standard input ends."""
    for library in libraries:
        with suppress(ImportError):  # the library belongs to an extra that is not installed
            import_module(library)
    for line in sys.stdin:
        print(json.dumps(_run_forked(**json.loads(line))), flush=True)


def _run_forked(words: Sequence[str], limit_s: float) -> Run:
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if child == 0:
            os.setsid()
            null = os.open(os.devnull, os.O_RDONLY)
            for source, target in ((null, 0), (said.fileno(), 1), (said.fileno(), 2)):
                os.dup2(source, target)
            _become_pytest(words)
        code = _wait(child, limit_s)
        with suppress(ProcessLookupError):  # kill the processes that its tests have started
            os.killpg(child, signal.SIGKILL)
        said.seek(0)
        return Run(code, said.read())


def _become_pytest(words: Sequence[str]) -> None:
    """Run pytest and end this process. None of our modules has been imported before."""
    code = 3  # pytest's exit code for an internal error
    try:
        for name in [name for name in sys.modules if name.partition(".")[0] == "scripts"]:
            del sys.modules[name]
        import pytest

        code = int(pytest.main(["-W", "ignore::pytest.PytestAssertRewriteWarning", *words]))
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _wait(child: int, limit_s: float) -> int | None:
    """The exit code of a process; None if it had to be killed at the time limit."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(POLL_S)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


if __name__ == "__main__":
    serve(sys.argv[1:])
