"""Render with a model of full size whose weights are zeros, and report time and memory of each phase: `make fullsize`.

The files come from scripts/make_fullsize_checkpoint.py: 77 GB that take no disk space. --model names the model, and
--memory and --preset the settings; several presets are rendered one after the other. A render runs all phases and ends
with exit code 8, because weights of zero make a clip of one colour. This script fails if the exit code differs, if a
phase is missing, or if the process takes more than LIMIT_GB of own memory, which no file backs. So it shows that a
machine whose memory is smaller than the checkpoint can load it. The line of each phase also has the numbers of `ltx2
plan`: memory including pages of files, and seconds if an earlier preset was timed. Linux only, because memory is read
from /proc.

It takes minutes if the CPU computes in bfloat16 (AVX-512 BF16, AMX), and otherwise most of an hour; LTX2_TEXT_ROWS=128
in the environment then makes it several times faster.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.make_fullsize_checkpoint import MODELS, make_fullsize_model

ROOT = Path(__file__).resolve().parent.parent
RENDER = "t2v x --device cpu --precision bf16 --frames 9 --json --overwrite --no-cache"
GUIDED, DISTILLED = ("--steps", "2"), ("--sigmas", "1,0.5,0")  # two steps for the first stage, the fewest
SIZES = {  # the smallest, and what else a preset is told
    "one-stage": ("--res", "64x64", *GUIDED),
    "two-stage": ("--res", "128x128", *GUIDED),
    "distilled-one-stage": ("--res", "64x64", *DISTILLED),
    "distilled": ("--res", "128x128", *DISTILLED),
}
PHASES = ("text", "denoise", "sound", "video")
FLAT_CLIP = 8
LIMIT_GB = 4.0
EVERY_S = 0.05
STARTING = "starting"  # the time before the first phase: imports and checks


@dataclass
class Usage:
    """The cost of a phase: seconds, and the largest own and mapped memory in GB."""

    seconds: float = 0.0
    anonymous: float = 0.0
    mapped: float = 0.0


@dataclass
class Meter:
    """Measures a process in each of its phases."""

    pid: int
    phase: str = STARTING
    usage: dict[str, Usage] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Poll the process until it has ended."""
        before = time.monotonic()
        while not self.ended.wait(EVERY_S):
            now = time.monotonic()
            usage = self.usage.setdefault(self.phase, Usage())
            usage.seconds += now - before
            usage.anonymous = max(usage.anonymous, self.gigabytes("RssAnon"))
            usage.mapped = max(usage.mapped, self.gigabytes("RssFile"))
            before = now

    def gigabytes(self, entry: str) -> float:
        """An entry of the process's status file; 0 if the process has ended."""
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except OSError:
            return 0.0
        return next((int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith(f"{entry}:")), 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="folder for the files (default: temporary)")
    parser.add_argument("--model", choices=MODELS, default="ltx-2", help="a name that `ltx2 models` lists")
    parser.add_argument("--preset", choices=SIZES, default=["one-stage"], nargs="+", help="presets to render")
    parser.add_argument("--memory", choices=("resident", "streamed", "lean"), default="streamed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "model"
        make_fullsize_model(folder, options.model)
        for preset in options.preset:
            words = ["--preset", preset, *SIZES[preset], "--memory", options.memory]
            try_render(options.model, Command(folder, Path(temporary), words))


def try_render(model: str, command: Command) -> None:
    """Plan and render, and print a line for each phase. Exits if a check fails."""
    expected, plan_s = plan(command)
    exit_code, usage = render(command)
    print(f"{model}, {' '.join(command.words)}, planned in {plan_s:.2f} s")
    report(usage, expected)
    peak = max(one.anonymous for one in usage.values())
    missing = [phase for phase in PHASES if phase not in usage]
    if exit_code != FLAT_CLIP or missing or peak > LIMIT_GB:
        sys.exit(f"exit code {exit_code}, missing phases {missing}, {peak:.2f} GB of at most {LIMIT_GB} GB")
    print(f"all phases, exit code {exit_code} as the clip is flat, at most {peak:.2f} GB of own memory", flush=True)


@dataclass(frozen=True)
class Command:
    """A render of a model in a folder. words: additional options."""

    model: Path
    folder: Path
    words: Sequence[str]

    def start(self, *before: str, name: str = "x.mp4") -> subprocess.Popen[str]:
        """Start the process. before: words in front of the mode."""
        options = [
            *before,
            *RENDER.split(),
            *self.words,
            "--model",
            str(self.model.resolve()),
            "-o",
            name,
        ]
        command = [sys.executable, "-m", "ltx2_cli", *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "LTX2_HOME": str(self.folder / "home")}
        return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, text=True)


@dataclass(frozen=True)
class Planned:
    """The plan for the phases of a kind: largest memory in GB, and seconds if the plan has them."""

    ram: float
    seconds: float | None


def plan(command: Command) -> tuple[dict[str, Planned], float]:
    """The plan of `ltx2 plan` for each phase, and the time that planning takes."""
    begun = time.monotonic()
    with command.start("plan", name="planned.mp4") as process:
        assert process.stdout is not None
        events = [json.loads(line) for line in process.stdout]
    took = time.monotonic() - begun
    rows = next(event["phases"] for event in events if event.get("title") == "plan")
    found: dict[str, Planned] = {}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        known = [row["seconds"] for row in own if row["seconds"] is not None]
        found[kind] = Planned(max(row["ram"] for row in own) / 1e9, sum(known) if len(known) == len(own) else None)
    return found, took


def render(command: Command) -> tuple[int, dict[str, Usage]]:
    """Run the command. Returns its exit code, and the cost of each phase."""
    with command.start() as process:
        meter = Meter(process.pid)
        watcher = threading.Thread(target=meter.run)
        watcher.start()
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "phase":
                meter.phase = event["phase"] if event["state"] == "started" else f"after {event['phase']}"
        meter.ended.set()
        watcher.join()
    return process.returncode, meter.usage


def report(usage: dict[str, Usage], expected: dict[str, Planned]) -> None:
    """Print a line for each phase, with its plan."""
    print(f"{'phase':16} {'seconds':>8} {'own GB':>8} {'mapped GB':>10} {'planned s':>10} {'planned GB':>11}")
    for phase, one in usage.items():
        line = f"{phase:16} {one.seconds:8.1f} {one.anonymous:8.2f} {one.mapped:10.2f}"
        if planned := expected.get(phase):
            line += f" {'-' if planned.seconds is None else f'{planned.seconds:.1f}':>10} {planned.ram:11.2f}"
        print(line)


if __name__ == "__main__":
    main()
