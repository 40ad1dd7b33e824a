"""Failures that are not errors of core, in the same three lines: what, why, hint."""

from __future__ import annotations

import platform
import secrets
import shlex
import sys
import tempfile
import time
import traceback
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

import ltx2_core as core

NEAR = 0.75  # similarity from which an option is suggested; 1 means equal
LONGEST = 300  # longest message in characters


class UserStopError(core.LTX2Error):
    """The user stopped the command, which is not an error. what: its progress. command: the one that continues."""

    def __init__(self, exit_code: int, what: str = "stopped", why: str = "", command: str = "") -> None:
        super().__init__(what, why, command)
        self.exit_code = exit_code

    @classmethod
    def at_once(cls, exit_code: int, job_dir: Path | None, command: str) -> UserStopError:
        """A render that was stopped in the middle of a step. job_dir: the folder with finished stages, if there are
        any.
        """
        if job_dir is None or not job_dir.is_dir():
            return cls(exit_code)
        why = "nothing of the stage that was running is kept"
        return cls(exit_code, "stopped at once", why, f"{command} starts it again")


def wrong_usage(error: typer.TyperException, usual_hint: str) -> core.RequestError:
    """A command line that cannot be parsed: an unknown option or command, too many arguments or too few."""
    message = error.format_message().replace("argument(s)", "argument")
    what, _, hint = message.partition(" (Possible options: ")[0].rstrip(".").partition(". ")
    name = getattr(error, "option_name", "").lstrip("-")  # the option does not exist
    known = {one.lstrip("-"): one for one in getattr(error, "possibilities", None) or ()}
    near = [known[one] for one in get_close_matches(name, known, n=2, cutoff=NEAR)]
    context: Any = getattr(error, "ctx", None)
    if owners := _owners(name, context):
        hint = f"--{name} belongs to {', '.join(owners)}"
        if _takes_changes_of(name, context.command):
            hint = f"--set {name}=VALUE changes it"
    elif near:
        hint = f"did you mean {' or '.join(near)}?"
    elif "extra argument" in what and any(one.name == "prompt" for one in context.command.params):
        hint = "a text of several words needs quotes"
    elif not hint:
        hint = usual_hint
    if len(what) > LONGEST:
        what = what[: LONGEST - 1] + "…"
    return core.RequestError(what[:1].lower() + what[1:], hint=hint[:1].lower() + hint[1:])


def _owners(option: str, context: Any) -> list[str]:
    """The commands with an option that this one lacks."""
    if not option or context is None or context.parent is None:
        return []
    commands = context.find_root().command.commands
    return [name for name, command in commands.items() if _has(command, f"--{option}")]


def _takes_changes_of(setting: str, command: Any) -> bool:
    """Whether a command changes a setting with `--set` that is an option of others."""
    if not _has(command, "--set"):
        return False
    try:
        return bool(core.parse_changes([f"{setting}="]))
    except core.RequestError:
        return False


def _has(command: Any, option: str) -> bool:
    """Whether the help of a command lists an option."""
    return any(
        option in (*one.opts, *one.secondary_opts) and not getattr(one, "hidden", False) for one in command.params
    )


def is_stop(error: BaseException | None) -> bool:
    """Whether an exception was caused by the user's stop, for example in an interrupted import."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def crash(error: Exception, arguments: list[str]) -> core.LTX2Error:
    """An unexpected failure: an error of the disk, or a bug, whose traceback is written to a file unchanged."""
    if refused := core.disk_failure(error):
        return refused
    path = _crash_folder() / time.strftime(f"crash-%Y%m%d-%H%M%S-{secrets.token_hex(3)}.txt")
    facts = (f"ltx2 {core.__version__}, Python {sys.version}, {platform.platform()}", shlex.join(["ltx2", *arguments]))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "\n".join((*facts, "", *traceback.format_exception(error)))
        with path.open("x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        why, hint = f"where it happened, and your command with its prompt, are in {path}", "please report it"
    except OSError as unwritable:
        why, hint = f"and {path} cannot be written: {core.disk_reason(unwritable)}", "-vv shows where it happened"
    cause = " ".join(f"{type(error).__name__}: {error}".split())
    failure = core.LTX2Error(f"internal error: {cause}", why, hint)
    failure.__cause__ = error
    return failure


def _crash_folder() -> Path:
    """The folder of this program, or the one for temporary files if LTX2_HOME is not valid."""
    try:
        return core.ltx2_home()
    except core.RequestError:
        return Path(tempfile.gettempdir())
