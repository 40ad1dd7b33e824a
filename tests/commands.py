"""The real command line inside the process of a test."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner, Result

from ltx2_cli.app import app


def ltx2(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], prog_name="ltx2")


def rendered(*words: object) -> Path:
    """The file that a command has made; its path is all that stdout holds."""
    result = ltx2(*words)
    assert result.exit_code == 0, result.stderr
    (path,) = result.stdout.splitlines()
    return Path(path)
