"""Values as users write them: durations, frame rates, sizes. Parsed once, exactly, and never rounded silently."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, PlainSerializer

from ..components import UPSAMPLERS

T = TypeVar("T")

NTSC = {"23.976": Fraction(24000, 1001), "23.98": Fraction(24000, 1001), "29.97": Fraction(30000, 1001)}
NTSC |= {"59.94": Fraction(60000, 1001), "47.952": Fraction(48000, 1001)}
FPS_LIMITS = (Fraction(1), Fraction(240))
LONGEST_S = 3600
ASPECTS: dict[str, Fraction] = {
    "16:9": Fraction(16, 9),
    "9:16": Fraction(9, 16),
    "1:1": Fraction(1),
    "4:3": Fraction(4, 3),
    "3:4": Fraction(3, 4),
    "21:9": Fraction(21, 9),
}
Size = tuple[int, int]  # width, height
AUTO: Literal["auto"] = "auto"
OFF: Literal["off"] = "off"
LOUDNESS_LIMITS = (-50, -5)  # LUFS
SWITCHED_OFF = {"cache", "crop", "metadata"}  # the default without --no-…


def parse_duration(value: Any) -> Fraction:
    """Seconds from "5s", "2.5s", "1m30s", 5, 2.5 or an exact fraction. Raises: ValueError."""
    duration = value if isinstance(value, Fraction) else _seconds(str(value).strip())
    if not 0 < duration <= LONGEST_S:
        raise ValueError(f"it must be above 0 and at most {LONGEST_S} seconds")
    return duration


def _seconds(text: str) -> Fraction:
    match = re.fullmatch(r"(?:(\d{1,4})m)?(?:(\d{1,6}(?:\.\d{1,9})?)s?)?", text, re.ASCII)
    if not match or not any(match.groups()):
        raise ValueError("it is not a duration such as 5s or 2.5s")
    minutes, seconds = match.groups()
    return 60 * Fraction(minutes or 0) + Fraction(seconds or 0)


def parse_length(value: Any) -> Fraction | Literal["auto"]:
    """The length of a clip: "auto" leaves it to the model. Raises: ValueError."""
    if str(value).strip().lower() == AUTO:
        return AUTO
    try:
        return parse_duration(value)
    except ValueError as error:
        raise ValueError(f"{error}, or auto" if "not a duration" in str(error) else str(error)) from error


def parse_time(value: Any) -> Fraction:
    """A time in a clip: like a duration, or 0. Raises: ValueError."""
    return Fraction(0) if re.fullmatch(r"0+(\.0+)?s?", str(value).strip()) else parse_duration(value)


def parse_span(value: Any) -> tuple[Fraction, Fraction]:
    """A start and an end from "2.0s-4.5s", or from two exact fractions. Raises: ValueError."""
    begin, end = value if isinstance(value, tuple) else _ends(str(value))
    span = parse_time(begin), parse_time(end)
    if span[0] >= span[1]:
        raise ValueError("it must end after it begins")
    return span


def _ends(text: str) -> tuple[str, str]:
    begin, dash, end = text.partition("-")
    if not (dash and begin.strip() and end.strip()):
        raise ValueError("it is not a span such as 2.0s-4.5s")
    return begin, end


def show_time(seconds: Fraction) -> str:
    """Seconds as users write them: 2.5s."""
    return f"{float(seconds):g}s"


def parse_fps(value: Any) -> Fraction:
    """A frame rate from "24", "23.976" (which means 24000/1001), "30000/1001" or 25. Raises: ValueError."""
    text = str(value).strip()
    if text in NTSC:
        return NTSC[text]
    if not re.fullmatch(r"\d{1,6}(\.\d{1,6}|/[1-9]\d{0,5})?", text, re.ASCII):
        raise ValueError("it is not a frame rate such as 24, 23.976 or 30000/1001")
    fps = Fraction(text)
    low, high = FPS_LIMITS
    if not low <= fps <= high:
        raise ValueError(f"it must be between {low} and {high}")
    return fps


def show_fps(fps: Fraction) -> str:
    """The rate in its usual notation: 24, 23.976, 29.97."""
    return next((name for name, value in NTSC.items() if value == fps), f"{float(fps):g}")


def parse_size(text: str) -> tuple[int, int]:
    """Width and height from "768x512". Raises: ValueError."""
    match = re.fullmatch(r"(\d{1,5})[xX×](\d{1,5})", text.strip(), re.ASCII)
    if not match:
        raise ValueError("it is not a size such as 768x512")
    width, height = map(int, match.groups())
    return width, height


def parse_tiles(value: Any) -> Any:
    """The number of tiles across and down from "2x2", or from a list as in JSON. Raises: ValueError."""
    if not isinstance(value, str):
        return tuple(value) if isinstance(value, list) else value
    match = re.fullmatch(r"([1-9]|1\d)[xX×]([1-9]|1\d)", value.strip(), re.ASCII)
    if not match:
        raise ValueError("it is not a number of tiles across and down such as 2x2")
    return int(match[1]), int(match[2])


def parse_fraction(value: Any) -> Fraction:
    """An exact number from "2/3", "-1.5", 0.5 or 1, of limited length. Raises: ValueError."""
    if isinstance(value, Fraction):
        return value
    if not re.fullmatch(r"-?\d{1,30}(\.\d{1,30}|/[1-9]\d{0,29})?", str(value), re.ASCII):
        raise ValueError("it is not a number or a fraction such as 2/3")
    return Fraction(str(value))


def parse_enlargement(value: Any) -> Fraction:
    """A factor for enlarging: 2 or 1.5, those of the upsamplers. Raises: ValueError."""
    known = [larger for faster, larger in UPSAMPLERS if faster == 1]
    with suppress(ValueError):
        if (factor := parse_fraction(value)) in known:
            return factor
    raise ValueError(f"the upsamplers enlarge {' or '.join(f'{float(one):g}' for one in known)} times")


def parse_portion(value: Any) -> Fraction:
    """A fraction of a whole from "2/3", 0.5 or 1. Raises: ValueError."""
    portion = parse_fraction(value)
    if not 0 < portion <= 1:
        raise ValueError("it must be above 0 and at most 1")
    return portion


def parse_device(value: Any) -> str:
    """The name of a device. Raises: ValueError."""
    text = str(value).strip().lower()
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", text, re.ASCII):
        raise ValueError("it must be auto, cpu, mps, cuda, or cuda:0, cuda:1 … for one of several cards")
    return text


@dataclass(frozen=True, slots=True)
class Choice:
    """Reads one of some names, in any case. The help of the command line lists them from here."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, names: Iterable[str]) -> Choice:
        return cls(tuple(names))

    def __call__(self, value: Any) -> str:
        """The name. Raises: ValueError."""
        name = str(value).strip().lower()
        if name not in self.names:
            *others, last = self.names
            raise ValueError(f"it must be {', '.join(others)} or {last}")
        return name


def parse_switch(value: Any) -> bool:
    """Whether something is switched on, from True, False, "true" and "false". Raises: ValueError."""
    text = str(value).strip().lower()
    if text not in ("true", "false") or not isinstance(value, bool | str):
        raise ValueError("it must be true or false")
    return text == "true"


def parse_number(value: Any) -> Any:
    """A number, or text that is parsed later. Raises: ValueError also for notations of Python only, 1_000 and True.

    NaN and infinity are not accepted.
    """
    return _digits(value, "it must be a number")


def parse_whole(value: Any) -> Any:
    """The same for whole numbers only. Raises: ValueError."""
    return _digits(value, "it must be a whole number")


def _digits(value: Any, why_not: str) -> Any:
    is_number = isinstance(value, int | float | str) and not isinstance(value, bool)
    text = str(value).strip().lower() if is_number else ""
    if re.fullmatch(r"[-+]?(nan|inf|infinity)", text):
        raise ValueError("it must be a finite number")
    if not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", text, re.ASCII):
        raise ValueError(why_not)
    return value


def parse_loudness(value: Any) -> float | Literal["off"]:
    """A loudness in LUFS from "-16" or -16, or "off". Raises: ValueError."""
    if str(value).strip().lower() == OFF:
        return OFF
    try:
        loudness = float(parse_number(value))
    except ValueError as error:
        raise ValueError("it must be a number such as -16, or off") from error
    quietest, loudest = LOUDNESS_LIMITS
    if not quietest <= loudness <= loudest:
        raise ValueError(f"it must be between {quietest} and {loudest} LUFS, or off")
    return loudness


def parse_interval(value: Any) -> int | Literal["auto", "off"]:
    """A number of steps from "4" or 4, or "auto", or "off". Raises: ValueError."""
    text = str(value).strip().lower()
    if text in (AUTO, OFF):
        return text
    if isinstance(value, bool) or not re.fullmatch(r"[1-9]\d{0,3}", text, re.ASCII):
        raise ValueError("it must be a number of steps from 1 to 9999, auto or off")
    return int(text)


def require_text(value: str) -> str:
    """A text that is not blank. Raises: ValueError."""
    if not value.strip():
        raise ValueError("it is empty")
    return value


def split_list(value: Any) -> Any:
    """The parts of "14,29"; other types are not changed."""
    return value.split(",") if isinstance(value, str) else value


def parse_gpus(value: Any) -> Any:
    """Numbers of GPUs from "0,1" or "0-3"; other types are not changed. Raises: ValueError."""
    if not isinstance(value, str):
        return value
    found = _numbers(value, "it is not a list of cards such as 0,1 or 0-3")
    if len(found) != len({*found}):
        raise ValueError("it names a card twice")
    return tuple(found)


def parse_ranges(value: Any) -> Any:
    """Whole numbers from "1-4,9", each once and in order; other types are not changed. Raises: ValueError."""
    if not isinstance(value, str):
        return value
    return tuple(sorted({*_numbers(value, "it must be numbers and ranges of them such as 1-4,9")}))


def _numbers(text: str, why: str) -> list[int]:
    """All numbers of a list of whole numbers and ranges. Raises: ValueError with the reason."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})(?:\s*-\s*(\d{1,4}))?\s*", part, re.ASCII)
        if not match:
            raise ValueError(why)
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"{first}-{last} ends before it begins")
        found += range(first, last + 1)
    return found


def show_ranges(numbers: Iterable[int]) -> str:
    """Ascending whole numbers in the notation of `parse_ranges`: "1-4,9"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


def option_name(name: str) -> str:
    """How a setting is written on the command line."""
    return ("--no-" if name in SWITCHED_OFF else "--") + name.replace("_", "-")


def counted(number: int, what: str) -> str:
    """`1 pair`, `12 pairs`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def first_twin(values: Iterable[T]) -> T | None:
    """The first value that occurs more than once; None if there is none."""
    return next((value for value, count in Counter(values).items() if count > 1), None)


def did_you_mean(word: str, known: list[str]) -> str:
    """The nearest known words as the end of a sentence, or all of them if there are few, or nothing."""
    by_lower = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), by_lower, n=2, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(by_lower[name] for name in close) + "?"
    return f"known are {', '.join(sorted(known))}" if 0 < len(known) <= 12 else ""


Rational = PlainSerializer(str, return_type=str)
Duration = Annotated[Fraction, BeforeValidator(parse_duration), Rational]
Length = Annotated[Fraction | Literal["auto"], BeforeValidator(parse_length), Rational]
Time = Annotated[Fraction, BeforeValidator(parse_time), Rational]
Span = Annotated[tuple[Fraction, Fraction], BeforeValidator(parse_span)]
TileCount = Annotated[int, BeforeValidator(parse_whole), Field(ge=1, le=19)]
Tiles = Annotated[tuple[TileCount, TileCount], BeforeValidator(parse_tiles)]
Device = Annotated[str, BeforeValidator(parse_device)]
Enlargement = Annotated[Fraction, BeforeValidator(parse_enlargement), Rational]
Portion = Annotated[Fraction, BeforeValidator(parse_portion), Rational]
Seconds = Annotated[Fraction, BeforeValidator(parse_fraction), Rational]
Numbers = Annotated[
    tuple[Annotated[int, BeforeValidator(parse_whole), Field(ge=0, le=9999)], ...], BeforeValidator(parse_ranges)
]
Gpus = Annotated[
    tuple[Annotated[int, BeforeValidator(parse_whole), Field(ge=0, le=9999)], ...],
    BeforeValidator(parse_gpus),
    Field(min_length=1),
]
Loudness = Annotated[float | Literal["off"], BeforeValidator(parse_loudness)]
Interval = Annotated[int | Literal["auto", "off"], BeforeValidator(parse_interval)]
FrameRate = Annotated[Fraction, BeforeValidator(parse_fps), Rational]
