"""Compare schedules, guidance, samplers, states, noise and media with golden tensors: one table of cases per file."""

from __future__ import annotations

from pathlib import Path

from ..report import Report
from .grids import GRIDS, SCHEDULES
from .guidance import GUIDANCE
from .media import MEDIA
from .states import CONDITIONING
from .trajectories import SAMPLERS

FILES = {
    "schedules": SCHEDULES,
    "guidance": GUIDANCE,
    "samplers": SAMPLERS,
    "conditioning": CONDITIONING,
    "grids": GRIDS,
    "media": MEDIA,
}


def run(folder: Path, where: str, report: Report) -> None:
    """Compare the cases of each file that exists."""
    for name, table in FILES.items():
        path = folder / f"{name}.safetensors"
        if path.exists():
            table.run(path, where, report)
