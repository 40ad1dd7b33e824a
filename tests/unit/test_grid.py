"""The grid of a batch: the places of the clips, the text below them, and its limits of size."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import ltx2_core as core
from ltx2_cli.batch import TAKES
from ltx2_core.media import grid
from ltx2_core.media.board import CELL_LINE, MARGIN, Board, Bounds, Cell, Row
from ltx2_core.media.clip import ClipShape, Encoding, Output
from ltx2_core.media.grid import CLIP, SHEET, grid_clip, grid_sheet
from ltx2_core.media.lettering import PAPER, SMALL, fitted, font
from ltx2_core.media.probe import probe
from ltx2_core.media.waveform import Waveform
from ltx2_core.media.writer import write_clip
from ltx2_core.pipeline.batch import layout
from tests.commands import ltx2

COLOURS = {"red": (0.8, 0.1, 0.1), "green": (0.1, 0.7, 0.1), "blue": (0.1, 0.1, 0.9)}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows_of(content: str, *sweeps: str, seeds: str | None = None, **flags: Any) -> tuple[Row, ...]:
    """The rows of the grid for a file of prompts."""
    Path("s.txt").write_text(content)
    flags = {"preset": "smoke", "seed": None if seeds else "1", **flags}
    asked = core.AskedBatch(path=Path("s.txt"), flags=flags, takes=TAKES, seeds=seeds, sweeps=sweeps)
    return core.grid_layout(core.read_batch(asked))


def table(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    return [(row.label, [cell.label for cell in row.cells]) for row in rows]


def clip(name: str, size: tuple[int, int] = (64, 32), frames: int = 9, audio: float | None = None) -> Path:
    """A clip of one colour with some grain, which gets darker from left to right."""
    width, height = size
    shape = ClipShape(width=width, height=height, frames=frames, fps=Fraction(24))
    grain = torch.rand(frames, 1, height, width, generator=torch.manual_seed(1)) * 0.05
    pixels = torch.tensor(COLOURS[name]).reshape(1, 3, 1, 1) + grain
    waveform = None
    if audio is not None:
        waveform = Waveform(audio * torch.sin(torch.arange(9000) / 5).expand(2, -1), 24000)
    path = Path(f"{name}-{width}-{frames}.mp4")
    write_clip(Output(path=path), shape, [pixels], waveform, Encoding())
    return path


def colour_at(image: NDArray, place: tuple[int, int], cell: tuple[int, int]) -> str:
    """The name of the colour in the middle of a cell, or nothing."""
    pixel = image[place[1] + cell[1] // 2, place[0] + cell[0] // 2] / 255
    near = {name: float(np.abs(pixel - colour).max()) for name, colour in COLOURS.items()}
    best = min(near, key=lambda name: near[name])
    return best if near[best] < 0.2 else ""


def pictures(path: Path) -> list[NDArray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_seeds_stand_in_a_row_and_prompts_above_it():
    assert table(rows_of("a lamp\na door\n", seeds="1-3")) == [
        ("a lamp", ["seed 1", "seed 2", "seed 3"]),
        ("a door", ["seed 1", "seed 2", "seed 3"]),
    ]


def test_a_sweep_stands_in_a_row_where_seeds_follow_from_prompts():
    rows = rows_of("a lamp\na door\n", "video_st=2:3:1", "steps=2,3")
    assert table(rows) == [
        ("a lamp, video_st 2", ["steps 2", "steps 3"]),
        ("a lamp, video_st 3", ["steps 2", "steps 3"]),
        ("a door, video_st 2", ["steps 2", "steps 3"]),
        ("a door, video_st 3", ["steps 2", "steps 3"]),
    ]


def test_one_sweep_of_one_prompt_is_one_row():
    assert table(rows_of("a lamp\n", "steps=2,3,4")) == [("", ["steps 2", "steps 3", "steps 4"])]


def test_jobs_that_make_no_table_stand_in_their_order():
    assert table(rows_of("a lamp\na door\na bell\n")) == [("", ["a lamp", "a door"]), ("", ["a bell"])]
    ((label, (cell,)),) = table(rows_of("a lamp\n"))
    assert (label, cell.startswith("0001-a-lamp-")) == ("", True)


def test_more_rows_than_a_grid_has_are_laid_out_in_their_order():
    rows = rows_of("".join(f"scene {number}\n" for number in range(20)), seeds="1-2")
    assert (len(rows), rows[0].label, rows[0].cells[1].label) == (6, "", "scene 0, seed 2")


@pytest.mark.parametrize(
    ("content", "seeds", "flags", "why"),
    [
        ("a lamp\n", "1-5", {}, "5 jobs, and a grid holds 4"),
        ("a lamp\n", None, {"video": "off"}, "audio alone"),
        ("a lamp\n", None, {"output": "s/grid.mp4"}, "a job writes grid.mp4"),
    ],
)
def test_a_batch_without_a_grid_is_refused(
    content: str, seeds: str | None, flags: dict[str, str], why: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(layout, "MOST_CELLS", 4)
    with pytest.raises(core.RequestError) as failure:
        rows_of(content, seeds=seeds, **flags)
    assert failure.value.what == "--grid cannot be used here"
    assert why in failure.value.why
    assert failure.value.hint


def test_lines_from_standard_input_have_no_grid():
    assert "--grid cannot be used with -" in ltx2("batch", "-", "--grid").stderr


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    size=st.tuples(st.integers(32, 3000), st.integers(32, 3000)),
    bounds=st.sampled_from([SHEET, CLIP]),
)
def test_nothing_overlaps_and_all_is_within_the_board(counts: list[int], size: tuple[int, int], bounds: Bounds):
    rows = [
        Row("label" * (number % 2), tuple(Cell("x", Path("x")) for _ in range(n))) for number, n in enumerate(counts)
    ]
    board = Board.of(rows, size, bounds)
    (width, height), (across, down) = board.size, board.cell
    assert width % 2 == height % 2 == across % 2 == down % 2 == 0
    assert width <= bounds.width
    places = [place for place, _ in board.places]
    assert len(places) == sum(counts)
    assert all(MARGIN <= x <= width - across - MARGIN and MARGIN <= y <= height - down - CELL_LINE for x, y in places)
    taken = sorted(places)
    near = [(a, b) for a in taken for b in taken if a < b and abs(a[0] - b[0]) < across and abs(a[1] - b[1]) < down]
    assert not near
    assert across <= max(48, size[0])


def test_a_sheet_shows_each_clip_in_its_place():
    names = ("red", "green", "blue")
    rows = [Row("all", tuple(Cell(name, clip(name)) for name in names)), Row("", (Cell("lost", Path("lost.mp4")),))]
    grid_sheet(rows, Path("grid.png"))
    board = Board.of(rows, (64, 32), SHEET)
    with Image.open("grid.png") as image:
        assert image.size == board.size
        pixels = np.asarray(image.convert("RGB"))
    assert [colour_at(pixels, place, board.cell) for place, _ in board.places] == [*names, ""]
    title = pixels[MARGIN : MARGIN + 20, :60]
    assert (title.max(-1) > 150).any()
    before = Path("grid.png").read_bytes()
    grid_sheet(rows, Path("grid.png"))
    assert Path("grid.png").read_bytes() == before


def test_a_clip_plays_all_clips_and_has_the_first_audio(monkeypatch: pytest.MonkeyPatch):
    cells = (Cell("a", clip("red")), Cell("b", clip("green", (32, 64), 17, 0.5)), Cell("c", Path("lost.mp4")))
    rows = [Row("", cells)]
    grid_clip(rows, Path("whole.mp4"))
    board = Board.of(rows, (64, 32), CLIP)
    info = probe(Path("whole.mp4"))
    assert info.video
    assert info.audio
    assert (info.video.frames, info.video.fps, (info.video.width, info.video.height)) == (17, 24, board.size)
    frames = pictures(Path("whole.mp4"))
    for frame in (frames[0], frames[-1]):  # the first clip has ended by then, and its last frame stays
        assert [colour_at(frame, place, board.cell) for place, _ in board.places] == ["red", "green", ""]
    (left, top), _ = list(board.places)[1]
    beside = frames[0][top + 16, left + 4]  # a portrait clip is centred in its cell
    assert np.abs(beside.astype(int) - PAPER).max() < 25
    monkeypatch.setattr(grid, "MOST_BYTES", 1)  # forces pieces, each of which reads clips from a later frame on
    grid_clip(rows, Path("pieces.mp4"))
    assert Path("pieces.mp4").read_bytes() == Path("whole.mp4").read_bytes()


def test_a_long_label_is_cut_where_it_no_longer_fits():
    known = font(SMALL)
    assert fitted("seed 7", known, 100) == "seed 7"
    cut = fitted("a lamp that blinks " * 50, known, 100)
    assert cut.startswith("a lamp")
    assert cut.endswith("…")
    assert known.getlength(cut) <= 100
    assert fitted("wide", known, 3) == "…"
