"""Training data for the audio VAE and the vocoder: sounds, their mels, and distances between mels.

In shapes, `s` are samples at the sample rate of the world, `T M` are mel frames and bins, `side` is left and right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from ltx2_core.config.audio import AudioVAEConfig
from ltx2_core.models.mel import mel_from_waveform
from scripts.toy import detect, world
from scripts.toy.model import model_config
from scripts.toy.world import Clip

MEL = AudioVAEConfig.from_metadata(model_config()).mel
MEL_MEAN, MEL_DEVIATION = -6.3, 1.5  # mean and standard deviation of the world's log-mels
LOUD = -5.5  # a log-mel between the world's noise floor and its events
PICTURE = {"width": 6, "height": 4}  # size of the frames when only the sound of a clip is needed
WINDOWS = (128, 512, 2048, 4096)  # samples
FLOOR = 1e-3  # smallest magnitude: about the noise floor of the world
PITCHED = (world.Kind.BALL, world.Kind.LAMP)
ONSET_S = 0.02  # how far an onset may be from its event


def draw_clips(count: int, *seed: int, held_out: bool = False) -> list[Clip]:
    """Random clips of the world, for their sound only: the frames are tiny. The same seed gives the same clips."""
    rng = np.random.default_rng(seed)
    return [world.render(world.draw(rng, held_out=held_out), **PICTURE) for _ in range(count)]


def sounds_of(clips: Sequence[Clip]) -> Tensor:
    """The sounds (b 2 s) of clips, float32."""
    return torch.from_numpy(np.stack([clip.sound for clip in clips]))


def draw_sounds(count: int, *seed: int, held_out: bool = False) -> Tensor:
    """Random sounds of the world (b 2 s) float32."""
    return sounds_of(draw_clips(count, *seed, held_out=held_out))


def spread(sounds: Tensor, generator: torch.Generator) -> Tensor:
    """Pan half of some sounds (b 2 s) differently: a quarter anywhere from hard left to hard right, a quarter with a
    different sound on each side.

    In the world there are only two positions, and every sound on one side is also heard on the other side.
    """
    mono = reduce(sounds, "b side s -> b 1 s", "sum")
    place = torch.rand(len(sounds), 1, 1, generator=generator).mul(1.4).sub(0.2).clamp(0, 1) * math.pi / 2
    placed = mono * torch.cat([place.cos(), place.sin()], 1)
    apart = torch.cat([mono, mono.roll(1, 0)], 1) / math.sqrt(2)
    choice = torch.rand(len(sounds), 1, 1, generator=generator)
    moved = torch.where(choice < 0.25, placed, apart)
    moved = moved + world.NOISE_FLOOR * torch.randn(moved.shape, generator=generator)
    return torch.where(choice < 0.5, moved, sounds)


def mels_of(sounds: Tensor) -> Tensor:
    """The log-mels (b 2 T M) of sounds (b 2 s), computed as for given audio, and cut to 4t - 3 frames like decoded
    ones.
    """
    mel = mel_from_waveform(sounds, world.RATE_HZ, MEL)
    return mel[:, :, : (mel.shape[2] - 1) // 4 * 4 + 1]


def expect_mels(conv: nn.Conv1d | nn.Conv2d) -> None:
    """Initialise a layer as if its input, mels, were normalised to mean 0 and standard deviation 1."""
    assert conv.bias is not None
    with torch.no_grad():
        conv.weight /= MEL_DEVIATION
        conv.bias -= MEL_MEAN * conv.weight.flatten(1).sum(-1)


def mel_distance(mel: Tensor, target: Tensor) -> Tensor:
    """The training loss between mels (b 2 T M) and their targets.

    Most of a mel is silence and both sides are nearly equal, so a plain mean would not notice lost events or a lost
    side. Therefore loud cells count seven times as much as silent ones, and the difference between the sides is a term
    of its own.
    """
    error = mel - target
    weight = 1 + 6 * torch.sigmoid(2 * (reduce(target, "b side T M -> b 1 T M", "max") - LOUD))
    weight = weight / weight.mean()
    return (
        (weight * error.abs()).mean()
        + 0.1 * error.square().mean()
        + 0.5 * (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean())
        + (weight * error.diff(dim=1).abs()).mean()
    )


def sound_distance(sounds: Tensor, target: Tensor) -> Tensor:
    """The distance between sounds (b 2 s) and their targets, including left minus right, in magnitudes at several
    resolutions.
    """
    both = torch.stack([sounds, target])
    signals = rearrange(torch.cat([both, both[:, :, :1] - both[:, :, 1:]], 2), "two b side s -> (two b side) s")
    total = torch.zeros(())
    for window in WINDOWS:
        spectrum = torch.stft(
            signals,
            window,
            window // 4,
            window=torch.hann_window(window),
            normalized=True,
            return_complex=True,
        )
        magnitude = torch.view_as_real(spectrum).square().sum(-1).add(1e-9).sqrt()
        made, true = rearrange(magnitude, "(two b side) k t -> two side (b k t)", two=2, side=3)
        convergence = ((made - true).norm(dim=-1) / true.norm(dim=-1)).mean()
        total = total + convergence + ((made + FLOOR).log() - (true + FLOOR).log()).abs().mean()
    return total / len(WINDOWS)


def mel_likeness(mel: Tensor, target: Tensor) -> str:
    """Measures of mels (b 2 T M) against their targets: mean errors, and the louder side of each clip."""
    error = (mel - target).abs()
    loud = target > LOUD
    level_db, target_db = side_level_db(mel.exp()), side_level_db(target.exp())
    is_heard = target_db.abs() > 1
    right = (level_db.sign() == target_db.sign())[is_heard].float().mean()
    return (
        f"L1 {error.mean():.3f} loud {error[loud].mean():.3f} "
        f"side {100 * right:.1f} % of {is_heard.sum()} level {(level_db - target_db)[is_heard].abs().mean():.2f} dB"
    )


def side_level_db(amplitude: Tensor) -> Tensor:
    """The level of the left side minus that of the right side (b), of sounds (b 2 …) or magnitudes."""
    left, right = reduce(amplitude.square(), "b side ... -> side b", "sum")
    return 10 * torch.log10(left / right)


def sound_likeness(sounds: Tensor, clips: Sequence[Clip]) -> str:
    """The findings of the detectors in sounds (b 2 s), compared with the original clips."""
    sides, late_s, pitches, sync = [], [], [], detect.Sync()
    for sound, clip in zip(sounds.numpy(), clips, strict=True):
        made, true = (detect.hear(one, clip.scene.kind) for one in (sound, clip.sound))
        times_s = [event.time_s for event in clip.events]
        if clip.scene.side:
            sides.append(made.side == clip.scene.side)
        if times_s:
            sync += detect.match(times_s, made.onsets_s)
            late_s += [min(abs(onset_s - time_s) for time_s in times_s) for onset_s in made.onsets_s]
        if clip.scene.kind in PITCHED and made.pitch_hz and true.pitch_hz:
            pitches.append(abs(made.pitch_hz / true.pitch_hz - 1))
    near = [time_s <= ONSET_S for time_s in late_s if time_s <= detect.TOLERANCE_S]
    return (
        f"side {100 * np.mean(sides):.1f} % of {len(sides)}, onsets {100 * sync.recall:.1f} % of {sync.events} "
        f"within 20 ms {100 * np.mean(near):.1f} % false {100 - 100 * sync.precision:.1f} % of {sync.onsets}, "
        f"pitch off mean {100 * np.mean(pitches):.2f} % worst {100 * np.max(pitches):.2f} % of {len(pitches)}"
    )
