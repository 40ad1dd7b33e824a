"""The command `doctor`: facts about this machine, and what it can do."""

from __future__ import annotations

from typing import Annotated

import typer

import ltx2_core as core

from .display import Display
from .help import PanelCommand
from .panels import takes

TryOpt = Annotated[
    str | None,
    typer.Option(
        "--try",
        metavar="NAME|FILE|FOLDER",
        rich_help_panel="Measurements",
        help="Render two steps with an installed model, and report time and memory.",
    ),
]
TuneOpt = Annotated[
    bool,
    typer.Option(
        "--tune", rich_help_panel="Measurements", help="Measure what is fastest on this machine; later renders use it."
    ),
]


def add_doctor(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command(cls=PanelCommand)(takes()(doctor))


def doctor(show: Display, model: TryOpt = None, tune: TuneOpt = False) -> None:
    """Show facts about this machine and what it can do, with a block to paste into a bug report."""
    if model is not None and tune:
        raise core.RequestError("--try and --tune cannot be used together", "each takes its time", "give one")
    if model is not None:
        prove(show, model)
    elif tune:
        measure(show)
    else:
        examine(show)


def examine(show: Display) -> None:
    """One table; then what the GPU can compute, which imports torch; then the block. With --json all of it at once."""
    found = core.diagnose()
    if not show.is_json:
        show.table("this machine", found.rows)
    whole = core.try_devices(found) if found.devices else found
    if show.is_json:
        show.table("this machine", {**whole.rows, "report": whole.report})
        return
    tried = {name: value for name, value in whole.rows.items() if name not in found.rows}
    if tried:
        show.table("tried on the card", tried)
    show.text("", "to paste into a bug report; names and paths are removed:", *whole.report.splitlines())


def prove(show: Display, model: str) -> None:
    """Whether a model works, and the block about it."""
    found = core.try_model(model, core.gather({}), core.Watch(on_event=show.event))
    show.close()
    if show.is_json:
        show.table(f"tried {model}", {**found.rows, "report": found.report})
    show.text("to post with your result; names and paths are removed:", *found.report.splitlines())


def measure(show: Display) -> None:
    """What is fastest, and the path of the result."""
    tuning = core.tune(tell=show.say)
    show.table("measured", {**tuning.rows, "kept in": str(core.write_tuning(tuning))})
