"""Batches of a few small jobs, and processes that share them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import ltx2_core as core
from ltx2_cli.batch import TAKES
from ltx2_core.pipeline.batch.record import read_record

FORK = multiprocessing.get_context("fork")
FLAGS = {"preset": "smoke", "seed": "1", "steps": "2"}
HERE = core.BatchOptions()


def write_jobs(number: int) -> Path:
    path = Path("s.jsonl")
    path.write_text("".join(f'{{"prompt": "lamp {number}", "name": "j{number}"}}\n' for number in range(number)))
    return path


def settled(jobs: int, folder: str, flags: Mapping[str, str] = FLAGS) -> core.Batch:
    asked = core.AskedBatch(
        path=write_jobs(jobs), flags={**flags, "output": f"{folder}/"}, takes=TAKES, seed_of=core.stored_seed
    )
    return core.read_batch(asked)


def tree(folder: str) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def states(folder: str = "s") -> dict[str, str]:
    record = read_record(Path(folder))
    assert record is not None
    return {entry.job: entry.state for entry in record.jobs}


def run_apart(found: core.Batch, tell: Any, options: core.BatchOptions = HERE) -> Any:
    """Run a batch in a separate process, which writes a byte for each event and each job that it does itself."""
    marks = {"done": b"d"}
    watch = core.BatchWatch(
        on_event=lambda *told: tell.send_bytes(b"e"),
        on_outcome=lambda worker, outcome: tell.send_bytes(marks.get(outcome.state, b"o")),
    )

    def run() -> None:
        end = core.run_batch(found, options, None, watch)
        os._exit(len(end.left) + len(end.failed))

    process = FORK.Process(target=run)
    process.start()
    return process


def race(jobs: int, folder: str, *runs: core.BatchOptions, gives_start: bool = False) -> int:
    """Let several processes run one batch at the same time. Returns the number of rendered jobs.

    Args: gives_start: whether the other processes start when the first one, which takes long to start, renders.
    """
    pipes = [FORK.Pipe(duplex=False) for _ in runs]
    racers, done = [], 0
    for (heard, tell), options in zip(pipes, runs, strict=True):
        racers.append(run_apart(settled(jobs, folder), tell, options))
        if gives_start and len(racers) == 1:
            heard.recv_bytes()
    for heard, tell in pipes:
        tell.close()
        with suppress(EOFError):
            while True:
                done += heard.recv_bytes() == b"d"
        heard.close()
    for racer in racers:
        racer.join()
        assert racer.exitcode == 0
    return done
