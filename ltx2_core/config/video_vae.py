"""Shape of the video VAE: block lists, widths, padding, and which decoder it has.

Source: docs/reference/video-vae.md, "Configuration".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, Self

from ..errors import CheckpointError, shown
from ..grids import Factors
from .diffusion_decoder import DiffusionDecoderConfig
from .section import Section

IMAGE_CHANNELS = 3
CONVOLUTIONAL, DIFFUSION = "CausalVideoAutoencoder", "CausalDiffusionVAE"  # class names in files
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
DecoderName = Literal["conv", "diffusion"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvDecoderConfig:
    """The convolutional decoder.

    Args: blocks: in the order in which they run. channels: the width at the pixel end. padding: of convolutions at the
    edges in space, "zeros" or "reflect".
    """

    blocks: tuple[Block, ...]
    channels: int
    padding: str
    is_causal: bool
    timestep_conditioning: bool

    @property
    def width(self) -> int:
        """Channels at the resolution of the latent."""
        return self.channels * prod(block.multiplier for block in _resamples(self.blocks))


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoVAEConfig:
    """The encoder of a video VAE, and the decoder in its file.

    Args: moments: output channels of the encoder's last convolution, the means first. encoder_blocks: in the order in
    which they run. encoder_padding: of convolutions at the edges in space, "zeros" or "reflect".
    """

    latent_channels: int
    moments: int
    patch_size: int
    encoder_blocks: tuple[Block, ...]
    encoder_padding: str
    decoder: ConvDecoderConfig | DiffusionDecoderConfig

    @property
    def patch_channels(self) -> int:
        """Channels of an image whose patches are folded into them."""
        return IMAGE_CHANNELS * self.patch_size**2

    @property
    def factors(self) -> Factors:
        """Pixel frames, rows and columns per latent cell."""
        time, height, width = _factors(self.encoder_blocks)
        return Factors(time, height * self.patch_size, width * self.patch_size)

    @property
    def decoder_name(self) -> DecoderName:
        """The name of its decoder for `--decoder`."""
        return "conv" if isinstance(self.decoder, ConvDecoderConfig) else "diffusion"

    @classmethod
    def from_metadata(cls, config: Mapping[str, Any]) -> Self:
        """Read `config["vae"]`. Raises: CheckpointError that names a setting that is not implemented."""
        vae = Section(config, "vae")
        if vae.expect("_class_name", CONVOLUTIONAL, DIFFUSION, default=CONVOLUTIONAL) == DIFFUSION:
            return cls._with_diffusion(config)
        _check_ends(vae)
        vae.expect("out_channels", IMAGE_CHANNELS, default=IMAGE_CHANNELS)
        decoder = ConvDecoderConfig(
            blocks=_blocks(vae, "decoder_blocks", suffix="")[::-1],  # the file's list starts at the pixels
            channels=vae.whole("decoder_base_channels", 128),
            padding=_padding(vae, "decoder_spatial_padding_mode", "reflect"),
            is_causal=vae.switch("causal_decoder", False),
            timestep_conditioning=vae.switch("timestep_conditioning", True),
        )
        return cls._of(vae, vae.whole("latent_channels"), "encoder_blocks", decoder)

    @classmethod
    def _with_diffusion(cls, config: Mapping[str, Any]) -> Self:
        """A VAE whose encoder and decoder have a section each."""
        encoder, decoder = Section(config, "vae", "encoder"), Section(config, "vae", "decoder")
        _check_ends(encoder)
        decoder.expect("out_channels", IMAGE_CHANNELS, default=IMAGE_CHANNELS)
        channels = encoder.whole("out_channels")
        decoder.expect("in_channels", channels, default=channels)
        return cls._of(encoder, channels, "blocks", DiffusionDecoderConfig.from_metadata(config))

    @classmethod
    def _of(
        cls, encoder: Section, channels: int, blocks: str, decoder: ConvDecoderConfig | DiffusionDecoderConfig
    ) -> Self:
        """The encoder that a section describes, with a decoder. blocks: the key of its list of blocks."""
        log_variances = {"uniform": 1, "constant": 1, "per_channel": channels}
        return cls(
            latent_channels=channels,
            moments=channels + log_variances[encoder.expect("latent_log_var", *log_variances)],
            patch_size=encoder.whole("patch_size"),
            encoder_blocks=_blocks(encoder, blocks, suffix="_res"),
            encoder_padding=_padding(encoder, "encoder_spatial_padding_mode", "zeros"),
            decoder=decoder,
        )


def has_mirrored_decoder(config: VideoVAEConfig) -> bool:
    """Whether the decoder mirrors the latent at its edges, for which the latent needs at least two rows and columns."""
    return isinstance(config.decoder, ConvDecoderConfig) and config.decoder.padding == "reflect"


def _check_ends(encoder: Section) -> None:
    """Refuse encoders that are not implemented."""
    encoder.expect("dims", 3, default=3)
    encoder.expect("in_channels", IMAGE_CHANNELS, default=IMAGE_CHANNELS)
    encoder.expect("norm_layer", "pixel_norm")


def _resamples(blocks: Sequence[Block]) -> list[Resample]:
    return [block for block in blocks if isinstance(block, Resample)]


def _factors(blocks: Sequence[Block]) -> Factors:
    """The factors by which the blocks together change frames, rows and columns."""
    strides = [block.stride for block in _resamples(blocks)]
    return Factors(*(prod(stride[axis] for stride in strides) for axis in range(3)))


def _padding(vae: Section, key: str, default: str) -> str:
    """A mode for both halves takes precedence over the mode of one half."""
    if "spatial_padding_mode" in vae.values:
        key = "spatial_padding_mode"
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
    is_residual = block.switch("residual", False) and strides[name] == STRIDES["all"]  # ignored for other strides
    return Resample(stride=strides[name], multiplier=block.whole("multiplier", 1), is_residual=is_residual)


def _unknown(what: str, implemented: Sequence[str]) -> CheckpointError:
    only = f"only {', '.join(implemented)} are implemented"
    return CheckpointError(f"the checkpoint has an unknown architecture: {what}", only)
