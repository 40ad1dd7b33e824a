"""The commands. Each parses, calls core and shows the result."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import ltx2_core as core

from .display import Display
from .failures import UserStopError, crash, wrong_usage
from .help import PanelCommand, PanelGroup
from .log import routed
from .options import (
    ALONG_PICTURE,
    ALONG_SOUND,
    EDIT,
    ENCODING,
    GIVEN_SOUND,
    GUIDES_SOUND,
    IMAGES,
    MODEL,
    NO_PICTURE,
    OLD_STREAMS,
    OLD_TRACK,
    PART,
    RENDER,
    SAMPLING,
    SHAPE,
    SOUND,
    STREAMS,
    TARGET,
    AudioArg,
    ConfigOpt,
    FileArg,
    ImageArg,
    JobArg,
    MaybePromptArg,
    PromptArg,
    VideoArg,
    takes,
    unlisted,
)
from .stop import Stop

BRIEF = """\
ltx2 t2v "a lamp blinks on the left" --model toy       with the built-in model
ltx2 t2v "a kettle starts to whistle" --model FOLDER   with a model you have
ltx2 resume OUTPUT.job                                 go on after a stop
ltx2 inspect FILE                                      what a file is
ltx2 --help                                            all commands"""
GUIDANCE = """\
st, sm and stg are scales of guidance, one of each per stream. Guided presets use --video-st 3 --video-sm 3
--audio-st 7 --audio-sm 3 and, for stg and rescale, the model's own. These are scales in the sense of the official
settings cfg_scale and modality_scale: the weight on a direction is the scale minus one, so 1 switches it off, and the
defaults give the official output. 0 switches stg off.

All settings can also stand in ./ltx2.yaml and in config.yaml in the folder LTX2_HOME, as "steps: 30", and in the
environment, as LTX2_STEPS=30."""


class Commands(PanelGroup):
    """Runs a command under one display, and ends every failure with its lines on stderr and its exit code."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> None:
        arguments = list(sys.argv[1:] if args is None else args)
        show = Display(is_json="--json" in arguments)  # so that even words that cannot be parsed are answered in JSON
        try:
            with routed(show):
                exit_code = super().main(arguments, *rest, **extra, standalone_mode=False, obj=show) or 0
        except typer.TyperException as error:
            exit_code = show.fail(wrong_usage(error))
        except core.LTX2Error as error:
            if isinstance(error, core.RequestError) and not error.hint:
                error.hint = " ".join(["ltx2", *(word for word in arguments[:1] if word in self.commands), "--help"])
            exit_code = show.fail(error)
        except Exception as error:
            exit_code = show.fail(crash(error, arguments))
        show.end(exit_code)
        sys.exit(exit_code)

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


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Video with synchronised stereo sound from the LTX-2 models."""
    if context.invoked_subcommand is None:
        typer.echo(BRIEF)


@app.command(cls=PanelCommand, epilog=GUIDANCE)
@takes(MODEL, SHAPE, SAMPLING, STREAMS, TARGET, ENCODING, RENDER)
def t2v(prompt: PromptArg, flags: dict[str, Any], show: Display, config: ConfigOpt = None) -> None:
    """Make a video with synchronised stereo sound from a text."""
    make(show, core.Mode.T2V, prompt, core.gather(flags, config))


@app.command(cls=PanelCommand, epilog=GUIDANCE)
@takes(MODEL, SHAPE, IMAGES, SAMPLING, SOUND, TARGET, ENCODING, RENDER)
def i2v(
    main: ImageArg, flags: dict[str, Any], show: Display, prompt: MaybePromptArg = "", config: ConfigOpt = None
) -> None:
    """Animate a picture, and more of them along the way."""
    make(show, core.Mode.I2V, prompt, core.gather(flags, config), main)


@app.command(cls=PanelCommand, epilog=GUIDANCE)
@takes(MODEL, EDIT, PART, SAMPLING, OLD_STREAMS, TARGET, ENCODING, RENDER)
def v2v(
    main: VideoArg, flags: dict[str, Any], show: Display, prompt: MaybePromptArg = "", config: ConfigOpt = None
) -> None:
    """Change a clip: restyle, extend or follow it, or make a span of it anew."""
    make(show, core.Mode.V2V, prompt, core.gather(flags, config), main)


@app.command(cls=PanelCommand, epilog=GUIDANCE)
@takes(MODEL, ALONG_SOUND, unlisted(SAMPLING, GUIDES_SOUND), TARGET, ENCODING, GIVEN_SOUND, RENDER)
def a2v(
    main: AudioArg, flags: dict[str, Any], show: Display, prompt: MaybePromptArg = "", config: ConfigOpt = None
) -> None:
    """Make a picture for a sound, which stays as it is."""
    make(show, core.Mode.A2V, prompt, core.gather(flags, config), main)


@app.command(cls=PanelCommand, epilog=GUIDANCE)
@takes(*(unlisted(one, NO_PICTURE) for one in (MODEL, ALONG_PICTURE, SAMPLING, OLD_TRACK, TARGET, ENCODING, RENDER)))
def v2a(
    main: VideoArg, flags: dict[str, Any], show: Display, prompt: MaybePromptArg = "", config: ConfigOpt = None
) -> None:
    """Make a sound for a clip, whose picture is copied as it is."""
    make(show, core.Mode.V2A, prompt, core.gather(flags, config), main)


@app.command(cls=PanelCommand)
@takes()
def resume(job_dir: JobArg, show: Display) -> None:
    """Go on with a render that was stopped. It gives the bytes of an undisturbed one."""
    job = core.Job.open(job_dir)
    render(show, job_dir, lambda watch: core.resume(job, watch))


@app.command(cls=PanelCommand)
@takes(TARGET, ENCODING, OLD_TRACK)
def decode(job_dir: JobArg, flags: dict[str, Any], show: Display) -> None:
    """Make the file again from kept latents. Codecs and name may differ; what is not given is as it was."""
    job = core.rewritten(core.Job.open(job_dir), flags)
    render(show, None, lambda watch: core.resume(job, watch))


@app.command(cls=PanelCommand)
@takes()
def inspect(file: FileArg, show: Display) -> None:
    """Say what a weight file or a clip is. Only its header is read. -v: long texts as a whole."""
    show.facts(file.name, core.describe(file))


@app.command(cls=PanelCommand)
@takes()
def presets(show: Display) -> None:
    """List the names that --preset, --res and --model know."""
    for kind, known in core.catalogue(core.own_presets()).items():
        show.table(kind, known)


def make(show: Display, mode: core.Mode, prompt: str, given: core.Gathered, main: Path | None = None) -> None:
    """Settle what was asked for, and render it unless it is there already."""
    resolved = core.resolve(mode, prompt, given.layers, given.own_presets, main)
    if resolved.is_done:
        show.file(resolved.target, is_new=False)
        return
    show.plan(resolved)
    render(show, resolved.job_dir, lambda watch: core.run(resolved, watch))


def render(show: Display, job_dir: Path | None, action: Callable[[core.Watch], core.Result]) -> None:
    """Render, telling what happens, until it is done or the user stops it."""
    with Stop(lambda: show.say("stopping after this step; Ctrl-C again stops at once")) as stop:
        try:
            show.result(action(core.Watch(on_event=show.event, should_stop=stop.should_stop)))
        except (core.Interrupted, KeyboardInterrupt) as stopped:
            raise UserStopError(stop.exit_code, job_dir) from stopped


def main() -> None:
    """The entry point of the command `ltx2`. A stream that is closed, or lacks a character, is no reason to fail."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or Path(os.devnull).open("w")  # noqa: SIM115
        stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, stream)
    app(prog_name="ltx2")
