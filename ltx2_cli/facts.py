"""Facts about a file as readable rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

TEXTS = ("prompt", "negative", "comment")  # texts of a person, even if they look like a record
LONGEST_TEXT = 56  # longest such text; with the name of a setting it fits 80 columns


def readable(facts: Mapping[str, str], *, is_whole: bool) -> dict[str, str]:
    """A row per setting and per record inside it: `guidance 1` is the first.

    Args: is_whole: whether texts written by a person are complete, however long. All other texts always are.
    """
    rows: dict[str, str] = {}
    for name, text in facts.items():
        is_cut = name in TEXTS and not is_whole and len(text) > LONGEST_TEXT
        rows |= {name: text[: LONGEST_TEXT - 1] + "…"} if is_cut else _rows(name, _parsed(name, text))
    return rows


def _parsed(name: str, text: str) -> Any:
    """The record or the list in a text, else the text."""
    if name in TEXTS or not text.startswith(("{", "[")):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _rows(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if _is_plain(value):
        yield name, _word(value)
        return
    parts = value.items() if isinstance(value, dict) else enumerate(value, 1)
    said = [(key, part) for key, part in parts if part not in (None, [], {})]
    if isinstance(value, dict) and all(_is_plain(part) for _, part in said):
        yield name, ", ".join(f"{key} {_word(part)}" for key, part in said)
        return
    for key, part in said:
        yield from _rows(f"{name} {key}", part)


def _is_plain(value: Any) -> bool:
    """Whether it is a single value or a list of such."""
    return not any(isinstance(one, dict | list) for one in (value if isinstance(value, list) else [value]))


def _word(value: Any) -> str:
    """A plain value as on the command line."""
    if isinstance(value, list):
        return ",".join(map(_word, value))
    return value if isinstance(value, str) else json.dumps(value)
