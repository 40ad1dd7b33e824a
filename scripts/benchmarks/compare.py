"""Compare two measurements of the same work: two files of runs, or two revisions that run alternately.

A slowdown counts if the median ratio of neighbouring runs is above 1.05, the quartiles of the two do not overlap, and
there are at least seven pairs. Other load on the machine changes single runs by more than that.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .section import Section, machine

ROOT = Path(__file__).resolve().parents[2]
LEAST_PAIRS = 7
MOST_RATIO = 1.05
Runs = Mapping[str, Sequence[float]]  # the seconds of each run, by name of the work


class Incomparable(ValueError):
    """The given measurements cannot be compared; the text says why."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A file of runs. machine: the facts that every figure depends on. command: the command that measured them."""

    machine: Sequence[str]
    command: str
    runs: Runs

    @classmethod
    def of(cls, sections: Sequence[Section], command: str) -> Measurement:
        return cls(machine(), command, {name: list(runs) for one in sections for name, runs in one.runs.items()})

    @classmethod
    def read(cls, path: Path) -> Measurement:
        """Read a file. Raises: Incomparable if it is not a file of runs."""
        try:
            found: Any = json.loads(path.read_text(encoding="utf-8"))
            return cls(found["machine"], found["command"], found["runs"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Incomparable(f"{path} is not a file of runs, as --out FILE.json writes it") from error

    def write(self, path: Path) -> None:
        content = {"machine": self.machine, "command": self.command, "runs": self.runs}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def section(first: str, second: str, arguments: Sequence[str]) -> Section:
    """The table of two measurements. Its `is_good` is false if the second is slower.

    Args: first, second: two files, or two git revisions. arguments: the command line of the bench, for revisions.
    Raises: Incomparable.
    """
    files = [Path(name) for name in (first, second)]
    if all(path.suffix == ".json" for path in files):
        before, after = (Measurement.read(path) for path in files)
        if before.machine != after.machine:
            raise Incomparable(f"{first} and {second} were measured on different machines, or with different versions")
        how = [f"{first}: `{before.command}`", f"{second}: `{after.command}`"]
        pairs = before.runs, after.runs
    else:
        how = [
            f"{LEAST_PAIRS} rounds, in each both revisions in processes of their own, every second in the other order"
        ]
        pairs = _run_in_turns(first, second, arguments)
    return _table(first, second, how, *pairs)


def _table(first: str, second: str, how: Sequence[str], before: Runs, after: Runs) -> Section:
    both = [name for name in before if name in after]
    if why := _hindrance(before, after, both):
        raise Incomparable(f"{first} and {second} cannot be compared: {why}")
    slower = [name for name in both if is_slower(before[name], after[name])]
    rows = [
        {
            "work": name,
            "pairs": str(len(_ratios(before[name], after[name]))),
            f"{first}, s": _middle(before[name]),
            f"{second}, s": _middle(after[name]),
            "ratio": f"{statistics.median(_ratios(before[name], after[name])):.3f}",
            "verdict": "slower" if name in slower else "",
        }
        for name in both
    ]
    return Section(
        title=f"{second} beside {first}",
        facts=[*how, "seconds: the median, and the quartiles; the ratio is the median of that of neighbours"],
        rows=rows,
        verdict=f"slower by more than 5 %: {', '.join(slower)}" if slower else "nothing is slower by more than 5 %",
        is_good=not slower,
    )


def _hindrance(before: Runs, after: Runs, both: Sequence[str]) -> str:
    """The reason why runs cannot be paired; "" if they can."""
    for name in both:
        counts = len(before[name]), len(after[name])
        if min(counts) < LEAST_PAIRS:
            return f"{name} has fewer than {LEAST_PAIRS} runs; --runs {LEAST_PAIRS}"
        if counts[0] != counts[1]:
            return f"{name} has {counts[0]} runs in one and {counts[1]} in the other; the same --runs for both"
    return "" if both else "they have no work in common"


def is_slower(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether the second is certainly slower."""
    lower, upper = _quartiles(after)[0], _quartiles(before)[-1]
    return statistics.median(_ratios(before, after)) > MOST_RATIO and lower > upper


def _ratios(before: Sequence[float], after: Sequence[float]) -> list[float]:
    return [b / a for a, b in zip(before, after, strict=True)]


def _quartiles(seconds: Sequence[float]) -> list[float]:
    return statistics.quantiles(seconds, n=4, method="inclusive")


def _middle(seconds: Sequence[float]) -> str:
    low, middle, high = _quartiles(seconds)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def _run_in_turns(first: str, second: str, arguments: Sequence[str]) -> tuple[Runs, Runs]:
    """The runs of two revisions; each round contributes its median.

    Raises: Incomparable for a revision that does not exist, and for a bench that fails.
    """
    found: tuple[dict[str, list[float]], dict[str, list[float]]] = ({}, {})
    with _checked_out(first) as before, _checked_out(second) as after:
        both = list(zip((before, after), found, strict=True))
        for number in range(LEAST_PAIRS):
            for folder, runs in both:
                print(f"round {number + 1} of {LEAST_PAIRS}: {folder.name}", file=sys.stderr, flush=True)
                for name, seconds in _measured(folder, arguments).items():
                    runs.setdefault(name, []).append(statistics.median(seconds))
            both.reverse()
    return found


@contextmanager
def _checked_out(revision: str) -> Iterator[Path]:
    """The files of a revision in a temporary folder, with the bench of the current revision."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / revision.replace("/", "-")
        folder.mkdir()
        archive = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True)
        if archive.returncode:
            raise Incomparable(f"{revision} is neither a file of runs, which ends in .json, nor a revision")
        subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
        shutil.rmtree(folder / "scripts", ignore_errors=True)
        shutil.copytree(ROOT / "scripts", folder / "scripts")
        yield folder


def _measured(folder: Path, arguments: Sequence[str]) -> Runs:
    """The measurement of the bench with the code in a folder. The bench may exceed its own limits."""
    out = folder / "runs.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, str(folder / "scripts" / "bench.py"), *arguments, "--out", str(out)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if not out.exists():
        last = (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2]
        raise Incomparable(f"the bench fails with the code of {folder.name}: {last}")
    return Measurement.read(out).runs
