"""Make the manual page, docs/ltx2.1, from the same texts as the help.

    python -m scripts.man_page

Source: man-pages(7) and groff_man(7), which describe the format of such a page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from ltx2_cli.app import SCRIPTS, app
from ltx2_cli.help import LAST, TOPICS, panels_of

PAGE = Path(__file__).parents[1] / "docs" / "ltx2.1"
FILES = {
    "./ltx2.yaml": "Settings and presets of a project.",
    "LTX2_HOME/config.yaml": "Settings and presets of a person.",
    "LTX2_HOME/models": "Models that are installed.",
    "OUTPUT.job": "The folder of a render that is not finished; ltx2 resume continues it.",
}
HOME = "The folder for models, caches and config.yaml; default: the user's data folder of the system, below it ltx2."
SETTING = "The setting NAME, such as LTX2_STEPS=30; the command line wins over it."


def man_page() -> str:
    """The whole page, as roff. It does not depend on the machine or the time."""
    group: Any = typer.main.get_command(app)
    with group.make_context("ltx2", [], resilient_parsing=True) as context:
        return "\n".join(_lines(group, context)) + "\n"


def _lines(group: Any, context: Any) -> Iterator[str]:
    yield '.\\" made of the help of ltx2 by python -m scripts.man_page'
    yield '.TH LTX2 1 "" "ltx2" "User Commands"'
    yield from (".SH NAME", f"ltx2 \\- {_roff(group.help[0].lower() + group.help[1:].rstrip('.'))}")
    yield from (".SH SYNOPSIS", ".B ltx2", ".I COMMAND", "[OPTIONS]")
    about, _, example = SCRIPTS.partition("\n\n")
    yield from (".SH DESCRIPTION", _roff(group.help), ".PP", _roff(about))
    yield from (".PP", ".nf", f".B {_roff(example)}", ".fi")
    yield ".SH OPTIONS"
    every = _of_every_command(context)
    yield from (row for option in panels_of(group, context)[LAST] if option not in every for row in _row(*option))
    yield from (".PP", "Every command also takes:")
    yield from (row for option in every for row in _row(*option))
    yield ".SH COMMANDS"
    for name, command in group.commands.items():
        yield from _command(f"ltx2 {name}", command, context, name)
    for title, text in TOPICS.items():
        yield from (f".SH {title.upper()}", _roff(text))
    yield ".SH ENVIRONMENT"
    yield from _row("LTX2_HOME", HOME)
    yield from _row("LTX2_NAME", SETTING)
    yield ".SH FILES"
    for name, text in FILES.items():
        yield from _row(name, text)


def _command(title: str, command: Any, above: Any, name: str) -> Iterator[str]:
    """A command with its options by panel; for a group of commands, also its subcommands."""
    context = type(above)(command, info_name=name, parent=above)
    words = " ".join(command.collect_usage_pieces(context))
    yield from (f".SS {_roff(f'{title} {words}')}", _roff(command.help or ""))
    for panel, rows in _own_panels(command, context, above, name).items():
        if rows:
            yield from (".PP", f".I {_roff(panel)}")
        for option, text in rows:
            yield from _row(option, text)
    for inner, one in getattr(command, "commands", {}).items():
        yield from _command(f"{title} {inner}", one, context, inner)


def _own_panels(command: Any, context: Any, above: Any, name: str) -> dict[str, list[tuple[str, str]]]:
    """The panels of a command without the options that every command has and, for `plan`, without those of the planned
    command.
    """
    outer = above.parent
    shared = {*_of_every_command(above if outer is None else outer)}
    if outer is not None and name in outer.command.commands:
        twin = outer.command.commands[name]
        known = panels_of(twin, type(above)(twin, info_name=name, parent=outer))
        shared |= {row for rows in known.values() for row in rows}
    return {title: [row for row in rows if row not in shared] for title, rows in panels_of(command, context).items()}


def _of_every_command(context: Any) -> list[tuple[str, str]]:
    """The options that every command has. context: the context of the group of all commands."""
    plainest = context.command.commands["presets"]
    return panels_of(plainest, type(context)(plainest, info_name="presets", parent=context))[LAST]


def _row(name: str, text: str) -> tuple[str, str, str]:
    return ".TP", f".B {_roff(name)}", _roff(text)


def _roff(text: str) -> str:
    """A text on one line, in which roff control characters and characters outside ASCII are escaped."""
    words = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    words = words.replace('"', "\\(dq")  # roff would drop a quote at the beginning of a word
    words = re.sub(r"[^\x00-\x7f]", lambda found: f"\\[u{ord(found[0]):04X}]", words)
    return f"\\&{words}" if words.startswith(".") else words


if __name__ == "__main__":
    PAGE.write_text(man_page(), encoding="ascii")
