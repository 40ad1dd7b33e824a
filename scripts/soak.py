"""Disturb renders in many ways, and check that nothing is lost and nothing is wrong: `make soak`.

Real processes render a short clip of the toy model in three steps. They are killed and get signals at random times, run
into a full disk, or write the same output together. Afterwards `ltx2 resume`, or the same command again, has to produce
the same bytes as an undisturbed render. A table at the end counts the failures; the script fails if there are any. Unix
only.

A full disk is simulated with a limit on the size of files (RLIMIT_FSIZE), which works on every file system.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from scripts.local_cluster import local_cluster, new_token

ROOT = Path(__file__).resolve().parent.parent
JOBS = 10  # number of jobs in a batch
LTX2 = (sys.executable, "-m", "ltx2_cli")
RENDER = ("t2v", "a yellow lamp blinks on the right, low beeps", "--model", "toy", "--frames", "9", "--steps", "3")
BATCH = ("--model", "toy", "--preset", "distilled-lora", "--sigmas", "1,0.9,0.4,0", "--frames", "9", "--res", "128x96")
BATCH += ("--seed", "1", "--json")
STEPS = 3  # number of steps of the only stage of such a job
DONE = ("job", "done")  # the event of a job that was rendered
EVENTS = "events.jsonl"  # the file in the folder of a batch with the events of all its commands
TARGET = Path("clip.mp4")
WRITERS = 8
MODES = {"refuse": (), "overwrite": ("--overwrite",), "skip-existing": ("--skip-existing",)}
SIGNALS = {
    "INT": (signal.SIGINT,),
    "TERM": (signal.SIGTERM,),
    "HUP": (signal.SIGHUP,),
    "INT twice": (signal.SIGINT, signal.SIGINT),
}
ENDS = {  # valid exit codes after a signal; 0 is also valid: the process was done, or did not yet handle signals
    "INT": (130, -signal.SIGINT),
    "TERM": (143, -signal.SIGTERM),
    "HUP": (-signal.SIGHUP,),
    "INT twice": (130, -signal.SIGINT),
}
COLUMNS = ("torn files", "wrong bytes", "of another run", "resumes differ", "work redone", "left behind", "wrong ends")


def command(seed: int, *more: str) -> list[str]:
    return [*LTX2, *RENDER, "--seed", str(seed), "-o", str(TARGET), *more]


def batch_command(folder: Path, *more: str) -> list[str]:
    """A command for a batch of small jobs in a folder."""
    lines = (f'{{"prompt": "lamp {number}", "name": "job-{number}"}}\n' for number in range(JOBS))
    (folder / "s.jsonl").write_text("".join(lines))
    return [*LTX2, "batch", "s.jsonl", *BATCH, *more]


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def batch_events(folder: Path) -> Iterator[dict[str, object]]:
    """The events of all commands on a batch, without lines that a kill has truncated."""
    for line in (folder / EVENTS).read_text(errors="replace").splitlines():
        with suppress(ValueError):
            yield json.loads(line)


def is_whole(folder: Path, wanted: dict[str, bytes]) -> bool:
    """Whether a batch has all its results."""
    return all((folder / "s" / name).exists() for name in wanted)


def children(pid: int) -> list[int]:
    """The running child processes of a process; none if the system does not list them."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        return [int(word) for word in listed.read_text().split()]
    except OSError:
        return []


@dataclass
class Ended:
    """A process that has ended."""

    code: int
    told: str


@dataclass
class Running:
    """A command that runs in a folder."""

    words: list[str]
    folder: Path
    limit: int | None = None
    events: str | None = None
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        before = None if self.limit is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit,) * 2)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "LTX2_HOME": str(self.folder.parent / "home")}
        environment["OMP_NUM_THREADS"] = "1"  # the toy is small, and several processes run in parallel
        with Path(os.devnull if self.events is None else self.folder / self.events).open("ab") as told:
            self.process = subprocess.Popen(
                self.words, cwd=self.folder, env=environment, stdout=told, stderr=subprocess.PIPE, preexec_fn=before
            )

    def end(self) -> Ended:
        told = self.process.communicate()[1].decode(errors="replace")
        return Ended(self.process.returncode, told)


@dataclass
class Soak:
    """The reference files by seed, the failures by part and kind, and the duration of an undisturbed render."""

    root: Path
    choose: random.Random
    references: dict[int, bytes] = field(default_factory=dict)
    cases: Counter[str] = field(default_factory=Counter)
    wrong: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: float = 0.0

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A new folder for one case."""
        path = Path(tempfile.mkdtemp(dir=self.root))
        try:
            yield path
        finally:
            shutil.rmtree(path)

    def prepare(self, seeds: int) -> None:
        """Render each seed once, undisturbed."""
        for seed in range(seeds):
            with self.folder() as folder:
                start = time.monotonic()
                ended = Running(command(seed), folder).end()
                self.seconds = time.monotonic() - start
                if ended.code:
                    raise SystemExit(f"an undisturbed render fails:\n{ended.told}")
                self.references[seed] = (folder / TARGET).read_bytes()

    def run(self, given: argparse.Namespace) -> None:
        """Run all parts, each with the number of cases from the command line."""
        self.prepare(WRITERS if given.rounds else 1)
        print(f"an undisturbed render takes {self.seconds:.1f} s", flush=True)
        for _ in range(given.kills):
            self.disturbed("kill", self.kill)
        for number in range(given.signals):
            name = [*SIGNALS][number % len(SIGNALS)]
            self.disturbed(f"signal {name}", lambda folder, name=name: self.signal(folder, name))
        for _ in range(given.full):
            self.disturbed("full disk", self.fill)
        for _ in range(given.rounds):
            for mode in MODES:
                self.together(mode)
        self.kill_batches(given.batches)
        self.race_batches("share a batch", given.races, (), ())
        if given.ray_races and find_spec("ray") is None:
            print("ray is not installed: no batch is shared with a Ray cluster", flush=True)
        elif given.ray_races:
            token = new_token()
            os.environ.update(token)
            with local_cluster(2, token) as address:
                racers = (("--engine", "ray", "--address", address), ("--shard", "0/2"), ("--shard", "1/2"))
                self.race_batches("share with Ray", given.ray_races, *racers)

    def failed(self, part: str, column: str, told: str) -> None:
        self.wrong[part, column] += 1
        print(f"{part}: {column}: {told}", flush=True)

    def disturbed(self, part: str, disturb: Callable[[Path], str]) -> None:
        """Disturb a render of seed 0 in its own folder, then check that continuing it leads to the right file."""
        self.cases[part] += 1
        with self.folder() as folder:
            how = disturb(folder)
            self.check_target(part, folder, {0}, how)
            was_there = (folder / TARGET).exists()
            job = folder / f"{TARGET}.job"
            words = [*LTX2, "resume", str(TARGET)] if (job / "job.json").exists() else command(0, "--overwrite")
            ended = Running(words, folder).end()
            if ended.code:
                self.failed(
                    part, "wrong ends", f"{how}; then {words[3:5]} ended with {ended.code}: {ended.told[-300:]}"
                )
            if not (folder / TARGET).exists() or (folder / TARGET).read_bytes() != self.references[0]:
                self.failed(part, "resumes differ", f"{how}; the file was {'' if was_there else 'not '}there before")
            self.check_left(part, folder, how)

    def check_target(self, part: str, folder: Path, seeds: set[int], how: str) -> None:
        """Check that a file under the final name is complete, and equal to one of these renders."""
        if not (folder / TARGET).exists():
            return
        content = (folder / TARGET).read_bytes()
        if any(content == self.references[seed] for seed in seeds):
            return
        if content in self.references.values():
            self.failed(part, "of another run", how)
        elif any(len(content) < len(one) and one.startswith(content) for one in self.references.values()):
            self.failed(part, "torn files", how)
        else:
            self.failed(part, "wrong bytes", how)

    def check_left(self, part: str, folder: Path, how: str) -> None:
        """Check that no other file is left in the folder."""
        left = sorted(path.name for path in folder.iterdir() if path.name != TARGET.name)
        if left:
            self.failed(part, "left behind", f"{how}: {left}")

    def moment(self) -> float:
        """A random time during a render."""
        return self.choose.uniform(0, self.seconds)

    def kill(self, folder: Path) -> str:
        """Kill a render."""
        running, at = Running(command(0), folder), self.moment()
        time.sleep(at)
        running.process.kill()
        running.end()
        return f"killed after {at:.3f} s"

    def signal(self, folder: Path, name: str) -> str:
        """Send signals to a render, the second one soon after the first."""
        running, at = Running(command(0), folder), self.moment()
        time.sleep(at)
        for number in SIGNALS[name]:
            running.process.send_signal(number)
            time.sleep(self.choose.uniform(0, 0.3))
        ended = running.end()
        how = f"{name} after {at:.3f} s"
        is_python_start = "Traceback" in ended.told and str(ROOT) not in ended.told  # before any of our code runs
        if ended.code not in (0, *ENDS[name]) and not is_python_start:
            self.failed(f"signal {name}", "wrong ends", f"{how}: exit {ended.code}: {ended.told[-300:]}")
        elif "Traceback" in ended.told and not is_python_start:
            self.failed(f"signal {name}", "wrong ends", f"{how}: {ended.told[-600:]}")
        return how

    def fill(self, folder: Path) -> str:
        """Render with a limit on the size of files."""
        limit = self.choose.randrange(1, len(self.references[0]))
        ended = Running(command(0), folder, limit).end()
        if ended.code != 7 or "Traceback" in ended.told:
            self.failed("full disk", "wrong ends", f"limit {limit}: exit {ended.code}: {ended.told[-300:]}")
        return f"limit {limit}"

    def together(self, mode: str) -> None:
        """Let several processes render the same output at the same time, each with its own seed."""
        part = f"parallel, {mode}"
        self.cases[part] += 1
        with self.folder() as folder:
            all_running = [Running(command(seed, *MODES[mode]), folder) for seed in range(WRITERS)]
            ended = [running.end() for running in all_running]
            for one in ended:
                if one.code not in ((0,) if mode == "skip-existing" else (0, 2)) or "Traceback" in one.told:
                    self.failed(part, "wrong ends", f"exit {one.code}: {one.told[-300:]}")
                if one.code == 2 and not any(words in one.told for words in ("is being written", "already exists")):
                    self.failed(part, "wrong ends", one.told[-300:])
            done = {seed for seed, one in enumerate(ended) if one.code == 0 and "decoding and encoding" in one.told}
            if not (folder / TARGET).exists() or (len(done) != 1 and mode != "overwrite"):
                self.failed(part, "wrong ends", f"{len(done)} of {WRITERS} wrote the file")
            self.check_target(part, folder, done, f"exit codes {[one.code for one in ended]}")
            self.check_left(part, folder, f"exit codes {[one.code for one in ended]}")

    def kill_batches(self, kills: int) -> None:
        """Kill a batch, or its worker, repeatedly until it is done, then start with the next one, up to a total number
        of kills.

        Each batch has to end with the same files as an undisturbed one, and a kill may cost at most one stage.
        """
        part = "kill a batch"
        with self.folder() as whole:
            start = time.monotonic()
            if code := Running(batch_command(whole), whole).end().code:
                raise SystemExit(f"an undisturbed batch ends with exit code {code}")
            seconds = time.monotonic() - start
            wanted = tree(whole / "s")
        while self.cases[part] < kills:
            with self.folder() as folder:
                disturbed = 0
                while self.cases[part] < kills and not is_whole(folder, wanted):
                    self.cases[part] += 1
                    disturbed += self.kill_batch(folder, seconds)
                self.check_batch(part, wanted, folder, [self.batch(folder)])
                steps = sum((one["event"], one.get("phase")) == ("step", "denoise") for one in batch_events(folder))
                if steps > STEPS * (JOBS + disturbed):
                    self.failed(part, "work redone", f"{steps} steps of {STEPS * JOBS}, and {disturbed} kills")

    def kill_batch(self, folder: Path, seconds: float) -> int:
        """Run a batch and kill it, sometimes its worker first. Returns the number of kills that may have cost a
        stage.
        """
        running, count = self.batch(folder), 1
        time.sleep(self.choose.uniform(0, seconds / 2))
        for child in children(running.process.pid) if self.choose.random() < 0.5 else ():
            with suppress(ProcessLookupError):  # the process has already ended
                os.kill(child, signal.SIGKILL)
                count += 1
            time.sleep(self.choose.uniform(0, 2))
        running.process.kill()
        running.end()
        return count

    def race_batches(self, part: str, rounds: int, *racers: tuple[str, ...]) -> None:
        """Let several commands share one batch: no job is done twice, and the files are the same as with one command.

        Args: racers: the options of each command.
        """
        wanted: dict[str, bytes] | None = None
        for _ in range(rounds):
            self.cases[part] += 1
            with self.folder() as folder:
                self.check_batch(part, wanted, folder, [self.batch(folder, *options) for options in racers])
                done = [one["job"] for one in batch_events(folder) if (one["event"], one.get("state")) == DONE]
                if len(done) != JOBS:
                    self.failed(part, "work redone", f"these jobs were done: {sorted(map(str, done))}")
                wanted = wanted or tree(folder / "s")

    def batch(self, folder: Path, *more: str) -> Running:
        """A command that runs the batch of a folder."""
        return Running(batch_command(folder, *more), folder, events=EVENTS)

    def check_batch(self, part: str, wanted: dict[str, bytes] | None, folder: Path, commands: list[Running]) -> None:
        """Wait for the commands on a batch, and compare their results."""
        for one in [running.end() for running in commands]:
            if one.code:
                self.failed(part, "wrong ends", f"exit {one.code}: {one.told[-300:]}")
        found = tree(folder / "s")
        if wanted is not None and found != wanted:
            names = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
            self.failed(part, "resumes differ", f"{names}")

    def table(self) -> str:
        """The failures, one row per part."""
        rows = [("", "cases", *COLUMNS)]
        rows += [
            (part, str(count), *(str(self.wrong[part, column]) for column in COLUMNS))
            for part, count in self.cases.items()
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="number of renders to kill")
    parser.add_argument("--signals", type=int, default=60, help="number of renders that get signals")
    parser.add_argument("--rounds", type=int, default=10, help=f"rounds of {WRITERS} renders of one output, per mode")
    parser.add_argument("--batches", type=int, default=200, help="number of kills of batches or their workers")
    parser.add_argument("--races", type=int, default=200, help="rounds of two commands that share one batch")
    parser.add_argument("--ray-races", type=int, default=200, help="rounds of two shards and a run on a Ray cluster")
    parser.add_argument("--full", type=int, default=20, help="number of renders that run into a full disk")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random times")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM also leads to the table
    with tempfile.TemporaryDirectory() as root:
        soak = Soak(Path(root), random.Random(given.seed))
        try:
            with suppress(KeyboardInterrupt):  # the last case may then be incomplete
                soak.run(given)
        finally:
            print(soak.table(), flush=True)
    sys.exit(1 if soak.wrong.total() else 0)


if __name__ == "__main__":
    main()
