"""The layout of many clips side by side, in pixels. Arithmetic only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MARGIN = 8
ROW_LINE, CELL_LINE = 24, 19  # heights of the text above a row, and below a cell
MOST_COLUMNS = MOST_ROWS = 16
LEAST_CELL = 48  # smallest width in pixels


@dataclass(frozen=True, slots=True)
class Cell:
    """A clip in a grid. label: the text below it. The file may be missing."""

    label: str
    path: Path


@dataclass(frozen=True, slots=True)
class Row:
    """Clips that belong together. label: the text above them; no line if it is empty."""

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The maximum size of a board, in pixels. height: exceeded only if cells would become too small."""

    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """Rows of cells of one size. All sizes are even, as video requires.

    Args: columns: cells per line; a longer row continues on the next line.
    """

    rows: Sequence[Row]
    columns: int
    cell: tuple[int, int]

    @classmethod
    def of(cls, rows: Sequence[Row], clip: tuple[int, int], bounds: Bounds) -> Board:
        """The largest board within bounds. clip: width and height of the clips, which are not enlarged."""
        columns = min(MOST_COLUMNS, max(len(row.cells) for row in rows))
        widest = min(clip[0], (bounds.width - MARGIN) // columns - MARGIN)
        boards = (cls(rows=rows, columns=columns, cell=_scaled(clip, width)) for width in range(widest, LEAST_CELL, -2))
        smallest = cls(rows=rows, columns=columns, cell=_scaled(clip, LEAST_CELL))
        return next((board for board in boards if board.size[1] <= bounds.height), smallest)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the whole."""
        width = self.columns * (self.cell[0] + MARGIN) + MARGIN
        return width, _even(sum(self._height(row) for row in self.rows) + MARGIN)

    @property
    def titles(self) -> Iterator[tuple[int, str]]:
        """The labels of rows, each with its upper edge."""
        yield from ((top, row.label) for top, row in self._tops() if row.label)

    @property
    def places(self) -> Iterator[tuple[tuple[int, int], Cell]]:
        """The cells, each with the left and the upper edge of its frame."""
        width, height = self.cell
        for top, row in self._tops():
            begin = top + ROW_LINE * bool(row.label)
            for number, cell in enumerate(row.cells):
                line, column = divmod(number, self.columns)
                yield (MARGIN + column * (width + MARGIN), begin + line * (height + CELL_LINE + MARGIN)), cell

    def _tops(self) -> Iterator[tuple[int, Row]]:
        top = MARGIN
        for row in self.rows:
            yield top, row
            top += self._height(row)

    def _height(self, row: Row) -> int:
        lines = -(-len(row.cells) // self.columns)
        return lines * (self.cell[1] + CELL_LINE + MARGIN) + ROW_LINE * bool(row.label)


def _scaled(clip: tuple[int, int], width: int) -> tuple[int, int]:
    return _even(width), max(2, _even(round(width * clip[1] / clip[0])))


def _even(number: int) -> int:
    return number // 2 * 2
