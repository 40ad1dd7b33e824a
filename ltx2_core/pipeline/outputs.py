"""The paths of the files beside a result, and the command that resumes a render."""

from __future__ import annotations

from pathlib import Path

from ..paths import in_shell


def sheet_of(target: Path) -> Path:
    """The path of the contact sheet of a file."""
    return target.with_suffix(".png")


def report_of(target: Path) -> Path:
    """The path of the report on a file."""
    return target.with_suffix(".html")


def beside_of(target: Path, *, sheet: bool | None, report: bool | None) -> list[Path]:
    """The paths of the contact sheet and the report on a file, if they are requested."""
    wanted = {sheet_of(target): sheet, report_of(target): report}
    return [path for path, is_wanted in wanted.items() if is_wanted]


def stills_of(target: Path, count: int) -> list[Path]:
    """The paths of the stills of generated keyframes."""
    return [target.with_name(f"{target.stem}-keyframe-{number}.png") for number in range(1, count + 1)]


def lies_beside(folder: Path, target: Path) -> bool:
    """Whether a job folder and a target are in the same folder."""
    return folder.absolute().parent.resolve() == target.absolute().parent.resolve()


def resume_command(folder: Path, target: Path) -> str:
    """The command that resumes a render, with the target if that is not beside the folder."""
    command = f"ltx2 resume {in_shell(folder)}"
    return command if lies_beside(folder, target) else f"{command} -o {in_shell(target)}"
