"""Make small changes to the code and see whether the tests notice them: `python scripts/mutate.py --count 200 --seed
0`.

Each change is made in a temporary copy of the tree. The tests that run over the changed line are run, fast ones first,
until one fails. All tests are traced once to find out which lines each runs over; the result is kept in out/mutation
until a file changes. A change that no test notices is printed as a diff: either a test is missing, or there is a reason
why the change does not matter.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from compileall import compile_dir
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode
from queue import Queue
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.mutation.changes import Change, changes_of
from scripts.mutation.passes import FOLDER_VARIABLE, SOURCES, Passes
from scripts.mutation.server import LARGE, Server

ROOT = Path(__file__).resolve().parent.parent
COPIED = (*SOURCES, "presets", "scripts", "tests", "docs", "pyproject.toml", "README.md", "LICENSE", "Makefile")
PRESETS_SHARE = 10  # one in ten changes is to a preset
QUIETLY = ("-q", "-rfE", "-p", "no:cacheprovider", "-p", "scripts.mutation.passes")
START_S = 30.0  # time that pytest needs to start on a busy machine
SLOWDOWN = 5  # a test that takes this many times as long counts as hanging


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a change. is_noticed: a test failed or did not end. why: the reason in words."""

    change: Change
    is_noticed: bool
    why: str


class Workplace(NamedTuple):
    """A copy of the tree, and the server that runs its tests."""

    copy: Path
    server: Server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="number of changes")
    parser.add_argument("--seed", type=int, default=0, help="seed for choosing the changes")
    parser.add_argument("--jobs", type=int, default=1, help="number of changes that are tested in parallel")
    parser.add_argument("--limit", type=float, default=600, help="time limit for one change, in seconds")
    parser.add_argument("--only", default="", help="only change files whose path contains this text")
    parser.add_argument("tests", nargs="*", default=["tests"], help="the tests to run")
    options = parser.parse_args()
    passes = collect(ROOT, options.tests, jobs=options.jobs)
    chosen = choose(ROOT, options.count, options.seed, options.only)
    verdicts = try_all(ROOT, chosen, passes, jobs=options.jobs, limit_s=options.limit)
    sys.exit(report(verdicts))


def collect(root: Path, tests: Sequence[str], *, jobs: int = 1) -> Passes:
    """Which tests run over which lines: from the previous run if no file has changed since."""
    folder = root / "out" / "mutation" / _state(root, tests)
    if not folder.is_dir():
        print(f"tracing {' '.join(tests)}, once for this state of the tree ...", flush=True)
        with tempfile.TemporaryDirectory() as place:
            found, copy = Path(place) / "passes", _copy(root, Path(place) / "tree")
            command = [sys.executable, "-B", "-m", "pytest", *QUIETLY, "-n", str(jobs), *tests]
            environment = {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", FOLDER_VARIABLE: str(found)}
            done = subprocess.run(command, cwd=copy, env=os.environ | environment, capture_output=True, text=True)
            for line in done.stdout.splitlines():
                if line.startswith(("FAILED", "ERROR")):
                    print(f"left out, because it fails without a change: {line}")
            if not found.is_dir():
                sys.exit(f"the tests cannot be run:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(found, folder)
    return Passes.read(folder)


def choose(root: Path, count: int, seed: int, only: str = "") -> list[Change]:
    """Draw changes, one in ten to a preset; the same for the same seed and tree."""
    random_choice = random.Random(seed)
    code = [file for source in SOURCES for file in sorted((root / source).rglob("*.py"))]
    presets = sorted((root / "presets").rglob("*.yaml"))
    pools = []
    for files in (code, presets):
        names = (str(path.relative_to(root)) for path in files)
        pools.append([change for name in names if only in name for change in changes_of(root, name)])
    of_presets = min(len(pools[1]), -(-count // PRESETS_SHARE) if pools[0] else count)
    drawn = random_choice.sample(pools[0], min(len(pools[0]), count - of_presets))
    return drawn + random_choice.sample(pools[1], of_presets)


def try_all(
    root: Path, changes: Sequence[Change], passes: Passes, *, jobs: int = 1, limit_s: float = 600
) -> list[Verdict]:
    """Test changes, each in a copy of the tree that no other test uses meanwhile."""
    with (
        tempfile.TemporaryDirectory(prefix="mutate-") as place,
        ExitStack() as servers,
        ThreadPoolExecutor(jobs) as pool,
    ):
        workplaces: Queue[Workplace] = Queue()
        for number in range(jobs):
            copy = _copy(root, Path(place) / str(number))
            compile_dir(copy, quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)  # hashes: never stale
            workplaces.put(Workplace(copy, servers.enter_context(Server(copy, LARGE))))

        def try_one(change: Change) -> Verdict:
            workplace = workplaces.get()
            try:
                verdict = judge(workplace, change, passes, limit_s)
            finally:
                (workplace.copy / change.file).write_text(change.before, encoding="utf-8")
                workplaces.put(workplace)
            said = "noticed " if verdict.is_noticed else "SURVIVED"
            print(f"{said} {change.kind}, {change.file}:{change.lines[0]}: {verdict.why}", flush=True)
            return verdict

        return list(pool.map(try_one, changes))


def judge(workplace: Workplace, change: Change, passes: Passes, limit_s: float) -> Verdict:
    """Make a change in a copy of the tree and run the tests that run over it."""
    tests = passes.over(change.file, [] if change.is_global else change.lines)
    if change.file.endswith(".yaml") or (change.is_global and not tests):  # it is used before any test begins
        tests = passes.quickest_first()
    if not tests:
        return Verdict(change, False, "no test passes over it")
    copy, server = workplace
    (copy / change.file).write_text(change.after, encoding="utf-8")
    listed = copy / "tests-to-run"
    listed.write_text("\n".join(tests))
    seconds = min(limit_s, START_S + SLOWDOWN * sum(passes.seconds[test] for test in tests))
    done = server.run([*QUIETLY, "-x", f"@{listed}"], seconds)
    if done.code is None and seconds < limit_s:
        return Verdict(change, True, "the tests do not end")
    if done.code is None:
        return Verdict(change, False, f"{len(tests)} tests, not all of them in {limit_s:g} s")
    failed = next((line for line in done.said.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
    return Verdict(change, bool(done.code), failed[:120] if done.code else f"{len(tests)} tests pass")


def report(verdicts: Sequence[Verdict]) -> int:
    """Print the changes that no test noticed, and the count. Returns: the exit code."""
    survivors = [verdict for verdict in verdicts if not verdict.is_noticed]
    for verdict in survivors:
        print(f"\n{verdict.change.kind}, {verdict.why}\n{verdict.change.diff}")
    kinds = Counter(verdict.change.kind for verdict in verdicts)
    noticed = Counter(verdict.change.kind for verdict in verdicts if verdict.is_noticed)
    print("\n" + ", ".join(f"{kind} {noticed[kind]} of {count}" for kind, count in sorted(kinds.items())))
    print(f"{len(verdicts) - len(survivors)} of {len(verdicts)} noticed")
    return 1 if survivors else 0


def _copy(root: Path, target: Path) -> Path:
    for name in COPIED:
        if (root / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(root / name, target / name, symlinks=True, ignore=ignored)
        elif (root / name).exists():
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, target / name)
    return target


def _state(root: Path, tests: Sequence[str]) -> str:
    """A hash of the present state of the code and the tests."""
    digest = hashlib.sha256(repr(tests).encode())
    for folder in (*SOURCES, "tests"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(repr((str(path.relative_to(root)), path.read_bytes())).encode())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    main()
