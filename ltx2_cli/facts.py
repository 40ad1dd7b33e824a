"""Facts about a file as rows that a person can read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

TEXTS = ("prompt", "negative", "comment")  # what a person wrote, even where it looks like a record
LONGEST_TEXT = 56  # beside the names of a recipe's settings it fits 80 columns


def readable(facts: Mapping[str, str], *, is_whole: bool) -> dict[str, str]:
    """A row per setting and per record inside it: `guidance 1` is the first. is_whole: long texts are not cut."""
    rows: dict[str, str] = {}
    for name, text in facts.items():
        rows |= _rows(name, _parsed(name, text), None if is_whole else LONGEST_TEXT)
    return rows


def _parsed(name: str, text: str) -> Any:
    """The record or the list that a text holds, else the text."""
    if name in TEXTS or not text.startswith(("{", "[")):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _rows(name: str, value: Any, longest: int | None) -> Iterator[tuple[str, str]]:
    if _is_plain(value):
        text = _word(value)
        yield name, text if longest is None or len(text) <= longest else text[: longest - 1] + "…"
        return
    parts = value.items() if isinstance(value, dict) else enumerate(value, 1)
    said = [(key, part) for key, part in parts if part not in (None, [], {})]
    if isinstance(value, dict) and all(_is_plain(part) for _, part in said):
        yield name, ", ".join(f"{key} {_word(part)}" for key, part in said)
        return
    for key, part in said:
        yield from _rows(f"{name} {key}", part, longest)


def _is_plain(value: Any) -> bool:
    """Whether it is a single value or a list of such."""
    return not any(isinstance(one, dict | list) for one in (value if isinstance(value, list) else [value]))


def _word(value: Any) -> str:
    """A plain value as on the command line."""
    if isinstance(value, list):
        return ",".join(map(_word, value))
    return value if isinstance(value, str) else json.dumps(value)
