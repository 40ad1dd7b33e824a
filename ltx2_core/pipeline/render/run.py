"""The functions that commands call: render a request, resume an interrupted one, write saved latents again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...disk import made_folder, remove_leftovers, require_free
from ...errors import NotFiniteError, OutOfMemoryError, OutputError, RequestError, StorageError
from ...hub.ledger import remember_made, remember_places
from ...identity import identity
from ...lock import locked
from ...machine import Machine
from ...media.accept import check_input
from ...media.inputs import VideoSource
from ...media.probe import probe
from ...media.seam import Seam, measure_seam
from ...media.sheet import contact_sheet
from ...media.writer import Report
from ...parallel import Ranks
from ...paths import require_replaceable, require_writable
from ..events import PromptRewritten, StoppedError, Watch
from ..job import Job
from ..outputs import report_of, sheet_of
from ..reads import identities, require_unchanged
from ..report.write import write_clip_report
from ..request import RenderTask
from ..resolve.rewrite import unwritten
from ..resolve.target import TAKEN_HINT, check_place
from ..resolved import Resolved
from ..values import counted
from .attention import write_attention
from .engine import Engine
from .enhancement import rewrite_prompt
from .follow import follow
from .launch import launched
from .meter import measured
from .models import Models
from .ran_out import Progress, out_of_memory, ran_out

NOBODY = Watch()
WAIT_HINT = "wait until that process has ended"


class Interrupted(Exception):
    """The user stopped a render; its job folder contains the progress. command: the one that resumes it."""

    def __init__(self, job: Job, what: str) -> None:
        super().__init__(f"{what}; {job.resume_command}")
        self.job_dir, self.what, self.command = job.folder, what, job.resume_command
        self._made_of = job, what

    def __reduce__(self) -> Any:
        return Interrupted, self._made_of  # the exception may come from another process


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A finished render.

    Args: job_dir: the folder with its latents, if they were kept. beside: further files beside it. seam: of a loop.
    """

    path: Path
    job_dir: Path | None
    beside: tuple[Path, ...]
    seed: int
    seconds: float
    report: Report
    seam: Seam | None = None


def run(resolved: Resolved, watch: Watch = NOBODY, models: Models | None = None, ranks: Ranks | None = None) -> Result:
    """Render a request; on several ranks if its machine says so.

    Args: models: those of an earlier render of the same model on the same machine, to avoid loading them again. ranks:
    the ranks, in the process of the first one.
    Raises: Interrupted if the watcher stops it; LTX2Error for every other failure.
    """
    task = resolved.task
    check_device(task.machine)
    if task.machine.ranks > 1 and ranks is None:
        return launched(task.machine, partial(run, resolved), follow, watch, resolved.resume_command)
    watch.tell(described(task.machine))
    with _one_writer(task.target, resolved.job_dir) as parents:
        if not task.output.overwrite:
            require_free(task.target, hint=TAKEN_HINT)
        with _models_for(task, models) as ready, measured(watch, ready.device) as meter:
            try:
                result = _finish(
                    Job.create(resolved.job_dir, task, identities(task), parents), meter.watch, ready, ranks
                )
            except NotFiniteError:  # which ends a phase before it is done
                raise
            except OutputError:  # timing is valid even if the clip fails its check
                meter.conclude(resolved)
                raise
            meter.conclude(resolved)
            return result


def resume(job: Job, watch: Watch = NOBODY, models: Models | None = None, ranks: Ranks | None = None) -> Result:
    """Continue after the last finished stage, or inside the stage where the user stopped. Gives the bytes of one run.

    A finished job that is to be written again is only decoded. For one whose process was killed after its file was
    renamed, only the folder is removed.

    Raises: as `run`, and StorageError if its files or its latents have changed since the render started.
    """
    task, start = job.task, time.perf_counter()
    check_device(task.machine)
    if task.machine.ranks > 1 and ranks is None:
        return launched(task.machine, partial(resume, job), follow, watch, job.resume_command)
    job.require_target()
    for path in task.results:
        check_place(path)
        require_writable(path.parent, str(path))
        require_replaceable(path)
    with _one_writer(task.target, job.folder, job.parents):
        job = job.reopened()
        job.remove_incomplete()
        if job.is_written and not task.output.keep_latents:  # or it is to be decoded again
            _require_stills(job)
            return _conclude(job, Report(probe(task.target), ()), start, is_new=False)
        if not task.output.overwrite:
            for path in task.results:
                if path == task.output.attention:  # no option of this command names this file
                    require_free(path, hint="--overwrite replaces it, or move it away")
                if path not in task.stills:  # a killed process may have written the stills
                    require_free(path)
        headers = require_unchanged(job)
        job.check_saved(headers.shapes)
        with _models_for(task, models) as ready, measured(watch, ready.device) as meter:
            return _finish(job, meter.watch, ready, ranks)


def enhance(resolved: Resolved, watch: Watch = NOBODY) -> PromptRewritten:
    """Rewrite the prompt of a request whose settings ask for it, and render nothing. No other model is loaded.

    Raises: StoppedError if the watcher stops it; LTX2Error for every other failure.
    """
    task, progress = resolved.task, Progress(watch)
    check_device(task.machine)
    models = Models(task.files, task.machine)
    try:
        return rewrite_prompt(task, models, progress.watch)
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        hint = "--memory streamed, or --enhancer FOLDER names a smaller model"
        raise OutOfMemoryError(f"memory ran out{progress.words}", str(error).partition("\n")[0], hint) from error
    finally:
        models.clear()


def check_device(machine: Machine) -> None:
    """Raises: RequestError if torch cannot compute on a device of a render, whatever the driver reports."""
    for device in map(torch.device, machine.devices):
        _check(device, "ltx2 doctor lists the cards" if machine.ranks > 1 else "--device cpu always works")


def _check(device: torch.device, hint: str) -> None:
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        why = f"torch {torch.__version__} cannot use this card; its driver may be too old"
        raise RequestError(f"--device {device} cannot be used", why, hint)
    if device.type == "mps" and not torch.backends.mps.is_available():
        why = f"torch {torch.__version__} cannot use the GPU of this Mac"
        raise RequestError(f"--device {device} cannot be used", why, hint)


def described(machine: Machine) -> str:
    """One line about the machine's choices."""
    kept = f"up to {machine.kept_bytes / 1e9:.1f} GB of weights stay loaded"
    ranks = f"{machine.ranks} ranks of " * (machine.ranks > 1)
    devices = " and ".join(dict.fromkeys(machine.devices))
    where = f"computing on {ranks}{devices} in {machine.precision}, {counted(machine.threads, 'CPU thread')}"
    return f"{where}, memory mode {machine.memory}, {kept}"


@contextmanager
def _models_for(task: RenderTask, models: Models | None) -> Iterator[Models]:
    """Models for a task, with their files checked: those of the caller, or new ones that are unloaded afterwards."""
    ready = models or Models(task.files, task.machine)
    if not ready.are_of(task):
        raise ValueError("these models are of other files, or on another device")
    try:
        ready.check(task.request)
        yield ready
    finally:
        if models is None:
            ready.clear()


@contextmanager
def _one_writer(target: Path, job_dir: Path, earlier: Sequence[Path] = ()) -> Iterator[list[Path]]:
    """Lock a target and a job folder, whose missing parents are created.

    Args: earlier: the parents that were created before.
    Yields: all parents that were created; those that are empty at the end are removed.
    Raises: TargetTakenError, StorageError.
    """
    with (
        made_folder(job_dir.parent, stays=False, earlier=earlier) as parents,
        locked(target),
        locked(job_dir, hint=WAIT_HINT),
    ):
        remove_leftovers(target)
        yield parents


def _finish(job: Job, watch: Watch, models: Models, ranks: Ranks | None) -> Result:
    start, progress = time.perf_counter(), Progress(watch)
    try:
        engine = Engine(job, models, progress.watch, ranks=ranks).with_prompt().with_length()
        job = engine.job
        report = engine.render()
    except StoppedError as stopped:
        if stopped.saved is not None:
            job.save_stopped(job.finished_stages + 1, stopped.saved)
        raise Interrupted(job, _how_far(job, stopped)) from stopped
    except NotFiniteError:
        watch.tell("values are not finite: looking for the cause in the weights")
        models.require_finite(job.task.request)
        raise
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        raise out_of_memory(error, job, progress, models.shapes.video_vae) from error
    for warning in report.warnings:
        watch.tell(warning, is_warning=True)
    return _conclude(job, report, start)


def _conclude(job: Job, report: Report, start: float, *, is_new: bool = True) -> Result:
    """The steps after the file is renamed: write the files beside it, and remove the job folder."""
    task = job.task
    _write_beside(job, is_new=is_new)
    _remember(job)
    if not task.output.keep_latents:
        job.remove()
    return Result(
        path=task.target,
        job_dir=job.folder if task.output.keep_latents else None,
        beside=tuple(path for path in task.results if path != task.target),
        seed=task.request.seed,
        seconds=time.perf_counter() - start,
        report=report,
        seam=measure_seam(check_input(task.target, VideoSource)) if task.request.loops else None,
    )


def _write_beside(job: Job, *, is_new: bool) -> None:
    """Write the contact sheet, the attention clip, and the report, if they are requested.

    Args: is_new: whether the file was written just now; if not, files of a killed process may exist beside it.
    """
    task = job.task
    target, output, request = task.target, task.output, task.request
    sheet, page = sheet_of(target), report_of(target)
    keeps = not (is_new or output.overwrite)
    if output.sheet and not (keeps and sheet.exists()):
        made_with = _made_with(task)
        about = {"prompt": request.prompt, "seed": request.seed, "made_with": made_with}
        contact_sheet(target, sheet, **about, overwrite=output.overwrite)
    if output.attention is not None and not (keeps and output.attention.exists()):
        write_attention(job, output.attention)
    if output.report and not (keeps and page.exists()):
        write_clip_report(target, page, overwrite=output.overwrite)


def _made_with(task: RenderTask) -> str:
    """Model, preset and steps of a render, as text."""
    steps = " + ".join(map(str, task.request.steps_of_stages))
    return f"{task.request.mode}, model {task.files.name}, preset {task.request.preset}, {steps} steps"


def _remember(job: Job) -> None:
    """Record the result and its input files, for `ltx2 rerun`. If that fails, the result is still valid."""
    paths = {**job.task.files.paths, **job.task.inputs}
    with suppress(OSError, StorageError):
        remember_places({file.fingerprint: paths[role] for role, file in job.made_files().items() if role in paths})
        remember_made(identity(job.task.target).content)


def _require_stills(job: Job) -> None:
    """Raises: RequestError if the process of a render ended after the clip was renamed, and before all of its stills
    were.
    """
    for still in job.task.stills:
        if not still.exists():
            raise unwritten(job, still)


def _how_far(job: Job, stopped: StoppedError) -> str:
    """Where a render was stopped and what of it is kept, as text."""
    if stopped.saved is not None:
        return f"stopped {stopped.after}; the latents are kept"
    if stopped.after:
        return f"stopped {stopped.after}; this sampler cannot go on inside a stage, which begins again"
    if job.finished_stages:
        return "stopped; the latents are kept"
    return "stopped before the first step"
