"""The manual page belongs to this version, contains every command and option, and is valid roff."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
import typer.main

from ltx2_cli.app import SCRIPTS, app
from ltx2_core import errors
from scripts.man_page import PAGE, man_page

OF_ALL = ("--json", "--quiet", "--verbose", "--help")


def plain(page: str) -> str:
    return page.replace("\\-", "-")


def test_the_page_is_that_of_the_help() -> None:
    assert PAGE.read_text(encoding="ascii") == man_page(), "python -m scripts.man_page makes it again"


def test_every_command_and_option_is_on_the_page() -> None:
    page, group = plain(PAGE.read_text()), typer.main.get_command(app)
    commands: Any = group.commands  # pyright: ignore[reportAttributeAccessIssue]
    for name, command in commands.items():
        assert f".SS ltx2 {name} " in page, name
        _, _, rest = page.partition(f".SS ltx2 {name} ")
        own, _, _ = rest.partition(".SS ")
        shown = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
        flags = [max((*one.opts, *one.secondary_opts), key=len) for one in shown]
        assert [flag for flag in flags if flag not in own and flag not in OF_ALL] == [], name


def test_the_help_names_every_exit_code() -> None:
    kinds = [
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.LTX2Error)
    ]
    assert len(kinds) > 8
    _, _, listed = SCRIPTS.partition("Exit codes: ")
    told = {int(number) for number in re.findall(r"(\d+) [A-Za-z]", listed.partition(".\n")[0])}
    assert told == {0, 130, 143} | {kind.exit_code for kind in kinds}


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff, which formats manual pages, is not installed")
def test_groff_formats_the_page_without_a_warning() -> None:
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", PAGE], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "video" in done.stdout
