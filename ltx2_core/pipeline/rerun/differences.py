"""The differences between a recipe and the render from it, a line for each value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import shown
from ...types import Streams
from ..made import Made, versions
from ..request import EncodingSettings, RenderTask
from ..resolve.machine import hardware

NONE = "none"


def differences(made: Made, task: RenderTask) -> dict[str, str]:
    """Each changed value, by its name: `7 -> 8`. Empty if the result will have the same bytes."""
    now = {
        "version": {**versions()},
        "hardware": hardware(task.machine.device),
        "model": task.files.name,
        "request": task.request.model_dump(mode="json"),
        "machine": task.model_dump(mode="json", include={"machine"})["machine"],
        "output": task.output.model_dump(include={*EncodingSettings.model_fields}),
    }
    then = recorded(made)
    if made.output is None:  # older recipes contain less than present ones
        then["recipe"], now["recipe"] = "schema 2", "schema 3, which also tells hardware and codecs"
        for name in ("hardware", "output"):
            del then[name], now[name]
    old, new = dict(leaves("", then)), dict(leaves("", _by_stream(now)))
    names = dict.fromkeys((*old, *new))
    changed = [name for name in names if old.get(name) != new.get(name)]
    return {name: f"{_word(old.get(name))} -> {_word(new.get(name))}" for name in changed}


def recorded(made: Made) -> dict[str, Any]:
    """A recipe without the hashes of files, as one record."""
    stored = made.model_dump(mode="json")
    names = ("hardware", "request", "machine", "output")
    told = {"version": stored["made_with"], "model": made.model.name, **{name: stored[name] for name in names}}
    return _by_stream(told)


def _by_stream(told: dict[str, Any]) -> dict[str, Any]:
    """The same with the guidance by the names of the streams."""
    request = told["request"]
    guidance = dict(zip(Streams._fields, request["guidance"], strict=True))
    return {**told, "request": {**request, "guidance": guidance}}


def leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every value in a record, by its path from the root. Records in lists are numbered from 1."""
    parts: Mapping[Any, Any] = {}
    if isinstance(value, dict):
        parts = value
    elif isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        parts = dict(enumerate(value, 1))
    if not parts:
        yield name, value
    for key, part in parts.items():
        own = str(key) if name in ("", "request", "output") else f"{name} {key}"
        yield from leaves(own, part)


def _word(value: Any) -> str:
    if value in (None, [], {}):
        return NONE
    return shown(",".join(map(str, value)) if isinstance(value, list) else value)
