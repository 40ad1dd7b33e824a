"""The map from latents to colours, and images as escape sequences, which are decoded as a terminal would."""

from __future__ import annotations

import io
import re
from base64 import b64decode

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image
from rich.console import Console

from ltx2_cli.progress import Unchanged
from ltx2_core.media.terminal import Protocol, escape_sequence, graphics_protocol
from ltx2_core.pipeline.render.latent_colours import PATCH, ColourFit, ColourMap


def test_colours_that_are_linear_in_the_latent_are_found_again() -> None:
    torch.manual_seed(0)
    latents, weights = torch.randn(3, 4, 6, 5), 0.02 * torch.randn(5, 3 * PATCH**2)
    weights[-1] += 0.5
    fit = ColourFit.blank(4)
    for latent in latents:
        pixels = torch.einsum("chw,cp->phw", latent, weights[:-1]) + weights[-1][:, None, None]
        small = rearrange(pixels, "(c y x) h w -> c (h y) (w x)", y=PATCH, x=PATCH)
        fit.add(latent, small.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2))
    found = fit.solve()
    assert torch.allclose(found.weights, weights, atol=2e-3)
    again = ColourMap.parse(found.dump(), 4)
    assert torch.allclose(again.weights, found.weights, atol=1e-3)
    assert torch.allclose(again.picture(latents[2]), small.clamp(0, 1), atol=0.02)
    assert again.picture(latents[0].bfloat16()).shape == (3, 24, 20)


@pytest.mark.parametrize("content", [b"", b"no file", ColourMap(torch.zeros(4, 48)).dump()])
def test_what_is_no_map_for_these_latents_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="map of colours"):
        ColourMap.parse(content, 4)


def test_sums_of_clips_go_on_where_they_were() -> None:
    torch.manual_seed(0)
    clips = [(torch.randn(1, 4, 3, 2, 5), torch.rand(17, 3, 16, 40)) for _ in range(2)]
    whole, part = ColourFit.blank(4), ColourFit.blank(4)
    for latent, frames in clips:
        assert torch.cat([*whole.add_clip(iter(frames.split(5)), latent, 8)]).equal(frames)
        assert torch.cat([*part.add_clip(iter([frames]), latent, 8)]).equal(frames)
        part = ColourFit.parse(part.dump(), 4)
    assert part.clips == 2
    assert torch.allclose(part.solve().weights, whole.solve().weights)
    by_hand = ColourFit.blank(4)
    for latent, frames in clips:
        by_hand.add(latent[0, :, 1], frames[1:9].mean(0))
        by_hand.add(latent[0, :, 2], frames[9:].mean(0))
    assert torch.allclose(by_hand.solve().weights, whole.solve().weights, atol=1e-5)
    with pytest.raises(ValueError, match="other latents"):
        ColourFit.parse(part.dump(), 5)
    still = ColourFit.blank(4)
    list(still.add_clip(iter([torch.rand(1, 3, 16, 40)]), clips[0][0][:, :, :1], 8))
    assert still.squares.count_nonzero()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "mlterm-256color"}, "sixel"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "vscode"}, None),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "dumb", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "screen-256color", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "xterm-kitty", "TMUX": "default,1,0"}, None),
        ({}, None),
    ],
)
def test_only_a_terminal_that_says_so_gets_pictures(environment: dict[str, str], expected: str | None) -> None:
    assert graphics_protocol(environment) == expected


def picture() -> tuple[np.ndarray, bytes]:
    """Pixels in few colours, in sizes that are no multiples of bands and chunks, and their PNG."""
    rows, columns = np.mgrid[0:45, 0:67]
    noise = np.random.default_rng(0).integers(0, 2, rows.shape)
    pixels = np.stack([40 * (rows // 12), 60 * (columns // 20), 90 * noise], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=0)
    return pixels, file.getvalue()


def test_kitty_puts_the_same_file_together_again() -> None:
    _, png = picture()
    sequence = escape_sequence(png, "kitty")
    parts = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", sequence)
    assert "".join(f"\x1b_G{keys};{data}\x1b\\" for keys, data in parts) == sequence
    keys = [dict(pair.split("=") for pair in one.split(",")) for one, _ in parts]
    assert keys[0] == {"f": "100", "a": "T", "q": "2", "m": "1"}
    assert [one["m"] for one in keys] == ["1"] * (len(parts) - 1) + ["0"]
    assert len(parts) > 2
    assert all(len(data) == 4096 for _, data in parts[:-1])
    assert b64decode("".join(data for _, data in parts)) == png


def test_iterm2_is_given_the_same_file() -> None:
    _, png = picture()
    found = re.fullmatch(
        r"\x1b\]1337;File=inline=1;size=(\d+);preserveAspectRatio=1:(.*)\x07", escape_sequence(png, "iterm2")
    )
    assert found
    assert int(found[1]) == len(png)
    assert b64decode(found[2]) == png


def read_sixel(sequence: str) -> np.ndarray:
    """The pixels (H W 3) of a sixel sequence, as a terminal would draw them."""
    found = re.fullmatch(r'\x1bP0;1;0q"1;1;(\d+);(\d+)(.*)\x1b\\', sequence)
    assert found
    width, height = int(found[1]), int(found[2])
    pixels, palette, colour, column, top = np.full((height, width, 3), -1.0), {}, 0, 0, 0
    for token in re.findall(r"#\d+;2;\d+;\d+;\d+|#\d+|!\d+[?-~]|[?-~]|[$-]", found[3]):
        if token.startswith("#") and ";" in token:
            number, _, *parts = map(int, token[1:].split(";"))
            palette[number] = np.array(parts) * 2.55
        elif token.startswith("#"):
            colour = int(token[1:])
        elif token in "$-":
            column, top = 0, top + 6 * (token == "-")
        else:
            count = int(token[1:-1] or 1) if token[0] == "!" else 1
            for row in range(6):
                if (ord(token[-1]) - 63) >> row & 1:
                    assert top + row < height
                    pixels[top + row, column : column + count] = palette[colour]
            column += count
            assert column <= width
    return pixels


def test_sixel_gives_every_pixel_its_colour() -> None:
    pixels, png = picture()
    found = read_sixel(escape_sequence(png, "sixel"))
    assert found.shape == pixels.shape
    assert np.abs(found - pixels).max() <= 3  # sixel colours are percentages


@pytest.mark.parametrize("protocol", ["kitty", "iterm2", "sixel"])
def test_a_sequence_goes_through_the_display_as_it_is(protocol: Protocol) -> None:
    sequence = escape_sequence(picture()[1], protocol)
    stream = io.StringIO()
    Console(file=stream, force_terminal=True, width=40).print(Unchanged(sequence), crop=False)
    assert stream.getvalue() == sequence + "\n"
