"""Compare the audio path with its golden tensors: mel front end, audio VAE, vocoder, tokens and timing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ltx2_core.checkpoint import load_component
from ltx2_core.config.audio import AudioVAEConfig
from ltx2_core.grids import audio_latent_count
from ltx2_core.headers import read_header
from ltx2_core.latents import audio_positions, patchify_audio, unpatchify_audio
from ltx2_core.models import mel
from ltx2_core.models.audio_vae import pixel_norm
from ltx2_core.models.vocoder import ExtendedVocoder, upsample, upsampling_filter
from scripts.golden.report import GoldenFile, Report, first_match

TOLERANCE = 1e-5
INPUTS = ("*.in", "encode.T*.mel", "decode.*.latent", "full.latent", "vocoder*.mel", "timing.frames_fps")

Tensors = Mapping[str, Tensor]  # the tensors of one case, without its name in theirs


class Folder:
    """The components of one checkpoint, loaded when a case first asks for them."""

    def __init__(self, path: Path) -> None:
        self.header = read_header(path / "checkpoint.safetensors")

    @cached_property
    def config(self) -> AudioVAEConfig:
        return AudioVAEConfig.from_metadata(self.header.config)

    @cached_property
    def encoder(self) -> Any:
        return load_component("audio_encoder", self.header, dtype=torch.float32)

    @cached_property
    def decoder(self) -> Any:
        return load_component("audio_decoder", self.header, dtype=torch.float32)

    @cached_property
    def vocoder(self) -> Any:
        return load_component("vocoder", self.header, dtype=torch.float32)


def filterbank(folder: Folder, given: Tensors, rate: int) -> Tensors:
    return {"mel_fb": mel.mel_filterbank(folder.config.mel)}


def resample(folder: Folder, given: Tensors, rate: int) -> Tensors:
    return {"out": mel.resample(given["in"], rate, folder.config.mel.sample_rate_hz)}


def front_end(folder: Folder, given: Tensors, rate: int) -> Tensors:
    return {"out": mel.mel_from_waveform(given["in"], rate, folder.config.mel)}


def patchify(folder: Folder, given: Tensors, rate: int) -> Tensors:
    latent = unpatchify_audio(given["tokens"], folder.config.latent_channels)
    return {"tokens": patchify_audio(given["latent"]), "latent": latent}


def timing(folder: Folder, given: Tensors, rate: int) -> Tensors:
    counts = [audio_latent_count(int(frames), Fraction(fps)) for frames, fps in given["frames_fps"].tolist()]
    return {"latents": torch.tensor(counts), "positions": audio_positions(given["positions"].shape[2])}


def encode(folder: Folder, given: Tensors, rate: int) -> Tensors:
    return {"moments": folder.encoder.moments(given["mel"]), "latent": folder.encoder(given["mel"])}


def encode_wave(folder: Folder, given: Tensors, rate: int) -> Tensors:
    return {"latent": folder.encoder(mel.mel_from_waveform(given["in"], rate, folder.config.mel))}


def decode(folder: Folder, given: Tensors, rate: int) -> Tensors:
    return {"mel": folder.decoder(given["latent"])}


def vocode(folder: Folder, given: Tensors, rate: int) -> Tensors:
    return {"wave": folder.vocoder(given["mel"])}


def vocode_with_steps(folder: Folder, given: Tensors, rate: int) -> Tensors:
    """The waveform and, for a vocoder with bandwidth extension, the intermediate results."""
    vocoder = folder.vocoder
    if not isinstance(vocoder, ExtendedVocoder):
        return vocode(folder, given, rate)
    first = vocoder.vocoder(given["mel"])
    padded = F.pad(first, (0, -first.shape[-1] % vocoder.hop))
    spectrogram = vocoder.mel_stft(padded)
    return {
        "stage1": first,
        "bwe_mel": rearrange(spectrogram, "b side T M -> b side M T"),
        "residual": vocoder.bwe_generator(spectrogram),
        "skip": upsample(padded, vocoder.ratio),
        **vocode(folder, given, rate),
    }


def vocode_rounded(folder: Folder, given: Tensors, rate: int) -> Tensors:
    """The waveform with weights rounded to bfloat16 and arithmetic in float32."""
    rounded = load_component("vocoder", folder.header, dtype=torch.bfloat16).float()
    return {"wave": rounded(given["mel"].float())}


def raise_rate(folder: Folder, given: Tensors, rate: int) -> Tensors:
    ratio = folder.vocoder.ratio
    return {"out": upsample(given["in"], ratio), "filter": upsampling_filter(ratio)}


def full(folder: Folder, given: Tensors, rate: int) -> Tensors:
    return {"wave": folder.vocoder(folder.decoder(given["latent"]))[0]}


def norm(folder: Folder, given: Tensors, rate: int) -> Tensors:
    return {"out": pixel_norm(given["in"])}


def part(component: str, name: str) -> Callable[[Folder, Tensors, int], Tensors]:
    return lambda folder, given, rate: {"out": getattr(folder, component).get_submodule(name)(given["in"])}


CASES = {
    "frontend": filterbank,
    "frontend.resample_*": resample,
    "frontend.*_*": front_end,
    "frontend.silence": front_end,
    "patchify": patchify,
    "timing": timing,
    "encode.T*": encode,
    "encode.wave_*": encode_wave,
    "decode.*": decode,
    "vocoder.*": vocode_with_steps,
    "vocoder_bf16_weights": vocode_rounded,
    "full": full,
    "unit.pixel_norm": norm,
    "unit.downsample": part("encoder", "down.0.downsample"),
    "unit.upsample": part("decoder", "up.1.upsample"),
    "unit.resnet": part("decoder", "up.1.block.0"),
    "unit.activation1d": part("vocoder", "vocoder.resblocks.1.acts1.2"),
    "unit.snakebeta": part("vocoder", "vocoder.resblocks.1.acts1.2.act"),
    "unit.resampler": raise_rate,
}


def case_of(name: str) -> str:
    return name.rpartition(".")[0]


def run(folder: Path, where: str, report: Report) -> None:
    golden = GoldenFile(folder / "cases.safetensors", where, report, INPUTS)
    parts = Folder(folder)
    for case in sorted({case_of(name) for name in golden.tensors}):
        compute = first_match(CASES, case)
        if compute is None or golden.waits(case):
            continue
        with golden.case(case):
            given = {
                name.removeprefix(case + "."): tensor
                for name, tensor in golden.tensors.items()
                if case_of(name) == case
            }
            suffix = case.rpartition("_")[-1]
            rate = int(suffix) if suffix.isdigit() else parts.config.mel.sample_rate_hz
            for name, ours in compute(parts, given, rate).items():
                golden.compare(f"{case}.{name}", ours, TOLERANCE, case)
    golden.close(case_of)
