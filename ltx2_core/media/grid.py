"""Many clips side by side, with labels: a frame of each as a PNG, or all of them playing together as an MP4."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from .accept import check_input
from .audio import read_audio
from .board import MARGIN, Board, Bounds, Row
from .clip import ClipShape, Encoding, Output
from .inputs import VideoSource
from .lettering import DIM, INK, PAPER, SMALL, USUAL, fitted, font_for, plain
from .partial import partial_file
from .sheet import save_small
from .video import frames_by_number, frames_by_time
from .waveform import Waveform
from .writer import write_clip

SHEET = Bounds(width=1600, height=4000)
CLIP = Bounds(width=1600, height=1200)
MOST_BYTES = 512 * 2**20  # limit for the frames that are combined at once
PIECE = 8  # frames per piece for the encoder
MISSING = "missing"
EMPTY = (38, 41, 49)

Sources = Mapping[Path, VideoSource]


def grid_sheet(rows: Sequence[Row], target: Path) -> None:
    """Draw the middle frame of every clip, as one PNG. The place of a missing clip is empty.

    Raises: MediaError if a file cannot be read, or all are missing. StorageError for a disk error.
    """
    sources = _sources(rows)
    board = Board.of(rows, _size(sources), SHEET)
    image = _drawn(board, sources)
    for place, cell in board.places:
        if source := sources.get(cell.path):
            ((_, pixels),) = frames_by_number(source, {(source.frames - 1) // 2})
            _paste(image, rearrange(pixels, "c H W -> H W c").numpy(), place, board.cell)
    with partial_file(target, overwrite=True) as partial:
        save_small(image, partial)


def grid_clip(rows: Sequence[Row], target: Path) -> None:
    """Write all clips playing together, as one MP4 with the audio of the first one that has any.

    It has the frame rate of the first clip and lasts as long as the longest; a shorter clip stays at its last frame.
    Clips are read one after another, for as many frames as fit into 512 MB.
    Raises: as `grid_sheet`.
    """
    sources = _sources(rows)
    board = Board.of(rows, _size(sources), CLIP)
    fps = next(iter(sources.values())).fps.limit_denominator(1001)
    frames = max(1, round(max(source.duration_s for source in sources.values()) * fps))
    width, height = board.size
    shape = ClipShape(width=width, height=height, frames=frames, fps=fps)
    output = Output(path=target, overwrite=True)
    write_clip(output, shape, _frames(board, sources, shape), _audio(sources), Encoding())


def _sources(rows: Sequence[Row]) -> Sources:
    """The existing clips, in their order."""
    paths = dict.fromkeys(cell.path for row in rows for cell in row.cells)
    return {path: check_input(path, VideoSource) for path in paths if path.is_file()}


def _size(sources: Sources) -> tuple[int, int]:
    """Width and height of the first clip, whose aspect ratio the cells have."""
    first = next(iter(sources.values()))
    return first.width, first.height


def _drawn(board: Board, sources: Sources) -> Image.Image:
    """A board with all its text, without the frames."""
    image = Image.new("RGB", board.size, PAPER)
    draw = ImageDraw.Draw(image)
    for top, label in board.titles:
        text = plain(label)
        known = font_for(text, USUAL)
        draw.text((MARGIN, top + USUAL), fitted(text, known, board.size[0] - 2 * MARGIN), INK, known, "ls")
    width, height = board.cell
    for (left, top), cell in board.places:
        text = plain(cell.label)
        known = font_for(text, SMALL)
        draw.text((left, top + height + SMALL), fitted(text, known, width), DIM, known, "ls")
        if cell.path not in sources:
            draw.rectangle((left, top, left + width - 1, top + height - 1), EMPTY)
            draw.text((left + width // 2, top + height // 2), MISSING, DIM, font_for(MISSING, SMALL), "mm")
    return image


def _paste(image: Image.Image, pixels: NDArray, place: tuple[int, int], cell: tuple[int, int]) -> None:
    """Put a frame (H W 3) into the middle of its cell, as large as possible."""
    height, width, _ = pixels.shape
    scale = min(cell[0] / width, cell[1] / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = ((whole - part) // 2 for whole, part in zip(cell, size, strict=True))
    image.paste(Image.fromarray(pixels).resize(size, Image.Resampling.BOX), (place[0] + left, place[1] + top))


def _frames(board: Board, sources: Sources, shape: ClipShape) -> Iterator[Tensor]:
    """The frames of all clips together, (F 3 H W) in [0, 1]."""
    background = np.asarray(_drawn(board, sources))
    count = max(PIECE, MOST_BYTES // background.nbytes)
    for begin in range(0, shape.frames, count):
        whole = np.repeat(background[None], min(count, shape.frames - begin), axis=0)
        for place, cell in board.places:
            if source := sources.get(cell.path):
                _play(whole, source, begin, shape.fps, place, board.cell)
        for piece in torch.from_numpy(whole).split(PIECE):
            yield rearrange(piece, "F H W c -> F c H W").float() / 255


def _play(
    whole: NDArray, source: VideoSource, begin: int, fps: Fraction, place: tuple[int, int], cell: tuple[int, int]
) -> None:
    """Put a clip, starting at a frame, into its cell of frames (F H W 3)."""
    (left, top), (width, height) = place, cell
    start_s = min(begin / fps, source.duration_s - 1 / source.fps)
    frames = frames_by_time(source, len(whole), fps, max(Fraction(0), start_s))
    for number, pixels in enumerate(islice(frames, len(whole))):
        image = Image.new("RGB", cell, PAPER)
        _paste(image, rearrange(pixels, "1 c H W -> H W c").numpy(), (0, 0), cell)
        whole[number, top : top + height, left : left + width] = np.asarray(image)


def _audio(sources: Sources) -> Waveform | None:
    """The audio of the first clip that has any."""
    first = next((source.audio for source in sources.values() if source.audio), None)
    return None if first is None else read_audio(first)
