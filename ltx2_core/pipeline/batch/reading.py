"""Read files of jobs: text, YAML, JSON lines and CSV. Every mistake is reported with its line.

Source: docs/batch.md, "Files of jobs".
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import LTX2Error, RequestError, json_reason, shown
from ...yaml_file import Written, WrittenList, read_text, read_yaml_value
from ..values import counted, did_you_mean, first_twin
from .picks import PickedDrafts, picked_batch

MOST_JOBS = 10_000
LARGEST_BYTES = 16 * 2**20
MOST_YAML_VALUES = 500_000
JOBS, DEFAULTS = "jobs", "defaults"  # keys of a YAML file that is a mapping
COMMENT = "#"


@dataclass(frozen=True, slots=True)
class RawJob:
    """A job as written in a file.

    Args: place: its location. keys: its own. defaults: those of the file, below its own. is_pick: whether it was
    rendered as a draft; its prompt is then used word for word.
    """

    place: str
    keys: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    is_pick: bool = False


Entry = RawJob | tuple[str, LTX2Error]  # a job, or the place of an unreadable job and the error


def read_jobs(path: Path) -> list[Entry]:
    """The jobs of a file, in its order. The suffix decides its format.

    Raises: RequestError for a file that cannot be read, that contains no job, or more than 10,000.
    """
    suffix = path.suffix.lower()
    if suffix not in READERS:
        hint = f"its name must end in {', '.join(READERS)}; - reads JSON lines from standard input"
        why = "its name does not say what it holds" if path.exists() else "there is no such file"
        raise RequestError(f"{path} cannot be read", "it is a folder" if path.is_dir() else why, hint)
    found: list[Entry] = []
    for entry in READERS[suffix](path):
        if len(found) == MOST_JOBS:
            why, hint = f"it holds more than {MOST_JOBS:,} jobs", "split it into several files"
            raise RequestError(f"{path} cannot be used", why, hint)
        found.append(entry)
    if not found:
        raise RequestError(f"{path} holds no jobs", hint=f"write one: {EXAMPLES[suffix]}")
    return found


def _text_of(path: Path) -> str:
    text = read_text(path, LARGEST_BYTES)
    if "\0" in text:
        raise RequestError(f"{path} cannot be read", "it is not text in UTF-8", "save it in UTF-8")
    return text


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """The location and the text of every line that is not blank, with any kind of line ending."""
    for number, line in enumerate(io.StringIO(_text_of(path), newline=None), 1):
        if text := line.strip():
            yield f"{path}, line {number}", text


def _from_text(path: Path) -> Iterator[Entry]:
    """A prompt from every line that is not a comment, or a pick."""
    lines = ((place, text) for place, text in _lines(path) if not text.startswith(COMMENT))
    batch = picked_batch(path)
    return (RawJob(place, {"prompt": text}) for place, text in lines) if batch is None else _picks(path, batch, lines)


def _picks(path: Path, batch: str, lines: Iterable[tuple[str, str]]) -> Iterator[Entry]:
    """The full job of every draft that was picked."""
    drafts = PickedDrafts(path, batch)
    for place, text in lines:
        try:
            yield RawJob(place, *drafts.full_job(text), is_pick=True)
        except LTX2Error as error:
            yield place, error


def _from_json_lines(path: Path) -> Iterator[Entry]:
    """A job from every line."""
    for place, text in _lines(path):
        try:
            yield RawJob(place, _spelled(json_object(text)))
        except LTX2Error as error:
            yield place, error


def json_object(text: str) -> dict[str, Any]:
    """The JSON object of a line. Raises: RequestError for anything else, and for a repeated name."""
    what, hint = "this line cannot be read", 'write one object a line: {"prompt": "a lamp blinks"}'
    try:
        content = json.loads(text, object_pairs_hook=_without_twins, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(what, json_reason(error), hint) from error
    if not isinstance(content, dict):
        raise RequestError(what, "it is not an object", hint)
    return content


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if (twin := first_twin(name for name, _ in pairs)) is not None:
        raise ValueError(f"{shown(twin)} is in it twice")
    return dict(pairs)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a finite number")


def _from_csv(path: Path) -> Iterator[Entry]:
    """A job from every row below the first, which names the keys; an empty cell sets nothing."""
    reader = csv.reader(io.StringIO(_text_of(path), newline=""), strict=True)
    names: list[str] | None = None
    while True:
        place = f"{path}, line {reader.line_num + 1}"
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            raise RequestError(f"{path} cannot be read", f"line {reader.line_num}: {error}", CSV_HINT) from error
        if not any(cells):
            continue
        if names is None:
            while not cells[-1]:  # spreadsheets save empty columns too
                cells.pop()
            names = _header(path, cells)
            continue
        if not any(cells[len(names) :]):
            cells = cells[: len(names)]
        if len(cells) != len(names):
            why = f"it has {counted(len(cells), 'cell')}, and the first row names {len(names)}"
            yield place, RequestError("this row cannot be read", why, CSV_HINT)
        else:
            yield RawJob(place, {name: cell for name, cell in zip(names, cells, strict=True) if cell})


CSV_HINT = 'a cell that holds commas or line breaks stands in quotes: "a lamp, blinking"'


def _header(path: Path, cells: list[str]) -> list[str]:
    """The keys that the first row of a CSV file names. Raises: RequestError."""
    what = f"{path} cannot be read"
    if len(cells) == 1 and any(mark in cells[0] for mark in (";", "\t")):
        raise RequestError(what, "its cells are not separated by commas", "save it with commas between the cells")
    if "" in cells:
        raise RequestError(what, f"column {cells.index('') + 1} has no name in the first row", "name it")
    names = [_key(cell) for cell in cells]
    if twin := first_twin(names):
        raise RequestError(what, f"two columns are called {shown(twin)}", "keep one of them")
    return names


def _from_yaml(path: Path) -> Iterator[Entry]:
    """Jobs from a list, or from a mapping with `jobs`, a list or a mapping of names, and maybe `defaults`."""
    content = read_yaml_value(path, most_values=MOST_YAML_VALUES)
    defaults: Mapping[str, Any] = {}
    if isinstance(content, Written):
        unknown = next((name for name in content if name not in (JOBS, DEFAULTS)), None)
        if unknown is not None:
            hint = did_you_mean(unknown, [JOBS, DEFAULTS]) + "; each job is an entry of a list: - prompt: a lamp blinks"
            raise RequestError(f"{path} cannot be used", f"line {content.lines[unknown]}: {shown(unknown)}", hint)
        defaults = _defaults(content)
        content = content.get(JOBS)
    if isinstance(content, Written):
        rows = [(content.lines[name], name, value) for name, value in content.items()]
    elif isinstance(content, WrittenList):
        rows = [(line, "", value) for line, value in zip(content.lines, content, strict=True)]
    elif content is None:
        rows = []
    else:
        raise RequestError(f"{path} cannot be used", "it must hold a list of jobs", EXAMPLES[".yaml"])
    for line, name, value in rows:
        place = f"{path}, line {line}"
        try:
            yield RawJob(place, _yaml_job(name, value), defaults)
        except LTX2Error as error:
            yield place, error


def _defaults(content: Written) -> Mapping[str, Any]:
    defaults = content.get(DEFAULTS) or {}
    if not isinstance(defaults, Written | dict):
        raise RequestError(
            f"{content.place(DEFAULTS)}: {DEFAULTS} must hold keys and values", hint="defaults: {model: toy}"
        )
    spelled = _spelled(defaults)
    if "name" in spelled:
        raise RequestError(f"{content.place(DEFAULTS)}: name cannot be a default", "each job has a name of its own")
    return spelled


def _yaml_job(name: str, value: Any) -> dict[str, Any]:
    """The keys of a job, which is a mapping, or a text that is its prompt. name: its key in a mapping of jobs."""
    keys = {"prompt": value} if isinstance(value, str) else value
    if not isinstance(keys, dict):
        raise RequestError(
            f"job {shown(value)} cannot be read", "it is neither a prompt nor a mapping", EXAMPLES[".yaml"]
        )
    keys = _spelled(keys)
    if not name:
        return keys
    if "name" in keys:
        raise RequestError(f"job {shown(name)} has a second name, {shown(keys['name'])}", hint="keep one of them")
    return {"name": name, **keys}


def _spelled(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Keys in the spelling of settings. Raises: RequestError for two that become the same."""
    found: dict[str, Any] = {}
    for name, value in keys.items():
        if _key(name) in found:
            raise RequestError(
                f"{shown(name)} occurs twice", "hyphens and underscores are the same", "keep one of them"
            )
        found[_key(name)] = value
    return found


def _key(name: str) -> str:
    """A key with underscores, since video-st is allowed too."""
    return name.strip().removeprefix("--").replace("-", "_")


READERS: Mapping[str, Callable[[Path], Iterator[Entry]]] = {
    ".txt": _from_text,
    ".yaml": _from_yaml,
    ".yml": _from_yaml,
    ".jsonl": _from_json_lines,
    ".ndjson": _from_json_lines,
    ".csv": _from_csv,
}
EXAMPLES = {
    ".txt": "a lamp blinks on the left",
    ".yaml": "- prompt: a lamp blinks",
    ".yml": "- prompt: a lamp blinks",
    ".jsonl": '{"prompt": "a lamp blinks"}',
    ".ndjson": '{"prompt": "a lamp blinks"}',
    ".csv": "a first row with prompt,seed and a row below it for each job",
}
