"""Shape of the convolutional video VAE: block lists, widths, padding.

Source: docs/reference/video-vae.md, "Configuration".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Self

from ..errors import CheckpointError, shown
from ..grids import Factors
from .section import Section

IMAGE_CHANNELS = 3
PADDING = ("zeros", "reflect")
STRIDES = {"space": Factors(1, 2, 2), "time": Factors(2, 1, 1), "all": Factors(2, 2, 2)}
RES_SETTINGS = {"num_layers", "inject_noise"}
COMPRESS_SETTINGS = {"multiplier", "residual"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResBlocks:
    """A row of residual blocks of one width (`res_x`)."""

    layers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resample:
    """A change of resolution (`compress_*`): by `stride` in frames, rows, columns, and of the width by `multiplier`."""

    stride: Factors
    multiplier: int
    is_residual: bool


Block = ResBlocks | Resample


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoVAEConfig:
    """The convolutional video VAE. Both block lists stand in the order in which they run.

    Args: moments: channels that the encoder's last convolution makes, the means first. decoder_channels: the width at
    the pixel end of the decoder. encoder_padding, decoder_padding: what convolutions read beyond the edges in space,
    "zeros" or "reflect".
    """

    latent_channels: int
    moments: int
    patch_size: int
    encoder_blocks: tuple[Block, ...]
    decoder_blocks: tuple[Block, ...]
    decoder_channels: int
    encoder_padding: str
    decoder_padding: str
    has_causal_decoder: bool
    timestep_conditioning: bool

    @property
    def patch_channels(self) -> int:
        """Channels of an image whose patches are folded into them."""
        return IMAGE_CHANNELS * self.patch_size**2

    @property
    def decoder_width(self) -> int:
        """Channels at the resolution of the latent, in the decoder."""
        resamples = (block for block in self.decoder_blocks if isinstance(block, Resample))
        return self.decoder_channels * prod(block.multiplier for block in resamples)

    @property
    def factors(self) -> Factors:
        """Pixel frames, rows and columns per latent cell."""
        strides = [block.stride for block in self.decoder_blocks if isinstance(block, Resample)]
        time, height, width = (prod(axis) for axis in zip(*strides, strict=True))
        return Factors(time, height * self.patch_size, width * self.patch_size)

    @classmethod
    def from_metadata(cls, config: Mapping[str, Any]) -> Self:
        """Read `config["vae"]`. Raises: CheckpointError that names a setting that is not implemented."""
        vae = Section(config, "vae")
        vae.expect("_class_name", "CausalVideoAutoencoder", default="CausalVideoAutoencoder")
        vae.expect("dims", 3, default=3)
        vae.expect("in_channels", IMAGE_CHANNELS, default=IMAGE_CHANNELS)
        vae.expect("out_channels", IMAGE_CHANNELS, default=IMAGE_CHANNELS)
        vae.expect("norm_layer", "pixel_norm")
        latent_channels = vae.whole("latent_channels")
        log_variances = {"uniform": 1, "constant": 1, "per_channel": latent_channels}
        return cls(
            latent_channels=latent_channels,
            moments=latent_channels + log_variances[vae.expect("latent_log_var", *log_variances)],
            patch_size=vae.whole("patch_size"),
            encoder_blocks=_blocks(vae, "encoder_blocks", suffix="_res"),
            decoder_blocks=_blocks(vae, "decoder_blocks", suffix="")[::-1],  # the file begins at the pixels
            decoder_channels=vae.whole("decoder_base_channels", 128),
            encoder_padding=_padding(vae, "encoder_spatial_padding_mode", "zeros"),
            decoder_padding=_padding(vae, "decoder_spatial_padding_mode", "reflect"),
            has_causal_decoder=vae.switch("causal_decoder", False),
            timestep_conditioning=vae.switch("timestep_conditioning", True),
        )


def _padding(vae: Section, key: str, default: str) -> str:
    """One mode for both halves goes before the mode of one half."""
    key = "spatial_padding_mode" if "spatial_padding_mode" in vae.values else key
    return vae.expect(key, *PADDING, default=default)


def _blocks(vae: Section, key: str, suffix: str) -> tuple[Block, ...]:
    """A block list of the file. suffix: what follows `compress_time|space|all` in the names that it may use."""
    strides = {f"compress_{axes}{suffix}": stride for axes, stride in STRIDES.items()}
    return tuple(_block(f"{vae.name}.{key}", name, settings, strides) for name, settings in vae.pairs(key))


def _block(where: str, name: str, settings: Any, strides: Mapping[str, Factors]) -> Block:
    if name != "res_x" and name not in strides:
        raise _unknown(f"{where} has {shown(name)}", ["res_x", *strides])
    values = settings if isinstance(settings, Mapping) else {"num_layers": settings}
    known = RES_SETTINGS if name == "res_x" else COMPRESS_SETTINGS
    if not values.keys() <= known or values.get("inject_noise"):
        raise _unknown(f"{where} has {name} with {shown(dict(values))}", sorted(known - {"inject_noise"}))
    block = Section({where: {name: values}}, where, name)
    if name == "res_x":
        return ResBlocks(layers=block.whole("num_layers", 1))
    is_residual = block.switch("residual", False) and strides[name] == STRIDES["all"]  # ignored elsewhere
    return Resample(stride=strides[name], multiplier=block.whole("multiplier", 1), is_residual=is_residual)


def _unknown(what: str, implemented: Sequence[str]) -> CheckpointError:
    only = f"only {', '.join(implemented)} are implemented"
    return CheckpointError(f"the checkpoint has an unknown architecture: {what}", only)
