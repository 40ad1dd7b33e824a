"""Render jobs one after another with models that stay loaded: in a child process, and in `ltx2 batch -`.

Source: docs/batch.md, "The same command again".
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

from ...errors import LTX2Error, RequestError, StorageError, TargetTakenError
from ...identity import identity
from ...lock import locked
from ..events import StoppedError, Watch
from ..job import Job
from ..reads import identities, require_unchanged
from ..render.engine import Engine
from ..render.models import Models, computing
from ..render.ran_out import ran_out
from ..render.run import NOBODY, Interrupted, Result, check_device, resume, run
from ..request import RECORD as JOB_RECORD
from ..request import RenderTask, Request
from ..resolve.setting_sources import gather
from ..resolved import Resolved
from ..values import OFF
from .begin import Order, claim_of, settings_digest
from .jobs import JobLine
from .outcome import Outcome
from .record import Failure, JobEntry, change_entry
from .settle import settle_line

DIFFERS = "--preset, --res and --config say what would be chosen on each machine"


class Worker:
    """Renders jobs. Models stay loaded for the next job if it uses the same files on the same device.

    Args: config: the file that --config names.
    """

    def __init__(self, config: Path | None = None) -> None:
        self.given = gather({}, config)
        self._models: Models | None = None

    def render(self, line: JobLine, watch: Watch = NOBODY) -> Result:
        """Render one job, or resume it if its folder contains the same render. Raises: as `run`."""
        return self.finish(settle_line(line, self.given), watch)

    def finish(self, resolved: Resolved, watch: Watch = NOBODY) -> Result:
        """The same for a resolved job."""
        job = unfinished(resolved)
        try:
            if job is None:
                return run(resolved, watch, self._models_for(resolved.task))
            return resume(job, watch, self._models_for(job.task))
        except Interrupted:
            raise
        except BaseException:  # a loaded model may be partly changed, for example by a LoRA that was being fused
            self.clear()
            raise

    def do(self, order: Order, watch: Watch = NOBODY) -> Outcome:
        """Do a job of a batch, unless it is done or another process is doing it, and record its outcome.

        Raises: Interrupted if the watcher stops it; no error of the job itself.
        """
        resolved = None
        try:
            resolved = settle_line(order.line, self.given)
            if settings_digest(resolved.task) != order.fingerprint.settings:
                why = "the files of settings or the card are not those of the machine where the batch was started"
                raise RequestError(f"{order.job} means something else on this machine", why, DIFFERS)
            with ExitStack() as claim:
                try:
                    claim.enter_context(locked(claim_of(resolved.target)))
                except TargetTakenError:
                    return Outcome(job=order.job, state="busy")
                if order.ahead:
                    self.read_ahead(resolved.task, order.ahead, watch)
                return self._do_claimed(order, resolved, watch)
        except LTX2Error as error:
            failure = Failure.of(error)
            note_failure(order, failure)
            return Outcome(job=order.job, state="failed", failure=failure)

    def read_ahead(self, task: RenderTask, lines: Iterable[JobLine], watch: Watch = NOBODY) -> None:
        """Encode the prompts of a job and of the following jobs, so that the text encoder is loaded once for all.

        They are stored in the prompt cache, where each job finds its own. Errors are left to the jobs themselves.
        """
        try:
            tasks = [task, *(settle_line(line, self.given).task for line in lines)]
            alike = [one for one in tasks if _reads_as(one, task)]
            prompts = list(dict.fromkeys(text for one in alike for text in one.request.prompts))
            check_device(task.machine)
            job = Job(folder=task.target.parent, task=task, identities=identities(task))
            with computing(task.machine.threads):
                Engine(job, self._models_for(task), watch).read(prompts)
        except (LTX2Error, StoppedError):
            self.clear()
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            self.clear()

    def clear(self) -> None:
        """Unload all models."""
        if self._models is not None:
            self._models.clear()
            self._models = None

    def _do_claimed(self, order: Order, resolved: Resolved, watch: Watch) -> Outcome:
        target, seed = resolved.target, resolved.request.seed
        entry = change_entry(order.folder, order.job, lambda entry: _started(entry, order, resolved))
        if entry.state == "done":
            return Outcome(job=order.job, state="existing", path=target, seed=seed)
        result = self.finish(resolved, watch)
        change_entry(order.folder, order.job, lambda entry: _done(entry, target))
        return Outcome(job=order.job, state="done", path=target, seed=seed, seconds=result.seconds)

    def _models_for(self, task: RenderTask) -> Models:
        """The models of the job before, or new ones if those have other files or another device."""
        if self._models is None or not self._models.are_of(task):
            self.clear()
            self._models = Models(task.files, task.machine)
        return self._models


def _reads_as(task: RenderTask, first: RenderTask) -> bool:
    """Whether the prompts of two tasks are encoded by the same models, to the same number of rows, and cached."""
    are_kept = task.uses_cache and first.uses_cache and not task.request.enhances
    rows = task.request.text_rows == first.request.text_rows
    return are_kept and rows and (task.files.paths, task.machine) == (first.files.paths, first.machine)


def unfinished(resolved: Resolved) -> Job | None:
    """The render in a job folder, if it is the same one with the same files; None if it has to start again.

    It continues on the resolved task's device, whatever GPU of this machine it started on.
    """
    if not os.path.lexists(resolved.job_dir / JOB_RECORD):
        return None
    task, replaces = resolved.task, resolved.task.output.overwrite
    try:
        job = Job.open(resolved.job_dir)
        if not _is_same(job.task, task):
            return None
        if replaces:
            require_unchanged(job)
    except StorageError:
        if replaces:
            return None
        raise
    machine = dataclasses.replace(job.task.machine, device=task.machine.device)
    changes = {"machine": machine, "output": task.output}
    return dataclasses.replace(job, task=job.task.model_copy(update=changes))


def note_failure(order: Order, failure: Failure) -> None:
    """Write into the record of a batch that a job failed."""
    changes = {"state": "failed", "failure": failure, "replaces": None}
    change_entry(order.folder, order.job, lambda entry: entry.model_copy(update=changes))


def _is_same(begun: RenderTask, now: RenderTask) -> bool:
    """Whether a started render is the one that a job requests, whatever a model chose for it since."""

    def output(task: RenderTask) -> object:
        return task.output.model_copy(update={"overwrite": False, "preview": OFF})

    return as_asked(begun.request, now.request) == now.request and output(begun) == output(now)


def as_asked(begun: Request, asked: Request) -> Request:
    """A request before a model rewrote its prompt and chose its length, if the other request asks for this."""
    changes: dict[str, object] = {}
    if asked.enhances and begun.given_prompt is not None:
        changes |= {"prompt": begun.given_prompt, "given_prompt": asked.given_prompt, "enhances": True}
    if asked.auto_length is not None and begun.auto_length is None:
        changes |= {"frames": asked.frames, "auto_length": asked.auto_length}
    return begun.model_copy(update=changes)


def _started(entry: JobEntry, order: Order, resolved: Resolved) -> JobEntry:
    """The entry of a job that a worker has claimed: done, if it turns out that it is."""
    if entry.is_done(order.folder) and entry.fingerprint == order.fingerprint:
        return entry
    was_running = entry.state == "running" and entry.fingerprint == order.fingerprint
    stands_there = identity(resolved.target).content if resolved.target.is_file() else None
    replaces = entry.replaces if was_running else stands_there
    is_whole = all(path.exists() for path in resolved.task.results)
    has_ended = resolved.task.output.keep_latents or not os.path.lexists(resolved.job_dir / JOB_RECORD)
    if was_running and is_whole and has_ended and stands_there != replaces:  # killed before it recorded the end
        with suppress(OSError):  # the folder is missing, or contains other files
            resolved.job_dir.rmdir()
        return _done(entry, resolved.target)
    changes = {"state": "running", "fingerprint": order.fingerprint, "replaces": replaces, "failure": None}
    return entry.model_copy(update={**changes, "nbytes": None})


def _done(entry: JobEntry, target: Path) -> JobEntry:
    changes = {"state": "done", "nbytes": target.stat().st_size, "replaces": None, "failure": None}
    return entry.model_copy(update=changes)
