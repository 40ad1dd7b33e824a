"""How a download is shown: its plan as a table or JSON, and a bar, a line or an event for each file."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import ltx2_core as core

from .display import Display

if TYPE_CHECKING:
    from .progress import FileBars

EVERY_S = 1.0  # interval of JSON events for one file


def plan_rows(plan: core.DownloadPlan) -> dict[str, str]:
    """A plan as a table: a row for each part of the model, then the totals."""
    rows: dict[str, str] = {}
    for role in dict.fromkeys(file.role for file in plan.files):
        rows[role.replace("_", " ")] = _part([file for file in plan.files if file.role == role])
    sources = dict.fromkeys(file.reference.repository for file in plan.files)
    rows["from"] = ", ".join(f"{name} (gated)" if name in plan.gated else name for name in sources)
    about = "" if plan.is_exact else "about "
    if not plan.is_complete:
        about = "at least "
    rows["to fetch"] = f"{about}{core.show_bytes(plan.to_fetch)} into {plan.folder}"
    rows["free there"] = core.show_bytes(plan.free)
    if plan.problem is not None:
        rows["problem"] = f"it cannot be used: {plan.problem}"
    for name in plan.licences:
        state = "not accepted yet" if name in plan.to_accept else "accepted"
        licence = core.licences()[name]
        rows[f"licence {name}"] = f"{licence.name}, {state}: {licence.url}"
    return rows


def _part(files: list[core.WantedFile]) -> str:
    """One part of a model: its size, its state, and its name."""
    sizes = [file.known.size for file in files]
    about = "" if all(file.known.bytes for file in files) else "about "
    size = "size unknown" if not any(sizes) else about + core.show_bytes(sum(one or 0 for one in sizes))
    missing, begun = [file for file in files if file.found is None], sum(file.begun for file in files)
    if missing:
        state = "to fetch" if len(missing) == len(files) else f"{len(missing)} of {len(files)} to fetch"
        state += f", {core.show_bytes(begun)} of it there" * (begun > 0)
    else:
        state = "here, verified" if all(file.is_verified for file in files) else "here, not verified"
    first = files[0].reference
    name = (
        first.last
        if len(files) == 1
        else f"{core.Reference(first.repository).last}, {core.counted(len(files), 'file')}"
    )
    return f"{size}, {state}: {name}"


def plan_facts(plan: core.DownloadPlan) -> dict[str, Any]:
    """A plan for a program."""
    return {
        "name": plan.name,
        "folder": str(plan.folder),
        "to_fetch": plan.to_fetch,
        "is_exact": plan.is_exact,
        "free": plan.free,
        "gated": list(plan.gated),
        "problem": plan.problem,
        "licences": [
            {"id": name, "name": licence.name, "url": licence.url, "is_accepted": name not in plan.to_accept}
            for name in plan.licences
            for licence in (core.licences()[name],)
        ],
        "files": [
            {
                "part": file.role,
                "repository": file.reference.repository,
                "path": file.reference.path,
                "bytes": file.known.size,
                "is_exact": file.known.bytes is not None,
                "sha256": file.known.sha256,
                "target": str(file.target),
                "found": str(file.found) if file.found else None,
                "is_verified": file.is_verified,
                "begun": file.begun,
            }
            for file in plan.files
        ],
    }


class DownloadView:
    """Receives the progress of each file from several threads. total: bytes to download in all, once known."""

    def __init__(self, show: Display) -> None:
        self.show = show
        self.total = 0
        self.told: dict[tuple[str, str], float] = {}
        self.lock = threading.Lock()

    def progress(self, progress: core.FileProgress) -> None:
        key, now = (progress.action, progress.name), time.monotonic()
        is_done = progress.done >= progress.total
        with self.lock:
            is_first = key not in self.told
            if self.show.takes_bars:
                self._bars().step(progress)
            elif is_first:
                self.show.say(f"{progress.action} {progress.name}, {core.show_bytes(progress.total)}")
            if is_first or is_done or now - self.told[key] >= EVERY_S:
                self.told[key] = now
                self.show.step_of_file(progress)

    def _bars(self) -> FileBars:
        from .progress import FileBars  # this imports rich, which is only needed on a terminal

        if not isinstance(self.show.bars, FileBars):
            self.show.bars = FileBars(self.total)
        return self.show.bars
