"""From a waveform to the log-mel spectrogram that the audio encoder reads. Everything here runs in float32.

In shapes, `s` are samples, `T M` mel frames and bins.
Source: docs/reference/audio.md, "Mel front end".
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor

from ..config.audio import MelConfig

FLOOR = 1e-5
ROLLOFF, ZEROS = 0.99, 6  # resampling filter: relative bandwidth, and zero crossings on each side
KNEE_HZ, KNEE_MEL, LOG_PER_MEL = 1000.0, 15.0, math.log(6.4) / 27.0  # the Slaney scale is linear up to KNEE_HZ

# Weights of the channels in left and right, divided by the sum of the row when used; L R C LFE Ls Rs, then Lb Rb.
# Any other number of channels is averaged.
SIDE = 0.707
STEREO_MIX = {
    6: ((1, 0, SIDE, 0, SIDE, 0), (0, 1, SIDE, 0, 0, SIDE)),
    8: ((1, 0, SIDE, 0, SIDE, 0, SIDE, 0), (0, 1, SIDE, 0, 0, SIDE, 0, SIDE)),
}


def mel_from_waveform(wave: Tensor, sample_rate_hz: int, config: MelConfig) -> Tensor:
    """Any waveform (b c s) at any rate to the log-mel (b 2 T M) for the encoder."""
    return log_mel(resample(to_stereo(wave), sample_rate_hz, config.sample_rate_hz), config)


def to_stereo(wave: Tensor) -> Tensor:
    """Mix (b c s) down or up to left and right (b 2 s); stereo is not changed, and levels are not normalised."""
    channels = wave.shape[1]
    if channels == 2:
        return wave
    mix = torch.tensor(STEREO_MIX.get(channels, ((1,) * channels,) * 2), dtype=torch.float32, device=wave.device)
    return einsum(mix / mix.sum(-1, keepdim=True), wave, "side c, b c s -> b side s")


def resample(wave: Tensor, sample_rate_hz: int, target_hz: int) -> Tensor:
    """Resample (b c s) with a Hann-windowed sinc, to ceil(s * target_hz / sample_rate_hz) samples.

    The frequencies just below the new limit are part of what the encoder was trained on, and common resamplers roll off
    differently there.
    """
    if sample_rate_hz == target_hz:
        return wave
    common = math.gcd(sample_rate_hz, target_hz)
    stride, phases = sample_rate_hz // common, target_hz // common
    band = ROLLOFF * min(stride, phases)
    reach = math.ceil(ZEROS * stride / band)
    tap = torch.arange(-reach, reach + stride, dtype=torch.float32, device=wave.device) / stride
    phase = torch.arange(phases, dtype=torch.float32, device=wave.device) / phases
    t = ((tap - rearrange(phase, "p -> p 1")) * band).clamp(-ZEROS, ZEROS)
    window = torch.cos(t * math.pi / ZEROS / 2) ** 2
    x = t * math.pi
    sinc = torch.where(x == 0, 1.0, x.sin() / x)  # torch.sinc rounds differently from the reference
    kernel = sinc * (window * (band / stride))
    padded = F.pad(rearrange(wave, "b c s -> (b c) 1 s"), (reach, reach + stride))
    out = F.conv1d(padded, rearrange(kernel, "p tap -> p 1 tap"), stride=stride)
    length = math.ceil(wave.shape[-1] * phases / stride)
    return rearrange(out, "(b c) p k -> b c (k p)", b=wave.shape[0])[..., :length]


def log_mel(wave: Tensor, config: MelConfig) -> Tensor:
    """Natural log of the mel magnitudes (b c T M) of a waveform (b c s) at the config's rate; T = 1 + s // hop.

    A clip shorter than half a window is padded with silence.
    """
    half = config.n_fft // 2
    wave = F.pad(wave, (0, max(0, half + 1 - wave.shape[-1])))
    spectrum = torch.stft(
        rearrange(wave, "b c s -> (b c) s"),
        n_fft=config.n_fft,
        hop_length=config.hop,
        window=torch.hann_window(config.n_fft, device=wave.device),
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )
    magnitude = rearrange(spectrum.abs(), "(b c) k T -> b c T k", b=wave.shape[0])
    return (magnitude @ mel_filterbank(config, wave.device)).clamp(min=FLOOR).log()


def mel_filterbank(config: MelConfig, device: torch.device | str = "cpu") -> Tensor:
    """Triangles of equal area on the Slaney scale: (k M), k = n_fft // 2 + 1 magnitudes from 0 Hz to half the rate."""
    top_hz = config.sample_rate_hz / 2
    top_mel = KNEE_MEL + math.log(top_hz / KNEE_HZ) / LOG_PER_MEL
    mel = torch.linspace(0, top_mel, config.bins + 2, device=device)
    hz = torch.where(mel < KNEE_MEL, mel * (KNEE_HZ / KNEE_MEL), KNEE_HZ * torch.exp((mel - KNEE_MEL) * LOG_PER_MEL))
    low, centre, high = hz[:-2], hz[1:-1], hz[2:]
    k = rearrange(torch.linspace(0, top_hz, config.n_fft // 2 + 1, device=device), "k -> k 1")
    triangle = torch.minimum((k - low) / (centre - low), (high - k) / (high - centre)).clamp(min=0)
    return triangle * (2 / (high - low))
