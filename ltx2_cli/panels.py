"""How the options of a command are written: in panels, one entry each, under the name that the setting has in core."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from copy import copy
from functools import wraps
from typing import Annotated, Any

import typer

Options = Mapping[str, Any]  # name of a setting to its annotation
Option = Callable[[str, str], Any]  # makes an annotation from a flag and the title of its panel
Complete = Callable[[str], list[tuple[str, str]]]


def panel(title: str, **options: Option) -> Options:
    """Options that are shown together in the help, each named after its setting."""
    return {name: option("--" + name.replace("_", "-"), title) for name, option in options.items()}


def value(metavar: str, text: str, *short: str, complete: Complete | None = None, is_repeated: bool = False) -> Option:
    """An option with a value. It stays text here: core parses values from flags, environment and files alike."""

    def option(flag: str, title: str) -> Any:
        info = typer.Option(*short, flag, metavar=metavar, help=text, rich_help_panel=title, autocompletion=complete)
        return Annotated[list[str] | None if is_repeated else str | None, info]

    return option


def switch(text: str, *, off: bool = False) -> Option:
    """An option without a value. off: whether it is called --no-… and switches off."""

    def option(flag: str, title: str) -> Any:
        names = f" /--no-{flag.removeprefix('--')}" if off else flag
        return Annotated[bool | None, typer.Option(names, help=text, rich_help_panel=title)]

    return option


def either(off: str, text: str) -> Option:
    """A switch with a name for each of its two states. off: that of the second."""

    def option(flag: str, title: str) -> Any:
        return Annotated[bool | None, typer.Option(f"{flag}/{off}", help=text, rich_help_panel=title)]

    return option


def without(options: Options, *names: str) -> Options:
    """The same options without some."""
    return {name: kind for name, kind in options.items() if name not in names}


def unlisted(options: Options, names: Collection[str]) -> Options:
    """The same options, some of them hidden from the help; they exist only so that core can say why they cannot be
    used.
    """

    def hidden(kind: Any) -> Any:
        info = copy(kind.__metadata__[0])
        info.hidden = True
        return Annotated[kind.__origin__, info]

    return {name: hidden(kind) if name in names else kind for name, kind in options.items()}


def as_before(options: Options) -> Options:
    """The same options for a finished render, which keeps the value that it has."""

    def kept(kind: Any) -> Any:
        info = copy(kind.__metadata__[0])
        info.help = info.help.replace("default %(default)s", "default: as before")
        return Annotated[kind.__origin__, info]

    return {name: kept(kind) for name, kind in options.items()}


OTHER = "Other"
DISPLAY: Options = {
    "as_json": Annotated[
        bool, typer.Option("--json", help="Print events as JSON lines on stdout.", rich_help_panel=OTHER)
    ],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.", rich_help_panel=OTHER)],
    "verbose": Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            help="Print times and choices too; -vv adds tracebacks.",
            rich_help_panel=OTHER,
        ),
    ],
}
OFF = {"as_json": False, "quiet": False, "verbose": 0}


def takes(*panels: Options) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these options, and those for its verbosity.

    The command gets those of these that it names: `show`, the display; `flags`, the given settings, by name; `context`,
    that of typer.
    """
    settings: Options = {name: kind for options in panels for name, kind in options.items()}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters

        @wraps(command)
        def with_options(context: typer.Context, **given: Any) -> None:
            context.obj.set_level(**{name: given.pop(name) for name in DISPLAY})
            flags = {name: value for name in settings if (value := given.pop(name)) not in (None, [])}
            offered = {"show": context.obj, "flags": flags, "context": context}
            command(**given, **{name: value for name, value in offered.items() if name in own})

        def parameter(name: str, kind: Any, default: Any = None) -> inspect.Parameter:
            return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)

        words = [one for name, one in own.items() if name not in ("show", "flags", "context")]
        parameters = [
            parameter("context", typer.Context, inspect.Parameter.empty),
            *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in words),
            *(parameter(name, kind) for name, kind in settings.items()),
            *(parameter(name, kind, OFF[name]) for name, kind in DISPLAY.items()),
        ]
        with_options.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
        return with_options

    return decorate
