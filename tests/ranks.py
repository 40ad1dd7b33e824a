"""Run a function on several gloo ranks, in processes of this test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import torch
import torch.multiprocessing as mp

from ltx2_core.parallel import Ranks

TIMEOUT_S = 60


def on_ranks(count: int, function: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """Call a function with a `Ranks` and other arguments on this many ranks. Returns: the results of all ranks.

    The ranks are forks of this process, because a new one would take seconds to import torch. folder: an empty one.
    """
    context = mp.start_processes(_rank, (count, function, folder, args), nprocs=count, join=False, start_method="fork")
    assert context is not None
    end = monotonic() + 2 * TIMEOUT_S
    while not context.join(timeout=1):
        if monotonic() > end:
            for process in context.processes:
                process.kill()
            raise TimeoutError("a rank hangs")
    return [torch.load(folder / f"{number}.pt", weights_only=False) for number in range(count)]


def _rank(number: int, count: int, function: Callable[..., Any], folder: Path, args: tuple[Any, ...]) -> None:
    ranks = Ranks.meet(number, ["cpu"] * count, folder / "meeting", TIMEOUT_S)
    with torch.inference_mode():
        torch.save(function(ranks, *args), folder / f"{number}.pt")
    ranks.part()
