"""Given audio with more channels than stereo, as a file keeps it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ltx2_core.media.accept import check_input
from ltx2_core.media.audio import read_audio
from ltx2_core.media.inputs import AudioSource
from ltx2_core.media.stereo import storable
from ltx2_core.media.waveform import Waveform
from ltx2_core.models.mel import to_stereo
from tests.synthetic_media import write_sound


@pytest.mark.parametrize("layout", ["2.1", "3.0", "4.0", "quad", "5.0", "6.1", "7.1"])
def test_each_side_hears_its_own_speakers_at_full_level(layout: str, tmp_path: Path) -> None:
    source = check_input(write_sound(tmp_path / "song.flac", "flac", layout=layout), AudioSource)
    given = read_audio(source)
    loud = torch.ones_like(given.samples)
    for side, own in enumerate("LR"):
        only = loud * torch.tensor([[name.endswith(own)] for name in source.speakers])
        heard = storable(Waveform(only, given.sample_rate_hz), source.speakers).samples
        assert heard[side].min() > 0.3
        assert not heard[1 - side].any()
    torch.testing.assert_close(storable(Waveform(loud, 1), source.speakers).samples, loud[:2])


def test_eight_channels_are_mixed_as_the_model_hears_them() -> None:
    speakers = ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR")
    samples = torch.randn(8, 100, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(storable(Waveform(samples, 1), speakers).samples, to_stereo(samples[None])[0])


def test_channels_without_a_place_are_averaged() -> None:
    samples = torch.randn(4, 100, generator=torch.Generator().manual_seed(1))
    mean = samples.mean(0).expand(2, -1)
    torch.testing.assert_close(storable(Waveform(samples, 1), ("NONE",) * 4).samples, mean)
