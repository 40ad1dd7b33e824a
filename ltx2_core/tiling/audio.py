"""Run the audio VAE and the vocoder piece by piece, so that memory does not grow with the clip.

Each piece is computed with the surrounding receptive field, so that the pieces equal those of the whole, up to the
order of summation.
Source: docs/reference/audio.md, "In pieces".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..grids import MEL_FRAMES_PER_AUDIO_LATENT as FRAMES
from ..tiles import AUDIO_CONTEXT, Interval, pieces

Run = Callable[[Tensor], Tensor]


def encode_audio(mel: Tensor, encoder: Run, piece: int | None = None) -> Tensor:
    """Encode a log-mel (b 2 T M) to latents (b c t m), in pieces of so many latent steps; None encodes the whole."""
    steps = -(-mel.shape[2] // FRAMES)

    def encoded(own: Interval) -> Tensor:
        first = max(0, own.start - AUDIO_CONTEXT)
        part = mel[:, :, first * FRAMES : (own.stop - 1) * FRAMES + 1 if own.stop < steps else None]
        return encoder(part)[:, :, own.start - first :]

    return torch.cat([encoded(own) for own in pieces(steps, piece)], dim=2)


def decode_audio(latent: Tensor, decoder: Run, piece: int | None = None) -> Tensor:
    """Decode latents (b c t m) to a log-mel (b 2 T M), T = 4t - 3, in pieces of so many steps; None decodes the whole.

    The decoder is causal. The first latent step of a piece becomes a single mel frame, and is discarded.
    """

    def decoded(own: Interval) -> Tensor:
        first = max(0, own.start - AUDIO_CONTEXT)
        skipped = (own.start - first) * FRAMES - (FRAMES - 1) if own.start else 0
        return decoder(latent[:, :, first : own.stop])[:, :, skipped:]

    return torch.cat([decoded(own) for own in pieces(latent.shape[2], piece)], dim=2)


def vocode(mel: Tensor, vocoder: Run, piece: int | None = None) -> Iterator[Tensor]:
    """Turn a log-mel (b 2 T M) into a waveform (b 2 s), in pieces of so many latent steps; None processes the whole.

    Yields: the pieces, in their order.
    """
    length, around = mel.shape[2], AUDIO_CONTEXT * FRAMES
    for own in pieces(length, None if piece is None else piece * FRAMES):
        first, last = max(0, own.start - around), min(length, own.stop + around)
        wave = vocoder(mel[:, :, first:last])
        samples = wave.shape[-1] // (last - first)
        yield wave[..., (own.start - first) * samples : (own.stop - first) * samples]
