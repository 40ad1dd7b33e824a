"""The cost of the audio VAE and the vocoder beside their weights, by latent steps. It is small compared with the video.

The shares were counted on tensors without data, with the shapes of 2.0; tests/unit/test_costs.py compares them.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

from ..config.audio import AudioVAEConfig, GeneratorConfig, VocoderConfig
from ..grids import MEL_FRAMES_PER_AUDIO_LATENT

DECODING_COPIES, ENCODING_COPIES = 7.7, 6.3  # copies of the activations of the widest layer
# Additional memory on the CPU, in the same unit: the convolution kernels, and what the system's allocator keeps of
# freed tensors. Measured with the models of 2.0 and 2.3, for 10 to 125 steps.
DECODING_KERNEL_COPIES, ENCODING_KERNEL_COPIES = 3.0, 2.2
VOCODER_KERNEL_COPIES, ANTIALIASED_KERNEL_COPIES = 10.4, 13.9
VOCODING_COPIES, ANTIALIASED_COPIES = 5.0, 5.8  # antialiased activations compute at twice the rate
FLOAT_BYTES = 4  # the vocoder computes in float32, and so does what comes before the encoder
USUAL_RATE_HZ = 48000
CHANNELS = 128  # channels of 2.0, for which these FLOPs per step were counted:
DECODE_FLOPS, ENCODE_FLOPS = 2.45e9, 1.19e9
SIDES, ENDS, FILTER_TAPS = 2, 7, 12  # kernel sizes: of the first and the last convolution, and of the stored filters


def decode_bytes(config: AudioVAEConfig, steps: int, itemsize: int) -> int:
    """Peak memory while latents are decoded to a spectrogram."""
    return int(DECODING_COPIES * _largest(config, steps) * itemsize)


def encode_bytes(config: AudioVAEConfig, steps: int, itemsize: int) -> int:
    """Peak memory while a spectrogram is encoded to latents."""
    return int(ENCODING_COPIES * _largest(config, steps) * itemsize)


def decode_workspace_bytes(config: AudioVAEConfig, steps: int, itemsize: int) -> int:
    """The additional memory of decoding on the CPU, in the convolution kernels."""
    return int(DECODING_KERNEL_COPIES * _largest(config, steps) * itemsize)


def reading_bytes(
    config: AudioVAEConfig, steps: int, at_once: int, seconds: Fraction, itemsize: int, *, on_cpu: bool = False
) -> int:
    """Peak memory while audio of so many seconds is encoded, so many steps at a time: either for the spectrum, which is
    computed for all of it at once, or for encoding pieces of the spectrogram, on the CPU with the convolution kernels.
    """
    mel, sides = config.mel, 2
    frames = seconds * mel.sample_rate_hz / mel.hop
    spectrum = 3 * (mel.n_fft // 2 + 1)  # complex numbers, and their magnitudes
    resampled = sides * FLOAT_BYTES * seconds * mel.sample_rate_hz
    transformed = resampled + sides * FLOAT_BYTES * frames * (spectrum + 2 * mel.bins)
    made = sides * frames * mel.bins * (FLOAT_BYTES + itemsize)
    piece = min(steps, at_once)
    kernels = on_cpu * ENCODING_KERNEL_COPIES * _largest(config, piece) * itemsize
    encoding = encode_bytes(config, piece, itemsize) + kernels
    return wave_bytes(seconds) + int(max(transformed, made + encoding))


def wave_bytes(seconds: Fraction) -> int:
    """Bytes of stereo audio in float32, at the most common rate."""
    return int(2 * FLOAT_BYTES * USUAL_RATE_HZ * seconds)


def vocode_bytes(config: VocoderConfig, steps: int) -> int:
    """Peak memory while a spectrogram becomes a waveform."""
    return max(_generator_bytes(generator, frames) for generator, frames in _generators(config, steps))


def vocode_workspace_bytes(config: VocoderConfig, steps: int) -> int:
    """The additional memory of the vocoder on the CPU, as for decoding, and a copy of its largest weights."""
    generators = _generators(config, steps)
    copies = ANTIALIASED_KERNEL_COPIES if config.generator.is_antialiased else VOCODER_KERNEL_COPIES
    widest = max(_last_stage(generator, frames) for generator, frames in generators)
    weights = max(generator.widths[1] ** 2 * max(generator.block_kernels) for generator, _ in generators)
    return int((copies * widest + weights) * FLOAT_BYTES)


def decode_flops(config: AudioVAEConfig, steps: int) -> float:
    """FLOPs of the audio decoder."""
    return DECODE_FLOPS * steps * (config.channels / CHANNELS) ** 2


def encode_flops(config: AudioVAEConfig, steps: int) -> float:
    """FLOPs of the audio encoder."""
    return ENCODE_FLOPS * steps * (config.channels / CHANNELS) ** 2


def vocode_flops(config: VocoderConfig, steps: int) -> float:
    """FLOPs of the vocoder: its convolutions, and the spectrogram for a bandwidth extension."""
    flops = sum(_generator_flops(generator, frames) for generator, frames in _generators(config, steps))
    if config.extension is None:
        return flops
    frames, n_fft = _generators(config, steps)[1][1], config.extension.n_fft
    rows = n_fft // 2 + 1
    return flops + 2 * SIDES * frames * rows * (2 * n_fft + config.extension.generator.mel_bins)


def _generators(config: VocoderConfig, steps: int) -> list[tuple[GeneratorConfig, int]]:
    """The generators of a vocoder, each with the mel frames that it reads."""
    frames = steps * MEL_FRAMES_PER_AUDIO_LATENT
    found = [(config.generator, frames)]
    if config.extension is not None:
        found.append((config.extension.generator, frames * config.generator.samples_per_frame // config.extension.hop))
    return found


def _generator_bytes(config: GeneratorConfig, frames: int) -> int:
    """Peak memory of the last stage: stages halve the channels and at least double the samples."""
    copies = ANTIALIASED_COPIES if config.is_antialiased else VOCODING_COPIES
    return int(copies * _last_stage(config, frames) * FLOAT_BYTES)


def _last_stage(config: GeneratorConfig, frames: int) -> int:
    """The number of values in a tensor of the last stage."""
    return config.widths[-1] * frames * config.samples_per_frame


def _generator_flops(config: GeneratorConfig, frames: int) -> float:
    """Two FLOPs for every weight of a convolution and every place where it is applied."""
    taps = sum(
        2 * kernel * len(dilations)
        for kernel, dilations in zip(config.block_kernels, config.block_dilations, strict=True)
    )
    activations = sum(2 * len(dilations) for dilations in config.block_dilations)
    filters = 2 * FILTER_TAPS * config.is_antialiased
    total, samples = SIDES * config.mel_bins * config.channels * ENDS * frames, frames
    for (before, after), rate, kernel in zip(pairwise(config.widths), config.rates, config.kernels, strict=True):
        total += before * after * kernel * samples
        samples *= rate
        total += (after * after * taps + after * activations * filters) * samples
    last = config.widths[-1]
    return 2.0 * (total + last * (SIDES * ENDS + filters) * samples)


def _largest(config: AudioVAEConfig, steps: int) -> int:
    """The number of values at the finest level of the VAE."""
    return config.channels * steps * MEL_FRAMES_PER_AUDIO_LATENT * config.mel.bins
