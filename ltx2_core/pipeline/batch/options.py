"""Options of a batch that do not change its results.

Source: docs/batch.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationError

from ...errors import RequestError, shown
from ...records import Record
from ..resolve.settings import Switch
from ..values import Choice, Gpus, option_name
from .shard import AUTO, parse_shard

ADDRESSES = "--address HOST:6379 of the head, or --address auto on a machine of the cluster"
LONGEST_S = 60 * 60 * 24 * 365


def parse_time_limit(value: Any) -> float:
    """Seconds from "90", "90s", "45m", "1h30m" or "2d". Raises: ValueError."""
    text = str(value).strip().lower()
    match = re.fullmatch(r"(?:(\d{1,4})d)?(?:(\d{1,5})h)?(?:(\d{1,6})m)?(?:(\d{1,8}(?:\.\d{1,3})?)s?)?", text, re.ASCII)
    if not match or not any(match.groups()):
        raise ValueError("it is not a time such as 90s, 45m or 1h30m")
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    found = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if not 0 < found <= LONGEST_S:
        raise ValueError("it must be above 0 and at most a year")
    return found


class BatchOptions(Record):
    """Options of a batch.

    Args: overwrite: whether changed jobs are rendered again, and existing files are replaced. grid: whether the results
    are joined in the end. keep_going: whether the batch continues after a failed job. max_time: seconds, after which no
    further job starts. gpus: None for all. shard: the part of the jobs for this process, as it was written. order:
    `models` groups jobs that can share loaded models, `file` keeps the order of the file. engine: whether workers are
    on this machine, or on a Ray cluster. address: of that cluster.
    """

    overwrite: Switch = False
    grid: Switch = False
    keep_going: Switch = True
    max_time: Annotated[float, BeforeValidator(parse_time_limit)] | None = None
    gpus: Gpus | None = None
    shard: str | None = None
    order: Annotated[str, BeforeValidator(Choice(("models", "file")))] = "models"
    engine: Annotated[str, BeforeValidator(Choice(("local", "ray")))] = "local"
    address: str | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> BatchOptions:
        """Options from flags by name. Raises: RequestError for a value that cannot be used, alone or with another."""
        try:
            found = cls.model_validate(dict(given))
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            what = f"{option_name(name)} {shown(given[name])} cannot be used"
            raise RequestError(what, first["msg"].removeprefix("Value error, ")) from error
        found._require_consistent()
        return found

    def _require_consistent(self) -> None:
        """Raises: RequestError for a part that does not exist, for options of another engine, and for Ray without an
        address or without the package. A part that the environment numbers is checked when the batch is run.
        """
        if self.shard is not None and not self.shard.strip().startswith(AUTO):
            parse_shard(self.shard)
        if self.engine != "ray":
            if self.address is not None:
                raise RequestError("--address has no effect", "it names a Ray cluster", "--engine ray")
            return
        if self.gpus is not None:
            why = "Ray decides which card a worker gets, and each card of the cluster gets one"
            hint = "ray start --num-gpus N says how many cards a machine offers"
            raise RequestError("--gpus cannot be used with --engine ray", why, hint)
        if self.address is None:
            raise RequestError("--engine ray needs an address", "no cluster is started here", ADDRESSES)
        if self.address != "auto" and not re.fullmatch(r"[^\s/:]+:\d{1,5}|\[[0-9a-fA-F:.]+\]:\d{1,5}", self.address):
            why = "it is neither auto nor HOST:PORT"
            raise RequestError(f"--address {shown(self.address)} cannot be used", why, ADDRESSES)
        if find_spec("ray") is None:
            raise RequestError("--engine ray cannot be used", "ray is not installed", 'pip install "ltx2[ray]"')
