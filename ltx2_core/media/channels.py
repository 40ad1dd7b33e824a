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
    """The number of channels, and whether they have the usual order, without which they cannot be decoded."""

    number: int
    has_usual_order: bool


def channels_of(codec: AudioCodecContext) -> Channels:
    """The channels of a decoder."""
    layout = codec.layout
    places = [USUAL_ORDER.index(one.name) if one.name in USUAL_ORDER else -1 for one in layout.channels]
    has_usual_order = "(" not in layout.name or places == sorted({*places} - {-1})
    if not has_usual_order:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(layout))  # so that it is never freed
    return Channels(layout.nb_channels, has_usual_order)
