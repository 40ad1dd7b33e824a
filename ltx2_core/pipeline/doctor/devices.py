"""What the GPUs of a machine can compute, by trying it. Needs torch.

Source: docs/cli.md, "The doctor".
"""

from __future__ import annotations

from dataclasses import replace

import torch

from .report import Diagnosis, Fact

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SIDE = 64  # rows and columns of the test matrices
WITHIN = 0.05  # tolerance relative to the largest value: the precision of bfloat16


def try_devices(found: Diagnosis) -> Diagnosis:
    """The same diagnosis with a row for each device besides the CPU: the dtypes in which it multiplies correctly."""
    return replace(found, facts=(*found.facts, *(_tried(device) for device in found.devices)))


def _tried(device: str) -> Fact:
    works, why = [], ""
    for dtype in DTYPES:
        try:
            is_right = _multiplies(torch.device(device), dtype)
        except (RuntimeError, TypeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
            why = why or str(error).partition("\n")[0]
            continue
        if is_right:
            works.append(str(dtype).removeprefix("torch."))
    if not works:
        todo = "update the driver, or install a build of torch that is made for it"
        return Fact(f"{device} tried", f"torch cannot compute on it: {why or 'its products are wrong'}", todo)
    return Fact(f"{device} tried", f"products are right in {', '.join(works)}")


def _multiplies(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a small matrix product has the same result as on the CPU."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(SIDE, SIDE, generator=generator) for _ in range(2))
    exact = left @ right
    product = (left.to(device, dtype) @ right.to(device, dtype)).float().cpu()
    return bool((product - exact).abs().max() <= WITHIN * exact.abs().max())
