"""The channels of a decoder, found so that a layout of an unusual order does not end the process.

FFmpeg stores such a layout with a list of its channels. PyAV copies the layout without the list, so that it has two
owners who free it, and the process is aborted ("double free"). That would happen with every decoded frame too.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

from av import AudioCodecContext

USUAL_ORDER = (  # of FFmpeg
    *("FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC", "SL", "SR", "TC", "TFL", "TFC", "TFR", "TBL", "TBC"),
    *("TBR", "DL", "DR", "WL", "WR", "SDL", "SDR", "LFE2", "TSL", "TSR", "BFC", "BFL", "BFR"),
)


class Channels(NamedTuple):
    """The channels by FFmpeg's names, and whether they have the usual order, without which they cannot be decoded."""

    names: tuple[str, ...]
    has_usual_order: bool

    @property
    def number(self) -> int:
        return len(self.names)


def channels_of(codec: AudioCodecContext) -> Channels:
    """The channels of a decoder."""
    layout = codec.layout
    names = tuple(one.name for one in layout.channels)
    places = [USUAL_ORDER.index(name) if name in USUAL_ORDER else -1 for name in names]
    has_usual_order = "(" not in layout.name or places == sorted({*places} - {-1})
    if not has_usual_order:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(layout))  # so that it is never freed
    return Channels(names, has_usual_order)
