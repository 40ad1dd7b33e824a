"""From a file of jobs to a batch in which every job is resolved, or to one list of all mistakes.

Source: docs/batch.md.
"""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...disk import made_folder
from ...errors import DoesNotFitError, JobsError, LTX2Error, RequestError
from ...paths import in_shell
from ..resolve.presets import with_presets
from ..resolve.resolve import resolve
from ..resolve.setting_sources import Gathered, gather
from ..resolve.settings import COMMAND_LINE, Settings, merge
from ..resolved import Resolved
from .expand import job_seed
from .jobs import Batch, BatchJob, JobLine
from .names import Naming, escaped
from .picks import DRAFTS, picked_batch
from .record import SUMMARY
from .unsettled import AskedBatch, Problem, UnsettledJob, unsettled_jobs


def settle_line(line: JobLine, given: Gathered) -> Resolved:
    """Resolve one complete job. given: the environment and the settings files, below the job's own settings.

    Raises: as `resolve`, and RequestError for a job with several ranks.
    """
    layers = [(COMMAND_LINE, line.settings), *given.layers]
    resolved = resolve(line.mode, line.prompt, layers, given.own_presets, line.main)
    if resolved.task.machine.ranks > 1:
        raise RequestError("--ranks cannot be used in a batch", "it renders a job on each card", "leave it out")
    return resolved


def read_batch(asked: AskedBatch, on_begin: Callable[[int], None] = lambda count: None) -> Batch:
    """Read a file of jobs and resolve all of them. The folder of the batch exists afterwards.

    Args: on_begin: called with the number of jobs, before they are resolved.
    Raises: RequestError for mistakes that concern the whole batch; JobsError with all mistakes in its jobs.
    """
    given = gather({}, asked.config)
    common = _common(asked, given)
    is_draft = bool(common.draft) and picked_batch(asked.path) is None
    naming = Naming.of(common.output, asked.path, is_draft=is_draft)
    _require_apart(asked.path, naming.folder)
    unsettled = unsettled_jobs(asked, given)
    on_begin(len(unsettled.jobs))
    with made_folder(naming.folder, stays=not asked.is_planned):
        needs_base = any("seed" not in job.line.settings for job in unsettled.jobs)
        base = _base(asked, common, naming.folder, is_used=needs_base)
        settling = _Settling(given, naming, base, is_replacing=bool(common.overwrite))
        for job in unsettled.jobs:
            settling.add(job)
        problems = [*unsettled.problems, *settling.problems, *settling.chained()]
        if problems:
            raise _refusal(asked.path, problems)
    notes = list(unsettled.notes)
    if needs_base:
        again = f"; --seed {base} gives the same ones again" if common.seed is None else ""
        notes.append(f"seed {base}, from which those of the jobs follow{again}")
    jobs = tuple(job for _, job in settling.jobs)
    return Batch(
        folder=naming.folder,
        jobs=jobs,
        seed=base,
        is_replacing=bool(common.overwrite),
        has_report=bool(common.report),
        notes=tuple(notes),
    )


def _require_apart(jobs: Path, folder: Path) -> None:
    """Raises: RequestError for a file of jobs that the batch would replace by one of its own."""
    if jobs.exists() and any((own := folder / name).exists() and own.samefile(jobs) for name in (SUMMARY, DRAFTS)):
        why = f"a batch in {folder} writes a file of this name"
        raise RequestError(f"{jobs} cannot be used", why, "-o FOLDER/ names another folder")


def _common(asked: AskedBatch, given: Gathered) -> Settings:
    """The settings of the whole batch. Raises: RequestError for those that a batch does not allow."""
    layers = [(COMMAND_LINE, asked.flags), *given.layers]
    merged = merge(with_presets(layers, given.own_presets)[0])
    if merged.settings.job_dir is not None:
        why = f"{merged.sources['job_dir']} sets it, and each job has a folder of its own beside its result"
        raise RequestError("a batch cannot use --job-dir", why, "leave it out")
    return merged.settings


def _base(asked: AskedBatch, common: Settings, folder: Path, *, is_used: bool) -> int:
    """The seed of the batch: the one that is set, or that of the same batch before, or a random one.

    is_used: whether the seed of any job is derived from it.
    """
    if common.seed is not None:
        return common.seed
    before = asked.seed_of(folder)
    if before is None and asked.shares_seed and is_used:
        why = "the seeds of the jobs are derived from it, and all shards need the same"
        raise RequestError("--shard needs --seed", why, "--seed 1")
    return secrets.randbelow(2**31) if before is None else before


@dataclass
class _Settling:
    """The resolved jobs of a batch so far. base: its seed. problems: the mistakes in the others."""

    given: Gathered
    naming: Naming
    base: int
    is_replacing: bool
    jobs: list[tuple[int, BatchJob]] = field(default_factory=list)  # each with its number in the file
    problems: list[Problem] = field(default_factory=list)
    taken: dict[str, str] = field(default_factory=dict)  # the place of the job that writes a file, by path
    unfitting: dict[Hashable, DoesNotFitError] = field(default_factory=dict)  # by the settings that determine memory

    def add(self, unsettled: UnsettledJob) -> None:
        """Resolve one more job, or record its mistake."""
        line = unsettled.line
        size = repr((line.mode, line.main, sorted({**line.settings, "seed": None}.items())))
        try:
            if size in self.unfitting:  # finding settings that fit takes long
                raise self.unfitting[size]
            job = self._settle(unsettled)
            self._take(job)
            self.jobs.append((unsettled.number, job))
        except LTX2Error as error:
            self.problems.append(Problem(unsettled.number, line.place, error))
            if isinstance(error, DoesNotFitError):
                self.unfitting[size] = error

    def _settle(self, unsettled: UnsettledJob) -> BatchJob:
        line = unsettled.line
        existing = "overwrite" if self.is_replacing else "skip_existing"
        settings = {
            "seed": job_seed(self.base, unsettled.number),
            **line.settings,
            "output": self.naming.output(unsettled.number, line.name, unsettled.variant),
            existing: True,
            "report": False,  # there is one page for all jobs
        }
        resolved = settle_line(replace(line, settings=settings), self.given)
        target = resolved.target
        if resolved.job_dir != target.with_name(target.name + ".job"):
            why = "each job has a folder of its own beside its result"
            raise RequestError("a preset that sets job_dir cannot be used in a batch", why, "leave job_dir out")
        final = replace(line, settings={**settings, "output": escaped(str(target))})
        return BatchJob(name=target.stem, line=final, resolved=resolved)

    def _take(self, job: BatchJob) -> None:
        """Record the outputs of a job. Raises: RequestError if another job writes the same file."""
        task, name = job.resolved.task, job.resolved.target.with_suffix("")
        files = {_key(path): path for path in (name, *task.results)}
        taken = next((key for key in files if key in self.taken), None)
        if taken is not None:
            other, path = self.taken[taken], files[taken]
            is_several = other == job.line.place
            hint = "-o 'FOLDER/{index}-{slug}-{seed}.mp4' keeps names apart, or name: NAME"
            if path == name:
                path, why = job.resolved.target, "this job becomes several, which have the same name"
                if not is_several:
                    why = f"{other} has a job of the same name, and names are compared without case"
            else:
                why = "this job becomes several, which all write it" if is_several else f"{other} writes it, too"
                if path == task.output.attention:
                    hint = "--attention '{slug}-{seed}.mp4' keeps names apart"
            raise RequestError(f"two jobs would write {path.name}", why, hint)
        self.taken |= dict.fromkeys(files, job.line.place)

    def chained(self) -> list[Problem]:
        """The jobs whose input is the output of another job: their order is not defined."""
        found: list[Problem] = []
        for number, job in self.jobs:
            other = next((path for path in job.resolved.task.inputs.values() if _key(path) in self.taken), None)
            if other is not None:
                why = f"{self.taken[_key(other)]} writes it in the same batch"
                error = RequestError(
                    f"{other} cannot be the input of a job", why, "make a second batch of what follows"
                )
                found.append(Problem(number, job.line.place, error))
        return found


def _key(path: Path) -> str:
    return unicodedata.normalize("NFC", str(path.absolute())).casefold()


def _refusal(path: Path, problems: Sequence[Problem]) -> JobsError:
    """All mistakes in the order of the file, the same mistakes of several jobs together."""
    grouped: dict[tuple[str, str, str], tuple[list[str], LTX2Error]] = {}
    for problem in sorted(problems, key=lambda problem: problem.number):
        error = problem.error
        places, _ = grouped.setdefault((error.what, error.why, error.hint), ([], error))
        if problem.place not in places[-1:]:
            places.append(problem.place)
    count = len({problem.number for problem in problems})
    what = "1 job cannot be rendered" if count == 1 else f"{count:,} jobs cannot be rendered"
    hint = f"ltx2 batch {in_shell(path)} --plan checks the jobs again when they are corrected"
    return JobsError(f"{path}: {what}", hint=hint, problems=[*grouped.values()])
