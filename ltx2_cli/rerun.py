"""The command `rerun`: render a finished file again from its recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import typer

import ltx2_core as core

from .display import Display
from .downloads import confirm
from .help import PanelCommand
from .modes import TAKES
from .options import REPORT, RERUN, RERUN_TARGET, ResultArg
from .panels import takes

EPILOG = """\
KEY is the name of an option of a render, such as steps, or prompt, or input, which is the file that the render starts
from."""


def add_rerun(app: typer.Typer, render: Callable[[Display, core.Resolved], None]) -> None:
    """Add the command to an app. render: renders a request unless its result exists already."""

    @app.command(cls=PanelCommand, epilog=EPILOG)
    @takes(RERUN, RERUN_TARGET, REPORT)
    def rerun(file: ResultArg, flags: dict[str, Any], show: Display) -> None:
        """Render a finished file again from its recipe; on the machine that made it, with the same bytes."""
        changes = core.parse_changes(flags.pop("set", ()))
        given = [core.input_path(path, "--input", core.MediaError) for path in flags.pop("input", ())]
        is_agreed = flags.pop("yes", False)
        found = core.read_recipe(file)
        if not found.is_own:
            show.recipe(found)
            confirm(f"{file} was not made on this machine: render it?", "--yes", is_given=is_agreed)
        _refuse_of_other_modes(changes, found.made.request.mode)
        again = core.resolve_again(found, changes, flags, given)
        show.differences(file, again.differences)
        render(show, again.resolved)


def _refuse_of_other_modes(changes: Iterable[str], mode: str) -> None:
    """Raises: RequestError for a changed setting that is an option of other modes only."""
    for name in changes:
        owners = [other for other, names in TAKES.items() if name in names]
        if owners and mode not in owners:
            why = f"it is an option of {', '.join(owners)}, and the file was made by {mode}"
            raise core.RequestError(f"--set {name} cannot be used", why, "leave it out")
