"""The user's prompt: a text, `-` for standard input, or `@FILE`.

Source: docs/cli.md, "Prompts".
"""

from __future__ import annotations

import sys

from ...disk import disk_hint, disk_reason, no_file
from ...errors import RequestError
from ...paths import input_path

LARGEST_BYTES = 2**20
IN_A_FILE, IN_STDIN = "@", "-"


def read_prompt(text: str) -> str:
    """The prompt of an argument. Raises: RequestError if its file or standard input cannot be read."""
    if text == IN_STDIN:
        return _decoded("standard input", sys.stdin.buffer.read(LARGEST_BYTES + 1))
    if not text.startswith(IN_A_FILE):
        return text
    path = input_path(text.removeprefix(IN_A_FILE), "PROMPT @FILE")
    what, hint = f"the prompt {text} cannot be read", "a prompt that begins with @ itself needs a space before it"
    if why := no_file(path):
        raise RequestError(what, why, hint)
    try:
        with path.open("rb") as file:
            return _decoded(text, file.read(LARGEST_BYTES + 1))
    except OSError as error:
        raise RequestError(what, disk_reason(error), disk_hint(error, hint)) from error


def _decoded(name: str, content: bytes) -> str:
    what = f"the prompt in {name.removeprefix(IN_A_FILE)} cannot be used"
    if len(content) > LARGEST_BYTES:
        raise RequestError(what, "it is longer than 1 MB", "give a shorter one")
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise RequestError(what, "it is not text in UTF-8", "save it in UTF-8") from error
