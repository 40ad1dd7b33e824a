"""The command `batch`: many renders, from a file of jobs, with the weights loaded once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import typer

import ltx2_core as core

from .batch_view import run_jobs, serve_lines
from .display import Display
from .help import PanelCommand
from .modes import TAKES
from .options import (
    BATCH,
    BATCH_SAMPLING,
    BATCH_TARGET,
    ENCODING,
    ENHANCE,
    KEYFRAMES,
    MODEL,
    RENDER,
    SHAPE,
    STILLS,
    STREAMS,
    ConfigOpt,
    JobsArg,
)
from .panels import takes, without

EPILOG = """\
The keys of a job are mode, prompt, input, name, and the options of its mode, such as steps: 30. What a job sets wins
over the options given here. ltx2 help jobs describes the four kinds of files."""
STDIN = "-"
MANY = 200  # checking this many jobs takes a second or more
PANELS = (
    BATCH,
    without(MODEL, "ranks", "gpus"),
    SHAPE,
    KEYFRAMES,
    ENHANCE,
    BATCH_SAMPLING,
    STREAMS,
    BATCH_TARGET,
    ENCODING,
    STILLS,
    without(RENDER, "skip_existing", "job_dir", "report"),
)
# how jobs are run and shown, not what they are
RUNS = ("grid", "keep_going", "max_time", "gpus", "shard", "order", "engine", "address")


def add_batch(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command("batch", cls=PanelCommand, epilog=EPILOG)(takes(*PANELS)(batch))


def batch(jobs: JobsArg, flags: dict[str, Any], show: Display, config: ConfigOpt = None) -> None:
    """Render many jobs from a file of prompts, YAML, JSON lines or CSV; finished jobs are not rendered again."""
    runs = {name: flags.pop(name) for name in RUNS if name in flags}
    options = core.BatchOptions.of(runs)
    plans, seeds, sweeps = flags.pop("plan", False), flags.pop("seeds", None), flags.pop("sweep", [])
    if str(jobs) == STDIN:
        given = {"plan": plans, "seeds": seeds, "sweep": sweeps}
        _refuse_for_lines([*(name for name, value in given.items() if value), *runs])
        serve_lines(show, flags, config, TAKES)
        return
    asked = core.AskedBatch(
        path=jobs,
        flags=flags,
        takes=TAKES,
        config=config,
        seeds=seeds,
        sweeps=sweeps,
        seed_of=core.stored_seed,
        shares_seed=options.shard is not None,
        is_planned=plans,
    )
    settled = core.read_batch(asked, lambda count: _announce(show, count))
    rows = core.grid_layout(settled) if options.grid else ()
    show.batch(settled, is_result=plans)
    if not plans:
        run_jobs(show, settled, rows, options.model_copy(update={"overwrite": settled.is_replacing}), config)


def _announce(show: Display, count: int) -> None:
    if count > MANY:
        show.say(f"settling {core.counted(count, 'job')}")


def _refuse_for_lines(given: Sequence[str]) -> None:
    """Raises: RequestError for options of files of jobs only, and if standard input cannot be read."""
    if given:
        option = "--keep-going or --fail-fast" if given[0] == "keep_going" else f"--{given[0].replace('_', '-')}"
        raise core.RequestError(f"{option} cannot be used with -", "each line that is read is one job", "leave it out")
    if sys.stdin is None or sys.stdin.closed:
        raise core.RequestError("standard input cannot be read", "it is closed", "ltx2 batch - < jobs.jsonl")
