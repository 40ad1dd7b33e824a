"""Compare a component's header with its config, without torch: its formats, how many blocks it has, its main widths.

This is the first of two looks at weights before anything is loaded. The second compares every name and shape with the
module itself, which needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..components import COMPONENTS, lacking
from ..errors import CheckpointError
from ..headers import FLOATS, Header
from ..stored.formats import F8
from .audio import AudioVAEConfig, VocoderConfig
from .duration import DurationConfig
from .released import effective_config
from .section import Section
from .text import ConnectorConfig, ProjectionConfig
from .transformer import TransformerConfig
from .upsampler import UpsamplerConfig
from .video_vae import ConvDecoderConfig, VideoVAEConfig

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Landmarks:
    """What a header must contain according to the config. Names are official ones, inside the component.

    Args: lists: the number of entries of each list of blocks. sizes: the first sizes of a tensor's shape.
    """

    lists: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def check_header(component: str, header: Header, config: Config | None = None) -> None:
    """Refuse a file whose header shows that one of its components cannot be loaded.

    Args: component: its name in the table. header: of the file, or of the shards together. config: used instead of the
    file's own.
    Raises: CheckpointError if the component is missing, is stored in a form that is not implemented, or has other
    blocks or widths than its config says.
    """
    names = COMPONENTS[component].names_in(header)
    if not names:
        raise lacking(component, header)
    _ = header.stored  # this refuses contradictory files
    inside = {own: name for name, own in names.items()}
    landmarks = LANDMARKS[component](effective_config(header) if config is None else config)
    lists = header.once(("lists", component), lambda: _entries(inside))
    problems = [*_wrong_lists(landmarks, lists), *_wrong_sizes(landmarks, inside, header)]
    if problems:
        raise CheckpointError(
            f"{header.path.name} does not hold the model that its config describes", "; ".join(problems)
        )


def _entries(names: Iterable[str]) -> dict[str, set[str]]:
    """The entries of every list of modules, by the name of the list: of `blocks.0.weight` the entry 0 of `blocks`."""
    found: dict[str, set[str]] = {}
    for name in names:
        parts = name.split(".")
        for end in range(1, len(parts)):
            found.setdefault(".".join(parts[:end]), set()).add(parts[end])
    return found


def _wrong_lists(landmarks: Landmarks, lists: Mapping[str, set[str]]) -> list[str]:
    problems = []
    for name, count in landmarks.lists.items():
        found = lists.get(name, set())
        missing = [number for number in range(count) if str(number) not in found]
        if len(found) != count:
            problems.append(f"it has {len(found)} {name}, its config says {count}")
        elif missing:
            problems.append(f"it has no {name}.{missing[0]}")
    return problems


def _wrong_sizes(landmarks: Landmarks, inside: Mapping[str, str], header: Header) -> list[str]:
    problems = []
    for own, size in landmarks.sizes.items():
        name = inside.get(own)
        if name is None:
            problems.append(f"{own} is missing")
        elif not header.fits(name, size):
            shape = header.matrix_shape(name)
            problems.append(f"{name} is {list(shape)}, its config says {_beginning(size, shape)}")
        elif name not in header.stored.layers and header.tensors[name].dtype not in (*FLOATS, *F8):
            problems.append(f"{name} is stored as {header.tensors[name].dtype}")
    return problems


def _beginning(size: tuple[int, ...], shape: tuple[int, ...]) -> str:
    rest = ", …" if len(shape) > len(size) else ""
    return f"[{', '.join(map(str, size))}{rest}]"


def _transformer(config: Config) -> Landmarks:
    model = TransformerConfig.from_metadata(config)
    sizes = {}
    for prefix, stream in (("", model.video), ("audio_", model.audio)):
        assert stream is not None  # a file has both
        sizes[f"{prefix}patchify_proj.weight"] = (stream.width, stream.in_channels)
        sizes[f"{prefix}proj_out.weight"] = (stream.out_channels, stream.width)
        if model.caption_channels is not None:
            sizes[f"{prefix}caption_projection.linear_1.weight"] = (stream.width, model.caption_channels)
    return Landmarks(lists={"transformer_blocks": model.layers}, sizes=sizes)


def _connector(stream: str) -> Callable[[Config], Landmarks]:
    def landmarks(config: Config) -> Landmarks:
        model = ConnectorConfig.from_metadata(config, stream)
        sizes = {"learnable_registers": (model.registers, model.width)}
        return Landmarks(lists={"transformer_1d_blocks": model.layers}, sizes=sizes)

    return landmarks


def _text_projection(config: Config) -> Landmarks:
    model = ProjectionConfig.from_metadata(config)
    if model.is_shared:
        return Landmarks(sizes={"aggregate_embed.weight": (model.video_width,)})
    widths = {"video": model.video_width, "audio": model.audio_width}
    return Landmarks(sizes={f"{stream}_aggregate_embed.weight": (width,) for stream, width in widths.items()})


def _video_encoder(config: Config) -> Landmarks:
    model = VideoVAEConfig.from_metadata(config)
    sizes = {
        "conv_in.conv.weight": (model.latent_channels, model.patch_channels),
        "conv_out.conv.weight": (model.moments,),
    }
    return Landmarks(lists={"down_blocks": len(model.encoder_blocks)}, sizes=sizes)


def _video_decoder(config: Config) -> Landmarks:
    model = VideoVAEConfig.from_metadata(config)
    decoder = model.decoder
    if isinstance(decoder, ConvDecoderConfig):
        sizes = {
            "conv_in.conv.weight": (decoder.width, model.latent_channels),
            "conv_out.conv.weight": (model.patch_channels,),
        }
        return Landmarks(lists={"up_blocks": len(decoder.blocks)}, sizes=sizes)
    sizes = {
        "conv_in.weight": (decoder.stages[0].channels, model.latent_channels),
        "conv_out.weight": (model.patch_channels, decoder.denoiser.channels),
    }
    return Landmarks(lists={"det_stages": len(decoder.stages), "diff_blocks": decoder.denoiser.depth}, sizes=sizes)


def _video_statistics(config: Config) -> Landmarks:
    model = VideoVAEConfig.from_metadata(config)
    return Landmarks(sizes={"mean-of-means": (model.latent_channels,), "std-of-means": (model.latent_channels,)})


def _audio_encoder(config: Config) -> Landmarks:
    model = AudioVAEConfig.from_metadata(config)
    sizes = {
        "conv_in.conv.weight": (model.channels, model.in_channels),
        "conv_out.conv.weight": (2 * model.latent_channels, model.widths[-1]),
    }
    return Landmarks(lists={"down": len(model.widths)}, sizes=sizes)


def _audio_decoder(config: Config) -> Landmarks:
    model = AudioVAEConfig.from_metadata(config)
    sizes = {
        "conv_in.conv.weight": (model.widths[-1], model.latent_channels),
        "conv_out.conv.weight": (model.out_channels, model.widths[0]),
    }
    return Landmarks(lists={"up": len(model.widths)}, sizes=sizes)


def _vocoder(config: Config) -> Landmarks:
    model = VocoderConfig.from_metadata(config)
    generators = {"": model.generator}
    if model.extension is not None:
        generators = {"vocoder.": model.generator, "bwe_generator.": model.extension.generator}
    lists: dict[str, int] = {}
    for place, one in generators.items():
        lists |= {f"{place}ups": len(one.rates), f"{place}resblocks": len(one.rates) * len(one.block_kernels)}
    sizes = {f"{place}conv_pre.weight": (one.channels,) for place, one in generators.items()}
    return Landmarks(lists=lists, sizes=sizes)


def _upsampler(config: Config) -> Landmarks:
    model = UpsamplerConfig.from_metadata(config)
    sizes = {
        "initial_conv.weight": (model.width, model.channels),
        "final_conv.weight": (model.channels, model.width),
    }
    return Landmarks(lists={"res_blocks": model.blocks, "post_upsample_res_blocks": model.blocks}, sizes=sizes)


def _duration_head(config: Config) -> Landmarks:
    _ = DurationConfig.from_metadata(config)  # the sizes must match the tensors
    return Landmarks(sizes={"mlp_out.weight": (1,)})


def _language_model(config: Config) -> Landmarks:
    text = Section(config, "text_config")
    width = text.whole("hidden_size")
    sizes = {"norm.weight": (width,), "layers.0.mlp.down_proj.weight": (width,)}
    return Landmarks(lists={"layers": text.whole("num_hidden_layers")}, sizes=sizes)


LANDMARKS: dict[str, Callable[[Config], Landmarks]] = {
    "transformer": _transformer,
    "video_connector": _connector("video"),
    "audio_connector": _connector("audio"),
    "text_projection": _text_projection,
    "video_encoder": _video_encoder,
    "video_decoder": _video_decoder,
    "video_statistics": _video_statistics,
    "audio_encoder": _audio_encoder,
    "audio_decoder": _audio_decoder,
    "vocoder": _vocoder,
    "upsampler": _upsampler,
    "duration_head": _duration_head,
    "language_model": _language_model,
}
