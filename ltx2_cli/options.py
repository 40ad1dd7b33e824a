"""The options that commands share: one entry each, with one help text, under the name that the setting has in core."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from copy import copy
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

import ltx2_core as core

PromptArg = Annotated[str, typer.Argument(metavar="PROMPT", help="What to see and hear, in quotes.")]
ImageArg = Annotated[Path, typer.Argument(metavar="IMAGE", help="The picture that the clip begins with.")]
VideoArg = Annotated[Path, typer.Argument(metavar="VIDEO", help="The clip: MP4, MOV, MKV, WebM, AVI or TS.")]
AudioArg = Annotated[Path, typer.Argument(metavar="AUDIO", help="The sound: WAV, MP3, M4A …, or a clip's own.")]
MaybePromptArg = Annotated[str, typer.Argument(metavar="[PROMPT]", help="What happens and sounds, in quotes.")]
FileArg = Annotated[Path, typer.Argument(metavar="FILE", help="A .safetensors file, or a clip.")]
JobArg = Annotated[Path, typer.Argument(metavar="JOB_DIR", help="The folder OUTPUT.job of a render.")]

Options = Mapping[str, Any]  # name of a setting to its annotation
Option = Callable[[str, str], Any]  # flag and title of its panel to such an annotation
Complete = Callable[[str], list[tuple[str, str]]]


def panel(title: str, **options: Option) -> Options:
    """Options that stand together in the help, each named as its setting."""
    return {name: option("--" + name.replace("_", "-"), title) for name, option in options.items()}


def value(metavar: str, text: str, *short: str, complete: Complete | None = None, is_repeated: bool = False) -> Option:
    """An option with a value. It stays text here: core reads values from flags, environment and files alike."""

    def option(flag: str, title: str) -> Any:
        info = typer.Option(*short, flag, metavar=metavar, help=text, rich_help_panel=title, autocompletion=complete)
        return Annotated[list[str] | None if is_repeated else str | None, info]

    return option


def switch(text: str, *, off: bool = False) -> Option:
    """An option without a value. off: it is called --no-… and switches off."""

    def option(flag: str, title: str) -> Any:
        names = f" /--no-{flag.removeprefix('--')}" if off else flag
        return Annotated[bool | None, typer.Option(names, help=text, rich_help_panel=title)]

    return option


def unlisted(options: Options, names: Collection[str]) -> Options:
    """The same options, of which some are only there for core to say why they cannot be used; no help lists them."""

    def hidden(kind: Any) -> Any:
        info = copy(kind.__metadata__[0])
        info.hidden = True
        return Annotated[kind.__origin__, info]

    return {name: hidden(kind) if name in names else kind for name, kind in options.items()}


def names(kind: str) -> Complete:
    """Completes what begins like the name of a preset, size or model."""

    def complete(incomplete: str) -> list[tuple[str, str]]:
        known = core.catalogue()[kind]
        return [(name, summary) for name, summary in known.items() if name.startswith(incomplete.lower())]

    return complete


MODEL = panel(
    "Model",
    model=value("NAME|FILE|FOLDER", "A name (ltx2 presets) or files; default ltx-2.", complete=names("models")),
    transformer=value("FILE", "In place of the model's own; so are the next."),
    video_vae=value("FILE", "Reads and makes the picture."),
    audio_vae=value("FILE", "Reads and makes the sound, with its vocoder."),
    text_encoder=value("FOLDER", "Gemma 3, where it is not beside the model."),
    upsampler=value("FILE", "Enlarges between stages, in space or time.", is_repeated=True),
    distilled_lora=value("FILE", "For presets with few steps; likewise."),
    lora=value("PATH[:STRENGTH]", "A LoRA, also several; strength 1 if not given.", is_repeated=True),
    allow_partial_lora=switch("Take a LoRA of which only a part fits."),
    precision=value("auto|bf16|fp32", "What it computes in; default auto, fp32 on a CPU."),
    device=value("auto|cuda|mps|cpu", "Default auto; cuda:1 is the second GPU."),
    cache=switch("Read the prompt anew and keep nothing of it.", off=True),
)
SHAPE = panel(
    "Shape",
    res=value("NAME|WxH", "720p, 4k … or 768x512; else the model's own.", complete=names("sizes")),
    aspect=value("16:9", "Turns a size by name: 16:9 9:16 1:1 4:3 3:4 21:9."),
    crop=switch("Do not cut what is rendered to the size by name.", off=True),
    duration=value("5s", "Length, to 8k+1 frames; default 5s."),
    frames=value("N", "Length in frames, 8k+1: 9, 17, … 121 …"),
    fps=value("24", "Frames a second; 23.976 is 24000/1001. Default 24."),
)
PART = {
    **SHAPE,
    **panel(
        "Shape",
        start=value("2s", "Where in the clip to begin; default 0s."),
        duration=value("5s", "How much of the clip is used; default all."),
        frames=value("N", "The same in frames, 8k+1: 9, 17, … 121 …"),
        fps=value("24", "Frames a second; else those of the clip."),
    ),
}
ALONG_SOUND = {
    **SHAPE,
    **panel(
        "Shape",
        start=value("2s", "Where in the sound to begin; default 0s."),
        duration=value("5s", "How much of the sound; default all, up to 20 s."),
        frames=value("N", "The same in frames, 8k+1: 9, 17, … 121 …"),
        image=value("PATH[@TIME[:STRENGTH]]", "An image at 1.5s, a frame, first or last.", is_repeated=True),
    ),
}
ALONG_PICTURE = {
    **PART,
    **panel(
        "Shape",
        res=value("NAME|WxH", "At which the model looks; else the model's own.", complete=names("sizes")),
        duration=value("5s", "How much of the clip, 20 s at most; default all."),
    ),
}
EDIT = panel(
    "One of these",
    strength=value("0…1", "Restyle; 1 keeps nothing. The default, at 0.7."),
    extend=value("4s", "Go on after the clip."),
    extend_before=value("2s", "Lead up to the clip; also with --extend."),
    retake=value("2.0s-4.5s", "Make a span of the clip anew."),
    control=value("LORA[:STRENGTH]", "Follow the clip with an in-context LoRA."),
)
IMAGES = panel(
    "Shape",
    image=value("PATH[@TIME[:STRENGTH]]", "One more, at 1.5s, a frame, first or last.", is_repeated=True),
)
SAMPLING = panel(
    "Sampling",
    preset=value("NAME", "A name (ltx2 presets); else the model's own.", complete=names("presets")),
    steps=value("N", "Steps of denoising; else the model's own."),
    sigmas=value("1,…,0", "Noise levels of the first stage, not --steps."),
    sampler=value("NAME", "Of the first stage, where the preset leaves it: euler, gradient, ancestral or res2s."),
    seed=value("N", "Same seed, same clip; random if not given."),
    negative=value("TEXT", "What to keep away from; else the model's own."),
    video_st=value("X", "How far the text pulls the picture."),
    video_sm=value("X", "How far the sound pulls the picture."),
    audio_st=value("X", "How far the text pulls the sound."),
    audio_sm=value("X", "How far the picture pulls the sound."),
    video_stg=value("X", "Push the picture away from skipped attention."),
    audio_stg=value("X", "Push the sound away from skipped attention."),
    stg_blocks=value("N,N…", "Blocks whose attention is skipped for that."),
    video_rescale=value("0…1", "Hold the contrast against guidance; 0 is off."),
    audio_rescale=value("0…1", "Hold the loudness against guidance; 0 is off."),
    skip_step=value("N", "Run the model only every N+1st step."),
)
SOUND = panel("Streams", sound=value("generate|off", "off: a silent video. Default generate."))
OLD_STREAMS = panel(
    "Streams",
    video=value("generate|keep", "keep: a retake of the sound alone. Default generate."),
    sound=value("generate|keep|off", "keep: the old sound stays; off: a silent video. Default generate."),
)
OLD_TRACK = panel("Streams", old_sound=value("drop|second-track", "The sound that the clip has; default drop."))
STREAMS = {
    **panel("Streams", video=value("generate|off", "off: sound alone, .wav or .flac. Default generate.")),
    **SOUND,
}
TARGET = panel(
    "Output",
    output=value("FILE", "{mode}, {slug}, {seed} and {preset} are filled in; default {mode}-{slug}-{seed}.mp4.", "-o"),
    overwrite=switch("Replace what is there."),
)
ENCODING = panel(
    "Output",
    codec=value("h264|h265|av1", "How the picture is stored; default h264."),
    audio_codec=value("aac|alac|flac", "Default aac; the others lose nothing."),
    crf=value("N", "Quality, lower is better; default 19 (h264), 21 (h265), 27 (av1)."),
    metadata=switch("Do not store the recipe in the file.", off=True),
)
GIVEN_SOUND = panel(
    "Output",
    audio_codec=value("aac|alac|flac", "Default: as given where an MP4 can hold it, else aac."),
)
RENDER = panel(
    "Output",
    skip_existing=switch("Leave what is there, and end well."),
    keep_latents=switch("Keep the job folder, for ltx2 decode."),
    sheet=switch("Write a contact sheet beside the clip."),
    job_dir=value("FOLDER", "Where latents wait; else beside the output."),
    strict=switch("Treat warnings about the result as errors."),
)
GUIDES_SOUND = ("audio_st", "audio_sm", "audio_stg", "audio_rescale")
GUIDES_PICTURE = ("video_st", "video_sm", "video_stg", "video_rescale")
NO_PICTURE = (*GUIDES_PICTURE, "aspect", "crop", "fps", "codec", "crf", "upsampler")
OTHER = "Other"
ConfigOpt = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings in YAML, put before ./ltx2.yaml.", rich_help_panel=OTHER),
]
DISPLAY: Options = {
    "as_json": Annotated[bool, typer.Option("--json", help="Tell everything as JSON lines.", rich_help_panel=OTHER)],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Tell errors only.", rich_help_panel=OTHER)],
    "verbose": Annotated[
        int,
        typer.Option(
            "--verbose", "-v", count=True, help="Tell times and choices too; -vv: tracebacks.", rich_help_panel=OTHER
        ),
    ],
}
OFF = {"as_json": False, "quiet": False, "verbose": 0}


def takes(*panels: Options) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these options, and those that say how much it tells.

    The command gets `show`, the display, and, where it takes settings, `flags`: those that were given, by name.
    """
    settings: Options = {name: kind for options in panels for name, kind in options.items()}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def with_options(context: typer.Context, **given: Any) -> None:
            context.obj.set_level(**{name: given.pop(name) for name in DISPLAY})
            flags = {name: value for name in settings if (value := given.pop(name)) not in (None, [])}
            command(show=context.obj, **given, **({"flags": flags} if settings else {}))

        def parameter(name: str, kind: Any, default: Any = None) -> inspect.Parameter:
            return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)

        own = inspect.signature(command, eval_str=True).parameters.values()
        parameters = [
            parameter("context", typer.Context, inspect.Parameter.empty),
            *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own if one.name not in ("show", "flags")),
            *(parameter(name, kind) for name, kind in settings.items()),
            *(parameter(name, kind, OFF[name]) for name, kind in DISPLAY.items()),
        ]
        with_options.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
        return with_options

    return decorate
