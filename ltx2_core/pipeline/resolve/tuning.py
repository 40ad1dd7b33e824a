"""The measurements of `ltx2 doctor --tune` on this machine, and their file.

A render uses them only on the same device and with the same version of torch. Source: docs/cli.md, "The doctor".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ...disk import disk_errors, disk_hint, disk_reason, read_whole, write_whole
from ...errors import RequestError, json_reason
from ...home import ltx2_home
from ...machine import Backend, Precision
from ...records import Record

FILE = "machine.json"  # in the folder that LTX2_HOME names
MOST_BYTES = 100_000
TERA, GIGA = 1e12, 1e9
AGAIN = "ltx2 doctor --tune measures again and replaces the file"
LEAST_RUNS = 3  # with fewer runs, the machine was too busy, and the default applies
Text = Annotated[str, Field(max_length=200)]
Seconds = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Runs = Annotated[int, Field(gt=0, le=1000)]


class MeasuredOn(Record):
    """The hardware of a measurement. name: of the GPU, or of the CPU. driver: of the GPU; not compared."""

    device: Annotated[str, Field(pattern="^(cpu|mps|cuda)$")]
    name: Text
    torch: Text
    driver: Text = ""

    def is_same(self, other: MeasuredOn) -> bool:
        """Whether a measurement on that hardware applies here."""
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
    """The median seconds of a step in each precision; None for one that the device does not support."""

    fp32_s: Seconds
    bf16_s: Seconds | None
    runs: Runs
    chosen: Precision

    def __str__(self) -> str:
        ratio = _ratio(self.bf16_s, self.fp32_s, self.runs) or "cannot be computed"
        return f"{self.chosen} (bf16: {ratio})"


class AttentionChoice(Record):
    """The median seconds of a guided step with torch's own choice of a kernel, and with each available one.

    fixed: those by name that fit into memory.
    """

    sdpa_s: Seconds
    fixed_s: Mapping[Backend, Seconds]
    runs: Runs
    chosen: Literal["sdpa"] | Backend

    def __str__(self) -> str:
        ratios = [f"{name}: {_ratio(seconds, self.sdpa_s, self.runs)}" for name, seconds in self.fixed_s.items()]
        return f"{self.chosen} ({'; '.join(ratios)})" if ratios else self.chosen


def _ratio(seconds: float | None, usual_s: float, runs: int) -> str:
    """How much longer something takes than the default, as text; empty if it could not be measured."""
    if seconds is None:
        return ""
    doubt = ", but this machine is too busy to tell" if runs < LEAST_RUNS else ""
    return f"{seconds / usual_s:.2f} times as long{doubt}"


class ShapeClass(Record):
    """The choices for clips of up to so many video tokens. They are those of `Machine`.

    attention, flops_per_s: of a default guided step; None in files of versions that did not measure them. compiles: for
    a step without guidance, after the compiler has run; None also if there is no compiler.
    """

    name: Text
    tokens: Annotated[int, Field(gt=0, le=10_000_000)]
    batches_passes: Switch
    keeps_text: Switch
    attention: AttentionChoice | None = None
    compiles: Switch | None = None
    flops_per_s: Rate | None = None


class Tuning(Record):
    """All measurements. precision, int8: None if the device leaves no choice.

    int8: whether int8 weights are multiplied as they are stored, by torch's own product. width: of the model in the
    steps. link_bytes_per_s: for copying weights to a GPU; None if the device has no memory of its own. The latter and
    `flops_per_s` are used for the seconds of a plan; no choice depends on them.
    """

    version: Literal[1] = Field(default=1, alias="schema")
    measured_on: MeasuredOn
    precision: PrecisionChoice | None
    int8: Switch | None = None
    shapes: Annotated[tuple[ShapeClass, ...], Field(min_length=1, max_length=16)]
    width: Annotated[int, Field(gt=0)] | None = None
    link_bytes_per_s: Rate | None = None

    def shape_of(self, tokens: int) -> ShapeClass | None:
        """The smallest class for a clip of so many video tokens; None for a larger one than was measured."""
        return min((one for one in self.shapes if one.tokens >= tokens), key=lambda one: one.tokens, default=None)

    @property
    def rows(self) -> dict[str, str]:
        """The measurements and choices, for the user."""
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
    """The path of the file. Raises: RequestError if LTX2_HOME cannot be a folder."""
    return ltx2_home() / FILE


def read_tuning() -> Tuning | None:
    """The measurements in this machine's file, on whatever hardware; None if there are none.

    Raises: RequestError if the file is not valid.
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
        why = disk_reason(error) if isinstance(error, OSError) else json_reason(error)
        raise RequestError(f"{path} cannot be used", why, disk_hint(error, AGAIN)) from error


def write_tuning(tuning: Tuning) -> Path:
    """Store the measurements. Raises: StorageError."""
    path = tuning_file()
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, tuning.model_dump_json(by_alias=True, indent=1).encode() + b"\n")
    return path
