"""The audio path on tiny random models: mel front end, audio VAE, vocoder and their configs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from ltx2_core.config.audio import AudioVAEConfig, MelConfig, VocoderConfig
from ltx2_core.errors import CheckpointError
from ltx2_core.models import activations
from ltx2_core.models.audio_vae import AudioDecoder, AudioEncoder
from ltx2_core.models.mel import FLOOR, log_mel, mel_filterbank, mel_from_waveform, resample, to_stereo
from ltx2_core.models.vocoder import ExtendedVocoder, Vocoder, build_vocoder, upsample
from ltx2_core.pipeline.events import Watch
from ltx2_core.pipeline.render.engine import Engine

Model = TypeVar("Model", bound=nn.Module)

METADATA = {
    "audio_vae": {
        "model": {
            "params": {
                "sampling_rate": 16000,
                "ddconfig": {
                    "mel_bins": 16,
                    "z_channels": 2,
                    "in_channels": 2,
                    "out_ch": 2,
                    "ch": 8,
                    "ch_mult": [1, 2, 1],
                    "num_res_blocks": 1,
                    "attn_resolutions": [],
                    "mid_block_add_attention": False,
                },
            }
        },
        "preprocessing": {
            "stft": {"filter_length": 256, "hop_length": 160, "causal": True},
            "mel": {"n_mel_channels": 16},
        },
    },
    "vocoder": {
        "resblock": "1",
        "stereo": True,
        "upsample_initial_channel": 16,
        "upsample_rates": [5, 2],
        "upsample_kernel_sizes": [11, 4],
        "resblock_kernel_sizes": [3, 7],
        "resblock_dilation_sizes": [[1, 3], [1, 5]],
    },
}
VAE = AudioVAEConfig.from_metadata(METADATA)
VOCODER = VocoderConfig.from_metadata(METADATA)
ANTIALIASED = METADATA["vocoder"] | {
    "resblock": "AMP1",
    "activation": "snakebeta",
    "use_tanh_at_final": False,
    "use_bias_at_final": False,
}
EXTENSION = ANTIALIASED | {
    "upsample_rates": [6, 2],
    "upsample_kernel_sizes": [12, 4],
    "input_sampling_rate": 16000,
    "output_sampling_rate": 48000,
    "hop_length": 4,
    "n_fft": 16,
    "num_mels": 16,
}
EXTENDED_METADATA = METADATA | {"vocoder": {"vocoder": ANTIALIASED, "bwe": EXTENSION}}
EXTENDED = VocoderConfig.from_metadata(EXTENDED_METADATA)
MEL = MelConfig(sample_rate_hz=16000, n_fft=1024, hop=160, bins=64)


def with_random_weights(model: Model) -> Model:
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        scale = 1 / math.sqrt(tensor[0].numel()) if tensor.dim() > 1 else 0.1
        tensor.normal_(std=scale, generator=generator).add_(name.endswith("std-of-means"))
    return model.requires_grad_(False).eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def changed(path: str, value: object) -> dict:
    """The metadata above with one setting replaced, given by its dotted path."""
    metadata = deepcopy(METADATA)
    *sections, key = path.split(".")
    section: Any = metadata
    for name in sections:
        section = section[name]
    section[key] = value
    return metadata


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_decoder_sees_no_later_latent(steps: int) -> None:
    decoder, latent = with_random_weights(AudioDecoder(VAE)), noise(1, 2, 5, 4)
    torch.testing.assert_close(decoder(latent[:, :, :steps]), decoder(latent)[:, :, : 4 * steps - 3])


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_encoder_sees_no_later_mel_frame(steps: int) -> None:
    encoder, mel = with_random_weights(AudioEncoder(VAE)), noise(1, 2, 17, 16)
    torch.testing.assert_close(encoder(mel[:, :, : 4 * steps - 3]), encoder(mel)[:, :, :steps])


@pytest.mark.parametrize("frames", [1, 2, 4, 5, 13, 16])
def test_encoder_makes_one_latent_step_of_four_mel_frames_rounded_up(frames: int) -> None:
    latent = with_random_weights(AudioEncoder(VAE))(noise(1, 2, frames, 16))
    assert latent.shape == (1, 2, math.ceil(frames / 4), VAE.latent_bins)


def test_batched_sounds_equal_separate_sounds() -> None:
    encoder, decoder = with_random_weights(AudioEncoder(VAE)), with_random_weights(AudioDecoder(VAE))
    mel = noise(2, 2, 9, 16)
    batched = decoder(encoder(mel))
    separate = torch.cat([decoder(encoder(one)) for one in mel.split(1)])
    torch.testing.assert_close(batched, separate)


def test_encoder_returns_the_normalised_mean() -> None:
    encoder, mel = with_random_weights(AudioEncoder(VAE)), noise(1, 2, 9, 16)
    mean, _ = encoder.moments(mel).chunk(2, dim=1)
    torch.testing.assert_close(encoder.per_channel_statistics.denormalise(encoder(mel)), mean)


def test_statistics_are_stored_channel_by_channel() -> None:
    statistics = with_random_weights(AudioEncoder(VAE)).per_channel_statistics
    statistics.get_buffer("mean-of-means").copy_(torch.arange(8.0))
    statistics.get_buffer("std-of-means").fill_(1.0)
    bins = statistics.denormalise(torch.zeros(1, 2, 3, 4))[0, :, -1]
    assert bins.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize(
    "build",
    [
        lambda: AudioEncoder(VAE),
        lambda: AudioDecoder(VAE),
        lambda: build_vocoder(VOCODER),
        lambda: build_vocoder(EXTENDED),
    ],
)
def test_models_hold_no_data_before_their_weights(build) -> None:
    with torch.device("meta"):
        model = build()
    tensors = [*model.parameters(), *model.buffers()]
    assert all(tensor.is_meta for tensor in tensors)
    assert len(tensors) == len(model.state_dict())


@pytest.mark.parametrize("config", [VOCODER, EXTENDED], ids=["plain", "extended"])
def test_vocoder_fills_every_mel_frame_with_samples(config: VocoderConfig) -> None:
    wave = with_random_weights(build_vocoder(config))(noise(2, 2, 7, 16))
    assert wave.shape == (2, 2, 7 * config.samples_per_frame)
    assert wave.abs().max() <= 1


def test_activating_some_channels_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vocoder, mel = with_random_weights(build_vocoder(EXTENDED)), noise(1, 2, 5, 16)
    in_parts = vocoder(mel)
    monkeypatch.setattr(activations, "PARTS", 1)
    assert torch.equal(in_parts, vocoder(mel))


def test_the_rate_of_a_vocoder_is_that_of_its_last_generator() -> None:
    assert (VOCODER.sample_rate_hz, EXTENDED.sample_rate_hz) == (24000, 48000)
    assert EXTENDED.samples_per_frame == 3 * VOCODER.samples_per_frame


def test_the_extension_reads_a_waveform_that_is_inside_its_range() -> None:
    vocoder = with_random_weights(build_vocoder(EXTENDED))
    assert isinstance(vocoder, ExtendedVocoder)
    vocoder.vocoder.conv_post.weight.mul_(1000)
    first = vocoder.vocoder(noise(1, 2, 8, 16))
    assert first.abs().max() == 1


def test_a_constant_waveform_stays_constant_at_the_higher_rate() -> None:
    raised = upsample(torch.full((1, 2, 9), 0.5), 3)
    assert raised.shape == (1, 2, 27)
    torch.testing.assert_close(raised, torch.full_like(raised, 0.5), rtol=1e-3, atol=0)


def test_the_vocoder_of_a_bfloat16_run_computes_in_float32() -> None:
    latent, seen = noise(1, 2, 3, 4), []

    @contextmanager
    def component(name: str, dtype: torch.dtype = torch.bfloat16) -> Iterator[nn.Module]:
        model = AudioDecoder(VAE) if name == "audio_decoder" else build_vocoder(EXTENDED)
        model = with_random_weights(model).to(dtype)
        model.register_forward_hook(lambda module, given, result: seen.append((given, result)))
        yield model

    models = SimpleNamespace(device="cpu", dtype=torch.bfloat16, component=component)
    engine: Any = SimpleNamespace(models=models, watch=Watch())
    made = Engine.decode_audio(engine, latent)
    mel = seen[0][1]
    assert mel.dtype == torch.bfloat16
    expected = with_random_weights(build_vocoder(EXTENDED))(mel.float())[0]
    assert made.samples.dtype == torch.float32
    assert torch.equal(made.samples, expected)
    assert made.sample_rate_hz == 48000


def test_what_the_inverse_basis_holds_changes_nothing() -> None:
    vocoder, mel = with_random_weights(build_vocoder(EXTENDED)), noise(1, 2, 4, 16)
    expected = vocoder(mel)
    vocoder.get_buffer("mel_stft.stft_fn.inverse_basis").fill_(math.nan)
    assert torch.equal(vocoder(mel), expected)


def test_vocoder_channels_are_left_bins_then_right_bins() -> None:
    vocoder, mel = with_random_weights(Vocoder(VOCODER)), noise(1, 2, 4, 16)
    expected = vocoder(mel)
    weight = vocoder.conv_pre.weight
    weight.copy_(weight.roll(16, dims=1))
    torch.testing.assert_close(vocoder(mel.flip(1)), expected)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_resampling_to_the_same_rate_changes_nothing(rate: int) -> None:
    wave = noise(1, 2, 100)
    assert torch.equal(resample(wave, rate, rate), wave)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_resampling_keeps_a_tone(rate: int) -> None:
    def tone(rate_hz: int) -> Tensor:
        return (
            torch.sin(torch.arange(rate_hz // 10, dtype=torch.float64) / rate_hz * 2 * math.pi * 440)
            .float()
            .view(1, 1, -1)
        )

    ours, expected = resample(tone(rate), rate, 16000), tone(16000)
    assert ours.shape == expected.shape
    torch.testing.assert_close(ours[..., 100:-100], expected[..., 100:-100], atol=2e-3, rtol=0)


def test_resampling_reads_each_channel_alone() -> None:
    wave = noise(2, 2, 500)
    separate = [[resample(wave[b : b + 1, c : c + 1], 48000, 16000) for c in range(2)] for b in range(2)]
    together = torch.cat([torch.cat(row, dim=1) for row in separate])
    torch.testing.assert_close(resample(wave, 48000, 16000), together)


def test_stereo_stays_as_it_is() -> None:
    wave = noise(1, 2, 10)
    assert to_stereo(wave) is wave


@pytest.mark.parametrize("mirrored", [(1, 0, 2, 3, 5, 4), (1, 0, 2, 3, 5, 4, 7, 6)])
def test_a_mirrored_surround_sound_is_mirrored_in_stereo_and_has_no_rumble_channel(mirrored: tuple[int, ...]) -> None:
    wave = noise(1, len(mirrored), 10)
    assert torch.equal(to_stereo(wave[:, list(mirrored)]), to_stereo(wave).flip(1))
    quiet = wave.clone()
    quiet[:, 3] = 0
    assert torch.equal(to_stereo(quiet), to_stereo(wave))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 7, 8])
def test_a_sound_equal_in_all_channels_keeps_its_level_in_stereo(channels: int) -> None:
    wave = noise(1, 1, 10)
    torch.testing.assert_close(to_stereo(wave.expand(1, channels, 10)), wave.expand(1, 2, 10))


@pytest.mark.parametrize("channels", [6, 8])
def test_surround_left_is_not_heard_right(channels: int) -> None:
    left = torch.zeros(1, channels, 10)
    left[:, [0, *range(4, channels, 2)]] = 1.0
    silent = torch.zeros(1, channels, 10)
    silent[:, 3] = 1.0  # the bass channel is dropped
    assert to_stereo(left)[:, 0].min() > 0
    assert not to_stereo(left)[:, 1].any()
    assert not to_stereo(silent).any()


@pytest.mark.parametrize("samples", [1, 512, 513, 1600, 3001])
def test_mel_has_a_frame_for_each_hop_and_one_more(samples: int) -> None:
    mel = log_mel(noise(1, 2, samples), MEL)
    assert mel.shape == (1, 2, 1 + max(samples, 513) // 160, 64)


def test_silence_is_the_floor() -> None:
    mel = log_mel(torch.zeros(1, 2, 1600), MEL)
    assert torch.equal(mel, torch.full_like(mel, FLOOR).log())


def test_mono_gives_the_mel_of_the_doubled_channel() -> None:
    mono = noise(1, 1, 2000)
    assert torch.equal(mel_from_waveform(mono, 44100, MEL), mel_from_waveform(mono.expand(1, 2, -1), 44100, MEL))


def test_a_tone_is_loudest_in_the_bin_around_it() -> None:
    tone = torch.sin(torch.arange(16000) / 16000 * 2 * math.pi * 1000).view(1, 1, -1)
    loudest = log_mel(tone, MEL)[0, 0, 50].argmax()
    assert loudest == mel_filterbank(MEL)[1000 * 1024 // 16000].argmax()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("double_z", False),
        ("norm_type", "group"),
        ("causality_axis", "width"),
        ("causality_axis", None),
        ("attn_resolutions", [16]),
        ("mid_block_add_attention", True),
        ("resamp_with_conv", False),
        ("ch_mult", [1, 2, 4, 8]),
    ],
)
def test_an_audio_vae_that_is_not_implemented_is_refused_by_name(setting: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=f"ddconfig.{setting}"):
        AudioVAEConfig.from_metadata(changed(f"audio_vae.model.params.ddconfig.{setting}", value))


def test_attention_that_the_config_does_not_rule_out_is_refused() -> None:
    metadata = deepcopy(METADATA)
    del metadata["audio_vae"]["model"]["params"]["ddconfig"]["mid_block_add_attention"]
    with pytest.raises(CheckpointError, match="mid_block_add_attention"):
        AudioVAEConfig.from_metadata(metadata)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("resblock", "2"), ("resblock", "AMP1"), ("stereo", False), ("use_tanh_at_final", 1), ("bwe", {})],
)
def test_a_vocoder_that_is_not_implemented_is_refused_by_name(setting: str, value: object) -> None:
    named = "activation" if value == "AMP1" else setting
    with pytest.raises(CheckpointError, match=f"vocoder.{named}"):
        VocoderConfig.from_metadata(changed(f"vocoder.{setting}", value))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("hop_length", 5),
        ("output_sampling_rate", 44100),
        ("upsample_rates", [5, 2]),
        ("n_fft", 2),
        ("activation", "snake"),
    ],
)
def test_an_extension_that_does_not_fit_its_waveform_is_refused_by_name(setting: str, value: object) -> None:
    extension = EXTENDED_METADATA["vocoder"]["bwe"] | {setting: value}
    metadata = EXTENDED_METADATA | {"vocoder": EXTENDED_METADATA["vocoder"] | {"bwe": extension}}
    with pytest.raises(CheckpointError, match=r"vocoder\.bwe"):
        VocoderConfig.from_metadata(metadata)


def test_mel_bins_come_from_the_preprocessing_where_the_model_does_not_say() -> None:
    metadata = changed("audio_vae.preprocessing.mel.n_mel_channels", 32)
    del metadata["audio_vae"]["model"]["params"]["ddconfig"]["mel_bins"]
    assert AudioVAEConfig.from_metadata(metadata).mel.bins == 32
