"""One job becomes several: seeds and sweeps; and the seed of a job that has none.

Source: docs/batch.md, "Seeds and sweeps".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import product

from ...errors import RequestError, shown
from ..resolve.settings import Settings
from ..values import did_you_mean, first_twin
from .jobs import BATCH_KEYS
from .reading import MOST_JOBS

MOST_SEED = 2**63 - 1
NUMBER = r"[-+]?(?:\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})"


@dataclass(frozen=True, slots=True)
class Sweep:
    """A setting, and its values one after another, as the user would write them."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Variant:
    """The values of one of the jobs that a job is expanded to. seed: None if `--seeds` does not set it."""

    seed: int | None = None
    swept: Mapping[str, str] = field(default_factory=dict)


def job_seed(base: int, number: int) -> int:
    """The seed of a job without one: from its number in the file, from 1, and the seed of the batch; below 2^31.

    The first 31 bits of the SHA-256 of `BASE/NUMBER`.
    """
    digest = hashlib.sha256(f"{base}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from "1-16", "1-4,9" or "7". Raises: RequestError."""
    what, hint = f"--seeds {shown(text)} cannot be used", "--seeds 1-16 or --seeds 1-4,9"
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,19})(?:\s*-\s*(\d{1,19}))?\s*", part, re.ASCII)
        if not match:
            raise RequestError(what, f"{shown(part.strip())} is neither a seed nor a range of them", hint)
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise RequestError(what, f"{first}-{last} ends before it begins", hint)
        if last > MOST_SEED:
            raise RequestError(what, f"a seed is at most {MOST_SEED}", hint)
        if last - first + 1 + len(found) > MOST_JOBS:
            raise RequestError(what, f"it names more than {MOST_JOBS:,} seeds", "give fewer of them")
        found += range(first, last + 1)
    if (twin := first_twin(found)) is not None:
        raise RequestError(what, f"{twin} is in it twice", hint)
    return tuple(found)


def parse_sweep(text: str) -> Sweep:
    """A sweep from "video_st=2:4:0.5", both ends included, or "preset=distilled,hq". Raises: RequestError."""
    what, hint = f"--sweep {shown(text)} cannot be used", "--sweep video_st=2:4:1 or --sweep preset=distilled,hq"
    name, equals, values = text.partition("=")
    key = name.strip().removeprefix("--").replace("-", "_")
    if not equals or not values.strip():
        raise RequestError(what, "it is not a key with values", hint)
    if key == "seed":
        raise RequestError(what, "--seeds gives several seeds", "--seeds 1-16")
    if key in BATCH_KEYS:
        raise RequestError(what, "it is said once for the whole batch", "leave it out")
    if key not in Settings.model_fields:
        raise RequestError(f"--sweep {shown(name)} cannot be used", "no option has this name", _near(key))
    if ":" in values and "," not in values and not re.search(r"[^-+.:\d\s]", values):
        found = _range(what, hint, values)
    else:
        found = [value.strip() for value in values.split(",")]
    if "" in found:
        raise RequestError(what, "a value is empty", hint)
    if len({*found}) < len(found):
        raise RequestError(what, "it names a value twice", hint)
    return Sweep(key, tuple(found))


def parse_sweeps(texts: Sequence[str]) -> tuple[Sweep, ...]:
    """Sweeps of different settings. Raises: RequestError."""
    sweeps = [parse_sweep(text) for text in texts]
    if twin := first_twin(sweep.key for sweep in sweeps):
        raise RequestError(f"--sweep {twin} is given twice", hint=f"--sweep {twin}=VALUE,VALUE gives several values")
    return tuple(sweeps)


def _near(key: str) -> str:
    return did_you_mean(key, [name for name in Settings.model_fields if name not in BATCH_KEYS])


def _range(what: str, hint: str, text: str) -> list[str]:
    """The numbers of "2:4:0.5", computed in decimals, so that 0.1 is exact."""
    match = re.fullmatch(rf"\s*({NUMBER})\s*:\s*({NUMBER})\s*(?::\s*({NUMBER})\s*)?", text, re.ASCII)
    if not match:
        raise RequestError(what, "it is not a range FIRST:LAST:STEP of numbers", hint)
    first, last, step = Decimal(match[1]), Decimal(match[2]), Decimal(match[3] or 1)
    if not step:
        raise RequestError(what, "its step is 0", hint)
    if (last - first) / step < 0:
        raise RequestError(what, f"steps of {step:f} from {first:f} never reach {last:f}", hint)
    count = int((last - first) / step) + 1
    if count > MOST_JOBS:
        raise RequestError(what, f"it has more than {MOST_JOBS:,} values", "take larger steps")
    return [_written(first + number * step) for number in range(count)]


def _written(number: Decimal) -> str:
    """A number without trailing zeros: 2, 2.1."""
    text = f"{number:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def variants(seeds: Sequence[int], sweeps: Sequence[Sweep], own: Collection[str]) -> Iterator[Variant]:
    """The jobs that a job is expanded to. own: the settings that it has itself, to which no sweep and no other seed
    applies.
    """
    acting = [sweep for sweep in sweeps if sweep.key not in own]
    for values in product(*(sweep.values for sweep in acting)):
        swept = {sweep.key: value for sweep, value in zip(acting, values, strict=True)}
        for seed in seeds if seeds and "seed" not in own else (None,):
            yield Variant(seed, swept)


def count_variants(seeds: Sequence[int], sweeps: Sequence[Sweep], own: Collection[str]) -> int:
    """How many jobs a job is expanded to, without creating them."""
    count = len(seeds) if seeds and "seed" not in own else 1
    for sweep in sweeps:
        count *= 1 if sweep.key in own else len(sweep.values)
    return count
