"""The speed of finished renders on this machine, and its file: for the seconds of a plan.

No choice depends on it, so that a run can be repeated. An invalid file counts as empty, and is replaced by the next
render. Source: docs/cards.md, "Seconds".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import log2
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ...disk import disk_reason, read_whole, write_whole
from ...errors import LTX2Error
from ...home import ltx2_home
from ...lock import locked
from ...records import Record
from ..events import Phase as Kind
from .tuning import MeasuredOn, Seconds, Text

FILE = "speeds.json"  # in the folder that LTX2_HOME names
MEASURED = "measured on this machine"
SCALED = "scaled from what was measured on this machine at another size"
MOST_BYTES, MOST_SPEEDS = 500_000, 500
KINDS: tuple[Kind, ...] = ("text", "inputs", "denoise", "upsample", "sound", "video")  # phases with countable work
LEAST_S = 1e-3  # shortest phase that is recorded


class Work(Record):
    """The kind of a measurement. model: the properties that affect its speed, as text."""

    measured_on: MeasuredOn
    model: Text

    def is_same(self, other: Work) -> bool:
        """Whether a measurement of that kind applies here."""
        return self.model == other.model and self.measured_on.is_same(other.measured_on)


class Speed(Record):
    """All phases of a kind of one render: their FLOPs and their time."""

    work: Work
    kind: Kind
    flops: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    seconds: Seconds

    @property
    def flops_per_s(self) -> float:
        return self.flops / self.seconds

    def is_like(self, other: Speed) -> bool:
        """Whether it is about the same work at about the same size, so that only the newer one is kept."""
        is_same = self.kind == other.kind and self.work.is_same(other.work)
        return is_same and round(log2(self.flops)) == round(log2(other.flops))


class Speeds(Record):
    """All measurements, the newest last."""

    version: Literal[1] = Field(default=1, alias="schema")
    speeds: Annotated[tuple[Speed, ...], Field(max_length=MOST_SPEEDS)] = ()

    def nearest(self, work: Work, kind: Kind, flops: float) -> Speed | None:
        """The measurement of the same work at the closest size."""
        same = [one for one in self.speeds if one.kind == kind and one.work.is_same(work)]
        return min(same, key=lambda one: abs(log2(one.flops / flops)), default=None)

    def with_new(self, new: Iterable[Speed]) -> Speeds:
        """The same with measurements replacing similar ones."""
        new = tuple(new)
        kept = [one for one in self.speeds if not any(one.is_like(other) for other in new)]
        return Speeds(speeds=(*kept, *new)[-MOST_SPEEDS:])


def speeds_of(work: Work, flops: Mapping[Kind, float], seconds: Mapping[Kind, float]) -> list[Speed]:
    """The measurements of a finished render, for each kind of phase. flops, seconds: of all phases of that kind."""
    return [
        Speed(work=work, kind=kind, flops=flops[kind], seconds=seconds[kind])
        for kind in KINDS
        if flops.get(kind, 0) > 0 and seconds.get(kind, 0) > LEAST_S
    ]


def speeds_file() -> Path:
    """The path of the file. Raises: RequestError if LTX2_HOME cannot be a folder."""
    return ltx2_home() / FILE


def read_speeds() -> Speeds:
    """The stored measurements; none if the file does not exist or is not valid."""
    try:
        return Speeds.model_validate(json.loads(read_whole(speeds_file(), MOST_BYTES)))
    except (OSError, ValueError, RecursionError, LTX2Error):
        return Speeds()


def keep_speeds(new: Iterable[Speed]) -> str:
    """Add measurements to the file; if another process does so at the same time, these are dropped.

    Returns: why they could not be stored; "" if they are.
    """
    try:
        path = speeds_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):
            content = read_speeds().with_new(new).model_dump_json(by_alias=True, indent=1)
            write_whole(path, content.encode() + b"\n")
    except LTX2Error as error:
        return error.what
    except OSError as error:
        return disk_reason(error)
    return ""
