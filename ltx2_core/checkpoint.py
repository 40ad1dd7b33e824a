"""Load components from official files: headers first, modules on the meta device, then tensor by tensor into place.

Weights are mapped, not read: a tensor that keeps its dtype on the CPU stays a view of the file and costs no memory of
its own.
Source: spec checkpoints, sections 3 to 6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from . import keymap
from .config.released import effective_config
from .errors import CheckpointError
from .headers import FLOATS, Header, read_header

STATISTICS = "per_channel_statistics."
UNUSED_STATISTICS = frozenset(
    STATISTICS + name for name in ("mean-of-stds", "mean-of-stds_over_std-of-means", "channel")
)


@dataclass(frozen=True, kw_only=True)
class Component:
    """The part of a file that one module loads.

    Args: build: makes the module from the file's config, to which the loader adds `shapes`, those of the component's
    tensors by their names in the module, for sizes that no setting tells. prefixes: what its names may begin with in a
    file; the first that occurs counts. parts: what may follow, and what it becomes in the module. excludes: what may
    follow but belongs to others. rows: the rename table. optional: names (as in the module) that are zeros where the
    file lacks them. ignored: official names without prefix that real files hold and nobody reads.
    """

    build: Callable[[Mapping[str, Any]], nn.Module]
    prefixes: tuple[str, ...]
    parts: Mapping[str, str] = field(default_factory=lambda: {"": ""})
    excludes: tuple[str, ...] = ()
    rows: keymap.Rows = ()
    optional: frozenset[str] = frozenset()
    ignored: frozenset[str] = frozenset()

    def own_names(self, header: Header) -> dict[str, str]:
        """The file's names of this component's tensors, each with its name in the module."""
        for prefix in self.prefixes:
            names = {}
            for name in header.tensors:
                if not name.startswith(prefix):
                    continue
                rest = name[len(prefix) :]
                part = next((part for part in self.parts if rest.startswith(part)), None)
                if part is None or rest in self.ignored or rest.startswith(self.excludes or ("\0",)):
                    continue
                names[name] = keymap.from_official(self.parts[part] + rest[len(part) :], self.rows)
            if names and any(not name.startswith(STATISTICS) for name in names.values()):
                return names
        return {}

    def official_name(self, name: str, prefix: str) -> str:
        """What a tensor of the module is called in an official file."""
        name = keymap.to_official(name, self.rows)
        longest_first = sorted(self.parts.items(), key=lambda item: len(item[1]), reverse=True)
        part, own = next((part, own) for part, own in longest_first if name.startswith(own))
        return prefix + part + name[len(own) :]


def _transformer(config: Mapping[str, Any]) -> nn.Module:
    from .config.transformer import TransformerConfig
    from .models.transformer import Transformer

    return Transformer(TransformerConfig.from_metadata(config))


def _connector(stream: str) -> Callable[[Mapping[str, Any]], nn.Module]:
    def build(config: Mapping[str, Any]) -> nn.Module:
        from .config.text import ConnectorConfig
        from .models.connector import Connector

        return Connector(ConnectorConfig.from_metadata(config, stream))

    return build


def _text_projection(config: Mapping[str, Any]) -> nn.Module:
    from .config.text import ProjectionConfig
    from .models.connector import TextProjection

    return TextProjection(ProjectionConfig.from_metadata(config))


def _video_vae(part: str) -> Callable[[Mapping[str, Any]], nn.Module]:
    def build(config: Mapping[str, Any]) -> nn.Module:
        from .config.video_vae import VideoVAEConfig
        from .models import video_vae

        return getattr(video_vae, part)(VideoVAEConfig.from_metadata(config))

    return build


def _video_statistics(config: Mapping[str, Any]) -> nn.Module:
    from .config.video_vae import VideoVAEConfig
    from .models.video_vae import ChannelStatistics

    return ChannelStatistics(VideoVAEConfig.from_metadata(config).latent_channels)


def _audio_vae(part: str) -> Callable[[Mapping[str, Any]], nn.Module]:
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


DIT = "model.diffusion_model."
CONNECTOR_PREFIXES = ("video_embeddings_connector.", "audio_embeddings_connector.")

COMPONENTS: dict[str, Component] = {
    "transformer": Component(
        build=_transformer,
        prefixes=(DIT,),
        excludes=CONNECTOR_PREFIXES,
        rows=keymap.TRANSFORMER,
        optional=frozenset({"video.keyframe_embedding"}),
    ),
    "video_connector": Component(
        build=_connector("video"), prefixes=(DIT + "video_embeddings_connector.",), rows=keymap.CONNECTOR
    ),
    "audio_connector": Component(
        build=_connector("audio"), prefixes=(DIT + "audio_embeddings_connector.",), rows=keymap.CONNECTOR
    ),
    "text_projection": Component(build=_text_projection, prefixes=("text_embedding_projection.",)),
    "video_encoder": Component(
        build=_video_vae("VideoEncoder"),
        prefixes=("vae.", ""),
        parts={"encoder.": "", STATISTICS: STATISTICS},
        ignored=UNUSED_STATISTICS,
    ),
    "video_decoder": Component(
        build=_video_vae("VideoDecoder"),
        prefixes=("vae.", ""),
        parts={"decoder.": "", STATISTICS: STATISTICS},
        ignored=UNUSED_STATISTICS,
    ),
    "video_statistics": Component(
        build=_video_statistics, prefixes=("vae.", ""), parts={STATISTICS: ""}, ignored=UNUSED_STATISTICS
    ),
    "audio_encoder": Component(
        build=_audio_vae("AudioEncoder"), prefixes=("audio_vae.",), parts={"encoder.": "", STATISTICS: STATISTICS}
    ),
    "audio_decoder": Component(
        build=_audio_vae("AudioDecoder"), prefixes=("audio_vae.",), parts={"decoder.": "", STATISTICS: STATISTICS}
    ),
    "vocoder": Component(build=_vocoder, prefixes=("vocoder.",)),
    "upsampler": Component(build=_upsampler, prefixes=("",)),
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
    component = COMPONENTS[name]
    names = component.own_names(header)
    if not names:
        raise CheckpointError(
            f"{header.path.name} has no {name.replace('_', ' ')}", f"no tensor is named {component.prefixes[0]}…"
        )
    shapes = {own: header.tensors[official].shape for official, own in names.items()}
    with torch.device("meta"):
        module = component.build({**(effective_config(header) if config is None else config), "shapes": shapes})
    return load_into(module, component, [header], device=device, dtype=dtype)


def load_into(
    module: nn.Module,
    component: Component,
    files: Sequence[Header],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Give a module on the meta device its weights, from one file or from the shards of one model.

    Raises: CheckpointError if tensors are missing, unexpected, misshapen or quantised.
    """
    whole = replace(files[0], tensors={name: info for file in files for name, info in file.tensors.items()})
    names = component.own_names(whole)
    _check(component, module, whole, names)
    target = torch.device(device)
    state: dict[str, Tensor] = {}
    for header in files:
        with safe_open(header.path, "pt") as file:
            for official in filter(names.__contains__, header.tensors):
                tensor = file.get_tensor(official)
                state[names[official]] = tensor.to(target, dtype if tensor.is_floating_point() else None)
    for own, tensor in module.state_dict().items():
        if own not in state:  # only optional ones are left: _check has seen to that
            state[own] = torch.zeros(tensor.shape, dtype=dtype or torch.float32, device=target)
    module.load_state_dict(state, assign=True)
    return module.requires_grad_(False).eval()


def _check(component: Component, module: nn.Module, header: Header, names: Mapping[str, str]) -> None:
    """Refuse a file whose tensors are not exactly those of the module, in the file's own names."""
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {own: official for official, own in names.items()}
    prefix = next(prefix for prefix in component.prefixes if all(name.startswith(prefix) for name in names))
    missing = [
        component.official_name(own, prefix) for own in wanted if own not in found and own not in component.optional
    ]
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
