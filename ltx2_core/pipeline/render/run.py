"""What the commands call: render a request, go on with one that was interrupted, write saved latents again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import OutOfMemoryError, StorageError
from ...hub import ModelFiles
from ...media.sheet import contact_sheet
from ...media.writer import Report
from ...text.cache import fingerprint
from ..events import StoppedError, Watch
from ..job import Job
from ..parts import Parts
from ..request import Request, Resolved, sheet_of
from ..resolve.target import require_free
from .engine import Engine
from .models import settle

NOBODY = Watch()


class Interrupted(Exception):
    """The user stopped a render; its job folder holds what is done."""

    def __init__(self, job_dir: Path) -> None:
        super().__init__(f"stopped; ltx2 resume {job_dir}")
        self.job_dir = job_dir


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A finished render. job_dir: where its latents are, if they were kept. sheet: the contact sheet, if wanted."""

    path: Path
    job_dir: Path | None
    sheet: Path | None
    seed: int
    seconds: float
    report: Report


def run(resolved: Resolved, watch: Watch = NOBODY) -> Result:
    """Render a request.

    Raises: Interrupted if the watcher says stop; LTX2Error for everything else that can go wrong.
    """
    request = settle(resolved.request)
    watch.tell(f"computing on {request.device} in {request.precision}")
    job = Job.create(resolved, request, identities(request, resolved.files, resolved.inputs))
    return _finish(job, watch)


def resume(job: Job, watch: Watch = NOBODY) -> Result:
    """Go on after the last finished stage, or inside the stage where the user stopped. Gives the bytes of one run.

    A job that is done, and is to be written another way, is only decoded.

    Raises: as `run`, and StorageError if the model's files are not those that the render began with.
    """
    if identities(job.request, job.files, job.inputs) != job.identities:
        raise StorageError("files have changed since this render began", hint="render it anew")
    if not job.overwrite:
        require_free(job.target)
    return _finish(job, watch)


def identities(request: Request, files: ModelFiles, inputs: Mapping[str, Path]) -> dict[str, str]:
    """What tells each file that a render reads from others of the same name, by role."""
    roles = [*Parts.of(files).roles, "text_encoder", *request.recipe.needs]
    paths = {role: files.need(role) for role in roles} | dict(inputs)
    gone = next((path for path in paths.values() if not path.exists()), None)
    if gone is not None:
        raise StorageError(f"{gone} is not there any more", hint="put it back, or render anew")
    return {role: fingerprint(path) for role, path in paths.items()}


def _finish(job: Job, watch: Watch) -> Result:
    start = time.perf_counter()
    try:
        report = Engine(job, watch).render()
    except StoppedError as stopped:
        if stopped.saved is not None:
            job.save_stopped(job.finished_stages + 1, stopped.saved)
        raise Interrupted(job.folder) from stopped
    except (RuntimeError, MemoryError) as error:
        if not _ran_out(error):
            raise
        why = str(error).splitlines()[0].split(". ")[0]
        raise OutOfMemoryError("memory ran out", why, "a smaller --res, or a shorter --duration") from error
    for warning in report.warnings:
        watch.tell(warning, is_warning=True)
    sheet = sheet_of(job.target) if job.output.sheet else None
    if sheet is not None:
        contact_sheet(job.target, sheet, prompt=job.request.prompt, seed=job.request.seed, overwrite=job.overwrite)
    if not job.output.keep_latents:
        job.remove()
    return Result(
        path=job.target,
        job_dir=job.folder if job.output.keep_latents else None,
        sheet=sheet,
        seed=job.request.seed,
        seconds=time.perf_counter() - start,
        report=report,
    )


def _ran_out(error: Exception) -> bool:
    """Whether an error is about memory. torch has a class of its own only for some of its allocators."""
    told = ("can't allocate memory", "out of memory", "ALLOC_FAILED", "alloc failed")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in told)
