"""Load components from official files: headers first, modules on the meta device, then tensor by tensor into place.

Weights are mapped, not read: a tensor that keeps its dtype on the CPU stays a view of the file and costs no memory of
its own. The map is read-only: whoever wants to change a weight puts a new tensor in its place.
Source: spec checkpoints, sections 3 to 6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .components import COMPONENTS, lacking
from .config.released import effective_config
from .errors import CheckpointError
from .headers import FLOATS, Header, read_header
from .keymap import official_name, optional_names, own_names
from .weights import map_tensors

Builder = Callable[[Mapping[str, Any]], nn.Module]


def _transformer(config: Mapping[str, Any]) -> nn.Module:
    from .config.transformer import TransformerConfig
    from .models.transformer import Transformer

    return Transformer(TransformerConfig.from_metadata(config))


def _connector(stream: str) -> Builder:
    def build(config: Mapping[str, Any]) -> nn.Module:
        from .config.text import ConnectorConfig
        from .models.connector import Connector

        return Connector(ConnectorConfig.from_metadata(config, stream))

    return build


def _text_projection(config: Mapping[str, Any]) -> nn.Module:
    from .config.text import ProjectionConfig
    from .models.connector import TextProjection

    return TextProjection(ProjectionConfig.from_metadata(config))


def _video_vae(part: str) -> Builder:
    def build(config: Mapping[str, Any]) -> nn.Module:
        from .config.video_vae import VideoVAEConfig
        from .models import video_vae

        return getattr(video_vae, part)(VideoVAEConfig.from_metadata(config))

    return build


def _video_statistics(config: Mapping[str, Any]) -> nn.Module:
    from .config.video_vae import VideoVAEConfig
    from .models.video_vae import ChannelStatistics

    return ChannelStatistics(VideoVAEConfig.from_metadata(config).latent_channels)


def _audio_vae(part: str) -> Builder:
    def build(config: Mapping[str, Any]) -> nn.Module:
        from .config.audio import AudioVAEConfig
        from .models import audio_vae

        return getattr(audio_vae, part)(AudioVAEConfig.from_metadata(config))

    return build


def _vocoder(config: Mapping[str, Any]) -> nn.Module:
    from .config.audio import VocoderConfig
    from .models.vocoder import Vocoder

    return Vocoder(VocoderConfig.from_metadata(config))


def _upsampler(config: Mapping[str, Any]) -> nn.Module:
    from .config.upsampler import UpsamplerConfig
    from .models.upsampler import LatentUpsampler

    return LatentUpsampler(UpsamplerConfig.from_metadata(config))


# How to make the module of a component from a file's config. The loader adds `shapes` to the config: the shapes of the
# component's tensors by their names in the module, for sizes that no setting tells.
BUILDERS: dict[str, Builder] = {
    "transformer": _transformer,
    "video_connector": _connector("video"),
    "audio_connector": _connector("audio"),
    "text_projection": _text_projection,
    "video_encoder": _video_vae("VideoEncoder"),
    "video_decoder": _video_vae("VideoDecoder"),
    "video_statistics": _video_statistics,
    "audio_encoder": _audio_vae("AudioEncoder"),
    "audio_decoder": _audio_vae("AudioDecoder"),
    "vocoder": _vocoder,
    "upsampler": _upsampler,
}


def load_component(
    name: str,
    source: Header | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    config: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Load one component, in eval mode and without gradients.

    Args: name: a key of COMPONENTS. source: the file that holds it. dtype: for its floating tensors; None keeps what
    the file has. config: stands in for the file's own (the whole object, with its sections).
    Raises: CheckpointError if the file lacks the component, has missing, unexpected or misshapen tensors, is quantised,
    or asks for something that is not implemented.
    """
    header = source if isinstance(source, Header) else read_header(source)
    names = own_names(name, header)
    if not names:
        raise lacking(name, header)
    shapes = {own: header.tensors[official].shape for official, own in names.items()}
    with torch.device("meta"):
        module = BUILDERS[name]({**(effective_config(header) if config is None else config), "shapes": shapes})
    return load_into(module, name, [header], device=device, dtype=dtype)


def load_into(
    module: nn.Module,
    component: str,
    files: Sequence[Header],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Give a module on the meta device its weights, from one file or from the shards of one model.

    Args: component: its name in the table.
    Raises: CheckpointError if tensors are missing, unexpected, misshapen or quantised.
    """
    whole = replace(files[0], tensors={name: info for file in files for name, info in file.tensors.items()})
    names = own_names(component, whole)
    _check(component, module, whole, names)
    target = torch.device(device)
    state: dict[str, Tensor] = {}
    for header in files:
        for official, tensor in map_tensors(header, names.keys() & header.tensors.keys()).items():
            state[names[official]] = tensor.to(target, dtype if tensor.is_floating_point() else None)
    for own, tensor in module.state_dict().items():
        if own not in state:  # only optional ones are left: _check has seen to that
            state[own] = torch.zeros(tensor.shape, dtype=dtype or torch.float32, device=target)
    module.load_state_dict(state, assign=True)
    return module.requires_grad_(False).eval()


def _check(component: str, module: nn.Module, header: Header, names: Mapping[str, str]) -> None:
    """Refuse a file whose tensors are not exactly those of the module, in the file's own names."""
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {own: official for official, own in names.items()}
    prefix = COMPONENTS[component].prefix_in(names)
    needed = wanted.keys() - optional_names(component)
    missing = [official_name(component, own, prefix) for own in wanted if own in needed and own not in found]
    unexpected = [official for own, official in found.items() if own not in wanted]
    quantised = [official for official in names if header.tensors[official].dtype not in FLOATS]
    if quantised:
        raise CheckpointError(
            f"{header.path.name} is quantised, which is not supported yet",
            f"{quantised[0]} is stored as {header.tensors[quantised[0]].dtype}",
            "use the bf16 file of the same model",
        )
    misshapen = [
        f"{official} is {list(header.tensors[official].shape)}, expected {list(wanted[own])}"
        for own, official in found.items()
        if own in wanted and header.tensors[official].shape != wanted[own]
    ]
    problems = [
        f"{len(items)} {what} ({', '.join(items[:10])}{', …' if len(items) > 10 else ''})"
        for what, items in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if items
    ]
    if problems:
        raise CheckpointError(
            f"{header.path.name} does not hold the model that its config describes", "; ".join(problems)
        )
