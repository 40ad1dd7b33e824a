"""What differs between a recipe and what is rendered from it now, a line for each value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import shown
from ...types import Streams
from ..made import Made, versions
from ..request import RenderTask
from ..resolve.machine import hardware

NONE = "none"


def differences(made: Made, task: RenderTask) -> dict[str, str]:
    """Each value that is another one, by its name: `7 -> 8`. Empty where the result will have the same bytes."""
    now = {
        "version": {**versions()},
        "hardware": hardware(task.machine.device),
        "model": task.files.name,
        "request": task.request.model_dump(mode="json"),
        "machine": task.model_dump(mode="json", include={"machine"})["machine"],
    }
    stored = made.model_dump(mode="json")
    then = {
        "version": stored["made_with"],
        "hardware": made.hardware,
        "model": made.model.name,
        "request": stored["request"],
        "machine": stored["machine"],
    }
    if made.output is None:  # older recipes tell less than is written now
        then["recipe"], now["recipe"] = "schema 2", "schema 3, which also tells hardware and codecs"
        del then["hardware"], now["hardware"]
    else:
        then["output"] = stored["output"]
        now["output"] = task.output.model_dump(include={*stored["output"]})
    for record in (then, now):
        record["request"] |= {"guidance": dict(zip(Streams._fields, record["request"]["guidance"], strict=True))}
    old, new = dict(_leaves("", then)), dict(_leaves("", now))
    names = dict.fromkeys((*old, *new))
    changed = [name for name in names if old.get(name) != new.get(name)]
    return {name: f"{_word(old.get(name))} -> {_word(new.get(name))}" for name in changed}


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every value in a record, by its name from the root on. Records in lists are numbered from 1."""
    parts: Mapping[Any, Any] = {}
    if isinstance(value, dict):
        parts = value
    elif isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        parts = dict(enumerate(value, 1))
    if not parts:
        yield name, value
    for key, part in parts.items():
        own = str(key) if name in ("", "request", "output") else f"{name} {key}"
        yield from _leaves(own, part)


def _word(value: Any) -> str:
    if value in (None, "", [], {}):
        return NONE
    return shown(",".join(map(str, value)) if isinstance(value, list) else value)
