"""Shells complete commands, options, names and files with the script that ltx2 provides."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHELLS = ("bash", "zsh", "fish")
# A command line, and some of the words that Tab offers at its end.
OFFERED = {
    "ltx2 t2": {"t2v"},
    "ltx2 rerun --se": {"--set"},
    "ltx2 t2v x --preset sm": {"smoke"},
    "ltx2 plan i2v x.png --res 4": {"480p", "4k"},
}
# A program for each shell: load its script, complete the line in LINE, and print the offered words, one per line.
BASH = """
source "$SCRIPT"
COMP_LINE="$LINE"; COMP_POINT=${#LINE}; read -ra COMP_WORDS <<< "$LINE"; COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_ltx2_completion ltx2 && printf '%s\\n' "${COMPREPLY[@]}"
"""
ZSH = r"""
compdef() { :; }  # with it the script says that its function completes ltx2
_arguments() {    # is given '*: :(("toy":"a summary" "other":"..."))'
  local offered=${1#*\(\(} word
  for word in ${(z)${offered%\)\)}}; do print -r -- ${${(Q)word}%%:*}; done
}
words=(${=LINE}); CURRENT=${#words}
source "$SCRIPT"
_ltx2_completion
"""
FISH = 'source "$SCRIPT"; complete --do-complete "$LINE"'


@pytest.fixture
def complete(tmp_path: Path) -> Callable[[str, str], set[str]]:
    """The completions of a shell for a line, in a separate process."""
    command = tmp_path / "bin" / "ltx2"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ltx2_cli "$@"\n')
    command.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "SCRIPT": str(tmp_path / "script"),
    }

    def offered(shell: str, line: str) -> set[str]:
        if shutil.which(shell) is None:
            pytest.skip(f"{shell} is not installed on this machine")
        source = environment | {"_LTX2_COMPLETE": f"source_{shell}"}
        script = subprocess.run([command], env=source, capture_output=True, text=True, check=True)
        Path(environment["SCRIPT"]).write_text(script.stdout)
        words = {"bash": ["--norc", "-c", BASH], "zsh": ["-f", "-c", ZSH], "fish": ["--no-config", "-c", FISH]}[shell]
        given = environment | {"LINE": line}
        done = subprocess.run([shell, *words], env=given, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return {one.partition("\t")[0] for one in done.stdout.splitlines()}

    return offered


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_offers_what_can_follow(shell: str, complete: Callable[[str, str], set[str]]) -> None:
    for line, expected in OFFERED.items():
        offered = complete(shell, line)
        assert offered >= expected, (line, offered)
        assert "--help" not in offered, line
