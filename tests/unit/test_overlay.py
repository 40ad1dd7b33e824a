"""The clip that shows the attention of the audio: the weights of each frame, and where they are drawn."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from ltx2_core.media.accept import check_input
from ltx2_core.media.clip import ClipShape, Encoding, Output
from ltx2_core.media.inputs import VideoSource
from ltx2_core.media.overlay import AttentionMap, write_overlay
from ltx2_core.media.video import frames_by_number
from ltx2_core.media.waveform import Waveform
from ltx2_core.media.writer import write_clip

FPS = Fraction(24)


def looking(weights: torch.Tensor, width: float = 128, height: float = 64) -> AttentionMap:
    return AttentionMap(weights=weights, fps=FPS, frames_per_latent=8, width=width, height=height)


def test_a_frame_gets_the_step_that_is_heard_and_the_latent_frame_that_is_seen() -> None:
    weights = torch.full((10, 3, 1, 2), 1.0)
    weights[0, 0, 0, 0] = 3
    weights[5, 1, 0, 1] = 7
    found = looking(weights)
    assert np.allclose(found.at(Fraction(0)), [[1.5, 0.5]])
    assert np.allclose(found.at(Fraction(5, 24)), [[0.25, 1.75]])  # 208 ms: the sixth step, from 170 to 210 ms
    assert np.allclose(found.at(Fraction(6, 24)), 1)
    assert np.allclose(found.at(Fraction(99)), 1)


def test_the_map_lies_over_the_cells_that_it_is_of(tmp_path: Path) -> None:
    clip, target = tmp_path / "clip.mp4", tmp_path / "overlay.mp4"
    shape = ClipShape(width=128, height=64, frames=9, fps=FPS)
    sound = Waveform(0.5 * torch.sin(torch.arange(18_000) / 20).expand(2, -1), 48_000)
    frames = 0.5 + torch.linspace(-0.1, 0.1, 9)[:, None, None, None].repeat(1, 3, 64, 128)
    frames[..., 32:, :] += 0.3
    write_clip(Output(path=clip), shape, [frames], sound, Encoding())
    weights = torch.full((10, 2, 2, 4), 0.1)
    weights[:, :, 0, 3] = 5
    write_overlay(clip, target, looking(weights), words="all blocks, all steps")
    source = check_input(target, VideoSource)
    assert (source.width, source.height, source.frames, source.fps) == (512, 256 + 96 + 24 + 24, 9, FPS)
    assert source.audio is not None
    (_, frame), (_, last) = frames_by_number(source, {0, 8})
    spread = frame.float()[:, :256].amax(0) - frame.float()[:, :256].amin(0)  # colours in a grey image
    assert spread[:128, 384:].mean() > 5 * spread[128:, :384].mean() + 20
    cursor = [picture.float()[:, 270:350].amin((0, 1)).argmax().item() for picture in (frame, last)]
    assert cursor[0] < 5
    assert abs(cursor[1] - 512 * 8 / 9) < 5
