"""Text in an image: a font that has its characters, lines that fit, and visible cuts."""

from __future__ import annotations

import unicodedata
from functools import cache, lru_cache

from PIL import Image, ImageDraw, ImageFont

PAPER, INK, DIM = (22, 24, 29), (232, 232, 232), (150, 155, 165)
SMALL, USUAL = 13, 18  # sizes in pixels
# fonts to search on the machine, in this order, if Pillow's own font lacks a letter
OTHER_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "arial.ttf")
OTHER_FONTS += ("msgothic.ttc", "NotoSansArabic-Regular.ttf", "NotoSansDevanagari-Regular.ttf")
LEAST_WIDTH = 3  # smallest width of a letter in pixels
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # control and formatting characters
NO_LETTER = "\U0010ffff"  # a character that no font contains

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@cache
def font(size: int) -> Font:
    """The font that is included in Pillow."""
    return ImageFont.load_default(size)


def font_for(text: str, size: int) -> Font:
    """The first font that has all characters of a text, or else Pillow's own."""
    for known in (font(size), *_other_fonts(size)):
        if not missing(text, known):
            return known
    return font(size)


def missing(text: str, known: Font) -> set[str]:
    """The characters of a text that a font lacks: those that it draws like an unassigned character."""
    nothing = _drawn(NO_LETTER, known)
    return {letter for letter in set(text) if not letter.isspace() and _drawn(letter, known) == nothing}


def plain(text: str) -> str:
    """A text on one line, with control characters shown as \\x1b."""
    spaced = " ".join(text.split())
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in HIDDEN else letter
        for letter in spaced
    )


def lines(text: str, known: Font, width: int, most: int) -> list[str]:
    """A text in at most so many lines of a width in pixels, wrapped between words if possible.

    The last line says whether the text is cut, and how many characters the font lacks; those are shown as a question
    mark.
    """
    absent = missing(text, known)
    shown = "".join("?" if letter in absent else letter for letter in text)
    begin = shown[: (most + 1) * width // LEAST_WIDTH]  # more characters cannot fit, and measuring takes time
    wrapped = _wrapped(begin, known, width)
    is_cut = len(wrapped) > most or len(begin) < len(shown)
    notes: list[str] = []
    if is_cut:
        notes.append(f"cut, {len(text)} characters in all")
    if absent:
        notes.append(f"no font here has {sum(letter in absent for letter in text)} of its characters")
    if not notes:
        return wrapped
    kept, end = wrapped[:most], f" … ({'; '.join(notes)})"
    while kept[-1] and known.getlength(kept[-1] + end) > width:
        kept[-1] = kept[-1][:-1]
    return [*kept[:-1], kept[-1].rstrip() + end]


def fitted(text: str, known: Font, width: int) -> str:
    """A text on one line of a width in pixels, with an ellipsis if it is longer."""
    shown = text[: width // LEAST_WIDTH]
    if shown == text and known.getlength(text) <= width:
        return text
    while shown and known.getlength(f"{shown}…") > width:
        shown = shown[:-1]
    return f"{shown.rstrip()}…"


def _wrapped(text: str, known: Font, width: int) -> list[str]:
    done = [""]
    for word in text.split(" "):
        longer = f"{done[-1]} {word}" if done[-1] else word
        if known.getlength(longer) <= width:
            done[-1] = longer
            continue
        if done[-1]:
            done.append("")
        for letter in word:  # the word is longer than a line, or the language has no spaces
            if known.getlength(done[-1] + letter) > width:
                done.append("")
            done[-1] += letter
    return done


@cache
def _other_fonts(size: int) -> tuple[Font, ...]:
    found = []
    for name in OTHER_FONTS:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return tuple(found)


@lru_cache(maxsize=4096)
def _drawn(letter: str, known: Font) -> bytes:
    image = Image.new("L", (2 * USUAL, 2 * USUAL))
    ImageDraw.Draw(image).text((0, 0), letter, 255, known)
    return image.tobytes()
