"""What the audio VAE and the vocoder cost beside their weights, for so many latent steps. Small beside the video.

The shares were counted on tensors without data, with the shapes of 2.0; tests/unit/test_costs.py compares them.
"""

from __future__ import annotations

from ..config.audio import AudioVAEConfig, VocoderConfig
from ..grids import MEL_FRAMES_PER_AUDIO_LATENT

DECODING_COPIES, ENCODING_COPIES, VOCODING_COPIES = 7.7, 6.3, 7.2  # of the widest layer's numbers
FLOAT_BYTES = 4  # the vocoder computes in float32
CHANNELS, WIDTH = 128, 1024  # of 2.0, with which these FLOPs of a step were counted:
DECODE_FLOPS, ENCODE_FLOPS, VOCODE_FLOPS = 2.45e9, 1.19e9, 5.54e9


def decode_bytes(config: AudioVAEConfig, steps: int, itemsize: int) -> int:
    """The most that is alive while latents become a spectrogram."""
    return int(DECODING_COPIES * _largest(config, steps) * itemsize)


def encode_bytes(config: AudioVAEConfig, steps: int, itemsize: int) -> int:
    """The most that is alive while a spectrogram becomes latents."""
    return int(ENCODING_COPIES * _largest(config, steps) * itemsize)


def vocode_bytes(config: VocoderConfig, steps: int) -> int:
    """The most that is alive while a spectrogram becomes a waveform."""
    samples = steps * MEL_FRAMES_PER_AUDIO_LATENT * config.samples_per_frame
    return int(VOCODING_COPIES * config.channels / 2 ** len(config.rates) * samples * FLOAT_BYTES)


def decode_flops(config: AudioVAEConfig, steps: int) -> float:
    """Of the audio decoder."""
    return DECODE_FLOPS * steps * (config.channels / CHANNELS) ** 2


def encode_flops(config: AudioVAEConfig, steps: int) -> float:
    """Of the audio encoder."""
    return ENCODE_FLOPS * steps * (config.channels / CHANNELS) ** 2


def vocode_flops(config: VocoderConfig, steps: int) -> float:
    """Of the vocoder."""
    return VOCODE_FLOPS * steps * (config.channels / WIDTH) ** 2


def _largest(config: AudioVAEConfig, steps: int) -> int:
    """The numbers of the finest level of the VAE."""
    return config.channels * steps * MEL_FRAMES_PER_AUDIO_LATENT * config.mel.bins
