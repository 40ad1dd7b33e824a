"""The scale of a LoRA in its metadata: alpha and rank, in the conventions of the trainer that wrote them.

Source: docs/reference/checkpoints.md, "Alpha in the metadata".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite, sqrt
from typing import Any

from .errors import CheckpointError, shown
from .headers import Header, read_json

DIFFUSERS_ENTRY = "lora_adapter_metadata"
KOHYA_ALPHA, KOHYA_RANK = "ss_network_alpha", "ss_network_dim"
PEFT_FILE = "adapter_config.json"
LARGEST_SCALE = 10_000  # alpha / rank; trainers use less than a hundred
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.ASCII | re.IGNORECASE)
UNSAID = ("", "None", "Dynamic")  # what kohya's tools write where each layer has an alpha of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedScale:
    """An alpha and a rank for all changes without their own alpha, and exceptions by layer.

    Args: rank: None if only alpha is stated. alphas, ranks: by the end of a layer's name. is_root: whether alpha is
    divided by the square root of the rank. is_peft: whether it applies to changes without a rank too. file: the
    name of the LoRA, and where: the place of the alpha, both for messages.
    """

    alpha: float
    rank: float | None
    alphas: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, float] = field(default_factory=dict)
    is_root: bool = False
    is_peft: bool = False
    file: str
    where: str

    def of(self, layer: str, largest_rank: int) -> float:
        """The factor for the change of a layer.

        Args: largest_rank: of the file; used if no rank is stated.
        Raises: CheckpointError for a factor that no training gives.
        """
        alpha = _exception(self.alphas, layer, self.alpha)
        rank = _exception(self.ranks, layer, self.rank or largest_rank)
        return usable_scale(self.file, self.where, alpha, sqrt(rank) if self.is_root else rank)


def stated_scale(header: Header) -> StatedScale | None:
    """Read the alpha of a whole file: from its metadata, or from the PEFT config beside it.

    Raises: CheckpointError if an entry is not valid, StorageError if the config beside the file cannot be read.
    """
    found = _of_diffusers(header) or _of_kohya(header)
    if found is not None:
        return found
    beside = header.path.with_name(PEFT_FILE)
    return _of_peft(read_json(beside), str(beside), header) if beside.is_file() else None


def usable_scale(file: str, where: str, alpha: float, divisor: float) -> float:
    """An alpha divided by its rank. Raises: CheckpointError for one that no training gives, and weights cannot hold."""
    if not abs(alpha) <= LARGEST_SCALE * divisor:
        why = f"{where} is {alpha:g}, which is more than {LARGEST_SCALE:,} times its rank"
        raise CheckpointError(f"{file} has an alpha that cannot be used", why, "download it again")
    return alpha / divisor


def check_rank(stated: StatedScale, header: Header, largest_rank: int) -> None:
    """Refuse a PEFT config beside a file that was written for another file. Raises: CheckpointError."""
    if stated.where.endswith(PEFT_FILE) and stated.rank not in (None, largest_rank) and not stated.ranks:
        raise CheckpointError(
            f"{header.path.name} does not go with the {PEFT_FILE} beside it",
            f"the file has rank {largest_rank}, and {stated.where} says {stated.rank:g}",
            f"move {PEFT_FILE} away if it belongs to another file",
        )


def _of_diffusers(header: Header) -> StatedScale | None:
    """The PEFT config in the metadata that diffusers writes: one JSON object with `transformer.` before each name."""
    values = header.entry(DIFFUSERS_ENTRY)
    if values is None:
        return None
    if not isinstance(values, dict):
        raise _damaged(header, f"{DIFFUSERS_ENTRY} is not a JSON object")
    own = {name.removeprefix("transformer."): value for name, value in values.items() if "transformer." in name}
    return _of_peft(own or values, DIFFUSERS_ENTRY, header)


def _of_peft(values: Mapping[str, Any], where: str, header: Header) -> StatedScale | None:
    """The entries of a PEFT config; LoKr and LoHa call it alpha, LoRA lora_alpha."""
    alpha = next((values[name] for name in ("lora_alpha", "alpha") if values.get(name) is not None), None)
    if alpha is None:
        return None
    if _switch(values, "use_dora", where, header):
        raise CheckpointError(f"{header.path.name} is a DoRA, which is not supported", f"{where} says so")
    rank = values.get("r")
    patterns = []
    for name in ("alpha_pattern", "rank_pattern"):
        given = values.get(name) or {}
        if not isinstance(given, dict):
            raise _damaged(header, f"{name} in {where} is not a JSON object")
        lowest = 0.0 if name == "rank_pattern" else None
        patterns.append(
            {_layer_name(key, header): _number(value, name, header, lowest) for key, value in given.items()}
        )
    return StatedScale(
        alpha=_number(alpha, f"alpha in {where}", header, lowest=None),
        rank=None if rank is None else _number(rank, f"r in {where}", header),
        alphas=patterns[0],
        ranks=patterns[1],
        is_root=_switch(values, "use_rslora", where, header),
        is_peft=True,
        file=header.path.name,
        where=where,
    )


def _of_kohya(header: Header) -> StatedScale | None:
    alpha, rank = (header.metadata.get(name, "") for name in (KOHYA_ALPHA, KOHYA_RANK))
    if alpha in UNSAID:
        return None
    return StatedScale(
        alpha=_number(alpha, KOHYA_ALPHA, header, lowest=None),
        rank=None if rank in UNSAID else _number(rank, KOHYA_RANK, header),
        file=header.path.name,
        where=KOHYA_ALPHA,
    )


def _number(value: Any, name: str, header: Header, lowest: float | None = 0.0) -> float:
    """A number, above the lowest unless that is None. Raises: CheckpointError."""
    is_number = NUMBER.fullmatch(value) if isinstance(value, str) else type(value) in (int, float)
    try:
        number = float(value) if is_number else float("nan")
    except OverflowError:
        number = float("nan")
    if not isfinite(number) or (lowest is not None and number <= lowest):
        raise _damaged(header, f"{name} is {shown(value)}, not a number that can be used")
    return number


def _switch(values: Mapping[str, Any], name: str, where: str, header: Header) -> bool:
    """A switch of a PEFT config, which is off if it is missing. Raises: CheckpointError for anything else."""
    value = values.get(name)
    if value is not None and not isinstance(value, bool):
        raise _damaged(header, f"{name} in {where} is {shown(value)}, neither true nor false")
    return bool(value)


def _layer_name(pattern: str, header: Header) -> str:
    """The end of a layer's name that a pattern means. PEFT accepts regular expressions, and writes plain names."""
    plain = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
    if not re.fullmatch(r"[\w.-]+", plain):
        raise _damaged(header, f"the pattern {shown(pattern)} is not the name of a layer")
    return plain


def _exception(values: Mapping[str, float], layer: str, default: float) -> float:
    fitting = (value for name, value in values.items() if layer == name or layer.endswith(f".{name}"))
    return next(fitting, default)


def _damaged(header: Header, why: str) -> CheckpointError:
    return CheckpointError(f"{header.path.name} has damaged metadata", why)
