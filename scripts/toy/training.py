"""Code that all trainings share: a state on disk from which a stopped training continues, optimisers, and step
sizes.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from scripts.toy.model import HOME

SAVE_EVERY_S = 180


def options_of(about: str | None, *, steps: int, rate: float = 0.02) -> argparse.ArgumentParser:
    """The options of every training of one component, with the description and the defaults of the script."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="folder for the state of the training")
    parser.add_argument("--out", type=Path, default=HOME, metavar="DIR", help="folder of the model (read and written)")
    parser.add_argument("--fresh", action="store_true", help="start from random weights")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--rate", type=float, default=rate, help="highest learning rate")
    return parser


class Part(Protocol):
    """A part of a training that has a state: a module, an optimiser."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


class Run:
    """A training that can be stopped at any time and continues from the last state in its folder.

    Args: folder: for the state; created if it is missing. parts: the parts of the training, by name, with their initial
    values; if there is a state, its values are loaded into them.
    """

    def __init__(self, folder: Path, parts: dict[str, Part]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.parts = folder / "state.pt", parts
        self.step, self.seconds = 0, 0.0
        if self.path.is_file():
            state = torch.load(self.path, weights_only=True)
            self.step, self.seconds = state.pop("step"), state.pop("seconds")
            for name, part in parts.items():
                part.load_state_dict(state[name])

    def steps(self, count: int) -> Iterator[int]:
        """The remaining steps up to `count`; the state is saved every few minutes and after the last step."""
        started, saved = time.monotonic() - self.seconds, time.monotonic()
        while self.step < count:
            yield self.step
            self.step, self.seconds = self.step + 1, time.monotonic() - started
            if self.step == count or time.monotonic() - saved > SAVE_EVERY_S:
                self.save()
                saved = time.monotonic()

    def save(self) -> None:
        """Save the state atomically."""
        part = self.path.with_suffix(f".{os.getpid()}.part")
        state = {name: part.state_dict() for name, part in self.parts.items()}
        torch.save({"step": self.step, "seconds": self.seconds, **state}, part)
        part.replace(self.path)


class Average:
    """An exponential moving average of parameters, which gives better samples than their last values.

    Args: highest: the decay per step; it is lower at first.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], highest: float) -> None:
        self.parameters, self.highest, self.count = list(parameters), highest, 0
        self.values = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the present values."""
        self.count += 1
        kept = min(self.highest, (1 + self.count) / (10 + self.count))
        torch._foreach_lerp_(self.values, self.parameters, 1 - kept)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Set the parameters to the average inside a `with` block."""
        own = [parameter.data for parameter in self.parameters]
        for parameter, value in zip(self.parameters, self.values, strict=True):
            parameter.data = value
        yield
        for parameter, value in zip(self.parameters, own, strict=True):
            parameter.data = value

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "values": self.values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count, self.values = state_dict["count"], state_dict["values"]


def learning_rate(highest: float, step: int, count: int, warm_up: int = 30) -> float:
    """The learning rate: a linear warm-up, then a cosine decay to 0 after `count` steps."""
    if step < warm_up:
        return highest * (step + 1) / warm_up
    return highest * (1 + math.cos(math.pi * (step - warm_up) / max(count - warm_up, 1))) / 2


class Muon(torch.optim.Optimizer):
    """An optimiser with steps of equal size in all directions of a kernel, so that rare features of the data are
    learned too.

    A kernel (out …) moves along the nearest orthogonal matrix to its averaged gradient; a tensor with one axis moves
    along the sign of the gradient.

    Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            matrices: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 1 - group["momentum"])
                direction = parameter.grad.lerp(average, group["momentum"])
                if parameter.dim() == 1:
                    parameter -= 0.05 * group["lr"] * direction.sign()
                else:
                    rows, columns = len(parameter), direction[0].numel()
                    matrices[rows, columns].append((parameter, direction.flatten(1)))
            for (rows, columns), same in matrices.items():  # small matrices are only fast in a batch
                parameters, directions = zip(*same, strict=True)
                moves = orthogonal(torch.stack(directions)) * (group["lr"] * max(1, rows / columns) ** 0.5)
                for parameter, move in zip(parameters, moves, strict=True):
                    parameter -= move.view_as(parameter)


def orthogonal(matrices: Tensor) -> Tensor:
    """Five Newton-Schulz steps towards the orthogonal matrices that have the singular vectors of the given matrices (k
    a b).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(5):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
