"""What frames take of the computer's memory."""

from __future__ import annotations

from ..grids import VideoGrid

FLOAT32 = 4
AHEAD, WAITING = 100, 14  # frames that an encoder looks ahead at, in 1.5 bytes a pixel; that wait for it, in float32
DECODED, RESIZED = 16, 4  # frames that a decoder holds, in 1.5 bytes a pixel; copies of a frame, in float32
MOST_WAITING_BYTES = 2**29  # of decoded frames, in 1.5 bytes a pixel, that may wait until they are encoded


def clip_bytes(grid: VideoGrid) -> int:
    """A clip in float32."""
    return grid.frames * grid.height * grid.width * 3 * FLOAT32


def reading_bytes(grid: VideoGrid) -> int:
    """What it takes to read a clip frame by frame: those in the decoder, and copies of one while it is made to size."""
    return int(grid.height * grid.width * (1.5 * DECODED + 3 * FLOAT32 * RESIZED))


def written_bytes(grid: VideoGrid) -> int:
    """What the encoder of a video holds: frames that it looks ahead at, and those that wait."""
    pixels = grid.height * grid.width
    waiting = min(1.5 * pixels * grid.frames, MOST_WAITING_BYTES)
    return int(pixels * (1.5 * AHEAD + 3 * FLOAT32 * WAITING) + waiting)
