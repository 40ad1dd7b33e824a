"""Images on a terminal, as escape sequences: the graphics protocol of kitty, inline images of iTerm2, and sixel.

Sources: kitty's "Terminal graphics protocol", iTerm2's "Inline Images Protocol", DEC's VT330/VT340 "Sixel Graphics".
"""

from __future__ import annotations

import re
from base64 import standard_b64encode
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

Protocol = Literal["kitty", "iterm2", "sixel"]
BY_PROGRAM: Mapping[str, Protocol] = {  # the protocol of a terminal, by TERM_PROGRAM
    "ghostty": "kitty",
    "iterm.app": "iterm2",
    "mintty": "iterm2",
    "wezterm": "iterm2",
}
BY_TERM: Mapping[str, Protocol] = {  # the same for TERM
    r"xterm-kitty|xterm-ghostty": "kitty",
    r"foot(-extra|-direct)?|mlterm.*|contour.*|yaft.*|.*sixel.*": "sixel",
}
MULTIPLEXERS = r"(screen|tmux)\b.*"  # values of TERM for multiplexers, which do not forward images
CHUNK = 4096  # characters per escape sequence of kitty
COLOURS = 64  # colours of an image in sixel
BAND = 6  # rows per sixel character


def graphics_protocol(environment: Mapping[str, str]) -> Protocol | None:
    """The graphics protocol of the terminal, according to environment variables."""
    term = environment.get("TERM", "")
    is_inside = any(name in environment for name in ("TMUX", "STY")) or re.fullmatch(MULTIPLEXERS, term)
    if is_inside or term in ("", "dumb"):
        return None
    if environment.get("KITTY_WINDOW_ID"):
        return "kitty"
    if by_program := BY_PROGRAM.get(environment.get("TERM_PROGRAM", "").lower()):
        return by_program
    by_term: Iterator[Protocol] = (protocol for pattern, protocol in BY_TERM.items() if re.fullmatch(pattern, term))
    return next(by_term, None)


def escape_sequence(png: bytes, protocol: Protocol) -> str:
    """The sequence that shows an image at the cursor of a terminal, given the content of a PNG."""
    if protocol == "sixel":
        return _sixel(png)
    coded = standard_b64encode(png).decode()
    if protocol == "iterm2":
        return f"\x1b]1337;File=inline=1;size={len(png)};preserveAspectRatio=1:{coded}\x07"
    chunks = [coded[start : start + CHUNK] for start in range(0, len(coded), CHUNK)]
    parts = []
    for number, chunk in enumerate(chunks, 1):
        keys = "f=100,a=T,q=2," * (number == 1)  # a PNG, displayed at once, without a reply
        parts.append(f"\x1b_G{keys}m={int(number < len(chunks))};{chunk}\x1b\\")
    return "".join(parts)


def _sixel(png: bytes) -> str:
    """An image in a few colours, in bands of six rows, each colour of a band separately."""
    import io

    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        reduced = image.convert("RGB").quantize(COLOURS)
    codes, palette = np.asarray(reduced), reduced.getpalette("RGB") or []
    height, width = codes.shape
    colours = [palette[3 * number : 3 * number + 3] for number in range(codes.max() + 1)]
    percent = [";".join(str(round(100 * part / 255)) for part in colour) for colour in colours]
    header = "".join(f"#{number};2;{parts}" for number, parts in enumerate(percent))
    bands = (_band(codes[top : top + BAND]) for top in range(0, height, BAND))
    return f'\x1bP0;1;0q"1;1;{width};{height}{header}{"-".join(bands)}\x1b\\'


def _band(codes: np.ndarray) -> str:
    """Up to six rows of colour numbers."""
    import numpy as np

    bits = 1 << np.arange(len(codes))[:, None]
    rows = []
    for colour in np.unique(codes):
        columns = ((codes == colour) * bits).sum(axis=0) + ord("?")
        rows.append(f"#{colour}{''.join(_runs(columns.tolist()))}")
    return "$".join(rows)


def _runs(columns: list[int]) -> Iterator[str]:
    """Run-length encoding: more than three equal characters become a number and one character."""
    start = 0
    for end in range(1, len(columns) + 1):
        if end == len(columns) or columns[end] != columns[start]:
            count, char = end - start, chr(columns[start])
            yield f"!{count}{char}" if count > 3 else char * count
            start = end
