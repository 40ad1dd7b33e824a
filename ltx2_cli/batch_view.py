"""Runs a batch and shows how far it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import ltx2_core as core

from .display import Display, counted
from .failures import UserStopError
from .stop import Stop


def run_jobs(show: Display, batch: core.Batch, options: core.BatchOptions, config: Path | None) -> None:
    """Render the jobs of a batch one after another. Raises: BatchError if some failed."""
    failed: list[str] = []
    with Stop(lambda: show.say("stopping after this step; Ctrl-C again stops at once")) as stop:
        watch = core.Watch(on_event=show.event, should_stop=stop.should_stop)
        for job in batch.jobs:
            if job.resolved.is_done:
                show.file(job.resolved.target, is_new=False)
                continue
            show.plan(job.resolved)
            try:
                show.result(core.run(job.resolved, watch))
            except core.Interrupted as stopped:
                raise UserStopError(stop.exit_code, stopped.what, command=stopped.command) from stopped
            except core.LTX2Error as error:
                show.fail(error)
                failed.append(job.name)
                if not options.keep_going:
                    break
    if failed:
        raise core.BatchError(f"{counted(len(failed), 'job')} failed: {', '.join(failed)}")


def serve_lines(
    show: Display, flags: dict[str, Any], config: Path | None, takes: Mapping[str, Collection[str]]
) -> None:
    """Render what comes as JSON lines on standard input."""
    raise core.RequestError("- cannot be used yet", "jobs are read from files", "ltx2 batch jobs.jsonl")
