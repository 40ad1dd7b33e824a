"""Separate prompts for spans of a clip: how they are written, and which text applies when.

Source: docs/segments.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field

from ..records import Record
from .values import Seconds, parse_span, show_time

MOST_SEGMENTS = 100  # largest number of segments in a clip


class Segment(Record):
    """A span of the clip with its own prompt, in seconds from the clip's first frame."""

    start_s: Seconds
    end_s: Seconds
    prompt: str

    @property
    def name(self) -> str:
        """Its span as the user writes it."""
        start, end = (show_time(round(time_s, 2)) for time_s in (self.start_s, self.end_s))
        return f"{start}-{end}"


def _in_order(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """Raises: ValueError for segments that are empty, overlap or do not follow each other."""
    places = [place for one in segments for place in (one.start_s, one.end_s)]
    are_empty = any(one.start_s >= one.end_s for one in segments)
    if are_empty or any(after < before for before, after in pairwise([Fraction(0), *places])):
        raise ValueError("segments overlap or are not in order")
    return segments


Segments = Annotated[tuple[Segment, ...], Field(max_length=MOST_SEGMENTS), AfterValidator(_in_order)]


class TextSpan(NamedTuple):
    """The span of a text. name: its name in messages."""

    start_s: Fraction
    end_s: Fraction
    text: str
    name: str


def text_spans(prompt: str, segments: Sequence[Segment], duration_s: Fraction) -> list[TextSpan]:
    """The texts from a clip's beginning to its end: the prompts of its segments, and the prompt between them."""
    spans: list[TextSpan] = []
    reached = Fraction(0)
    for one in segments:
        if one.start_s > reached:
            spans.append(TextSpan(reached, one.start_s, prompt, "the prompt"))
        spans.append(TextSpan(one.start_s, one.end_s, one.prompt, f"the prompt of {one.name}"))
        reached = one.end_s
    if reached < duration_s:
        spans.append(TextSpan(reached, duration_s, prompt, "the prompt"))
    return spans


def names_of_texts(spans: Iterable[TextSpan]) -> dict[str, str]:
    """Each text once, in the order of its first span, and its name in messages."""
    names: dict[str, str] = {}
    for span in spans:
        names.setdefault(span.text, span.name)
    return names


def parse_segment(value: Any) -> tuple[Fraction, Fraction, str]:
    """A span and its prompt from "0s-3s=a red lamp", from a pair, or from two times and a prompt.

    Raises: ValueError.
    """
    if isinstance(value, str):
        span, equals, text = value.partition("=")
        value = (span, text) if equals else ()
    match value:
        case [span, text]:
            ends = str(span)
        case [begin, end, text]:
            ends = begin, end
        case _:
            raise ValueError("it is not a span and a prompt such as 0s-3s=a red lamp")
    if not isinstance(text, str | int) or isinstance(text, bool):
        raise ValueError("its prompt must be text")
    prompt = str(text)
    if not prompt.strip():
        raise ValueError("its prompt is empty")
    if prompt.startswith("@"):
        raise ValueError("its prompt is read from no file: write it out, or with a space before the @")
    return *parse_span(ends), prompt


def split_segments(value: Any) -> Any:
    """The segments of a mapping from spans to prompts, as in YAML, or of a single text; a list is not changed."""
    if isinstance(value, str):
        return (value,)
    return tuple(value.items()) if isinstance(value, Mapping) else value
