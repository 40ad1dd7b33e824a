"""The command `doctor`: what this machine is like, and what it can do."""

from __future__ import annotations

import typer

import ltx2_core as core

from .display import Display
from .help import PanelCommand
from .options import takes


def add_doctor(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command(cls=PanelCommand)(takes()(doctor))


def doctor(show: Display) -> None:
    """Show what this machine is like and can do, and a block to paste into a bug report."""
    examine(show)


def examine(show: Display) -> None:
    """One table; then what the card computes, which takes torch; then the block. In JSON all of it at once."""
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
