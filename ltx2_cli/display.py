"""Everything that a command shows: results on stdout; progress, warnings and errors on stderr."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import traceback
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

import ltx2_core as core

from .facts import readable
from .wrap import wrapped

if TYPE_CHECKING:
    from .progress import Bars, BatchBars, FileBars

SCHEMA = 1
HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, format characters such as bidi marks, surrogates, separators
MOST_PLACES = 4  # jobs that are listed for one error; the others are counted
LONGEST_PROMPT = 60  # longest prompt in the list of a batch, in characters
STOPS = (130, 143)  # exit codes of a command that the user stopped
ERRORS, USUAL, DETAILS, TRACEBACKS = range(-1, 3)  # verbosity: -q, default, -v, -vv


def visible(text: str) -> str:
    """Text from a file, a prompt or the system with every character that could affect the terminal shown as \\x1b."""
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in HIDDEN else char for char in text
    )


class Display:
    """Shows one command. is_json: whether JSON lines on stdout contain everything, and stderr only errors."""

    def __init__(self, *, is_json: bool = False) -> None:
        self.is_json = is_json
        self.level = USUAL
        self.start = time.perf_counter()
        self.bars: Bars | BatchBars | FileBars | None = None
        self.render_bars: Bars | None = None  # the same, if a render has started them
        self.phase = ""
        self.has_told = False
        self.refused: OSError | None = None  # the error of writing to stdout
        self.finished: Path | None = None
        self.told_of: set[Path] = set()  # previews whose path was printed
        self.about_job = ""  # the job of a batch to which messages belong

    def set_level(self, *, as_json: bool, quiet: bool, verbose: int) -> None:
        """Apply --json, -q and -v. Raises: RequestError for -q and -v together."""
        if quiet and verbose:
            raise core.RequestError("-q and -v cannot be used together", "-q prints less, -v more", "give one")
        self.is_json = as_json
        self.level = verbose or (ERRORS if quiet or as_json else USUAL)

    # The end of a command

    def table(self, title: str, rows: Mapping[str, str]) -> None:
        """A small table of requested facts."""
        if self.is_json:
            self._tell("output", title=title, facts=dict(rows))
            return
        self._print(visible(title))
        width = max(map(len, rows), default=0)
        for name, value in rows.items():
            line = f"  {visible(name):{width}}  {visible(value)}"
            self._print(wrapped(line, _columns_of_stdout(), " " * (width + 4)))

    def measured(self, title: str, rows: Mapping[str, str], **numbers: Any) -> None:
        """Measurements: numbers as JSON, else a row each."""
        if self.is_json:
            self._tell("output", title=title, **numbers)
        else:
            self.table(title, rows)

    def text(self, *lines: str) -> None:
        """Lines for the user, such as a block to paste. With --json they are in the facts, and not printed here."""
        if self.is_json:
            return
        for line in lines:
            self._print(wrapped(visible(line), _columns_of_stdout(), "  "))

    def costs(self, plan: core.Plan) -> None:
        """The phases of a render and what they need, as JSON, in bytes."""
        self._tell(
            "output",
            title="plan",
            fits=plan.fits,
            vram_bytes=plan.vram,
            ram_bytes=plan.ram,
            is_assumed=plan.is_assumed,
            peak=plan.peak.name,
            phases=[asdict(row) for row in plan.rows],
        )

    def facts(self, title: str, facts: Mapping[str, str]) -> None:
        """Facts about a file: as JSON in its own words, else a row per setting."""
        self.table(title, facts if self.is_json else readable(facts, is_whole=self.level >= DETAILS))

    def file(self, path: Path, *, is_new: bool = True) -> None:
        """The path of a result: the only output on stdout, byte by byte, so that a script can use it."""
        path = self.finished = _place(path)
        if self.is_json:
            self._tell("output", path=str(path), is_new=is_new)
        else:
            self._print(visible(str(path)) if sys.stdout.isatty() else os.fsencode(path))

    def beside(self, path: Path) -> None:
        """An image or a clip that was written beside a result."""
        path = _place(path)
        self._tell("output", path=str(path), is_new=True)
        self.say(f"wrote {path}")

    def prompt(self, rewritten: core.PromptRewritten, *, is_result: bool) -> None:
        """A rewritten prompt. is_result: whether it is the requested output, and goes to stdout, on one line."""
        seed, is_rewritten = rewritten.seed, not rewritten.problem
        self._tell("prompt", prompt=rewritten.prompt, given=rewritten.given, is_rewritten=is_rewritten, seed=seed)
        if not is_rewritten:
            self.warn(rewritten.message)
        elif not is_result:
            self.say(rewritten.message)
        if is_result:
            self.close()
            self.say(f"seed {seed}")
        if is_result and not self.is_json:
            text = " ".join(rewritten.prompt.split())
            self._print(visible(text) if sys.stdout.isatty() else text)

    def result(self, result: core.Result) -> None:
        """A finished render."""
        self.close()
        self.file(result.path)
        for path in result.beside:
            self.beside(path)
        kept = f", latents in {result.job_dir}" if result.job_dir else ""
        if result.seam is not None:
            self.say(f"loop: {result.seam.verdict}")
        self.say(f"seed {result.seed}, {result.seconds:.1f} s{kept}")

    def end(self, exit_code: int) -> int:
        """The last JSON line. Returns the exit code: 7 if stdout did not accept everything."""
        self.close()
        if self.has_told:
            self._tell("summary", exit_code=exit_code, seconds=round(time.perf_counter() - self.start, 3))
        if self.refused is None or exit_code:
            return exit_code
        done = f"the result is complete: {self.finished}" if self.finished else ""
        why = core.disk_reason(self.refused)
        hint = "send it to a file on a disk that has room"
        failure = core.StorageError(f"standard output cannot be written: {why}", done, hint)
        return self.fail(failure)

    # Events during a command

    @contextmanager
    def about(self, job: str) -> Iterator[None]:
        """In this block, all JSON lines have the name of a job of a batch."""
        self.about_job = job
        try:
            yield
        finally:
            self.about_job = ""

    def job(self, *, state: str, **fields: Any) -> None:
        """The state of the current job, as JSON."""
        self._tell("job", state=state, **fields)

    def request(self, resolved: core.Resolved, *, advice_level: int = DETAILS) -> None:
        """The request that will be rendered, and the choices and roundings for it. advice_level: from which on advice
        is shown.
        """
        if self.is_json:
            self._tell("plan", **_request_facts(resolved))
        self.say(_request_words(resolved))
        for note in resolved.notes:
            self.say(note)
        for source in dict.fromkeys(resolved.sources.values()):
            names = [name for name, place in resolved.sources.items() if place == source]
            self.say(f"{source} sets {', '.join(names)}", DETAILS)
        for warning in resolved.warnings:
            self.warn(warning)
        for advice in resolved.advice:
            self.say(f"advice: {advice}", advice_level)

    def recipe(self, found: core.FoundRecipe) -> None:
        """The recipe of a file from elsewhere, before it is rendered."""
        self._tell("recipe", path=str(_place(found.path)), is_own=found.is_own, facts=dict(found.facts))
        self.say(f"{found.path.name} says of itself:")
        for name, value in readable(found.facts, is_whole=True).items():
            self.say(f"  {name}: {value}")

    def differences(self, path: Path, rows: Mapping[str, str]) -> None:
        """The differences of a render from the file that it is made from."""
        self._tell("differences", path=str(_place(path)), differences=dict(rows))
        if not rows:
            self.say(f"nothing differs from how {path.name} was made: the result will have the same bytes")
            return
        self.say(f"this differs from how {path.name} was made:")
        for name, value in rows.items():
            self.say(f"  {name}: {value}")

    def batch(self, batch: core.Batch, *, is_result: bool) -> None:
        """The jobs of a batch. is_result: whether they are the requested output, so that each is shown."""
        if self.is_json:
            facts: dict[str, Any] = {"count": len(batch.jobs), "seed": batch.seed, "notes": list(batch.notes)}
            if is_result:
                facts["jobs"] = [{**job.line.dump(), "name": job.name} for job in batch.jobs]
            self._tell("batch", folder=str(_place(batch.folder)), **facts)
        elif is_result:
            self.table(f"{batch.folder}/", {job.resolved.target.name: _job_words(job) for job in batch.jobs})
        models = sorted({job.resolved.task.files.name for job in batch.jobs})
        self.say(f"{core.counted(len(batch.jobs), 'job')} in {batch.folder}/: {', '.join(models)}")
        for note in batch.notes:
            self.say(note)
        told = [warning for job in batch.jobs for warning in job.resolved.warnings]
        for warning in dict.fromkeys(told):
            count = told.count(warning)
            self.warn(warning if count == 1 else f"{warning} ({core.counted(count, 'job')})")

    def plan_of_download(self, facts: Mapping[str, Any], rows: Mapping[str, str], *, is_result: bool = True) -> None:
        """The plan of a download. is_result: whether it is the requested output."""
        if self.is_json:
            self._tell("plan", **facts)
        elif is_result:
            self.table(facts["name"], rows)
        else:
            for name, text in rows.items():
                self.say(f"{name}: {text}")

    def step_of_file(self, progress: core.FileProgress) -> None:
        """The progress of a file."""
        self._tell("step", phase=progress.action, name=progress.name, done=progress.done, total=progress.total)

    def event(
        self,
        event: core.PhaseStarted
        | core.StepDone
        | core.PhaseDone
        | core.LengthChosen
        | core.PromptRewritten
        | core.PreviewShown
        | core.Message,
    ) -> None:
        """An event of core during a render."""
        match event:
            case core.PhaseStarted(phase=phase, name=name, total=total):
                self.phase = name
                self._tell("phase", phase=phase, state="started", name=name, total=total)
                if bars := self._bars():
                    bars.start(name, total)
                else:
                    self.say(name)
            case core.StepDone(phase=phase, done=done, total=total):
                self._tell("step", phase=phase, done=done, total=total)
                if self.render_bars:
                    self.render_bars.step(done)
            case core.PhaseDone(phase=phase, seconds=seconds, peak_bytes=peak):
                took = {"seconds": round(seconds, 3), "peak_bytes": peak}
                self._tell("phase", phase=phase, state="done", name=self.phase, **took)
                if self.render_bars:
                    self.render_bars.done()
                else:
                    most = "" if peak is None else f", at most {core.gigabytes(peak)}"
                    self.say(f"{self.phase}: {seconds:.1f} s{most}", DETAILS)
            case core.LengthChosen(frames=frames, fps=fps, seconds=seconds):
                self._tell("length", frames=frames, fps=str(fps), wanted_seconds=round(seconds, 3))
                self.say(event.message)
            case core.PromptRewritten():
                self.prompt(event, is_result=False)
            case core.PreviewShown(path=path, step=step, total=total):
                self._tell("preview", path=str(_place(path)), step=step, total=total)
                self.preview(path)
            case core.Message(message=message, is_warning=True):
                self.warn(message)
            case core.Message(message=message):
                self.say(message, DETAILS)

    def preview(self, path: Path) -> None:
        """A preview image: on the terminal if that supports images, else its path, once."""
        protocol = core.graphics_protocol(os.environ) if self.takes_bars else None
        try:
            picture = core.escape_sequence(path.read_bytes(), protocol) if protocol else ""
        except OSError:
            picture = ""  # the file has been deleted
        if picture and self.bars:
            self.bars.show(picture)
        elif picture:
            _write(sys.stderr, picture)
        elif path not in self.told_of:
            self.told_of.add(path)
            self.say(f"preview: {path}")

    def warn(self, message: str) -> None:
        self._tell("warning", message=message)
        self.say(f"warning: {message}")

    def say(self, line: str, level: int = USUAL) -> None:
        """One line on stderr, above the bars if there are any."""
        if self.level < level:
            return
        text = visible(line)
        if level < TRACEBACKS and sys.stderr.isatty():
            text = wrapped(text, shutil.get_terminal_size().columns)
        if self.bars:
            self.bars.say(text)
        else:
            _write(sys.stderr, text)

    # Errors

    def fail(self, error: core.LTX2Error) -> int:
        """The error, its reason, and its hint, a line each. Returns the exit code."""
        self.close()
        listed = [line for places, problem in error.problems for line in self._problem(places, problem)]
        self._tell("error", code=error.exit_code, message=error.what, why=error.why, hint=error.hint)
        for line in "".join(traceback.format_exception(error)).splitlines():
            self.say(line, TRACEBACKS)
        about = f"{self.about_job}: " if self.about_job else ""
        what = error.what if error.exit_code in STOPS else f"error: {about}{error.what}"
        for line in (what, error.why, *listed, error.hint and f"hint: {error.hint}"):
            if line:
                self.say(line, ERRORS)
        return error.exit_code

    def _problem(self, places: Sequence[str], problem: core.LTX2Error) -> list[str]:
        """The lines about one failure of some jobs; in JSON it is a separate event."""
        fields = {"code": problem.exit_code, "message": problem.what, "why": problem.why, "hint": problem.hint}
        self._tell("job_error", places=list(places), **fields)
        more = f" and {len(places) - MOST_PLACES:,} more" if len(places) > MOST_PLACES else ""
        lines = [f"{'; '.join(places[:MOST_PLACES])}{more}: {problem.what}"]
        return lines + [f"  {line}" for line in (problem.why, problem.hint and f"hint: {problem.hint}") if line]

    def close(self) -> None:
        """Remove the bars."""
        if self.bars:
            self.bars.stop()
            self.bars = self.render_bars = None

    @property
    def takes_bars(self) -> bool:
        """Whether bars can be shown: on a terminal, unless only errors or JSON are wanted."""
        is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        return is_terminal and self.level >= USUAL and not self.is_json

    def _bars(self) -> Bars | None:
        if self.bars is None and self.takes_bars:
            from .progress import Bars  # this imports rich, which is only needed on a terminal

            self.bars = self.render_bars = Bars()
        return self.render_bars

    def _tell(self, event: str, **fields: Any) -> None:
        """A JSON line; ASCII, so that nothing in it acts on a terminal."""
        if self.is_json:
            self.has_told = True
            about = {"job": self.about_job} if self.about_job else {}
            self._print(json.dumps({"schema": SCHEMA, "event": event, **about, **fields}))

    def _print(self, line: str | bytes) -> None:
        """A line on stdout. If that fails, the command continues, and reports it at its end."""
        self.refused = _write(sys.stdout, line) or self.refused


def _place(path: Path) -> Path:
    """The absolute path of a file. Links are not resolved: a render replaces them."""
    return path.parent.resolve() / path.name


def _columns_of_stdout() -> int:
    """The width of the terminal; no limit for a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize


def _request_facts(resolved: core.Resolved) -> dict[str, Any]:
    """The request that will be rendered, for a program."""
    task = resolved.task
    told = task.model_dump(mode="json")
    return {
        "mode": resolved.request.mode,
        "model": task.files.name,
        "path": str(_place(resolved.target)),
        "job_dir": str(_place(resolved.job_dir)),
        "request": told["request"],
        "machine": told["machine"],
        "output": told["output"],
        "sources": dict(resolved.sources),
        "preset": resolved.preset,
        "overridden": list(resolved.overridden),
        "notes": list(resolved.notes),
        "advice": list(resolved.advice),
    }


def _request_words(resolved: core.Resolved) -> str:
    """The request that will be rendered, in a line."""
    request = resolved.request
    width, height = request.file_size
    what = f"{width}x{height}, {core.counted(request.file_frames, 'frame')} at {core.show_fps(request.file_fps)} fps"
    steps = " + ".join(map(str, request.steps_of_stages))
    line = f"{resolved.task.files.name}, {_preset_words(resolved)}: {what}, {steps} steps, seed {request.seed}"
    if resolved.overridden:
        line += f"; preset {resolved.preset} overrides {', '.join(resolved.overridden)}"
    return line


def _job_words(job: core.BatchJob) -> str:
    """A job of a batch in a line."""
    request = job.resolved.request
    width, height = request.file_size
    what = f"{request.mode}, {width}x{height}, {core.counted(request.file_frames, 'frame')}, seed {request.seed}"
    prompt = " ".join(request.prompt.split())
    if len(prompt) > LONGEST_PROMPT:
        prompt = prompt[: LONGEST_PROMPT - 1] + "…"
    return f"{what}: {prompt}" if prompt else what


def _preset_words(resolved: core.Resolved) -> str:
    """The named preset and its recipe, or only the recipe."""
    recipe = resolved.request.preset
    return f"preset {resolved.preset} ({recipe})" if resolved.preset else recipe


def _write(stream: Any, line: str | bytes) -> OSError | None:
    """Write and flush a line. Returns the error if the stream does not accept it; further lines are then discarded.

    A closed pipe is not an error, nor a reason to stop a render.
    """
    try:
        typer.echo(line, file=stream)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return None if isinstance(error, BrokenPipeError) else error
    return None
