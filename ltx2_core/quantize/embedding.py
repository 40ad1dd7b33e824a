"""An embedding table that keeps its rows as the file stores them, and decodes those that are looked up.

Source: docs/reference/quantised.md, "Running quantised weights".
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..headers import Header
from ..stored.layer import HINT, Format, StoredLayer
from .decode import ROUNDED, decode, decode_matrix
from .linear import empty_module

BY_ROWS: tuple[Format, ...] = ("int8", "fp8", "fp8_rows", "fp8_cast")  # formats in which a single row can be decoded


def quantised_embedding(layer: StoredLayer, table: nn.Embedding, header: Header) -> QuantisedEmbedding:
    """The replacement of an embedding table, also on the meta device.

    Raises: CheckpointError if its rows cannot be decoded separately, or its size is wrong.
    """
    weight = layer.tensors["weight"]
    if layer.format not in BY_ROWS:
        why = f"{weight} is stored as {layer.title}, which is not supported for embeddings"
        raise CheckpointError(f"{header.path.name} is quantised where that is not supported", why, HINT)
    shape = (table.num_embeddings, table.embedding_dim)
    if layer.shape != shape:
        why = f"{weight} is {list(layer.shape)}, expected {list(shape)}"
        raise CheckpointError(f"{header.path.name} does not hold the model that its config describes", why)
    return QuantisedEmbedding(layer, table, header)


class QuantisedEmbedding(nn.Module):
    """An embedding table, ids (…) -> rows (… d), times `embed_scale` if the replaced table has one."""

    embed_scale: Any

    def __init__(self, layer: StoredLayer, table: nn.Embedding, header: Header) -> None:
        super().__init__()
        self.layer = layer
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.dtype = torch.bfloat16  # of the output
        self.stored = empty_module(layer, header)
        self.register_buffer("embed_scale", getattr(table, "embed_scale", None), persistent=False)

    @property
    def weight(self) -> Tensor:
        """The table (n d), decoded again at each use."""
        shape = (self.num_embeddings, self.embedding_dim)
        return decode_matrix(self.layer, dict(self.stored.named_buffers()), shape, self.dtype)

    def forward(self, ids: Tensor) -> Tensor:
        """The rows of some ids, rounded to bfloat16 like every decoded weight."""
        chosen = ids.flatten()
        stored = {role: _chosen(tensor, chosen) for role, tensor in self.stored.named_buffers()}
        layer = replace(self.layer, shape=(len(chosen), self.layer.shape[1]))
        rows = decode(layer, stored, range(len(chosen))).to(ROUNDED).to(self.dtype)
        if self.embed_scale is not None:
            rows = rows * self.embed_scale.to(self.dtype)
        return rows.unflatten(0, ids.shape)


def _chosen(tensor: Tensor, ids: Tensor) -> Tensor:
    """Some rows of a stored tensor, selected by their bytes; a common scale of all rows is not changed."""
    if tensor.numel() == 1:
        return tensor
    return tensor.view(torch.uint8)[ids].view(tensor.dtype) if tensor.element_size() == 1 else tensor[ids]
