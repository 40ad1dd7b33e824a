"""A linear layer that keeps its weight as the file stores it, and decodes it for the length of a product.

Source: docs/reference/quantised.md, "Running quantised weights".
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..headers import Header
from ..stored.layer import StoredLayer
from ..weights import STORED_DTYPES, stored_shape
from .decode import decode_matrix
from .rows import Stored

STORED = "stored"  # the submodule with the bytes of the file
UNUSED = ("input_scale",)  # roles that only a product with quantised inputs needs


def quantised_linear(layer: StoredLayer, linear: nn.Linear, header: Header) -> QuantisedLinear:
    """What takes the place of a linear layer, on the meta device as that is. header: of the file that stores it."""
    infos = {role: header.tensors[name] for role, name in layer.tensors.items() if role not in UNUSED}
    empty = {
        role: torch.empty(stored_shape(info), dtype=STORED_DTYPES[info.dtype], device="meta")
        for role, info in infos.items()
    }
    return QuantisedLinear(layer, linear, empty)


def stored_names(layer: StoredLayer, own: str) -> dict[str, str]:
    """The names in the file of the tensors that are kept, each with its name in the model. own: the linear layer's."""
    return {name: f"{own}.{STORED}.{role}" for role, name in layer.tensors.items() if role not in UNUSED}


class QuantisedLinear(nn.Module):
    """A linear layer (… in) -> (… out) whose weight is stored quantised.

    Args: linear: whose place it takes. stored: the tensors of the layer by role.
    """

    def __init__(self, layer: StoredLayer, linear: nn.Linear, stored: Stored) -> None:
        super().__init__()
        self.layer = layer
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype = torch.bfloat16  # what it computes in where it is not asked with a tensor
        self.bias = linear.bias
        self.stored = nn.Module()
        for role, tensor in stored.items():
            self.stored.register_buffer(role, tensor)
        self.branches = nn.ModuleList()

    @property
    def weight(self) -> Tensor:
        """The weight (out in), decoded again at each use."""
        return self._decoded(self.dtype)

    @property
    def device(self) -> torch.device:
        """Where its weight is."""
        return self.stored.get_buffer("weight").device

    def branch_off(self, branches: Iterable[nn.Module]) -> None:
        """Add what some modules make of the input, from now on, in place of those that did so before."""
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Map (… in) to (… out), in the dtype of the input."""
        y = F.linear(x, self._decoded(x.dtype), self.bias)
        for branch in self.branches:
            y = y + branch(x)
        return y

    def _decoded(self, dtype: torch.dtype) -> Tensor:
        shape = (self.out_features, self.in_features)
        return decode_matrix(self.layer, dict(self.stored.named_buffers()), shape, dtype)
