"""Stereo from given audio with more channels, by where its speakers stand.

Source: docs/reference/audio.md, "From samples to a file".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from .copy import LAYOUTS
from .waveform import Waveform

SIDE = 0.707  # as in the official rule for six and eight channels
WEIGHTS: Mapping[str, tuple[float, float]] = {  # in left and right, by FFmpeg's name; others, such as LFE, are left out
    **dict.fromkeys(("FL", "FLC", "WL", "DL"), (1.0, 0.0)),
    **dict.fromkeys(("FR", "FRC", "WR", "DR"), (0.0, 1.0)),
    **dict.fromkeys(("SL", "BL"), (SIDE, 0.0)),
    **dict.fromkeys(("SR", "BR"), (0.0, SIDE)),
    "FC": (SIDE, SIDE),
    "BC": (SIDE**2, SIDE**2),
}


def storable(audio: Waveform, speakers: Sequence[str]) -> Waveform:
    """The same audio if every encoder supports its number of channels, else mixed to stereo.

    Args: speakers: FFmpeg's names of the channels, such as "FL". If they name nothing on a side, both sides get the
    mean of all channels.
    """
    if len(audio.samples) in LAYOUTS:
        return audio
    mix = torch.tensor([WEIGHTS.get(name, (0.0, 0.0)) for name in speakers]).T
    if not mix.any(-1).all():
        mix = torch.ones_like(mix)
    return replace(audio, samples=mix / mix.sum(-1, keepdim=True) @ audio.samples)
