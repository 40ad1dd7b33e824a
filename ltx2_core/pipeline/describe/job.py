"""Facts about a job folder: its request, its progress, and the command that continues it.

Source: docs/cli.md, "Latents first".
"""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import LTX2Error
from ...headers import read_header
from ...paths import in_shell
from ..job import Job
from ..windows import runs_of
from .words import Facts, numbered, request_facts


def facts(path: Path) -> Facts:
    """Facts about a job folder. Raises: RequestError if it contains no render, StorageError if it is damaged."""
    job = Job.open(path)
    target = job.task.target
    yield "kind", "a job folder"
    yield "state", _state(job)
    yield "stages", f"{job.finished_stages} of {job.stages} finished"
    yield "goes on with", _command(job)
    yield "output", f"{target}, which exists" if os.path.lexists(target) else str(target)
    if (job.folder.parent / f".{job.folder.name}.lock").exists():
        yield "lock", "a process is rendering it, or was killed while it did"
    yield "model", job.task.files.name
    yield from ((role.replace("_", " "), str(path)) for role, path in job.task.files.paths.items())
    yield from ((f"input {role}", str(path)) for role, path in job.task.inputs.items())
    yield from numbered("missing", _missing(job))
    yield from request_facts(job.request)


def _state(job: Job) -> str:
    if job.is_written:
        return "the output is complete, and the folder is left over"
    if job.has_all_latents and job.task.output.keep_latents and os.path.lexists(job.task.target):
        return "finished, and its latents are kept"
    if job.has_all_latents:
        return "all stages are finished; what is left is to decode their latents"
    running = job.finished_stages + 1
    run = runs_of(job.request)[running - 1]
    return f"{run.name} is not finished: {_done_of_stage(job, running)} of {run.steps} steps are done"


def _done_of_stage(job: Job, stage: int) -> int:
    """After how many steps a stage was stopped; 0 if none of them were kept."""
    path = job.folder / f"stopped-{stage}.safetensors"
    if path.name not in job.saved:
        return 0
    try:
        return int(read_header(path).metadata["step"])
    except (LTX2Error, KeyError, ValueError):
        return 0


def _command(job: Job) -> str:
    """The command that continues the job; if its output exists already, one that writes it under another name."""
    if job.has_all_latents and os.path.lexists(job.task.target):
        return f"ltx2 decode {in_shell(job.folder)} -o FILE"
    return job.resume_command


def _missing(job: Job) -> list[str]:
    """The missing files of the render, including its latents."""
    files = [*job.task.files.paths.values(), *job.task.inputs.values(), *(job.folder / name for name in job.saved)]
    return [str(path) for path in files if not path.exists()]
