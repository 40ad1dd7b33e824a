"""Audio that is encoded and decoded in pieces equals audio that is processed at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ltx2_core.checkpoint import load_component
from ltx2_core.tiles import AUDIO_CONTEXT
from ltx2_core.tiling.audio import decode_audio, encode_audio, vocode
from tests.tolerances import AUDIO_PIECES

FILES = {"2.0": "ltx-2-tiny-dev.safetensors", "2.3": "ltx-2.3-tiny-dev.safetensors"}
STEPS = AUDIO_CONTEXT + 35


@pytest.fixture(params=["2.0", pytest.param("2.3", marks=pytest.mark.slow)])
def part(request: Any, tiny_of: Callable[[str], Path]) -> Callable[[str], Any]:
    """An audio component of a tiny model, in float32."""
    path = tiny_of(request.param) / FILES[request.param]
    return lambda name: load_component(name, path, dtype=torch.float32)


@torch.inference_mode()
def test_pieces_of_audio_are_those_of_the_whole(part: Callable[[str], Any]) -> None:
    encoder, decoder, vocoder = (part(name) for name in ("audio_encoder", "audio_decoder", "vocoder"))
    config = decoder.config
    latent = torch.randn(
        1, config.latent_channels, STEPS, config.latent_bins, generator=torch.Generator().manual_seed(1)
    )
    mel = decode_audio(latent, decoder)
    for whole, make in (
        (mel, lambda piece: decode_audio(latent, decoder, piece)),
        (encoder(mel), lambda piece: encode_audio(mel, encoder, piece)),
        (encoder(mel[:, :, :-2]), lambda piece: encode_audio(mel[:, :, :-2], encoder, piece)),
        (vocoder(mel), lambda piece: torch.cat([*vocode(mel, vocoder, piece)], dim=-1)),
    ):
        assert make(None).equal(whole)
        in_pieces = make(25)
        assert in_pieces.shape == whole.shape
        assert (in_pieces - whole).abs().max() < AUDIO_PIECES * whole.abs().max()
