"""JSON Schema as far as the schemas in docs/ use it; a word that is not known here is an error, not passed over.

Source: https://json-schema.org/draft/2020-12.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}
PASSED_OVER = {"$schema", "$defs", "title", "description", "required"}  # the last one is read with properties


def read_schema(name: str) -> dict[str, Any]:
    """A schema of docs/."""
    return json.loads((DOCS / name).read_text(encoding="utf-8"))


def errors(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """What is wrong with a value, with its place in it. root: the schema that `#/$defs/…` are looked up in."""
    for word, rule in schema.items():
        if word in WORDS:
            yield from WORDS[word](value, rule, schema, root, place)
        elif word not in PASSED_OVER:
            raise ValueError(f"{word} is no word of a schema that is known here")


def _reference(value: Any, rule: str, schema: Any, root: Any, place: str) -> Iterator[str]:
    yield from errors(value, root["$defs"][rule.removeprefix("#/$defs/")], root, place)


def _type(value: Any, rule: Any, schema: Any, root: Any, place: str) -> Iterator[str]:
    if not any(TYPES[name](value) for name in ([rule] if isinstance(rule, str) else rule)):
        yield f"{place}: {value!r} is no {rule}"


def _among(value: Any, rule: list[Any], schema: Any, root: Any, place: str) -> Iterator[str]:
    if value not in rule:
        yield f"{place}: {value!r} is none of {rule}"


def _constant(value: Any, rule: Any, schema: Any, root: Any, place: str) -> Iterator[str]:
    yield from _among(value, [rule], schema, root, place)


def _least(value: Any, rule: float, schema: Any, root: Any, place: str) -> Iterator[str]:
    if TYPES["number"](value) and value < rule:
        yield f"{place}: {value} is less than {rule}"


def _properties(value: Any, rule: Mapping[str, Any], schema: Any, root: Any, place: str) -> Iterator[str]:
    if not isinstance(value, dict):
        return
    yield from (f"{place}: {name} is missing" for name in schema.get("required", []) if name not in value)
    for name, part in value.items():
        if name in rule:
            yield from errors(part, rule[name], root, f"{place}.{name}")


def _others(value: Any, rule: Any, schema: Mapping[str, Any], root: Any, place: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name in value.keys() - schema.get("properties", {}).keys():
            yield from errors(value[name], rule, root, f"{place}.{name}") if rule else [f"{place}: {name} is unknown"]


def _items(value: Any, rule: Mapping[str, Any], schema: Any, root: Any, place: str) -> Iterator[str]:
    for number, part in enumerate(value if isinstance(value, list) else []):
        yield from errors(part, rule, root, f"{place}[{number}]")


def _one_of(value: Any, rule: list[Mapping[str, Any]], schema: Any, root: Any, place: str) -> Iterator[str]:
    found = [list(errors(value, one, root, place)) for one in rule]
    if sum(not one for one in found) != 1:
        yield f"{place}: it fits {sum(not one for one in found)} of {len(rule)}; {min(found, key=len)}"


WORDS: Mapping[str, Callable[[Any, Any, Any, Any, str], Iterator[str]]] = {
    "$ref": _reference,
    "type": _type,
    "enum": _among,
    "const": _constant,
    "minimum": _least,
    "properties": _properties,
    "additionalProperties": _others,
    "items": _items,
    "oneOf": _one_of,
}
