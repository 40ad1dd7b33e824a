"""Where the files go that a render writes beside its result, and the command that continues it."""

from __future__ import annotations

import shlex
from pathlib import Path


def sheet_of(target: Path) -> Path:
    """Where the contact sheet of a file goes."""
    return target.with_suffix(".png")


def report_of(target: Path) -> Path:
    """Where the report on a file goes."""
    return target.with_suffix(".html")


def beside_of(target: Path, *, sheet: bool | None, report: bool | None) -> list[Path]:
    """Where the contact sheet and the report on a file go, as far as they are wanted."""
    wanted = {sheet_of(target): sheet, report_of(target): report}
    return [path for path, is_wanted in wanted.items() if is_wanted]


def stills_of(target: Path, count: int) -> list[Path]:
    """Where the keyframes go that were generated beside a clip."""
    return [target.with_name(f"{target.stem}-keyframe-{number}.png") for number in range(1, count + 1)]


def lies_beside(folder: Path, target: Path) -> bool:
    """Whether the name of a job folder and a target are in one folder."""
    return folder.absolute().parent.resolve() == target.absolute().parent.resolve()


def resume_command(folder: Path, target: Path) -> str:
    """The command that goes on with a render; it says where the result goes if that is not beside the folder."""
    command = f"ltx2 resume {shlex.quote(str(folder))}"
    return command if lies_beside(folder, target) else f"{command} -o {shlex.quote(str(target))}"
