"""The audio trainings of the toy: random sounds, distances between sounds, and runs that are stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ltx2_core.checkpoint import load_component
from scripts.toy.model import HOME
from scripts.toy.sound import (
    draw_clips,
    draw_sounds,
    expect_mels,
    mel_distance,
    mels_of,
    side_level_db,
    sound_distance,
    sounds_of,
    spread,
)
from scripts.toy.train_vocoder import beginning, crops
from scripts.toy.training import Muon, Run, learning_rate, orthogonal
from scripts.toy.world import Kind, draw, render

FILE = HOME / "audio_vae.safetensors"


def test_the_sound_of_a_clip_does_not_depend_on_the_size_of_its_picture():
    clip = draw_clips(1, 0)[0]
    assert torch.equal(sounds_of([clip]), sounds_of([render(clip.scene)]))


def test_spread_sounds_stand_on_both_sides_and_between():
    sounds = spread(draw_sounds(40, 0), torch.Generator().manual_seed(0))
    level_db = side_level_db(sounds)
    assert level_db.max() > 20
    assert level_db.min() < -20
    assert level_db.abs().min() < 1


def test_a_layer_that_expects_mels_answers_their_mean_with_its_own_bias():
    conv = nn.Conv1d(4, 3, 1)
    assert conv.bias is not None
    bias = conv.bias.clone()
    expect_mels(conv)
    assert torch.allclose(conv(torch.full((1, 4, 1), -6.3)).flatten(), bias, atol=1e-5)


@pytest.mark.parametrize("distance", [sound_distance, lambda a, b: mel_distance(mels_of(a), mels_of(b))])
def test_a_sound_is_nearer_to_itself_than_to_its_mirror_image(distance):
    sounds = draw_sounds(4, 0)
    assert distance(sounds, sounds) == 0
    assert distance(sounds.flip(1), sounds) > distance(0.9 * sounds, sounds) > 0


def test_an_error_in_a_loud_cell_counts_more_than_in_a_silent_one():
    target = torch.full((1, 2, 9, 64), -8.0)
    target[..., 4, 20] = -2.0
    loud, silent = target.clone(), target.clone()
    loud[..., 4, 20] += 1
    silent[..., 4, 40] += 1
    assert mel_distance(loud, target) > 2 * mel_distance(silent, target) > 0


def test_a_new_vocoder_makes_each_side_from_its_own_side():
    vocoder = beginning(is_fresh=True, folder=HOME)
    mel, _ = crops(draw_sounds(1, 0), torch.Generator().manual_seed(0))
    other = torch.stack([mel[:, 0], mel[:, 1] + 1], 1)
    left, right = (vocoder(other) - vocoder(mel)).abs().amax(-1)[0]
    assert left == 0
    assert right > 0


def test_orthogonal_keeps_directions_and_makes_their_gains_alike():
    matrices = torch.randn(2, 6, 20, generator=torch.Generator().manual_seed(0))
    gains = torch.linalg.svdvals(orthogonal(matrices).float())
    assert gains.min() > 0.6
    assert gains.max() < 1.3
    assert torch.equal(orthogonal(matrices.mT), orthogonal(matrices).mT)


def test_a_run_that_was_stopped_ends_like_one_that_was_not(tmp_path: Path):
    def train(folder: Path, stop: int) -> list[Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = nn.Conv1d(2, 3, 3)
        optimiser = Muon(module.parameters(), 0.02)
        run = Run(folder, {"module": module, "optimiser": optimiser})
        for step in run.steps(stop):
            optimiser.param_groups[0]["lr"] = learning_rate(0.02, step, 6, warm_up=2)
            optimiser.zero_grad()
            x = torch.randn(1, 2, 9, generator=torch.Generator().manual_seed(step))
            module(x).square().sum().backward()
            optimiser.step()
        return [parameter.detach().clone() for parameter in module.parameters()]

    whole = train(tmp_path / "whole", 6)
    train(tmp_path / "stopped", 3)
    resumed = train(tmp_path / "stopped", 6)
    assert all(map(torch.equal, resumed, whole))


def test_the_shipped_audio_vae_keeps_the_louder_side_and_its_latents_have_unit_variance():
    encoder, decoder = (load_component(f"audio_{half}", FILE, dtype=torch.float32) for half in ("encoder", "decoder"))
    rng = np.random.default_rng(7)
    clips = [render(draw(rng, [kind], held_out=True)) for kind in Kind for _ in range(3)]
    mel = mels_of(sounds_of(clips))
    latent = encoder(mel)
    assert latent.std() == pytest.approx(1, abs=0.15)
    assert torch.equal(side_level_db(decoder(latent).exp()).sign(), side_level_db(mel.exp()).sign())
