"""The command `convert`: from a bf16 checkpoint to a file of half its size."""

from __future__ import annotations

from typing import Any

import typer

import ltx2_core as core

from .display import Display
from .failures import UserStopError
from .help import PanelCommand
from .options import CONVERT, WeightsArg
from .panels import takes
from .stop import Stop


def add_convert(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command(cls=PanelCommand)(convert)


@takes(CONVERT)
def convert(file: WeightsArg, flags: dict[str, Any], show: Display) -> None:
    """Convert a bf16 checkpoint to an int8 or fp8 file, which other programs can read; -v shows the error per layer."""
    for name, option, what in (("to", "--to int8", "what is written"), ("output", "-o FILE", "where it is written")):
        if name not in flags:
            raise core.RequestError(f"{option.split()[0]} is missing", hint=f"{option} says {what}")
    conversion = core.plan_conversion(
        file,
        flags["to"],
        core.given_path(flags["output"], "-o"),
        loras=flags.get("lora", ()),
        allow_partial=bool(flags.get("allow_partial_lora")),
        overwrite=bool(flags.get("overwrite")),
    )
    for note in conversion.notes:
        show.say(note)
    with Stop(_interrupt) as stop:
        try:
            result = core.convert(conversion, core.Watch(on_event=show.event))
        except KeyboardInterrupt as stopped:
            raise UserStopError(stop.exit_code, "stopped", "nothing was written") from stopped
    show.close()
    tell(show, result)


def tell(show: Display, result: core.Converted) -> None:
    """The path of the file; its sizes and its worst layer, as a line or as facts in JSON."""
    show.file(result.path)
    layer, error = result.worst
    sizes = f"{core.show_bytes(result.before)} → {core.show_bytes(result.after)}"
    show.say(f"{result.path.name}: {sizes}, largest error {100 * error:.2f} % in {layer}")
    if show.is_json:
        facts = {"bytes_before": str(result.before), "bytes_after": str(result.after)}
        show.table("converted", {**facts, "worst_layer": layer, "worst_error": f"{error:.6f}"})


def _interrupt() -> None:
    """Stop the conversion; its file has no name yet."""
    raise KeyboardInterrupt
