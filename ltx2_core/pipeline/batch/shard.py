"""The part of a batch for one process of an array job.

Source: docs/scale.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from ...errors import RequestError, shown

T = TypeVar("T")
MOST_SHARDS = 10_000
AUTO = "auto"
EXAMPLES = "--shard 0/4 is the first of four; --shard auto in a SLURM array job, --shard auto/4 in one of Kubernetes"
SLURM = "SLURM_ARRAY_TASK_"
KUBERNETES = "JOB_COMPLETION_INDEX"


def parse_shard(text: str, environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """The number of a part, from 0, and the number of parts.

    Args: text: `I/N`; `auto` takes both from SLURM; `auto/N` takes the number from Kubernetes or SLURM.
    Raises: RequestError for any other text, a number that is not below N, and missing variables.
    """
    match = re.fullmatch(r"(auto|\d{1,5})(?:/(\d{1,5}))?", text.strip(), re.ASCII)
    what = f"--shard {shown(text)} cannot be used"
    if not match or (match[1] != AUTO and match[2] is None):
        raise RequestError(what, "it is not I/N", EXAMPLES)
    count = match[2] and int(match[2])
    if match[1] != AUTO:
        number = int(match[1])
    elif f"{SLURM}ID" in environment:
        number, told = _of_slurm(what, environment)
        if count is not None and count != told:
            raise RequestError(what, f"the SLURM array has {told} tasks", "--shard auto takes that number from it")
        count = told
    elif KUBERNETES in environment and count is not None:
        number = _whole(what, KUBERNETES, environment)
    else:
        why = f"neither {SLURM}ID nor {KUBERNETES} is set"
        if KUBERNETES in environment:
            why = f"Kubernetes sets {KUBERNETES}, and not how many there are"
        raise RequestError(what, why, EXAMPLES)
    if not count or count > MOST_SHARDS:
        raise RequestError(what, f"N must be 1 to {MOST_SHARDS:,}", EXAMPLES)
    if number >= count:
        raise RequestError(what, f"the parts are 0 to {count - 1}, and this is {number}", EXAMPLES)
    return number, count


def part_of(jobs: Sequence[T], shard: str | None) -> tuple[T, ...]:
    """Every N-th job, starting with the I-th, so that similar neighbours are distributed. Raises: RequestError."""
    if shard is None:
        return tuple(jobs)
    number, count = parse_shard(shard)
    return tuple(jobs[number::count])


def _of_slurm(what: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """(ID − MIN) / STEP of COUNT, since arrays may start anywhere and skip numbers."""
    task, first, step, count = (
        _whole(what, SLURM + name, environment, default) for name, default in _SLURM_DEFAULTS.items()
    )
    if not step or (task - first) % step:
        raise RequestError(what, f"{SLURM}ID, {SLURM}MIN and {SLURM}STEP do not fit together", EXAMPLES)
    return (task - first) // step, count


_SLURM_DEFAULTS: Mapping[str, str | None] = {"ID": None, "MIN": "0", "STEP": "1", "COUNT": None}


def _whole(what: str, name: str, environment: Mapping[str, str], default: str | None = None) -> int:
    text = environment.get(name, default)
    if text is None or not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise RequestError(what, f"{name} is {shown(text or '')}, which is not a whole number", EXAMPLES)
    return int(text)
