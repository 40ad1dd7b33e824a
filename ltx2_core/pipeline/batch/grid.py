"""The grid of a batch: its results side by side, made from the finished files in its folder.

Source: docs/batch.md, "All results side by side".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...media.board import Row
from ...media.grid import grid_clip, grid_sheet
from .record import GRID_CLIP, GRID_SHEET


def draw_grid(rows: Sequence[Row], folder: Path) -> tuple[Path, ...]:
    """Write `grid.png` and `grid.mp4` into the folder of a batch; nothing if there is no result.

    Raises: MediaError for a result that cannot be read; StorageError.
    """
    if not any(cell.path.is_file() for row in rows for cell in row.cells):
        return ()
    sheet, clip = folder / GRID_SHEET, folder / GRID_CLIP
    grid_sheet(rows, sheet)
    grid_clip(rows, clip)
    return sheet, clip
