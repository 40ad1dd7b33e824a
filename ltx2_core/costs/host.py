"""The computer's memory for frames."""

from __future__ import annotations

from ..grids import VideoGrid

FLOAT32 = 4
AHEAD, WAITING = 100, 14  # frames of an encoder's look-ahead, 1.5 bytes per pixel; waiting frames, float32
DECODED, RESIZED = 16, 4  # frames in a decoder, 1.5 bytes per pixel; copies of a frame, float32
MOST_WAITING_BYTES = 2**29  # limit for decoded frames, 1.5 bytes per pixel, that wait for the encoder


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
