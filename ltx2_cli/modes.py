"""The commands that render, as a table: their arguments, summaries and options.

A new mode is a row here beside its row in core; the panels of options are in options.py, written as panels.py says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer

import ltx2_core as core

from .display import Display
from .help import PanelCommand
from .options import (
    ALONG_AUDIO,
    ALONG_VIDEO,
    EDIT,
    ENCODING,
    ENHANCE,
    ENHANCE_ONLY,
    GIVEN_AUDIO,
    GUIDES_AUDIO,
    IMAGES,
    KEYFRAMES,
    LONG,
    LOOP,
    MODEL,
    NEW_AUDIO,
    NO_VIDEO,
    OLD_STREAMS,
    OLD_TRACK,
    PART,
    REFERENCES,
    RENDER,
    SAMPLING,
    SEGMENTS,
    SHAPE,
    SOUND,
    STILLS,
    STREAMS,
    TARGET,
    AudioArg,
    ConfigOpt,
    ImageArg,
    MaybePromptArg,
    PromptArg,
    VideoArg,
)
from .panels import Options, takes, unlisted

EPILOG = "ltx2 help guidance explains the guidance scales, ltx2 help settings where settings can be given."


@dataclass(frozen=True, kw_only=True)
class ModeCommand:
    """A command that renders. summary: of its help. main: the argument for its input file; None for a prompt only."""

    summary: str
    panels: tuple[Options, ...]
    main: Any = None


MADE = (KEYFRAMES, LOOP, REFERENCES, SEGMENTS, ENHANCE, SAMPLING)  # panels of a video that is generated from its start
WRITTEN = (TARGET, ENCODING, NEW_AUDIO, STILLS, RENDER)
COMMANDS: Mapping[str, ModeCommand] = {
    "t2v": ModeCommand(
        summary="Make a video with synchronised stereo audio from a text.",
        panels=(MODEL, SHAPE, LONG, *MADE, STREAMS, *WRITTEN),
    ),
    "i2v": ModeCommand(
        summary="Animate an image; more images can follow along the way.",
        panels=(MODEL, SHAPE, LONG, IMAGES, *MADE, SOUND, *WRITTEN),
        main=ImageArg,
    ),
    "v2v": ModeCommand(
        summary="Edit a clip: restyle it, extend it, regenerate a span, enlarge it, or follow it as a control signal.",
        panels=(MODEL, EDIT, LONG, PART, SEGMENTS, ENHANCE, SAMPLING, OLD_STREAMS, TARGET, ENCODING, RENDER),
        main=VideoArg,
    ),
    "a2v": ModeCommand(
        summary="Make a video for an audio file, which is kept as it is.",
        panels=(
            MODEL,
            ALONG_AUDIO,
            LONG,
            unlisted(REFERENCES, ("voice_ref",)),
            SEGMENTS,
            ENHANCE,
            unlisted(SAMPLING, GUIDES_AUDIO),
            TARGET,
            ENCODING,
            GIVEN_AUDIO,
            RENDER,
        ),
        main=AudioArg,
    ),
    "v2a": ModeCommand(
        summary="Make audio for a clip, whose video is copied as it is.",
        panels=tuple(
            unlisted(panel, (*NO_VIDEO, *LONG))
            for panel in (
                MODEL,
                ALONG_VIDEO,
                LONG,
                SEGMENTS,
                ENHANCE,
                SAMPLING,
                OLD_TRACK,
                TARGET,
                ENCODING,
                NEW_AUDIO,
                RENDER,
            )
        ),
        main=VideoArg,
    ),
}


TAKES: Mapping[str, frozenset[str]] = {  # the settings that are options of a mode
    name: frozenset(setting for panel in row.panels for setting in panel) for name, row in COMMANDS.items()
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The arguments of a command line. main: the input file of a mode. config: a settings file."""

    mode: str
    prompt: str
    flags: dict[str, Any]
    config: Path | None
    main: Path | None = None

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The arguments of core's functions: the mode, the prompt, settings by place, the user's presets, and the
        input.
        """
        given = core.gather(self.flags, self.config)
        return self.mode, core.read_prompt(self.prompt), given.layers, given.own_presets, self.main

    def for_prompt_alone(self) -> Asked:
        """The same, for rewriting the prompt without rendering or writing anything."""
        flags = {name: value for name, value in self.flags.items() if name != "skip_existing"}
        return replace(self, flags={**flags, "enhance": True, "overwrite": True, "force": True})


Make = Callable[[Display, Asked], None]


def add_modes(app: typer.Typer, make: Make) -> None:
    """Add a command for every row of the table. make: renders a request."""
    for name, row in COMMANDS.items():
        command = _with_main(name, row, make) if row.main else _with_prompt(name, make)
        command.__name__, command.__doc__ = name, row.summary
        app.command(name, cls=PanelCommand, epilog=EPILOG)(takes(*row.panels, ENHANCE_ONLY)(command))


def _with_prompt(name: str, make: Make) -> Callable[..., None]:
    def command(prompt: PromptArg, flags: dict[str, Any], show: Display, config: ConfigOpt = None) -> None:
        make(show, Asked(mode=name, prompt=prompt, flags=flags, config=config))

    return command


def _with_main(name: str, row: ModeCommand, make: Make) -> Callable[..., None]:
    def command(
        main: Path, flags: dict[str, Any], show: Display, prompt: MaybePromptArg = "", config: ConfigOpt = None
    ) -> None:
        make(show, Asked(mode=name, prompt=prompt, flags=flags, config=config, main=main))

    command.__annotations__["main"] = row.main
    return command
