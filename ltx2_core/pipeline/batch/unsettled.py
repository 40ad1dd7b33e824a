"""From a file of jobs to jobs with all their settings except a seed and an output.

Source: docs/batch.md, "Where settings come from" and "Seeds and sweeps".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import LTX2Error, RequestError
from ..resolve.modes import mode_of
from ..resolve.presets import with_presets
from ..resolve.prompt import IN_STDIN, read_prompt
from ..resolve.rivals import without_rivals
from ..resolve.setting_sources import Gathered
from ..resolve.settings import Layer, Origin, Place, merge
from ..values import option_name
from .expand import Sweep, Variant, count_variants, parse_seeds, parse_sweeps, variants
from .jobs import BATCH_KEYS, OWN_KEYS, JobLine
from .picks import picked_batch
from .reading import MOST_JOBS, RawJob, read_jobs

Takes = Mapping[str, Collection[str]]  # for each mode, the settings that are its options


@dataclass(frozen=True, kw_only=True)
class AskedBatch:
    """The request for a batch on a command line.

    Args: path: the file of jobs. flags: settings for all of them. config: the file that --config names. takes: the
    options of each mode. seeds, sweeps: as they were written. seed_of: reads the seed of the earlier batch in a folder;
    None if there was none. shares_seed: whether other processes need the same seed. is_planned: whether nothing is
    rendered, and no folder is kept.
    """

    path: Path
    flags: Mapping[str, Any]
    takes: Takes
    config: Path | None = None
    seeds: str | None = None
    sweeps: Sequence[str] = ()
    seed_of: Callable[[Path], int | None] = lambda folder: None
    shares_seed: bool = False
    is_planned: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """A mistake in a job. number: of the job in its file, from 1. place: its location."""

    number: int
    place: str
    error: LTX2Error


@dataclass(frozen=True, slots=True)
class UnsettledJob:
    """A job before it is resolved. number: in its file, from 1. line: with all its settings except seed and output."""

    number: int
    line: JobLine
    variant: Variant


@dataclass(frozen=True, slots=True)
class UnsettledJobs:
    """The jobs of a file. problems: mistakes in the others. notes: for the user."""

    jobs: Sequence[UnsettledJob]
    problems: Sequence[Problem]
    notes: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Row:
    """A job as written in its file, with its own settings, and the defaults of the file."""

    number: int
    line: JobLine
    defaults: Mapping[str, Any]


def unsettled_jobs(asked: AskedBatch, given: Gathered) -> UnsettledJobs:
    """Read a file of jobs, and expand each by its seeds, sweeps and settings.

    Raises: RequestError for mistakes that concern all of them.
    """
    seeds = () if asked.seeds is None else parse_seeds(asked.seeds)
    sweeps = parse_sweeps(asked.sweeps)
    if seeds and asked.flags.get("seed") is not None:
        raise RequestError("--seeds and --seed cannot be used together", "both say the seeds", "give one of them")
    if asked.flags.get("draft") and picked_batch(asked.path) is not None:
        why = f"{asked.path} holds picks, which are rendered in full"
        raise RequestError("--draft cannot be used here", why, "leave it out")
    rows, problems = _read(asked.path)
    count = sum(count_variants(seeds, sweeps, row.line.settings) for row in rows)
    if count > MOST_JOBS:
        why = f"its seeds and sweeps make {count:,} jobs of it, and {MOST_JOBS:,} is the most"
        raise RequestError(f"{asked.path} cannot be used", why, "give fewer seeds or values, or split the file")
    notes = _notes(rows, [*(sweep.key for sweep in sweeps), *(["seed"] if seeds else [])])
    jobs: list[UnsettledJob] = []
    for row in rows:
        try:
            found = variants(seeds, sweeps, row.line.settings)
            jobs += [UnsettledJob(row.number, _completed(row, one, asked, given), one) for one in found]
        except LTX2Error as error:
            problems.append(Problem(row.number, row.line.place, error))
    return UnsettledJobs(jobs, problems, (*(_told(sweep) for sweep in sweeps), *notes))


def _read(path: Path) -> tuple[list[_Row], list[Problem]]:
    """The readable jobs of a file, and the mistakes in the others."""
    rows: list[_Row] = []
    problems: list[Problem] = []
    for number, entry in enumerate(read_jobs(path), 1):
        if not isinstance(entry, RawJob):
            place, error = entry
            problems.append(Problem(number, place, error))
            continue
        try:
            rows.append(_row(number, entry))
        except LTX2Error as error:
            problems.append(Problem(number, entry.place, error))
    return rows, problems


def _row(number: int, entry: RawJob) -> _Row:
    inherited = {key: entry.defaults[key] for key in OWN_KEYS if key in entry.defaults}
    line = JobLine.parse({**inherited, **entry.keys}, entry.place)
    defaults = JobLine.parse(entry.defaults, entry.place).settings
    for name in (*line.settings, *defaults):
        if name in BATCH_KEYS:
            hint = "name: NAME says what its file is called" if name == "output" else "leave it out"
            raise RequestError(f"{name} cannot be set by a job", "it is said once for the whole batch", hint)
    if entry.is_pick:
        return _Row(number, line, defaults)
    if line.prompt == IN_STDIN:
        raise RequestError("the prompt - cannot be used", "a job reads nothing from standard input", "prompt: @FILE")
    return _Row(number, replace(line, prompt=read_prompt(line.prompt)), defaults)


def _completed(row: _Row, variant: Variant, asked: AskedBatch, given: Gathered) -> JobLine:
    """A job of a file with the settings for all jobs."""
    flags = {name: value for name, value in asked.flags.items() if name not in (*BATCH_KEYS, "seed")}
    defaults = {name: value for name, value in row.defaults.items() if name != "seed" or "seed" not in asked.flags}
    own = {**row.line.settings, **variant.swept}
    if variant.seed is not None:
        own["seed"] = variant.seed
    line = completed(replace(row.line, settings=own), (flags, defaults), given)
    check_line(line, asked.takes)
    return line


def completed(line: JobLine, layers: Sequence[Mapping[str, Any]], given: Gathered) -> JobLine:
    """A job with the settings of further places, the most important first, below its own.

    A preset comes directly below the place that names it, so that a value of a job's own preset wins over places below
    the job. Raises: RequestError for a value that cannot be used.
    """
    placed: list[Layer] = [(Place(Origin.COMMAND_LINE), one) for one in (line.settings, *layers)]
    layered, _ = with_presets(placed, given.own_presets)
    merged = merge(without_rivals(layered, mode_of(line.mode))[0])
    settings = {
        name: value
        for place, layer in placed
        for name, value in layer.items()
        if value is not None and merged.sources.get(name) is place
    }
    if merged.settings.seed is not None:  # the seed may come from a preset
        settings["seed"] = merged.settings.seed
    return replace(line, settings=settings)


def check_line(line: JobLine, takes: Takes) -> None:
    """Raises: RequestError for a setting that the job's mode does not have, or an input that does not fit the mode."""
    for name in line.settings:
        if name not in takes[line.mode]:
            owners = [mode for mode, names in takes.items() if name in names]
            hint = f"it is an option of {', '.join(owners)}" if owners else "a settings file can hold it"
            raise RequestError(f"{option_name(name)} is not an option of {line.mode}", hint=hint)
    main = mode_of(line.mode).main
    if main is None and line.main is not None:
        fitting = " or ".join(f"mode: {name}" for name in takes if mode_of(name).main is not None)
        raise RequestError(f"input {line.main} cannot be used", f"{line.mode} starts from a text alone", fitting)
    if main is not None and line.main is None:
        raise RequestError(f"{line.mode} needs an input", f"the {main} that it starts from is missing", "input: FILE")


def _notes(rows: Sequence[_Row], keys: Sequence[str]) -> list[str]:
    """Which sweeps do not apply to some jobs. Raises: RequestError for one that applies to none."""
    notes = []
    for key in keys:
        passed = sum(key in row.line.settings for row in rows)
        option = "--seeds" if key == "seed" else f"--sweep {key}"
        if rows and passed == len(rows):
            raise RequestError(f"{option} has no effect", f"every job sets its own {key}", "leave it out")
        if passed:
            notes.append(f"{option} does not apply to {passed} of {len(rows)} jobs, which set their own {key}")
    return notes


def _told(sweep: Sweep) -> str:
    return f"--sweep {sweep.key}: {', '.join(sweep.values)}"
