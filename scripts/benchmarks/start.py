"""Time the start of the program: imports, answers without a model, and the phases of a small render.

Each run is a separate process; the runs alternate, and the files are in the page cache.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from .section import Section

ROOT = Path(__file__).resolve().parents[2]
RUNS = 7
RENDER = ("t2v", "a lamp blinks", "--model", "toy", "--seed", "1", "--steps", "4", "--no-cache", "--overwrite")
COMMANDS: Mapping[str, Sequence[str]] = {
    "ltx2 --version": ("--version",),
    "ltx2 --help": ("--help",),
    "ltx2 t2v --help": ("t2v", "--help"),
    "ltx2 plan t2v, toy": ("plan", "t2v", "--model", "toy"),
}
IMPORTS = {"import torch": "import torch", "imports of a render": "import ltx2_core.pipeline.render.run"}
THEIRS = {"imports of a render": "from diffusers import LTX2Pipeline"}
LIMITS_S = {"ltx2 --version": 0.5, "ltx2 --help": 0.5, "ltx2 t2v --help": 0.5, "ltx2 plan t2v, toy": 1.0}
Times = dict[str, list[float]]


def section(runs: int = RUNS) -> Section:
    """Time everything, describe the results, and compare the answers without a model with the contract of the CLI."""
    seconds: dict[str, Times] = {"ours": {}, "diffusers": {}}
    floor: list[float] = []
    with tempfile.TemporaryDirectory() as home:
        for number in range(runs + 1):  # the first run is a warm-up, which reads the files into the page cache
            print(f"timing: start, run {number} of {runs}", file=sys.stderr, flush=True)
            found = {whose: _run(Path(home), whose) for whose in seconds}
            if number:
                floor.append(_python("pass"))
                for whose, times in found.items():
                    for name, one in times.items():
                        seconds[whose].setdefault(name, []).append(one)
    late = [name for name, most in LIMITS_S.items() if statistics.median(seconds["ours"][name]) > most]
    return Section(
        title="Start",
        facts=[
            "each run is a process of its own, in turns, after one more; medians; the floor is Python alone",
            f"the render: `{shlex.join(['ltx2', *RENDER])}`; times to its steps are from the start of the process",
        ],
        rows=[_row(name, seconds, floor) for name in seconds["ours"]],
        verdict=f"later than the contract: {', '.join(late)}" if late else "within the contract of the command line",
        is_good=not late,
        runs=seconds["ours"],
    )


def _row(name: str, seconds: Mapping[str, Times], floor: Sequence[float]) -> dict[str, str]:
    ours, theirs = (seconds[whose].get(name, []) for whose in seconds)
    is_phase = name.startswith("phase ")
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True)) if theirs else None
    return {
        "work": name,
        "runs": str(len(ours)),
        "floor, s": "-" if is_phase else f"{statistics.median(floor):.3f}",
        "ours, s": f"{statistics.median(ours):.3f}",
        "diffusers, s": f"{statistics.median(theirs):.3f}" if theirs else "-",
        "ratio": "-" if ratio is None else f"{ratio:.3f}",
        "at most, s": f"{LIMITS_S[name]:.1f}" if name in LIMITS_S else "-",
    }


def _run(home: Path, whose: str) -> dict[str, float]:
    """Time everything that ours or theirs does, once."""
    if whose != "ours":
        return {name: _python(code) for name, code in THEIRS.items()} if find_spec(whose) else {}
    found = {name: _python(code) for name, code in IMPORTS.items()}
    found |= {name: _timed(lambda words=words: _ltx2(words, home)) for name, words in COMMANDS.items()}
    return found | timed_render(home)


def timed_render(home: Path, *more: str) -> dict[str, float]:
    """Seconds until the first step, the last step and the end of a render, and the seconds that it reports for each
    phase.

    more: additional options of the render.
    """
    start = time.perf_counter()
    found: dict[str, float] = {}
    command = [*_command(), *RENDER, *more, "--json", "-o", str(home / "clip.mp4")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment(home), cwd=home) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "step" and event["phase"] == "denoise":
                found.setdefault("render: first step", time.perf_counter() - start)
                found["render: last step"] = time.perf_counter() - start
            elif event["event"] == "phase" and event["state"] == "done":
                found[f"phase {event['phase']}"] = event["seconds"]
    if process.returncode:
        raise RuntimeError(f"the render ended with exit code {process.returncode}")
    found["render: end"] = time.perf_counter() - start
    return found


def _ltx2(words: Sequence[str], home: Path) -> None:
    subprocess.run([*_command(), *words], env=_environment(home), cwd=home, check=True, capture_output=True)


def _python(code: str) -> float:
    return _timed(lambda: subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env=_environment(ROOT)))


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _command() -> list[str]:
    return [sys.executable, "-m", "ltx2_cli"]


def _environment(home: Path) -> dict[str, str]:
    """The environment variables of this process, without settings of the user."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("LTX2_")}
    return {**own, "PYTHONPATH": str(ROOT), "LTX2_HOME": str(home)}
