"""The forms in which files store the change of a weight: which of their tensors belong together, and what they change.

Source: docs/reference/checkpoints.md, "Forms that are accepted".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

from .header_text import DTYPE_BYTES
from .headers import FLOATS, Header

Leaf = Literal["weight", "bias"]
Target = tuple[str, Leaf]  # the file's name of a layer, and the tensor of it that is changed
Combine = Literal["kronecker", "product"]
Shape = tuple[int, ...]

FACTOR_DTYPES = FLOATS | {"F8_E4M3", "F8_E5M2"}
ADAPTER = r"((\.[^.]+)?\.weight)?"  # PEFT puts the name of an adapter before the last word
# Endings of a change's tensors, after the name of the layer and a full stop.
PARTS = {
    "down": rf"lora_(A|down){ADAPTER}|lora(_linear_layer)?\.down\.weight",
    "up": rf"lora_(B|up){ADAPTER}|lora(_linear_layer)?\.up\.weight",
    **{part: rf"lokr_{part}(\.[^.]+)?" for part in ("w1", "w2", "w1_a", "w1_b", "w2_a", "w2_b")},
    **{f"hada_{part}": rf"hada_{part}(\.[^.]+)?" for part in ("w1_a", "w1_b", "w2_a", "w2_b")},
    "diff": "diff",
    "diff_b": "diff_b",
    "alpha": "alpha",
}
ENDING = re.compile("|".join(rf"(?P<{part}>\.({ending})$)" for part, ending in PARTS.items()))
# Forms that are refused, because the change depends on more than their tensors.
FOREIGN = {
    "a DoRA": re.compile(r"\.(dora_scale|lora_magnitude_vector(\.[^.]+)?(\.weight)?)$"),
    "an OFT": re.compile(r"\.(oft_(blocks|diag|[rR])|boft_[rR])(\.[^.]+)?(\.weight)?$"),
    "an IA3": re.compile(r"\.ia3_l(\.[^.]+)?$"),
    "a VeRA": re.compile(r"\.vera_lambda_[bd](\.[^.]+)?$"),
    "a LoCon with Tucker cores": re.compile(r"\.(lokr_t2|hada_t[12]|lora_mid)(\.[^.]+)?(\.weight)?$"),
}


def is_product(operands: Sequence[Sequence[object]]) -> bool:
    """Whether the change is only the product of two matrices, as in most LoRAs."""
    return len(operands) == 1 and len(operands[0]) == 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The change of one tensor of a model, as a file stores it.

    Args: operands: names of tensors in the file; those of an operand are multiplied as matrices. combine: how two
    operands are combined. shape: of the changed tensor. rank: the divisor of alpha; None if the form has no rank and
    ignores alpha. alpha: the name of a tensor with one value. scale: the factor if there is no such tensor. numbers:
    values in all operands together.
    """

    operands: tuple[tuple[str, ...], ...]
    combine: Combine | None = None
    shape: Shape
    rank: int | None = None
    alpha: str | None = None
    scale: float = 1.0
    numbers: int = 0

    @property
    def factors(self) -> list[str]:
        """The names in the file of all multiplied tensors."""
        return [name for operand in self.operands for name in operand]

    @property
    def tensor_names(self) -> list[str]:
        """The names in the file of all its tensors."""
        return self.factors if self.alpha is None else [*self.factors, self.alpha]

    def scaled(self, scale: float) -> Change:
        return replace(self, scale=scale)


def read_changes(header: Header) -> tuple[dict[Target, Change], dict[str, str]]:
    """The changes in a file, and those that cannot be used, each with the reason.

    Each change has the rank of its form; a scale from the metadata is not included yet.
    """
    layers, rejected = _grouped(header)
    changes: dict[Target, Change] = {}
    for layer, parts in layers.items():
        bias = parts.pop("diff_b", None)
        try:
            if bias is not None:
                changes[layer, "bias"] = _change(header, [[bias]])
            if parts:
                changes[layer, "weight"] = _weight_change(header, parts)
        except ValueError as error:
            rejected[layer] = str(error)
    return changes, rejected


def foreign_form(header: Header) -> tuple[str, str] | None:
    """The name of an unsupported form, and a tensor that shows it; None for other files."""
    for name in header.tensors:
        for form, pattern in FOREIGN.items():
            if pattern.search(name):
                return form, name
    return None


def _grouped(header: Header) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """The tensors of each layer by their part, and the tensors that are no part of a change."""
    grouped: dict[str, dict[str, str]] = {}
    rejected = {}
    for name in header.tensors:
        ending = ENDING.search(name)
        if ending is None or ending.lastgroup is None:
            rejected[name] = "not a part of a low-rank pair or of another form that is supported"
            continue
        layer, part = name[: ending.start()], next(part for part in PARTS if ending[part] is not None)
        if grouped.setdefault(layer, {}).setdefault(part, name) != name:
            rejected[name] = "the same part is there under another name"
    return grouped, rejected


def _weight_change(header: Header, parts: Mapping[str, str]) -> Change:
    """The change of a weight. Raises: ValueError that says why the parts are not valid."""
    form = next((form for form, needed in FORMS.items() if needed & parts.keys()), None)
    if form is None:
        raise ValueError("an alpha without a change")
    if foreign := parts.keys() - FORMS[form] - {"alpha"}:
        raise ValueError(f"it has {parts[min(foreign)]} beside another form of change")
    return READERS[form](header, parts)


def _low_rank(header: Header, parts: Mapping[str, str]) -> Change:
    if not parts.keys() >= {"down", "up"}:
        raise ValueError("half of the pair is missing")
    change = _change(header, [[parts["up"], parts["down"]]], alpha=parts.get("alpha"))
    return replace(change, rank=_inner(header, change.operands[0]))


def _kronecker(header: Header, parts: Mapping[str, str]) -> Change:
    """The Kronecker product of two matrices, each whole or of two factors."""
    first, second = (_whole_or_factored(parts, name) for name in ("w1", "w2"))
    change = _change(header, [first, second], "kronecker", alpha=parts.get("alpha"))
    factored = [operand for operand in (second, first) if len(operand) > 1]
    # For two full matrices LyCORIS stores any alpha, and ignores it.
    return replace(change, rank=_inner(header, factored[0])) if factored else replace(change, alpha=None)


def _hadamard(header: Header, parts: Mapping[str, str]) -> Change:
    """The product, number by number, of two matrices of two factors each."""
    if missing := FORMS["hadamard"] - parts.keys():
        raise ValueError(f"{min(missing)} is missing")
    pairs = [[parts[f"hada_{name}_a"], parts[f"hada_{name}_b"]] for name in ("w1", "w2")]
    change = _change(header, pairs, "product", alpha=parts.get("alpha"))
    return replace(change, rank=_inner(header, change.operands[0]))


def _whole(header: Header, parts: Mapping[str, str]) -> Change:
    return _change(header, [[parts["diff"]]])


# The tensors that each form needs besides an alpha; for a Kronecker product, those that it may have.
FORMS = {
    "low-rank": frozenset({"down", "up"}),
    "kronecker": frozenset({"w1", "w2", "w1_a", "w1_b", "w2_a", "w2_b"}),
    "hadamard": frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}),
    "whole": frozenset({"diff"}),
}
READERS: dict[str, Callable[[Header, Mapping[str, str]], Change]] = {
    "low-rank": _low_rank,
    "kronecker": _kronecker,
    "hadamard": _hadamard,
    "whole": _whole,
}


def _whole_or_factored(parts: Mapping[str, str], name: str) -> list[str]:
    """The tensors of a matrix that is stored whole, or as two factors."""
    factors = [parts[part] for part in (f"{name}_a", f"{name}_b") if part in parts]
    if name in parts and not factors:
        return [parts[name]]
    if name in parts or len(factors) != 2:
        raise ValueError(f"lokr_{name} is neither whole nor two factors")
    return factors


def _change(
    header: Header, operands: Sequence[Sequence[str]], combine: Combine | None = None, alpha: str | None = None
) -> Change:
    """A change from tensors that must be consistent. Raises: ValueError that says why they are not."""
    for name in (name for operand in operands for name in operand):
        dtype = header.tensors[name].dtype
        if dtype not in FACTOR_DTYPES:
            raise ValueError(f"stored as {dtype}, which is not supported")
    shapes = [_product_shape(header, operand) for operand in operands]
    if alpha is not None:
        info = header.tensors[alpha]
        if prod(info.shape) != 1 or info.dtype not in DTYPE_BYTES:
            raise ValueError("its alpha is not one number")
    if combine is not None and any(len(shape) != 2 for shape in shapes):
        raise ValueError(f"{' and '.join(str(list(shape)) for shape in shapes)} are not two matrices")
    if combine == "product" and shapes[0] != shapes[1]:
        raise ValueError(f"{list(shapes[0])} and {list(shapes[1])} differ")
    shape = tuple(map(prod, zip(*shapes, strict=True))) if combine == "kronecker" else shapes[0]
    numbers = sum(prod(header.tensors[name].shape) for operand in operands for name in operand)
    return Change(operands=tuple(map(tuple, operands)), combine=combine, shape=shape, alpha=alpha, numbers=numbers)


def _product_shape(header: Header, operand: Sequence[str]) -> Shape:
    """The shape of a tensor, or of the matrix that two factors give."""
    shapes = [header.tensors[name].shape for name in operand]
    if len(shapes) == 1:
        return shapes[0]
    left, right = shapes
    if len(left) != 2 or len(right) != 2 or not 0 < left[1] == right[0]:
        raise ValueError(f"{list(right)} and {list(left)} are no low-rank pair")
    return left[0], right[1]


def _inner(header: Header, operand: Sequence[str]) -> int:
    """The rank of a matrix of two factors."""
    return header.tensors[operand[0]].shape[1]
