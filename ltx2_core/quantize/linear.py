"""A linear layer that keeps its weight as the file stores it, and decodes it for the length of a product.

Source: docs/reference/quantised.md, "Running quantised weights".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..headers import Header
from ..stored.layer import StoredLayer
from ..weights import STORED_DTYPES, stored_shape
from .decode import decode_matrix
from .products import LEAST_ROWS, multiplies, multiply

STORED = "stored"  # the submodule with the bytes of the file


def quantised_linear(layer: StoredLayer, linear: nn.Linear, header: Header) -> QuantisedLinear:
    """The replacement of a linear layer, on the same (meta) device. header: of the file that stores it."""
    return QuantisedLinear(layer, linear, empty_module(layer, header))


def empty_module(layer: StoredLayer, header: Header) -> nn.Module:
    """The tensors of a layer as buffers by their role, on the meta device."""
    module = nn.Module()
    for role, name in layer.tensors.items():
        info = header.tensors[name]
        empty = torch.empty(stored_shape(info), dtype=STORED_DTYPES[info.dtype], device="meta")
        module.register_buffer(role, empty)
    return module


def stored_names(layer: StoredLayer, own: str) -> dict[str, str]:
    """The names in the file of the tensors of a layer, each with its name in the model. own: the linear layer's."""
    return {name: f"{own}.{STORED}.{role}" for role, name in layer.tensors.items()}


def multiply_as_stored(module: nn.Module, formats: Collection[str]) -> None:
    """Let the quantised layers of a module multiply in their stored type, if they can.

    Args: formats: those that the machine supports.
    """
    for layer in module.modules():
        if isinstance(layer, QuantisedLinear):
            weight = layer.stored.get_buffer("weight").dtype
            layer.multiplies = multiplies(layer.layer, weight, formats)


class QuantisedLinear(nn.Module):
    """A linear layer (… in) -> (… out) whose weight is stored quantised.

    Args: linear: the replaced layer. stored: contains the tensors of the layer as buffers by their role.
    """

    def __init__(self, layer: StoredLayer, linear: nn.Linear, stored: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype = torch.bfloat16  # the dtype for code that asks for it before there are inputs
        self.bias = linear.bias
        self.stored = stored
        self.branches = nn.ModuleList()
        self.multiplies = False  # whether products are computed in the stored type
        self._is_held, self._held = False, None

    @property
    def weight(self) -> Tensor:
        """The weight (out in), decoded again at each use."""
        return self._decoded(self.dtype)

    @property
    def device(self) -> torch.device:
        """The device of its weight."""
        return self.stored.get_buffer("weight").device

    def branch_off(self, branches: Iterable[nn.Module]) -> None:
        """Add the outputs of some modules for the same input from now on, replacing earlier branches."""
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Map (… in) to (… out), in the dtype of the input."""
        y = self._product(x)
        for branch in self.branches:
            y = y + branch(x)
        return y

    def _product(self, x: Tensor) -> Tensor:
        """The output for the weight and the bias."""
        rows = x.numel() // self.in_features
        if not self.multiplies or rows < LEAST_ROWS:
            return F.linear(x, self._decoded(x.dtype), self.bias)
        y = multiply(self.layer, dict(self.stored.named_buffers()), x.reshape(rows, -1))
        y = y[:, : self.out_features].unflatten(0, x.shape[:-1])
        return y if self.bias is None else y + self.bias

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the decoded matrix for all products in a `with` block."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held, self._held = False, None

    def _decoded(self, dtype: torch.dtype) -> Tensor:
        if self._held is not None and self._held.dtype == dtype:
            return self._held
        matrix = self._decode(dtype)
        if self._is_held:
            self._held = matrix
        return matrix

    def _decode(self, dtype: torch.dtype) -> Tensor:
        shape = (self.out_features, self.in_features)
        return decode_matrix(self.layer, dict(self.stored.named_buffers()), shape, dtype)
