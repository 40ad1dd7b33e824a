"""Fuse LoRAs into a built model and remove them again; the model does not know about them.

A weight that is stored quantised is not changed; the LoRA is a branch beside it.
Source: docs/reference/checkpoints.md, "Fusing"; docs/reference/quantised.md, "Running quantised weights".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import keymap
from .components import COMPONENTS
from .costs.weights import SUMMED_AT_ONCE
from .errors import CheckpointError
from .headers import Header, read_header
from .lora_file import MatchedLora
from .lora_forms import Combine, is_product
from .lora_scale import usable_scale
from .quantize.linear import QuantisedLinear
from .weights import map_tensors, require_finite

WeightedLora = tuple[MatchedLora, float]  # a LoRA and its strength
Operand = Sequence[Tensor]  # one tensor, or two that are multiplied as matrices


class Addend(NamedTuple):
    """A change of a weight: its operands, how two operands are combined, and a factor."""

    operands: Sequence[Operand]
    combine: Combine | None
    scale: float


class Addends:
    """The changes that LoRAs make to the tensors of a denoiser. Files are mapped once, and each factor is checked once.

    Args: loras: in this order. names: the changed tensors, by their official names, with those in our model.
    """

    def __init__(self, loras: Sequence[WeightedLora]) -> None:
        self.loras = loras
        self.names = _touched(loras)
        self._files = [map_tensors(read_header(matched.path), matched.tensor_names) for matched, _ in loras]
        self._finite: set[str] = set()

    def of(self, official: str) -> list[Addend]:
        """The changes of a tensor. Raises: CheckpointError for a factor with NaN or infinite values."""
        pairs = zip(self._files, self.loras, strict=True)
        own = [(tensors, lora, strength) for tensors, (lora, strength) in pairs if official in lora.changes]
        if official not in self._finite:
            for tensors, lora, _ in own:
                for name in lora.changes[official].tensor_names:
                    require_finite(lora.path, name, tensors[name])
            self._finite.add(official)
        return [_addend(tensors, lora, official, strength) for tensors, lora, strength in own]


class Branch(nn.Module):
    """The LoRA's addition to the output of a layer: (… in) -> (… out), without computing the full matrix of a low-rank
    change.

    Args: layer: whose device and dtype it uses.
    """

    def __init__(self, addend: Addend, layer: QuantisedLinear) -> None:
        super().__init__()
        self.combine: Combine | None = addend.combine
        self.scale = addend.scale
        self.factors = nn.ModuleList()
        for operand in addend.operands:
            own = nn.Module()
            for number, factor in enumerate(operand):
                own.register_buffer(str(number), factor.to(layer.device, layer.dtype), persistent=False)
            self.factors.append(own)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = [[factor.to(x.dtype) for factor in operand.buffers()] for operand in self.factors]
        if is_product([first, *others]):
            up, down = first
            return F.linear(F.linear(x, down), up) * self.scale
        return F.linear(x, _combined(first, others, self.combine)) * self.scale


def fuse(model: nn.Module, loras: Sequence[WeightedLora], *, sums_in: torch.dtype = torch.float32) -> None:
    """Fuse LoRAs into a denoiser, one weight after another, each on its own device.

    Args: loras: in this order. sums_in: the dtype of the sums, unless the weight itself is wider; the result is rounded
    once to the weight's. The official code sums in bfloat16.
    Raises: CheckpointError for a factor with NaN or infinite values, or one that does not fit a quantised weight; the
    weights before it are fused then.
    """
    fuse_addends(model, Addends(loras), sums_in=sums_in)


def fuse_addends(
    model: nn.Module,
    addends: Addends,
    *,
    sums_in: torch.dtype = torch.float32,
    only: Callable[[str], bool] = lambda _: True,
    in_place: bool = False,
) -> None:
    """Like `fuse`, for changes that are read already.

    Args: only: which weights, by their names in the model. in_place: their memory is overwritten, and is not a file's.
    Raises: as `fuse`.
    """
    for official, name in addends.names.items():
        if not only(name):
            continue
        layer = _quantised(model, name)
        if layer is not None:
            _require_shape(layer, addends.loras, official)
            layer.branch_off(Branch(addend, layer) for addend in addends.of(official))
            continue
        plain = model.get_parameter(name)
        weight = fused_weight(plain, addends.of(official), sums_in=sums_in, out=plain if in_place else None)
        if not in_place:
            _put(model, name, nn.Parameter(weight, requires_grad=False))


def take_out(
    model: nn.Module,
    loras: Sequence[WeightedLora],
    checkpoint: Header,
    *,
    only: Callable[[str], bool] = lambda _: True,
) -> None:
    """Undo `fuse`, exactly: the changed weights are those of the checkpoint again.

    They are read from the file, so that no second copy of them is needed.
    """
    transformer = COMPONENTS["transformer"]
    prefix = transformer.prefix_in(checkpoint.tensors)
    files: dict[str, str] = {}
    for official, name in _touched(loras).items():
        if not only(name):
            continue
        layer = _quantised(model, name)
        if layer is None:
            files[transformer.full_name(official, prefix)] = name
        else:
            layer.branch_off(())
    for stored, weight in map_tensors(checkpoint, files).items():
        changed = model.get_parameter(files[stored])
        _put(model, files[stored], nn.Parameter(weight.to(changed), requires_grad=False))


@torch.no_grad()
def fused_weight(
    weight: Tensor, addends: Iterable[Addend], *, sums_in: torch.dtype = torch.float32, out: Tensor | None = None
) -> Tensor:
    """A weight (out in) or bias (out) with changes added. The changes are summed first, then added to the weight.

    Products of two matrices are computed some rows at a time, so that little more than the result is in memory.
    Args: out: memory for the result, of the weight's shape and dtype; the weight itself is allowed.
    """
    dtype = torch.promote_types(weight.dtype, sums_in)
    changes = [
        one._replace(operands=[[factor.to(weight.device, dtype) for factor in operand] for operand in one.operands])
        for one in addends
    ]
    if not changes:
        return weight
    is_cut = all(is_product(operands) for operands, _, _ in changes)
    rows = max(1, SUMMED_AT_ONCE // weight[0].numel()) if is_cut else len(weight)
    if out is None:
        out = torch.empty_like(weight)
    for begin in range(0, len(weight), rows):
        part = slice(begin, begin + rows)
        change: Tensor | None = None
        for (first, *others), combine, scale in changes:
            if is_product([first, *others]):
                up, down = first
                change = (up[part] * scale) @ down if change is None else change.addmm_(up[part], down, alpha=scale)
            else:
                whole = _combined(first, others, combine)
                change = whole * scale if change is None else change.add_(whole, alpha=scale)
        assert change is not None
        out[part] = change.add_(weight[part])
    return out


def _combined(first: Operand, others: Sequence[Operand], combine: Combine | None) -> Tensor:
    """The change from combined operands, before it is scaled."""
    matrices = [operand[0] if len(operand) == 1 else operand[0] @ operand[1] for operand in (first, *others)]
    if combine == "kronecker":
        return torch.kron(*matrices)
    return matrices[0] * matrices[1] if combine == "product" else matrices[0]


def _addend(tensors: Mapping[str, Tensor], matched: MatchedLora, official: str, strength: float) -> Addend:
    """The change of one tensor; its own alpha takes precedence over that of the metadata."""
    change = matched.changes[official]
    scale = change.scale
    if change.alpha is not None and change.rank is not None:
        scale = usable_scale(matched.path.name, change.alpha, tensors[change.alpha].double().item(), change.rank)
    operands = [[tensors[name] for name in operand] for operand in change.operands]
    return Addend(operands, change.combine, strength * scale)


def _touched(loras: Sequence[WeightedLora]) -> dict[str, str]:
    """The changed tensors, by their official names, each with its name in our model."""
    names = dict.fromkeys(official for matched, _ in loras for official in matched.changes)
    return {official: keymap.from_official(official, keymap.TRANSFORMER) for official in names}


def _quantised(model: nn.Module, name: str) -> QuantisedLinear | None:
    """The layer of a weight, where that is stored quantised."""
    owner, _, leaf = name.rpartition(".")
    layer = model.get_submodule(owner) if leaf == "weight" else None
    return layer if isinstance(layer, QuantisedLinear) else None


def _require_shape(layer: QuantisedLinear, loras: Sequence[WeightedLora], official: str) -> None:
    """Refuse a change that was made for the padding of a weight too. The header does not show this."""
    shape = (layer.out_features, layer.in_features)
    for matched, _ in loras:
        change = matched.changes.get(official)
        if change is not None and change.shape != shape:
            why = f"{official} is made for {list(change.shape)}, the model has {list(shape)}"
            raise CheckpointError(f"{matched.path.name} does not fit the model", why)


def _put(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, parameter)
