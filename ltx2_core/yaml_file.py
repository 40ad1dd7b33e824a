"""Read a YAML file of settings: names and values, within limits, with the line of every mistake.

Values are those of YAML 1.2 as far as settings need them: text, decimal numbers, true, false and null, lists and
mappings. Refused are tags, a second document, repeated names, and numbers in another base.
Source: docs/cli.md, "Settings files".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import copy
from pathlib import Path
from typing import Any

import yaml

from .disk import disk_hint, disk_reason, not_a_file
from .errors import RequestError, shown

LARGEST_BYTES = 2**20
DEEPEST = 20  # levels of lists and mappings
MOST_VALUES = 20_000
MOST_ALIASED = 50  # values in a file that come from aliases
MOST_DIGITS = 30
WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "true": True, "false": False}
WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
FRACTION = re.compile(r"[-+]?((0|[1-9][0-9]*)?\.[0-9]+|(0|[1-9][0-9]*)\.?([eE][-+]?[0-9]+)|(0|[1-9][0-9]*)\.)")
PADDED = re.compile(r"[-+]?0[0-9]+")  # YAML 1.1 reads octal numbers
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # only the parser is used, not the constructors


class Written(dict[str, Any]):
    """A mapping in a file. file: its name for messages. lines: the line of each name, from 1."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file
        self.lines: dict[str, int] = {}

    def place(self, name: str) -> str:
        """The location of a name: `ltx2.yaml, line 3`."""
        return f"{self.file}, line {self.lines[name]}"


class WrittenList(list[Any]):
    """A list in a file. lines: the first line of each of its values, from 1."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[int] = []


def without(values: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """The same values without some; those of a file keep their lines."""
    rest = copy(values) if isinstance(values, Written) else dict(values)
    for name in names:
        rest.pop(name, None)
    return rest


def read_yaml(path: Path) -> Written:
    """The names and values of a file. Raises: RequestError that names the file, and the line where there is one."""
    content = read_yaml_value(path)
    if content is None:
        return Written(str(path))
    if not isinstance(content, Written):
        raise RequestError(f"{path} cannot be used", "it must hold names and values, one to a line")
    return content


def read_yaml_value(path: Path, *, most_values: int = MOST_VALUES) -> Any:
    """The content of a file: a `Written`, a `WrittenList`, a single value, or None if it is empty. Raises: as above."""
    return _Reader(str(path), most_values).read(read_text(path))


def read_text(path: Path, largest_bytes: int = LARGEST_BYTES) -> str:
    """The text of a regular file in UTF-8, with or without a byte order mark. Raises: RequestError."""
    try:
        status = path.stat()
        if why := not_a_file(status):
            raise RequestError(f"{path} cannot be read", why, "name a file")
        if status.st_size > largest_bytes:
            raise RequestError(f"{path} cannot be read", f"it is larger than {largest_bytes // 2**20} MB")
        return path.read_bytes()[: largest_bytes + 1].decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read", disk_reason(error), disk_hint(error, "check the path")) from error


class _Reader:
    """Builds values from the events of PyYAML's parser. file: its name for messages. most_values: the maximum
    number.
    """

    def __init__(self, file: str, most_values: int) -> None:
        self.file, self.most_values = file, most_values
        self.count = 0  # number of values so far
        self.aliased = 0  # number of them that come from aliases
        self.anchors: dict[str, tuple[Any, int]] = {}  # a value, and the number of values in it including itself

    def read(self, text: str) -> Any:
        try:
            events = self._checked(yaml.parse(text, Loader=LOADER))
            first = next(events, None)
            content = None if first is None else self._value(first, events, depth=1)
            if (more := next(events, None)) is not None:
                raise self._error(more, "a second document begins here", "keep one document in a file")
        except yaml.YAMLError as error:
            raise self._unreadable(error) from error
        return content

    def _checked(self, events: Iterator[Any]) -> Iterator[Any]:
        """The events of values; those of documents are left out."""
        for event in events:
            if getattr(event, "tag", None) is not None:
                raise self._error(event, f"the tag {shown(event.tag)} is not supported", "leave the tag out")
            if isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent):
                yield event

    def _value(self, event: Any, events: Iterator[Any], depth: int) -> Any:
        """The value that starts with an event."""
        before = self.count
        self.count += 1
        if self.count > self.most_values:
            raise self._error(event, f"it holds more than {self.most_values:,} values")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if depth > DEEPEST:
            raise self._error(event, f"its values stand more than {DEEPEST} levels deep")
        if isinstance(event, yaml.MappingStartEvent):
            value: Any = self._mapping(events, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._list(events, depth)
        else:
            value = self._scalar(event)
        if event.anchor is not None:
            self.anchors[event.anchor] = value, self.count - before
        return value

    def _alias(self, event: Any) -> Any:
        if event.anchor not in self.anchors:
            raise self._error(event, f"nothing before it is called &{shown(event.anchor)}")
        value, size = self.anchors[event.anchor]
        self.count += size - 1
        self.aliased += size
        if self.aliased > MOST_ALIASED:
            raise self._error(event, f"its aliases stand for more than {MOST_ALIASED} values")
        return value

    def _mapping(self, events: Iterator[Any], depth: int) -> Written:
        found = Written(self.file)
        for key in _until_end(events):
            if not isinstance(key, yaml.ScalarEvent):
                raise self._error(key, "a name must be a word", "write NAME: VALUE")
            name = key.value
            if name in found:
                why = f"{shown(name)} occurs twice, first in line {found.lines[name]}"
                raise self._error(key, why, "keep one of them")
            found.lines[name] = key.start_mark.line + 1
            found[name] = self._value(next(events), events, depth + 1)
        return found

    def _list(self, events: Iterator[Any], depth: int) -> WrittenList:
        found = WrittenList()
        for one in _until_end(events):
            found.lines.append(one.start_mark.line + 1)
            found.append(self._value(one, events, depth + 1))
        return found

    def _scalar(self, event: Any) -> Any:
        text = event.value
        if event.style:
            return text  # quoted, or a block scalar
        if text.lower() in WORDS and (text in WORDS or text in (text.upper(), text.capitalize())):
            return WORDS[text.lower()]
        if PADDED.fullmatch(text):
            why = f"{shown(text)} begins with 0, and some programs would read an octal number"
            raise self._error(event, why, "write it without the 0, or in quotes if it is text")
        if not (WHOLE.fullmatch(text) or FRACTION.fullmatch(text)):
            return text
        if len(text) > MOST_DIGITS:
            raise self._error(event, f"{shown(text)} is a number of {len(text):,} characters", "give a smaller one")
        return int(text) if WHOLE.fullmatch(text) else float(text)

    def _error(self, event: Any, why: str, hint: str = "") -> RequestError:
        line = event.start_mark.line + 1
        return RequestError(f"{self.file} cannot be read", f"line {line}: {why}", hint or "correct the file")

    def _unreadable(self, error: yaml.YAMLError) -> RequestError:
        """The error of the parser, with its line if known."""
        mark = getattr(error, "problem_mark", None)
        said = getattr(error, "problem", None) or getattr(error, "reason", None) or "it is not YAML"
        line = "" if mark is None else f"line {mark.line + 1}: "
        return RequestError(f"{self.file} cannot be read", f"{line}{said}", "correct the file")


def _until_end(events: Iterator[Any]) -> Iterator[Any]:
    """The events up to the end of the list or mapping that has just started; the caller consumes those of each
    value.
    """
    for event in events:
        if isinstance(event, yaml.CollectionEndEvent):
            return
        yield event
