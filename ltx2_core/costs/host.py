"""The computer's memory for frames."""

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
    """Memory for reading a clip frame by frame: frames in the decoder, and copies of one while it is resized."""
    return int(grid.height * grid.width * (1.5 * DECODED + 3 * FLOAT32 * RESIZED))


def written_bytes(grid: VideoGrid) -> int:
    """Memory of the video encoder: frames of its lookahead, and frames that wait."""
    pixels = grid.height * grid.width
    waiting = min(1.5 * pixels * grid.frames, MOST_WAITING_BYTES)
    return int(pixels * (1.5 * AHEAD + 3 * FLOAT32 * WAITING) + waiting)
