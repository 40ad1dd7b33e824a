"""The command `report`: a page about an existing file or batch."""

from __future__ import annotations

from typing import Any

import typer

import ltx2_core as core

from .display import Display
from .help import PanelCommand
from .options import REPORTED, ReportedArg
from .panels import takes


def add_report(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command(cls=PanelCommand)(report)


@takes(REPORTED)
def report(what: ReportedArg, flags: dict[str, Any], show: Display) -> None:
    """Write an HTML page about a clip, or about all results of a batch: to play, compare and pick."""
    overwrites = bool(flags.get("overwrite"))
    page = core.write_report(what, core.Watch(on_event=show.event), overwrite=overwrites)
    show.close()
    show.file(page)
