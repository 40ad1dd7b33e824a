"""The command `plan`: the costs of a render, phase by phase, without rendering and without weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Annotated, Any

import typer

import ltx2_core as core

from .display import USUAL, Display
from .help import PanelCommand, PanelGroup
from .modes import COMMANDS, EPILOG, Asked, ModeCommand
from .options import PLAN, ConfigOpt, MaybePromptArg
from .panels import takes

MOST_VRAM_GB = 1000
TERA = 1e12
COLUMNS = ("phase", "VRAM", "RAM", "disk", "TFLOP", "seconds")


def add_plan(app: typer.Typer) -> None:
    """Add the command, with a subcommand for each mode, to an app."""
    plan = typer.Typer(
        name="plan",
        cls=PanelGroup,
        help="Show what a render would take, phase by phase, and whether it fits; no weights are needed.",
        rich_markup_mode=None,
    )
    for name, row in COMMANDS.items():
        command = _command(name, row)
        command.__name__, command.__doc__ = name, f"Plan: {row.summary[0].lower()}{row.summary[1:]}"
        plan.command(name, cls=PanelCommand, epilog=EPILOG)(takes(PLAN, *row.panels)(command))
    app.add_typer(plan)


def _command(name: str, row: ModeCommand) -> Callable[..., None]:
    def planned(show: Display, flags: dict[str, Any], prompt: str, config: Path | None, main: Path | None) -> None:
        vram, explains = _gigabytes(flags.pop("vram", None)), flags.pop("explain", False)
        asked = Asked(mode=name, prompt=prompt, flags=flags, config=config, main=main)
        planning = core.plan_render(*asked.arguments, vram_gb=vram)
        show_planning(show, planning, explains=explains)

    if row.main is None:

        def from_prompt(
            flags: dict[str, Any], show: Display, prompt: MaybePromptArg = "", config: ConfigOpt = None
        ) -> None:
            planned(show, flags, prompt, config, None)

        return from_prompt

    def from_main(
        flags: dict[str, Any],
        show: Display,
        main: Path | None = None,
        prompt: MaybePromptArg = "",
        config: ConfigOpt = None,
    ) -> None:
        planned(show, flags, prompt, config, main)

    from_main.__annotations__["main"] = _optional(row.main)
    return from_main


def _optional(argument: Any) -> Any:
    """The same argument, made optional."""
    info = copy(argument.__metadata__[0])
    info.metavar = f"[{info.metavar}]"
    return Annotated[Path | None, info]


def _gigabytes(text: str | None) -> int | None:
    """The number of `--vram`. Raises: RequestError for what is not a number."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) <= MOST_VRAM_GB):
        raise core.RequestError(f"--vram {text} cannot be used", "it is a whole number of GB", "--vram 12")
    return int(text)


def show_planning(show: Display, planning: core.Planning, *, explains: bool) -> None:
    """The resolved settings, the table, and where settings come from.

    Raises: DoesNotFitError, after the table, if the render does not fit.
    """
    plan, resolved = planning.plan, planning.resolved
    show.request(resolved, advice_level=USUAL)
    if explains:
        show.table("settings", {name: f"{value}" for name, value in resolved.sources.items()})
    if show.is_json:
        show.costs(plan)
    else:
        show.text(*_lines(plan))
        show.text(*_remarks(planning))
    if not plan.fits:
        hint = " or ".join(planning.nearest) or "another --model, or a smaller --res"
        raise core.DoesNotFitError("this does not fit", plan.lack, hint)


def _lines(plan: core.Plan) -> list[str]:
    """The table: a row for each phase, the peak marked."""
    about, peak = "~" * plan.is_assumed, plan.peak
    lines: list[tuple[str, ...]] = [COLUMNS]
    marks = [""]
    for row in plan.rows:
        vram = "-" if row.vram is None else about + core.gigabytes(row.vram)
        seconds = "-" if row.seconds is None else f"{'~' * row.is_estimate}{row.seconds:,.1f}"
        disk = core.show_bytes(row.disk) if row.disk else "-"
        ram = about * (row.vram is None) + core.gigabytes(row.ram)  # without a GPU the models are there
        lines.append((row.name, vram, ram, disk, f"{row.flops / TERA:,.1f}", seconds))
        marks.append(" <- peak" * (row is peak))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [_line(cells, widths) + mark for cells, mark in zip(lines, marks, strict=True)]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Cells as a line, the first one aligned to the left."""
    aligned = [f"{cell:>{width}}" for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "  ".join([f"{cells[0]:{widths[0]}}", *aligned])


def _remarks(planning: core.Planning) -> list[str]:
    """The available memory, the machine's choices, and the precision of the figures."""
    plan, machine = planning.plan, planning.resolved.task.machine
    room = "" if plan.vram is None else f"{core.gigabytes(plan.vram)} of the card can be used; "
    mode = f"memory mode {machine.memory}"
    if machine.memory == "streamed":
        mode += f", {core.counted(machine.resident_blocks, 'block')} stay{'s' * (machine.resident_blocks == 1)}"
    if machine.ranks > 1:
        mode += f"; {machine.ranks} ranks, each with the weights on a device of its own"
    lines = [f"{room}{mode}"]
    if plan.is_assumed:
        lines.append("~: files of the model are not here; their sizes are those of the release")
    sources = {row.source: row.is_estimate for row in plan.rows if row.seconds is not None}
    lines += [f"{'~ ' * is_estimate}seconds: {source}" for source, is_estimate in sources.items()]
    return lines
