"""Text that is wrapped between words, and never inside one: a path or an option can be copied whole."""

from __future__ import annotations

import textwrap


def wrapped(text: str, columns: int, indent: str = "") -> str:
    """A text in lines of some columns. indent: before every line but the first."""
    lines = textwrap.wrap(
        text, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )
    return "\n".join(lines)
