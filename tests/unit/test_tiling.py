from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from einops import repeat
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ltx2_core.errors import RequestError
from ltx2_core.grids import Factors
from ltx2_core.tiles import Cut, TilePlan, lead_in, pixels, split, split_evenly
from ltx2_core.tiling.blending import masks, trapezoid
from ltx2_core.tiling.streamed_clip import StreamedClip
from ltx2_core.tiling.video import decode_tiled, decode_video, encode_tiled
from tests.unit.test_video_vae import decoder, encoder, noise, seeded

RELEASED = Factors(8, 32, 32)
TINY = Factors(4, 2, 2)
fast = settings(deadline=None, max_examples=40)
grids = st.tuples(*(st.integers(1, 9),) * 3)


@st.composite
def cuts(draw: st.DrawFn, least_overlap: int = 0) -> tuple[int, int]:
    """Tile and overlap in cells."""
    size = draw(st.integers(max(2, least_overlap + 1), 7))
    return size, draw(st.integers(least_overlap, size - 1))


def plan(*cells: tuple[int, int] | None, factors: Factors) -> TilePlan:
    """A plan from tiles and overlaps in latent cells."""
    sizes = (None if cut is None else Cut(*(n * k for n in cut)) for cut, k in zip(cells, factors, strict=True))
    return TilePlan(**dict(zip(("frames", "height", "width"), sizes, strict=True)))


class RepeatingDecoder:
    """Paints every latent cell in its own colour, so tiles agree wherever they overlap."""

    config = SimpleNamespace(factors=TINY)
    calls = 0

    def __call__(self, latent: Tensor, generator: torch.Generator | None = None) -> Tensor:
        self.calls += 1
        time, height, width = TINY
        video = repeat(latent, "b c f h w -> b c (f k) (h p) (w q)", k=time, p=height, q=width)
        return video[:, :, time - 1 :]


class PickingEncoder:
    """Reads one pixel of every cell, the last one in time, so tiles agree wherever they overlap."""

    config = SimpleNamespace(factors=TINY, latent_channels=3)

    def __call__(self, video: Tensor) -> Tensor:
        time, height, width = TINY
        return video[:, :, ::time, ::height, ::width]


repeating_decoder: Any = RepeatingDecoder()
picking_encoder: Any = PickingEncoder()


@fast
@given(st.integers(1, 40), cuts())
def test_intervals_cover_an_axis_and_share_the_overlap(length: int, cut: tuple[int, int]):
    size, overlap = cut
    pieces = split(length, size, overlap)
    assert (pieces[0].start, pieces[-1].stop) == (0, length)
    assert (pieces[0].left, pieces[-1].right) == (0, 0)
    assert all(overlap < piece.length <= size for piece in pieces[1:])
    for before, after in pairwise(pieces):
        assert before.stop - after.start == before.right == after.left == overlap


@fast
@given(length=st.integers(1, 200), count=st.integers(1, 6), overlap=st.integers(1, 8))
def test_even_intervals_cover_an_axis_and_share_the_overlap(length: int, count: int, overlap: int):
    pieces = split_evenly(length, count, overlap)
    assert len(pieces) in (1, count)
    assert len({piece.length for piece in pieces}) == 1
    assert (pieces[0].start, pieces[0].left, pieces[-1].stop, pieces[-1].right) == (0, 0, length, 0)
    for piece, later in pairwise(pieces):
        assert piece.stop - later.start == piece.right == later.left >= overlap


@given(st.integers(1, 40), cuts())
def test_pixel_intervals_end_with_the_clip_and_fade_where_they_overlap(length: int, cut: tuple[int, int]):
    pieces = split(length, *cut)
    frames, rows, _ = pixels((lead_in(pieces), pieces, pieces), RELEASED)
    assert frames[-1].stop == 8 * (length - 1) + 1
    assert rows[-1].stop == 32 * length
    for before, after in pairwise(frames):
        assert before.stop - after.start == after.left == before.right + 1  # one more: the frame of weight 0
    for before, after in pairwise(rows):
        assert before.stop - after.start == after.left == before.right


@fast
@given(st.integers(1, 40), cuts())
def test_weights_of_all_tiles_sum_to_one(length: int, cut: tuple[int, int]):
    pieces = split(length, *cut)
    cells = lead_in(pieces), pieces, pieces
    for frames, rows, _ in (cells, pixels(cells, RELEASED)):
        for axis, from_zero in ((frames, True), (rows, False)):
            total = torch.zeros(axis[-1].stop)
            for piece, mask in zip(axis, masks(axis, from_zero=from_zero), strict=True):
                assert mask.min() >= 0
                total[piece.slice] += mask
            torch.testing.assert_close(total, torch.ones_like(total))


@fast
@given(st.integers(1, 40), st.integers(0, 4), st.integers(1, 4))
def test_weights_are_plain_trapezoids_unless_ramps_meet(length: int, overlap: int, rest: int):
    pieces = lead_in(split(length, 2 * overlap + rest, overlap))
    frames, *_ = pixels((pieces, [], []), RELEASED)
    for piece, mask in zip(frames, masks(frames, from_zero=True), strict=True):
        torch.testing.assert_close(mask, trapezoid(piece.length, piece.left, piece.right, from_zero=True))


def test_first_frame_of_a_later_tile_has_no_weight():
    frames, *_ = pixels((lead_in(split(9, 4, 2)), [], []), RELEASED)
    assert [mask[0].item() for mask in masks(frames, from_zero=True)] == [1, 0, 0, 0]


@fast
@given(grids, st.tuples(*(st.none() | cuts(),) * 3))
def test_tiles_of_a_decoder_without_context_equal_the_whole(grid: tuple[int, ...], cells: tuple[Any, ...]):
    latent = noise(1, 3, *grid)
    chunks = list(decode_tiled(latent, repeating_decoder, plan(*cells, factors=TINY)))
    assert all(chunk.shape[2] > 0 for chunk in chunks)
    torch.testing.assert_close(torch.cat(chunks, dim=2), repeating_decoder(latent))


@fast
@given(st.integers(1, 30), grids, st.tuples(*(st.none() | cuts(least_overlap=2),) * 3))
def test_tiles_of_an_encoder_without_context_equal_the_whole(frames: int, grid: tuple[int, ...], cells: Any):
    _, rows, columns = grid
    video = noise(1, 3, frames, rows * TINY.height, columns * TINY.width)
    tiled = encode_tiled(video, picking_encoder, plan(*cells, factors=TINY))
    torch.testing.assert_close(tiled, picking_encoder(video))


@fast
@given(st.integers(1, 30), grids, st.tuples(*(st.none() | cuts(least_overlap=2),) * 3))
def test_a_clip_that_is_read_while_it_is_encoded_equals_one_that_is_there_bit_by_bit(
    frames: int, grid: tuple[int, ...], cells: Any
):
    _, rows, columns = grid
    video = noise(1, 3, frames, rows * TINY.height, columns * TINY.width)
    streamed = StreamedClip(iter(video.split(1, dim=2)), video.shape, "cpu", torch.float32)
    tiles = plan(*cells, factors=TINY)
    assert torch.equal(encode_tiled(streamed, picking_encoder, tiles), encode_tiled(video, picking_encoder, tiles))


@pytest.mark.parametrize("tiles", [TilePlan(), plan((3, 2), (3, 2), (3, 2), factors=Factors(4, 8, 8))])
def test_one_tile_equals_the_untiled_path_bit_by_bit(tiles: TilePlan):
    latent, video = noise(1, 4, 3, 2, 3), noise(1, 3, 9, 16, 24)
    (chunk,) = decode_tiled(latent, decoder(), tiles)
    assert torch.equal(chunk, decoder()(latent))
    assert torch.equal(encode_tiled(video, encoder(), tiles), encoder()(video))


def test_chunks_of_a_real_decoder_join_to_the_whole_clip():
    model = decoder()
    latent, tiles = noise(1, 4, 5, 5, 3), plan((2, 1), (3, 1), None, factors=model.config.factors)
    video = torch.cat(list(decode_tiled(latent, model, tiles)), dim=2)
    assert video.shape == model(latent).shape
    assert video.isfinite().all()


def test_frames_leave_before_the_last_tile_is_decoded():
    model: Any = RepeatingDecoder()
    chunks = decode_tiled(noise(1, 3, 9, 1, 1), model, plan((3, 1), None, None, factors=TINY))
    next(chunks)
    assert model.calls == 1


def test_video_comes_as_float_frames_between_zero_and_one():
    model, latent = decoder(), noise(1, 4, 6, 2, 2)
    chunks = list(decode_video(latent, model))
    frames = torch.cat(chunks)
    assert len(chunks) > 1
    assert frames.dtype == torch.float32
    whole = (model(latent)[0].movedim(1, 0) + 1) / 2
    assert whole.max() > 1
    torch.testing.assert_close(frames, whole.clamp(0, 1))


def test_video_of_a_bfloat16_latent_is_blended_in_bfloat16():
    latent, tiles = noise(1, 3, 5, 4, 4).bfloat16(), plan((3, 1), (2, 1), None, factors=TINY)
    chunks = list(decode_tiled(latent, repeating_decoder, tiles))
    assert {chunk.dtype for chunk in chunks} == {torch.bfloat16}
    torch.testing.assert_close(torch.cat(chunks, dim=2), repeating_decoder(latent), rtol=0.02, atol=0.02)


def test_conditioned_decoder_draws_for_every_tile_from_one_generator():
    model = decoder(timestep_conditioning=True)
    latent, tiles = noise(1, 4, 2, 4, 2), plan(None, (3, 1), None, factors=model.config.factors)
    generator = seeded(3)
    runs = [torch.cat(list(decode_tiled(latent, model, tiles, g)), dim=2) for g in (generator, seeded(3))]
    assert torch.equal(*runs)
    expected = seeded(3)
    for rows in (3, 2):
        torch.randn(1, 4, 2, rows, 2, generator=expected)
    assert torch.equal(generator.get_state(), expected.get_state())


@pytest.mark.parametrize(
    ("axis", "cut"),
    [
        ("frames", Cut(20, 8)),
        ("frames", Cut(8, 0)),
        ("height", Cut(100, 32)),
        ("height", Cut(128, 16)),
        ("width", Cut(64, 64)),
        ("width", Cut(64, -32)),
    ],
)
def test_impossible_tiles_are_refused_by_axis(axis: str, cut: Cut):
    with pytest.raises(RequestError, match=axis):
        TilePlan(**{axis: cut}).check(RELEASED)


@pytest.mark.parametrize("cells", [((3, 1), None, None), (None, (3, 1), None), (None, None, (3, 0))])
def test_encoding_asks_for_more_overlap_than_decoding(cells: tuple[Any, ...]):
    tiles = plan(*cells, factors=TINY)
    assert torch.cat(list(decode_tiled(noise(1, 3, 2, 2, 2), repeating_decoder, tiles)), dim=2).shape[2] == 5
    with pytest.raises(RequestError, match="overlap"):
        encode_tiled(noise(1, 3, 5, 4, 4), picking_encoder, tiles)


@fast
@given(st.integers(1, 40), st.integers(1, 140), st.integers(1, 140))
def test_automatic_plan_is_possible_and_bounded_on_every_grid(frames: int, rows: int, columns: int):
    tiles = TilePlan.auto((frames, rows, columns), RELEASED)
    tiles.check(RELEASED)
    axes = tiles.cells((frames, rows, columns), RELEASED)
    for axis, limit in zip(axes, (11, 24, 24), strict=True):  # a later tile has one frame more
        assert max(piece.length for piece in axis) <= limit


def test_small_clip_is_one_tile_of_the_automatic_plan():
    axes = TilePlan.auto((10, 16, 24), RELEASED).cells((10, 16, 24), RELEASED)
    assert [len(axis) for axis in axes] == [1, 1, 1]


class NumberingEncoder:
    """Outputs the number of each tile, so the result shows the share of each tile."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(factors=TINY, latent_channels=1)
        self.calls = 0

    def __call__(self, video: Tensor) -> Tensor:
        self.calls += 1
        return torch.full_like(video[:, :1, :: TINY.time, :: TINY.height, :: TINY.width], float(self.calls - 1))


def numbered(frames: int, rows: int, cells: tuple[Any, ...]) -> list[float]:
    """The share of the second tile in each cell along the tiled axis."""
    encoder: Any = NumberingEncoder()
    latent = encode_tiled(noise(1, 3, frames, rows * TINY.height, 2), encoder, plan(*cells, factors=TINY))
    assert encoder.calls == 2
    return latent.flatten().tolist()


def test_tiles_fade_into_each_other_from_zero_in_time_and_from_above_zero_in_space():
    # In time a later tile has one cell more, of weight 0, at its beginning.
    for axes, frames, rows in ((((4, 2), None, None), 1 + 5 * TINY.time, 1), ((None, (4, 2), None), 1, 6)):
        assert numbered(frames, rows, axes) == pytest.approx([0, 0, 1 / 3, 2 / 3, 1, 1], abs=1e-6)


def test_tiles_of_two_cells_are_not_halved_again() -> None:
    assert TilePlan().halved((4, 2, 2), RELEASED) == (16, 64, 64)
    assert TilePlan().halved((2, 2, 2), RELEASED) is None
