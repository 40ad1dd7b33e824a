"""Models come to the device one after another."""

from __future__ import annotations

import torch
from torch import nn

from ltx2_core.memory import resident

CPU = torch.device("cpu")


def test_model_keeps_no_weights_after_its_block_whoever_still_holds_it() -> None:
    with resident(lambda: nn.Linear(2, 2), CPU) as model:
        assert not model.weight.is_meta
    assert all(parameter.is_meta for parameter in model.parameters())


def test_every_model_of_a_tuple_is_emptied_also_after_an_error() -> None:
    held: list[nn.Module] = []
    try:
        with resident(lambda: (nn.Linear(2, 2), nn.BatchNorm1d(2)), CPU) as models:
            held += models
            raise RuntimeError("broken")
    except RuntimeError:
        pass
    assert all(tensor.is_meta for model in held for tensor in model.state_dict().values())
