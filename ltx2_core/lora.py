"""Fuse LoRAs into a built model and take them out again; the model knows nothing of it.

Source: docs/reference/checkpoints.md, "Fusing".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from . import keymap
from .components import COMPONENTS
from .headers import Header, read_header
from .lora_file import MatchedLora
from .weights import map_tensors

WeightedLora = tuple[MatchedLora, float]  # a LoRA and its strength
Factors = tuple[Tensor, Tensor, float]  # up (out rank), down (rank in), and what multiplies their product


def fuse(model: nn.Module, loras: Sequence[WeightedLora], *, sums_in: torch.dtype = torch.float32) -> None:
    """Fuse LoRAs into a denoiser, one weight after another, each on its own device.

    Args: loras: in this order. sums_in: the dtype of the sums, unless the weight itself is wider; the result is rounded
    once to the weight's. The official code sums in bfloat16.
    """
    files = [map_tensors(read_header(matched.path), matched.tensor_names) for matched, _ in loras]
    for layer, name in _touched(loras).items():
        factors = (
            _factors(tensors, matched, layer, strength)
            for tensors, (matched, strength) in zip(files, loras, strict=True)
            if layer in matched.pairs
        )
        weight = fused_weight(model.get_parameter(name), factors, sums_in=sums_in)
        _put(model, name, nn.Parameter(weight, requires_grad=False))


def take_out(model: nn.Module, loras: Sequence[WeightedLora], checkpoint: Header) -> None:
    """Undo `fuse`, exactly: the weights that it changed are those of the checkpoint again.

    They are read from the file, so that no second copy of them is kept in the meantime.
    """
    transformer = COMPONENTS["transformer"]
    prefix = transformer.prefix_in(checkpoint.tensors)
    files = {transformer.full_name(f"{layer}.weight", prefix): name for layer, name in _touched(loras).items()}
    for official, weight in map_tensors(checkpoint, files).items():
        changed = model.get_parameter(files[official])
        _put(model, files[official], nn.Parameter(weight.to(changed), requires_grad=False))


@torch.no_grad()
def fused_weight(weight: Tensor, factors: Iterable[Factors], *, sums_in: torch.dtype = torch.float32) -> Tensor:
    """A weight (out in) with low-rank changes added. The changes are summed first, then added to the weight."""
    dtype = torch.promote_types(weight.dtype, sums_in)
    change: Tensor | None = None
    for up, down, scale in factors:
        up, down = up.to(weight.device, dtype), down.to(weight.device, dtype)
        change = (up * scale) @ down if change is None else change.addmm_(up, down, alpha=scale)
    return weight if change is None else change.add_(weight).to(weight.dtype)


def _factors(tensors: Mapping[str, Tensor], matched: MatchedLora, layer: str, strength: float) -> Factors:
    """The pair of a layer. Without an alpha of its own it counts as it is; the metadata's is the rank."""
    pair = matched.pairs[layer]
    scale = 1.0 if pair.alpha is None else tensors[pair.alpha].item() / pair.rank
    return tensors[pair.up], tensors[pair.down], strength * scale


def _touched(loras: Sequence[WeightedLora]) -> dict[str, str]:
    """The layers that change, each with the name of its weight in our model."""
    layers = dict.fromkeys(layer for matched, _ in loras for layer in matched.pairs)
    return {layer: keymap.from_official(f"{layer}.weight", keymap.TRANSFORMER) for layer in layers}


def _put(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, parameter)
