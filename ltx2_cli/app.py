"""The commands. Each parses, calls core and shows the result."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import ltx2_core as core

from .batch import add_batch
from .convert import add_convert
from .display import Display
from .doctor import add_doctor
from .downloads import add_downloads
from .failures import UserStopError, crash, is_stop, wrong_usage
from .help import PanelCommand, PanelGroup, help_text
from .log import routed
from .modes import Asked, add_modes
from .options import (
    CONTINUED,
    DECODER,
    ENCODING,
    OLD_TRACK,
    OVERLAY,
    REPORT,
    STILLS,
    TARGET,
    JobArg,
    TilesOpt,
    TopicArg,
    WhatArg,
)
from .panels import as_before, takes
from .plan import add_plan
from .report import add_report
from .rerun import add_rerun
from .stop import Stop
from .sync import add_sync

BRIEF = """\
ltx2 t2v "a lamp blinks on the left" --model toy   try the built-in model
ltx2 download ltx-2-distilled --plan               see what a real model takes
ltx2 t2v "a kettle whistles" --model FOLDER        use a model that you have
ltx2 doctor                                        see what this machine can do
ltx2 --help                                        list all commands"""

SCRIPTS = """\
In a script: the path of the result goes to stdout and everything else to stderr; --json prints events as JSON lines
instead. Exit codes: 0 done, 2 wrong usage, 3 unusable input file, 4 does not fit, 5 out of memory, 6 login needed,
7 weights or disk, 8 the result failed its check, 9 jobs of a batch failed, 130 Ctrl-C, 143 TERM, 1 an internal error.

ltx2 t2v "a lamp blinks" --model toy -o lamp.mp4 --skip-existing --seed 7"""


class Commands(PanelGroup):
    """Runs a command with one display, and ends every failure with its lines on stderr and its exit code."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> None:
        arguments = list(sys.argv[1:] if args is None else args)
        show = Display(is_json="--json" in arguments)  # so that invalid options are also reported in JSON
        try:
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            with routed(show):
                exit_code = super().main(arguments, *rest, **extra, standalone_mode=False, obj=show) or 0
        except typer.TyperException as error:
            exit_code = show.fail(wrong_usage(error, self._help_for(arguments)))
        except core.LTX2Error as error:
            if isinstance(error, core.RequestError) and not error.hint:
                error.hint = self._help_for(arguments)
            exit_code = show.fail(error)
        except KeyboardInterrupt:
            exit_code = show.fail(UserStopError(130))
        except Exception as error:
            exit_code = show.fail(UserStopError(130) if is_stop(error) else crash(error, arguments))
        sys.exit(show.end(exit_code))

    def _help_for(self, arguments: Sequence[str]) -> str:
        """The command that shows the help for a command line, which may name a subcommand."""
        words, known = ["ltx2"], self.commands
        for word in arguments:
            if word not in known:
                break
            words.append(word)
            known = getattr(known[word], "commands", {})
        return " ".join([*words, "--help"])

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            raise UserStopError(130) from stopped


app = typer.Typer(
    name="ltx2",
    cls=Commands,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"ltx2 {core.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True, epilog=SCRIPTS)
def start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Make video with synchronised stereo audio, with the LTX-2 models."""
    if context.invoked_subcommand is None:
        typer.echo(BRIEF)


def make(show: Display, asked: Asked) -> None:
    """Resolve a request, and render it, or only rewrite its prompt."""
    if asked.flags.pop("enhance_only", False):
        print_prompt(show, core.resolve(*asked.for_prompt_alone().arguments))
        return
    render_once(show, core.resolve(*asked.arguments))


def render_once(show: Display, resolved: core.Resolved) -> None:
    """Render a request unless its result exists already, or is being written."""
    try:
        if not resolved.is_done:
            show.request(resolved)
            render(show, resolved, lambda watch: core.run(resolved, watch))
            return
    except core.TargetTakenError as error:
        if not resolved.skip_existing:
            raise
        if not resolved.is_done:
            show.warn(f"skipped: {error.what}")
            return
    core.remove_remains(resolved)
    show.file(resolved.target, is_new=False)


def print_prompt(show: Display, resolved: core.Resolved) -> None:
    """Rewrite the prompt and print it; nothing is rendered."""
    for warning in resolved.warnings:
        show.warn(warning)
    with Stop(lambda: show.say("stopping after this token; Ctrl-C again stops at once")) as stop:
        try:
            watch = core.Watch(on_event=show.event, should_stop=stop.should_stop)
            show.prompt(core.enhance(resolved, watch), is_result=True)
        except core.StoppedError as stopped:
            raise UserStopError(stop.exit_code) from stopped


def render(show: Display, resolved: core.Resolved, action: Callable[[core.Watch], core.Result]) -> None:
    """Render and show events, until it is done or the user stops it."""
    with Stop(lambda: show.say("stopping after this step; Ctrl-C again stops at once")) as stop:
        try:
            show.result(action(core.Watch(on_event=show.event, should_stop=stop.should_stop)))
        except core.Interrupted as stopped:
            raise UserStopError(stop.exit_code, stopped.what, command=stopped.command) from stopped
        except KeyboardInterrupt as stopped:
            raise UserStopError.at_once(stop.exit_code, resolved.job_dir, resolved.resume_command) from stopped


add_modes(app, make)
add_batch(app)
add_downloads(app)
add_doctor(app)
add_convert(app)
add_sync(app)
add_report(app)
add_plan(app)
add_rerun(app, render_once)


@app.command(cls=PanelCommand)
@takes(CONTINUED)
def resume(job_dir: JobArg, flags: dict[str, Any], show: Display) -> None:
    """Continue a render that was stopped. The result has the same bytes as without the stop."""
    job = core.continued(core.Job.open(job_dir), flags)
    resolved = core.Resolved(task=job.task, job_dir=job.folder)
    show.request(resolved)
    render(show, resolved, lambda watch: core.resume(job, watch))


@app.command(cls=PanelCommand)
@takes(as_before({**TARGET, **ENCODING}), STILLS, OVERLAY, as_before(OLD_TRACK), DECODER, REPORT)
def decode(job_dir: JobArg, flags: dict[str, Any], show: Display, tiles: TilesOpt = None) -> None:
    """Write the file again from kept latents, also with another codec, decoder or tiles. Other settings stay."""
    job = core.rewritten(core.Job.open(job_dir), flags, tiles)
    resolved = core.Resolved(task=job.task, job_dir=job.folder)
    show.request(resolved)
    render(show, resolved, lambda watch: core.resume(job, watch))


@app.command(cls=PanelCommand)
@takes()
def inspect(what: WhatArg, show: Display) -> None:
    """Show what a file, a folder, a render or a model is, from headers. With -v, long texts are shown whole."""
    show.facts(Path(what).name or what, core.describe(what))


@app.command("help", cls=PanelCommand)
def show_help(context: typer.Context, topic: TopicArg = None) -> None:
    """Show the help of a command, or explain guidance, files of jobs or settings."""
    assert context.parent is not None
    typer.echo(help_text(topic, context.parent.command, context.parent))


@app.command(cls=PanelCommand)
@takes()
def presets(show: Display) -> None:
    """List the names that --preset, --res and --model take."""
    for kind, known in core.catalogue(core.own_presets()).items():
        show.table(kind, known)


def main() -> None:
    """Run the command `ltx2`. A closed stream, or one that lacks a character, does not make it fail."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or Path(os.devnull).open("w")  # noqa: SIM115
        stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, stream)
    app(prog_name="ltx2")
