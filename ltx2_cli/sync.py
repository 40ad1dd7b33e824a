"""The command `sync`: whether audio and motion of a clip are in sync."""

from __future__ import annotations

import typer

import ltx2_core as core

from .display import Display
from .help import PanelCommand
from .options import ClipArg
from .panels import takes


def add_sync(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command(cls=PanelCommand)(sync)


@takes()
def sync(file: ClipArg, show: Display) -> None:
    """Measure how well audio and motion of a clip agree: which comes first, by how much, and how certain that is."""
    watch = core.Watch(on_event=show.event) if show.takes_bars else core.Watch()
    found = core.sync_of(file, watch)
    show.close()
    show.measured(file.name, rows(found), **numbers(found))


def rows(found: core.Sync) -> dict[str, str]:
    """The result as text rows."""
    told = {"lag": found.verdict}
    if not found.problem:
        told["agreement"] = f"{found.agreement:.2f} as it is, {found.best:.2f} at that lag; 1 is the most"
        told["confidence"] = f"{found.confidence:.2f}, {'clear' if found.is_clear else 'not clear'}"
    return told | {"looked at": f"{core.counted(found.frames, 'frame')}, {found.seconds:.2f} s"}


def numbers(found: core.Sync) -> dict[str, float | int | str | bool | None]:
    """The result as JSON values."""

    def rounded(value: float | None, places: int) -> float | None:
        return None if value is None else round(value, places)

    return {
        "lag_ms": None if found.lag_s is None else round(found.lag_s * 1000),
        "agreement": rounded(found.agreement, 4),
        "best": rounded(found.best, 4),
        "confidence": rounded(found.confidence, 4),
        "is_clear": found.is_clear,
        "frame_ms": None if found.frame_s is None else round(found.frame_s * 1000, 3),
        "frames": found.frames,
        "seconds": round(found.seconds, 3),
        "problem": found.problem or None,
    }
