"""Text for the terminal: results on stdout, everything else on stderr."""

from __future__ import annotations

import unicodedata

import typer

import ltx2_core as core

HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, format characters such as bidi marks, surrogates, separators


def visible(text: str) -> str:
    r"""Text from a file, a prompt or the system with every character that could act on the terminal shown as \x1b."""
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in HIDDEN else char for char in text
    )


def show_rows(title: str, rows: dict[str, str]) -> None:
    """Print a title and a small table of facts."""
    typer.echo(visible(title))
    width = max(map(len, rows))
    for name, value in rows.items():
        typer.echo(f"  {name:{width}}  {visible(value)}")


def show_error(error: core.LTX2Error) -> None:
    """Print what went wrong, why, and what to do about it, a line each."""
    hint = f"hint: {error.hint}" if error.hint else ""
    for line in (f"error: {error.what}", error.why, hint):
        if line:
            typer.echo(visible(line), err=True)
