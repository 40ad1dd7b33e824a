"""What frames take of the computer's memory."""

from __future__ import annotations

from ..grids import VideoGrid

FLOAT32 = 4
AHEAD, WAITING = 100, 14  # frames that an encoder looks ahead at, in 1.5 bytes a pixel; that wait for it, in float32


def clip_bytes(grid: VideoGrid) -> int:
    """A clip in float32, as it is read."""
    return grid.frames * grid.height * grid.width * 3 * FLOAT32


def written_bytes(grid: VideoGrid) -> int:
    """What the encoder of a video holds: frames that it looks ahead at, and those that wait."""
    return int(grid.height * grid.width * (1.5 * AHEAD + 3 * FLOAT32 * WAITING))
