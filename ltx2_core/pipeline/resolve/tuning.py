"""What `ltx2 doctor --tune` has measured on this machine, and the file that keeps it.

A render obeys it only on the device and with the torch that it was measured with. Source: docs/cli.md, "The doctor".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ...disk import disk_errors, disk_hint, disk_reason, read_whole, write_whole
from ...errors import RequestError
from ...home import ltx2_home
from ...machine import Backend, Precision
from ...records import Record

FILE = "machine.json"  # in the folder that LTX2_HOME names
MOST_BYTES = 100_000
TERA, GIGA = 1e12, 1e9
AGAIN = "ltx2 doctor --tune measures again and replaces the file"
LEAST_RUNS = 3  # with fewer, the machine was too busy to tell, and what is usual holds
Text = Annotated[str, Field(max_length=200)]
Seconds = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Runs = Annotated[int, Field(gt=0, le=1000)]


class MeasuredOn(Record):
    """What something was measured on. name: of the card, or of the CPU. driver: of the card; not compared."""

    device: Annotated[str, Field(pattern="^(cpu|mps|cuda)$")]
    name: Text
    torch: Text
    driver: Text = ""

    def is_same(self, other: MeasuredOn) -> bool:
        """Whether what was measured there holds here."""
        return (self.device, self.name, self.torch) == (other.device, other.name, other.torch)

    def __str__(self) -> str:
        return f"{self.name}, torch {self.torch}"


class Switch(Record):
    """A choice between off and on: the median seconds with each, None where on did not fit."""

    off_s: Seconds
    on_s: Seconds | None
    runs: Runs
    chosen: bool

    def __str__(self) -> str:
        ratio = _ratio(self.on_s, self.off_s, self.runs) or "does not fit into the memory"
        return f"{'on' if self.chosen else 'off'} (on: {ratio})"


class PrecisionChoice(Record):
    """The median seconds of a step in each precision; None for one that the device does not compute in."""

    fp32_s: Seconds
    bf16_s: Seconds | None
    runs: Runs
    chosen: Precision

    def __str__(self) -> str:
        ratio = _ratio(self.bf16_s, self.fp32_s, self.runs) or "cannot be computed"
        return f"{self.chosen} (bf16: {ratio})"


class AttentionChoice(Record):
    """The median seconds of a guided step with torch's own choice of a kernel, and with each that is there.

    fixed: those by name that fit into the memory.
    """

    sdpa_s: Seconds
    fixed_s: Mapping[Backend, Seconds]
    runs: Runs
    chosen: Literal["sdpa"] | Backend

    def __str__(self) -> str:
        ratios = [f"{name}: {_ratio(seconds, self.sdpa_s, self.runs)}" for name, seconds in self.fixed_s.items()]
        return f"{self.chosen} ({'; '.join(ratios)})" if ratios else self.chosen


def _ratio(seconds: float | None, usual_s: float, runs: int) -> str:
    """How much longer something takes than what is usual, in words; empty where it could not be measured."""
    if seconds is None:
        return ""
    doubt = ", but this machine is too busy to tell" if runs < LEAST_RUNS else ""
    return f"{seconds / usual_s:.2f} times as long{doubt}"


class ShapeClass(Record):
    """What holds for clips of up to so many video tokens. The choices are those of `Machine`.

    attention, flops_per_s: of a guided step as it usually is; None in files of versions that did not measure them.
    compiles: of a step without guidance, after the compiler has run; None also where there is no compiler.
    """

    name: Text
    tokens: Annotated[int, Field(gt=0, le=10_000_000)]
    batches_passes: Switch
    keeps_text: Switch
    attention: AttentionChoice | None = None
    compiles: Switch | None = None
    flops_per_s: Rate | None = None


class Tuning(Record):
    """Everything that was measured. precision, int8: None where the device leaves no choice.

    int8: whether weights in int8 are multiplied as they are stored, by torch's own product. width: of the model in the
    steps. link_bytes_per_s: at which weights are copied to a card; None where the device has no memory of its own. What
    they and `flops_per_s` tell is how long a plan says that a render takes; nothing is chosen by it.
    """

    version: Literal[1] = Field(default=1, alias="schema")
    measured_on: MeasuredOn
    precision: PrecisionChoice | None
    int8: Switch | None = None
    shapes: Annotated[tuple[ShapeClass, ...], Field(min_length=1, max_length=16)]
    width: Annotated[int, Field(gt=0)] | None = None
    link_bytes_per_s: Rate | None = None

    def shape_of(self, tokens: int) -> ShapeClass | None:
        """The smallest class that holds a clip of so many video tokens; None for a larger one than was measured."""
        return min((one for one in self.shapes if one.tokens >= tokens), key=lambda one: one.tokens, default=None)

    @property
    def rows(self) -> dict[str, str]:
        """What was measured and chosen, for a person."""
        rows = {"measured on": str(self.measured_on)}
        if self.precision is not None:
            rows["precision"] = str(self.precision)
        if self.int8 is not None:
            rows["int8 as stored"] = str(self.int8)
        for shape in self.shapes:
            of = f"up to {shape.tokens:,} tokens"
            rows |= {f"batches_passes, {of}": str(shape.batches_passes), f"keeps_text, {of}": str(shape.keeps_text)}
            if shape.attention is not None:
                rows[f"attention, {of}"] = str(shape.attention)
            if shape.compiles is not None:
                rows[f"compiled blocks, {of}"] = str(shape.compiles)
            if shape.flops_per_s is not None:
                rows[f"a guided step, {of}"] = f"{shape.flops_per_s / TERA:.3g} TFLOP/s"
        if self.link_bytes_per_s is not None:
            rows["copying to the card"] = f"{self.link_bytes_per_s / GIGA:.3g} GB/s"
        return rows


def tuning_file() -> Path:
    """Where it is kept. Raises: RequestError if LTX2_HOME cannot be a folder."""
    return ltx2_home() / FILE


def read_tuning() -> Tuning | None:
    """What was measured on this machine, whatever it was measured on; None if nothing was.

    Raises: RequestError if the file is not one that was written so.
    """
    path = tuning_file()
    try:
        content = json.loads(read_whole(path, MOST_BYTES))
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
        return Tuning.checked(str(path), content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except RequestError as error:
        raise RequestError(error.what, error.why, AGAIN) from error
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path} cannot be used", disk_reason(error), disk_hint(error, AGAIN)) from error


def write_tuning(tuning: Tuning) -> Path:
    """Keep what was measured. Raises: StorageError."""
    path = tuning_file()
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, tuning.model_dump_json(by_alias=True, indent=1).encode() + b"\n")
    return path
