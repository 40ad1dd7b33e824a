"""How the frames of a clip are converted for display: determined once from its header and its first frame.

Importing this module is fast.
Source: docs/reference/pipelines.md, "Decoding video"; ITU-T H.273 for the colour codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple


class Colour(NamedTuple):
    """Colour properties: codes of ITU-T H.273, and FFmpeg's code for the range (1 limited, 2 full)."""

    primaries: int
    transfer: int
    matrix: int
    range: int


BT709_LIMITED = Colour(1, 1, 1, 1)
UNSPECIFIED = 2
BT709, BT601 = 1, 6  # FFmpeg's numbers of matrices
LIMITED, FULL = 1, 2  # FFmpeg's numbers of ranges
PQ, HLG = 16, 18  # FFmpeg's numbers of HDR transfer functions
HDR_NAMES = {PQ: "PQ", HLG: "HLG"}
WIDE_NAMES = {9: "BT.2020", 12: "Display P3"}  # primaries of wide gamuts
MATRIX_NAMES = {0: "RGB", BT709: "BT.709", 4: "FCC", 5: "BT.601", BT601: "BT.601", 7: "SMPTE 240M", 9: "BT.2020"}
RANGE_NAMES = {LIMITED: "limited", FULL: "full"}
FIRST_HD_HEIGHT = 720  # clips without a matrix use that of HD from this height on


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameReading:
    """The conversion of each frame of a clip, in this order.

    Args: is_interlaced: frames with two fields are deinterlaced. colour: their colour properties, with guesses for
    missing ones; they are converted to BT.709 RGB of standard dynamic range. width, height: as stored. sample_aspect:
    the width of a pixel by its height; frames are stretched to square pixels. is_mirrored: frames are flipped left to
    right. rotation: degrees counter-clockwise by which they are rotated: 0, 90, 180 or 270.
    """

    width: int
    height: int
    colour: Colour = BT709_LIMITED
    sample_aspect: Fraction = Fraction(1)
    is_interlaced: bool = False
    is_mirrored: bool = False
    rotation: int = 0

    @property
    def square_size(self) -> tuple[int, int]:
        """Width and height at square pixels, before frames are rotated. No side becomes shorter."""
        if self.sample_aspect >= 1:
            return round(self.width * self.sample_aspect), self.height
        return self.width, round(self.height / self.sample_aspect)

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height of the converted frames."""
        width, height = self.square_size
        return (height, width) if self.rotation in (90, 270) else (width, height)

    @property
    def hdr(self) -> str | None:
        """The name of a high dynamic range."""
        return HDR_NAMES.get(self.colour.transfer)

    @property
    def wide(self) -> str | None:
        """The name of a wide gamut of standard dynamic range."""
        return None if self.hdr else WIDE_NAMES.get(self.colour.primaries)

    @property
    def facts(self) -> dict[str, str]:
        """The same as text, by name; usual values are left out."""
        matrix = MATRIX_NAMES.get(self.colour.matrix, f"matrix {self.colour.matrix}")
        facts = {"colours": f"{matrix}, {RANGE_NAMES[self.colour.range]} range"}
        if self.hdr:
            facts["dynamic range"] = f"{self.hdr} HDR, read as BT.709 SDR"
        if self.wide:
            facts["gamut"] = f"{self.wide}, read as BT.709"
        if self.is_interlaced:
            facts["fields"] = "interlaced, read deinterlaced"
        if self.sample_aspect != 1:
            facts["pixels"] = f"{self.sample_aspect.numerator}:{self.sample_aspect.denominator}, read as square ones"
        turns = [f"turned by {self.rotation} degrees"] if self.rotation else []
        if turned := ["mirrored"] * self.is_mirrored + turns:
            facts["orientation"] = ", ".join(turned)
        return facts

    @property
    def notes(self) -> tuple[str, ...]:
        """The conversions that the user should know, as the end of a sentence that begins with the file."""
        notes = []
        if self.is_interlaced:
            notes.append("is interlaced; it is read deinterlaced")
        if self.hdr:
            notes.append(f"is {self.hdr} HDR; it is read as BT.709 SDR, with diffuse white at 203 nits")
        if self.wide:
            notes.append(f"has the wide gamut of {self.wide}; it is read as BT.709")
        if self.square_size != (self.width, self.height):
            stored, read = f"{self.width}x{self.height}", "x".join(map(str, self.square_size))
            aspect = f"{self.sample_aspect.numerator}:{self.sample_aspect.denominator}"
            notes.append(f"has pixels of {aspect}; it is read at its display size of {read}, not {stored}")
        return tuple(notes)


def guessed(colour: Colour, height: int, *, is_full: bool) -> Colour:
    """The same colour properties, with guesses for missing ones. is_full: the pixel format implies full range."""
    matrix = colour.matrix
    if matrix == UNSPECIFIED:
        matrix = BT709 if height >= FIRST_HD_HEIGHT else BT601
    range_ = FULL if is_full or colour.range == FULL else LIMITED
    return colour._replace(matrix=matrix, range=range_)
