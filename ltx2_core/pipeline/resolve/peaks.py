"""The published peak speeds of GPUs, as data in presets/cards, and estimates from them.

Source: docs/cards.md, "Seconds".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Annotated

from pydantic import Field

from ...cards import Card
from ...machine import Machine
from ...records import Record, presets_folder
from ...yaml_file import read_yaml
from .tuning import GIGA, TERA, Rate

PEAK = "an estimate from the card's published peak"


class Peaks(Record):
    """The peak rates of a GPU, for dense products with sums in float32.

    Args: matches: a pattern for its name in the driver. bf16: TFLOP/s. link_gbs: GB/s for copying weights to it. share:
    of the peak that a render reaches, according to public measurements.
    """

    summary: str
    matches: str
    bf16: Rate
    link_gbs: Rate
    share: Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, slots=True)
class Rates:
    """The speed of a device for computing and copying. source: of the numbers."""

    flops_per_s: float
    link_bytes_per_s: float
    source: str = PEAK

    def seconds(self, flops: float, moved: int) -> float:
        """The minimum time of a phase: its products, or the transfer of its weights, whichever takes longer."""
        return max(flops / self.flops_per_s, moved / self.link_bytes_per_s)


def rates_of(card: Card | None, machine: Machine) -> Rates | None:
    """The rates of a GPU in the precision of a machine; None if they are not listed."""
    if card is None or machine.precision != "bf16":
        return None
    known = next((one for one in read_peaks() if re.search(one.matches, card.name)), None)
    return None if known is None else Rates(known.share * known.bf16 * TERA, known.link_gbs * GIGA)


@cache
def read_peaks() -> tuple[Peaks, ...]:
    """All listed GPUs. Raises: RequestError if a file is not valid."""
    files = sorted((presets_folder() / "cards").glob("*.yaml"))
    return tuple(Peaks.checked(f"presets/cards/{file.name}", read_yaml(file)) for file in files)
