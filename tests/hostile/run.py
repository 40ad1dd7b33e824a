"""Pass hostile cases to the real app, in this process, and report what it should not have done with them.

    python -m tests.hostile.run --cases 2000
    python -m tests.hostile.run --kind yaml --seed 3 --case 127    shows that case again

A command is stopped when it would start to render. It fails if it ends with exit code 1 or an exception, prints nothing
or too much, writes a control character to the terminal, takes more than 2 s of CPU or 300 MB, opens a socket, or
changes a file outside its folder, LTX2_HOME and the temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any
from unittest import mock

import torch
import typer.main
import typer.testing
from typer.testing import CliRunner

import ltx2_core as core
from ltx2_cli.app import app
from ltx2_core.pipeline.render import run as rendering
from ltx2_core.pipeline.resolve import machine
from scripts.make_tiny_checkpoint import make_tiny_checkpoint

from . import commands, job_records, media_files, path_names, recipes, weight_files, yaml_files
from .case import Case, Ground, clips
from .guard import guarded

Make = Callable[[Random, Ground], Case]
KINDS: Mapping[str, Make] = {
    "commands": commands.make,
    "yaml": yaml_files.make,
    "weights": weight_files.make,
    "records": job_records.make,
    "media": media_files.make,
    "paths": path_names.make,
    "recipes": recipes.make,
}
FEWER = {"media": 7}  # for these kinds, only one in this many cases is run
REACHES_MODELS = ("weights", "records")  # kinds whose files are read until models would be loaded
MOST_SECONDS, MOST_MB, MOST_SHOWN, HANGS_AFTER_S = 2.0, 300.0, 60_000, 60
ALLOWED = (0, 2, 3, 4, 7)
RENDERS = "a render would begin now"


class RenderReachedError(core.LTX2Error):
    """Raised to stop a command that would start to render."""

    exit_code = 0


class HangError(BaseException):
    """A case does not end."""


@dataclass(frozen=True)
class Outcome:
    """The result of a case. faults: what should not have happened. seconds: CPU time. shown: its whole output."""

    code: int
    seconds: float
    megabytes: float
    faults: tuple[str, ...]
    shown: str

    @property
    def has_resolved(self) -> bool:
        return RENDERS in self.shown

    @property
    def costs(self) -> tuple[str, ...]:
        """Limits that were exceeded and that depend on the machine."""
        slow = (f"slow: {self.seconds:.2f} s",) * (self.seconds > MOST_SECONDS)
        return (*slow, *(f"large: {self.megabytes:.0f} MB",) * (self.megabytes > MOST_MB))


def reached(*args: Any, **extra: Any) -> Any:
    raise RenderReachedError(RENDERS)


@dataclass
class Runner:
    """Runs cases below one folder."""

    folder: Path
    ground: Ground

    @classmethod
    def prepared(cls, folder: Path, tiny: Path | None = None) -> Runner:
        """Make the files that all cases start from. tiny: a tiny random model, if there is one already."""
        media, made = (folder / "ground" / name for name in ("media", "made"))
        for path in (media, made):
            path.mkdir(parents=True)
        if tiny is None:
            tiny = folder / "ground" / "tiny"
            make_tiny_checkpoint(tiny)
        target = made / "x.mp4"
        words = ("t2v", "a bell", "--model", str(tiny), "--preset", "two-stage", "--res", "128x128", "--frames", "9")
        words = (*words, "--steps", "3", "--seed", "1", "--keep-latents", "-o", str(target))
        with _home(folder / "home"):
            result = CliRunner().invoke(app, list(words), prog_name="ltx2")
        if result.exit_code:
            raise RuntimeError(result.output)
        content = (made / "x.mp4.job" / "job.json").read_text()
        (made / "x.mp4.job" / "job.json").write_text(content.replace(json.dumps(str(target)), '"x.mp4"'))
        return cls(folder, Ground(tiny=tiny, job=made / "x.mp4.job", media=clips(media)))

    def warm_up(self) -> None:
        """Run some cases of each kind, so that their imports do not count as time and memory of a case."""
        for kind in KINDS:
            for number in range(5):
                self.run(kind, "warm", number)

    def case(self, kind: str, seed: object, number: int) -> Case:
        """A case, which depends only on its kind, seed and number."""
        return KINDS[kind](Random(f"{kind}/{seed}/{number}"), self.ground)

    def run(self, kind: str, seed: object, number: int) -> Outcome:
        """Run a case in its own folder, and judge its behaviour."""
        case, here = self.case(kind, seed, number), self.folder / "here"
        shutil.rmtree(here, ignore_errors=True)
        for folder in (here / "home", here / "temporary"):
            folder.mkdir(parents=True)
        for name, write in case.files.items():
            path = here / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
        with contextlib.chdir(here), mock.patch.object(tempfile, "tempdir", str(here / "temporary")):
            return self._judged(case, here, reaches_models=kind in REACHES_MODELS)

    def _judged(self, case: Case, here: Path, *, reaches_models: bool) -> Outcome:
        environment = {"LTX2_HOME": str(here / "home"), "HOME": str(here), "COLUMNS": "80"} | dict(case.environment)
        stop: Any = mock.patch.object(rendering, "_finish", reached)
        if not reaches_models:
            stop = mock.patch.object(core, "run", reached, create=True)
        before_mb, begin = _peak_mb(), time.process_time()
        with guarded(here) as guard, stop, _built_once(), _quick(), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                result = CliRunner().invoke(app, list(case.words), prog_name="ltx2", env=environment)
                code, stdout, stderr = result.exit_code, result.stdout, result.stderr
                raised = result.exception if not isinstance(result.exception, SystemExit) else None
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                code, stdout, stderr, raised = 1, "", "", error
        seconds, megabytes = time.process_time() - begin, _peak_mb() - before_mb
        faults = [*guard.faults, *_words_faults(code, stdout, stderr, is_json="--json" in case.words)]
        faults += [f"warning: {one.category.__name__}: {one.message}" for one in warned]
        if raised is not None:
            faults.append("".join(traceback.format_exception(raised)))
        elif code not in ALLOWED:
            faults[:0] = [path.read_text(errors="replace") for path in sorted(here.glob("home/crash-*"))]
        return Outcome(code, seconds, megabytes, tuple(faults), stdout + stderr)


def _words_faults(code: int, stdout: str, stderr: str, *, is_json: bool) -> Iterator[str]:
    """Errors in the exit code and the output of a command."""
    if code not in ALLOWED:
        yield f"exit code {code}"
    if code and not is_json and not stderr.strip():
        yield "it fails without a word"
    if len(stdout) + len(stderr) > MOST_SHOWN:
        yield f"it says {len(stdout) + len(stderr):,} characters"
    controls = {char for char in stdout + stderr if unicodedata.category(char) in ("Cc", "Cf", "Cs") and char != "\n"}
    if controls and not is_json:
        yield f"control characters on the terminal: {sorted(controls)!r}"
    if is_json:
        try:
            for line in stdout.splitlines():
                json.loads(line)
        except ValueError as error:
            yield f"what --json prints is not JSON: {error}"


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextlib.contextmanager
def _home(folder: Path) -> Iterator[None]:
    with mock.patch.dict(os.environ, {"LTX2_HOME": str(folder)}):
        yield


def _built_once() -> Any:
    """Inside the `with` block, the command line is built only once, because building it takes longer than most
    cases.
    """
    return mock.patch.object(typer.testing, "_get_command", return_value=_command())


@cache
def _command() -> Any:
    return typer.main.get_command(app)


@contextlib.contextmanager
def _quick() -> Iterator[None]:
    """Inside the `with` block, long waits are interrupted."""

    def hear(number: int, frame: FrameType | None) -> None:
        raise HangError(f"it has not ended after {HANGS_AFTER_S} s")

    before = signal.signal(signal.SIGALRM, hear)
    signal.setitimer(signal.ITIMER_REAL, HANGS_AFTER_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def plain_machine() -> Iterator[None]:
    """Inside the `with` block, there are no settings of the user and no GPU."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("LTX2_")}
    with (
        mock.patch.dict(os.environ, plain, clear=True),
        mock.patch.object(machine, "find_card", return_value=None),
        mock.patch.object(machine, "has_mps", return_value=False),
    ):
        yield


def main() -> int:
    """Run cases as requested on the command line. Returns 1 if any fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=2000, help="of each kind; of media a seventh of that")
    parser.add_argument("--kind", choices=KINDS, help="only this kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, nargs="+", help="only this case, with all that it says")
    asked = parser.parse_args()
    faulthandler.enable()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder, plain_machine():
        runner = Runner.prepared(Path(folder))
        runner.warm_up()
        if asked.case is not None:
            return max(show(runner, asked.kind, asked.seed, number) for number in asked.case)
        counts = [many(runner, kind, asked.seed, asked.cases) for kind in KINDS if asked.kind in (None, kind)]
    return int(any(counts))


def many(runner: Runner, kind: str, seed: int, cases: int) -> int:
    """Run cases of a kind, and print a line about them. Returns the number of failures."""
    cases //= FEWER.get(kind, 1)
    codes: Counter[int] = Counter()
    slowest = largest = 0.0
    failed = resolved = 0
    for number in range(cases):
        (runner.folder / "running").write_text(
            f"--kind {kind} --seed {seed} --case {number}"
        )  # remains visible if the process crashes
        outcome = runner.run(kind, seed, number)
        codes[outcome.code] += 1
        resolved += outcome.has_resolved
        slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.megabytes)
        for fault in (*outcome.faults, *outcome.costs)[:1]:
            failed += 1
            print(f"--kind {kind} --seed {seed} --case {number}: {' '.join(fault.strip()[-700:].split())}", flush=True)
    ends = ", ".join(f"{count} x {code}" for code, count in sorted(codes.items()))
    line = f"{kind}: {cases} cases, {failed} failed; exit codes {ends}; {resolved} would render"
    print(f"{line}; at most {slowest:.2f} s and {largest:.0f} MB", flush=True)
    return failed


def show(runner: Runner, kind: str, seed: int, number: int) -> int:
    """Run one case and print everything about it."""
    case, outcome = runner.case(kind, seed, number), runner.run(kind, seed, number)
    print("words:", *(repr(word[:300]) for word in case.words), sep="\n  ")
    for path in sorted((runner.folder / "here").rglob("*")):
        size = path.lstat().st_size
        print(f"file: {path.relative_to(runner.folder / 'here')}, {size} bytes")
    for name in case.files:
        if name.endswith((".yaml", ".json")):
            print(f"--- {name}\n{(runner.folder / 'here' / name).read_text(errors='backslashreplace')[:3000]}")
    print(f"environment: {dict(case.environment)!r:.300}\nexit code {outcome.code}, {outcome.seconds:.2f} s")
    print(outcome.shown[:5000], *(f"FAULT: {fault}" for fault in (*outcome.faults, *outcome.costs)), sep="\n")
    return int(bool(outcome.faults or outcome.costs))


if __name__ == "__main__":
    sys.exit(main())
