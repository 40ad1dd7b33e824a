"""Load components from official files, in three steps: build, adapt, assign.

A module is built on the meta device, where it has shapes and no data. It is adapted to the form in which the file
stores its weights, and its tensors are compared with the file's. Only then are the weights assigned.

Weights are memory-mapped, not read: a tensor that keeps its dtype on the CPU stays a view of the file and needs no
memory of its own. The mapping is read-only: to change a weight, replace its tensor.
Source: docs/reference/checkpoints.md, "Loading" and "Tensor names of the components".
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .components import COMPONENTS, lacking
from .config.released import effective_config
from .errors import CheckpointError
from .headers import Header, TensorInfo, read_header, together
from .keymap import official_name, optional_names, own_names
from .quantize.embedding import QuantisedEmbedding, quantised_embedding
from .quantize.linear import QuantisedLinear, quantised_linear, stored_names
from .quantize.values import require_usable_scale
from .stored.layer import HINT, StoredLayer
from .streaming import Source, StreamedBlocks
from .weights import FLOAT_DTYPES, FP8_DTYPES, STORED_DTYPES, map_tensors, stored_shape

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


def _video_encoder(config: Mapping[str, Any]) -> nn.Module:
    from .config.video_vae import VideoVAEConfig
    from .models.video_vae import VideoEncoder

    return VideoEncoder(VideoVAEConfig.from_metadata(config))


def _video_decoder(config: Mapping[str, Any]) -> nn.Module:
    from .config.video_vae import ConvDecoderConfig, VideoVAEConfig
    from .models.diffusion_decoder import DiffusionDecoder
    from .models.video_vae import VideoDecoder

    vae = VideoVAEConfig.from_metadata(config)
    return VideoDecoder(vae) if isinstance(vae.decoder, ConvDecoderConfig) else DiffusionDecoder(vae)


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
    from .models.vocoder import build_vocoder

    return build_vocoder(VocoderConfig.from_metadata(config))


def _upsampler(config: Mapping[str, Any]) -> nn.Module:
    from .config.upsampler import UpsamplerConfig
    from .models.upsampler import LatentUpsampler

    return LatentUpsampler(UpsamplerConfig.from_metadata(config))


def _duration_head(config: Mapping[str, Any]) -> nn.Module:
    from .config.duration import DurationConfig
    from .models.duration import DurationHead

    return DurationHead(DurationConfig.from_metadata(config))


# Functions that build a component's module from a file's config. The loader adds `shapes` to the config: the shapes of
# the component's tensors by their names in the module, for sizes that no setting contains.
BUILDERS: dict[str, Builder] = {
    "transformer": _transformer,
    "video_connector": _connector("video"),
    "audio_connector": _connector("audio"),
    "text_projection": _text_projection,
    "video_encoder": _video_encoder,
    "video_decoder": _video_decoder,
    "video_statistics": _video_statistics,
    "audio_encoder": _audio_vae("AudioEncoder"),
    "audio_decoder": _audio_vae("AudioDecoder"),
    "vocoder": _vocoder,
    "upsampler": _upsampler,
    "duration_head": _duration_head,
}


SHOWN = 10
WEIGHT_AND_BIAS = ("weight", "bias")


def load_component(
    name: str,
    source: Header | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    config: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Load one component, in eval mode and without gradients.

    Args: name: a key of BUILDERS. source: the file that holds it. dtype: for its floating tensors; None keeps what
    the file has. config: stands in for the file's own (the whole object, with its sections).
    Raises: CheckpointError if the file lacks the component, has missing, unexpected or misshapen tensors, has
    quantised weights that cannot be used, or asks for something that is not implemented.
    """
    header = source if isinstance(source, Header) else read_header(source)
    return assign(build_component(name, header, config), name, [header], device=device, dtype=dtype)


def build_component(name: str, header: Header, config: Mapping[str, Any] | None = None) -> nn.Module:
    """Make the module of a component on the meta device as its file stores it. Reads no weights.

    Args: as `load_component`. Raises: as `load_component`.
    """
    names = own_names(name, header)
    if not names:
        raise lacking(name, header)
    shapes = {own: header.matrix_shape(official) for official, own in names.items()}
    with without_data():
        module = BUILDERS[name]({**(effective_config(header) if config is None else config), "shapes": shapes})
    return adapt(module, name, header)


@contextmanager
def without_data() -> Iterator[None]:
    """In this `with` block new modules are created on the meta device, and their weights are not initialised."""
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """Skips random initialisation: a module's init functions leave the tensors unchanged."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))


def adapt(module: nn.Module, name: str, header: Header) -> nn.Module:
    """Replace the layers that a file stores quantised, and check that the file has exactly the tensors of the module.

    Args: module: on the meta device. name: of its component. header: of the file, or of the shards together.
    Raises: CheckpointError if tensors are missing, unexpected, misshapen or in a form that is not implemented.
    """
    modules = dict(module.named_modules())
    for own, layer in _quantised(name, header).items():
        if own in modules:  # unknown tensors are refused below
            module.set_submodule(own, _stored_module(modules[own], layer, header))
    _require_fit(module, name, header, _places(name, header))
    return module


def assign(
    module: nn.Module,
    name: str,
    files: Sequence[Header],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Assign the weights of one file, or of the shards of one model, to an adapted module; eval mode, no gradients.

    Args: dtype: for floating tensors; other stored types are kept.
    Raises: CheckpointError for a quantised layer with invalid scales.
    """
    state = {own: _on(device, source) for own, source in _sources(name, files, dtype)}
    return _finish(module, _without_gates(name, state), device, dtype)


def assign_streamed(
    module: nn.Module,
    name: str,
    files: Sequence[Header],
    *,
    device: torch.device,
    dtype: torch.dtype | None = None,
    resident: int = 0,
    blocks: str = "blocks",
    table: str | None = None,
) -> nn.Module:
    """Like `assign`, but the module's blocks are loaded while they are iterated over, except the first few of them.

    Args: resident: how many blocks stay loaded. blocks: the name of their list. table: a submodule whose tensors stay
    in the file, on the CPU and in their stored dtype. Raises: as `assign`.
    """
    listed = module.get_submodule(blocks)
    assert isinstance(listed, nn.ModuleList)
    of_blocks: list[dict[str, Source]] = [{} for _ in listed]
    state: dict[str, Tensor] = {}
    for own, source in _sources(name, files, dtype):
        first, _, rest = own.partition(".")
        if first == blocks:
            number, _, inside = rest.partition(".")
            of_blocks[int(number)][inside] = source
        elif first == table:
            state[own] = source.tensor
        else:
            state[own] = _on(device, source)
    streamed = {f"{blocks}.{i}.{own}" for i, block in enumerate(of_blocks) for own in block}
    _finish(module, state, device, dtype, later=streamed)
    setattr(module, blocks, StreamedBlocks(list(listed), of_blocks, device, resident=resident))
    return module.requires_grad_(False).eval()


def _sources(name: str, files: Sequence[Header], dtype: torch.dtype | None) -> Iterator[tuple[str, Source]]:
    """The tensors of a component in its files, by their names in the module. Raises: CheckpointError for unusable
    scales.
    """
    whole = together(files) if len(files) > 1 else files[0]
    names = _places(name, whole)
    scales = {
        tensor: (layer, role) for layer in _quantised(name, whole).values() for role, tensor in layer.tensors.items()
    }
    for header in files:
        for official, tensor in map_tensors(header, (names.keys() | scales.keys()) & header.tensors.keys()).items():
            if official in scales:
                require_usable_scale(header.path, *scales[official], tensor)
            if official in names:
                is_kept = official in scales or COMPONENTS[name].gated_by(names[official])
                cast = None if is_kept else _dtype_here(tensor, dtype)
                yield names[official], Source(tensor, cast or tensor.dtype, header)


def _on(device: torch.device | str, source: Source) -> Tensor:
    return source.tensor.to(torch.device(device), source.dtype)


def _without_gates(component: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a component, with its gates multiplied into the layers whose outputs they scale.

    Source: docs/reference/video-diffusion-decoder.md, "Tensors of the diffusion decoder".
    """
    row = COMPONENTS[component]
    gates = {own: layers for own in state if (layers := row.gated_by(own))}
    folded = {own: tensor for own, tensor in state.items() if own not in gates}
    for own, layers in gates.items():
        scaled = [name for layer in layers for part in WEIGHT_AND_BIAS if (name := f"{layer}.{part}") in folded]
        for name in scaled:
            rows = state[own].float().unflatten(0, (-1, *[1] * (folded[name].dim() - 1)))
            folded[name] = (folded[name].float() * rows).to(folded[name].dtype)
    return folded


def _finish(
    module: nn.Module,
    state: dict[str, Tensor],
    device: torch.device | str,
    dtype: torch.dtype | None,
    later: Container[str] = (),
) -> nn.Module:
    """Assign the weights. later: names of those that are loaded while the module runs."""
    for own, tensor in module.state_dict().items():
        if own not in state and own not in later:  # only optional ones are missing: adapt has checked that
            state[own] = torch.zeros(tensor.shape, dtype=dtype or torch.float32, device=device)
    module.load_state_dict(state, strict=not later, assign=True)
    for layer in module.modules():
        if isinstance(layer, QuantisedLinear | QuantisedEmbedding) and dtype is not None:
            layer.dtype = dtype
    return module.requires_grad_(False).eval()


def _quantised(component: str, header: Header) -> dict[str, StoredLayer]:
    """The layers of a component that are stored quantised, by their names in the module."""
    names = own_names(component, header)
    layers = header.stored.layers
    return {names[weight].removesuffix(".weight"): layers[weight] for weight in names.keys() & layers.keys()}


def _places(component: str, header: Header) -> dict[str, str]:
    """The names in a file of the tensors that a component uses, each with its name in the adapted module."""
    stored = header.stored
    apart = stored.layers.keys() | stored.companions
    names = {official: own for official, own in own_names(component, header).items() if official not in apart}
    for own, layer in _quantised(component, header).items():
        names |= stored_names(layer, own)
    return names


def _stored_module(module: nn.Module, layer: StoredLayer, header: Header) -> nn.Module:
    """The replacement of a module whose weight is stored quantised."""
    if isinstance(module, nn.Embedding):
        return quantised_embedding(layer, module, header)
    return quantised_linear(layer, _linear(module, layer, header), header)


def _linear(module: nn.Module, layer: StoredLayer, header: Header) -> nn.Linear:
    """A module that must be a linear layer of the shape of a quantised matrix. Raises: CheckpointError if it is not."""
    weight = layer.tensors["weight"]
    if not isinstance(module, nn.Linear):
        why = f"{weight} is stored as {layer.title}, which is supported for linear layers alone"
        raise CheckpointError(f"{header.path.name} is quantised where that is not supported", why, HINT)
    shape = (module.out_features, module.in_features)
    if not layer.fits(shape):
        why = f"{weight} is {list(layer.shape)}, expected {list(shape)}"
        raise CheckpointError(f"{header.path.name} does not hold the model that its config describes", why)
    return module


def _dtype_here(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype | None:
    """The dtype of a plain tensor in the module; None keeps its own. No plain computation uses fp8."""
    if tensor.dtype in FP8_DTYPES:
        return dtype or torch.bfloat16
    return dtype if tensor.dtype in FLOAT_DTYPES else None


def _require_fit(module: nn.Module, component: str, header: Header, names: Mapping[str, str]) -> None:
    """Refuse a file whose tensors are not exactly those of the module and its gates, in the file's own names."""
    wanted = module.state_dict()
    wanted |= _gates(component, names.values(), wanted)
    found = {own: official for official, own in names.items()}
    prefix = COMPONENTS[component].prefix_in(names)
    needed = wanted.keys() - optional_names(component)
    common = {own: header.tensors[official] for own, official in found.items() if own in wanted}
    problems = {
        "missing": [official_name(component, own, prefix) for own in wanted if own in needed and own not in found],
        "unexpected": [official for own, official in found.items() if own not in wanted],
        "of another shape": [
            f"{found[own]} is {list(stored_shape(info))}, expected {list(wanted[own].shape)}"
            for own, info in common.items()
            if stored_shape(info) != tuple(wanted[own].shape)
        ],
        "of another type": [
            f"{found[own]} is {info.dtype}" for own, info in common.items() if not _is_stored_as(info, wanted[own])
        ],
    }
    listed = [f"{len(names):,} {what} ({_some(names)})" for what, names in problems.items() if names]
    if listed:
        raise CheckpointError(
            f"{header.path.name} does not hold the model that its config describes", "; ".join(listed)
        )


def _gates(component: str, names: Iterable[str], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The required shapes of the gates among the tensors of a file: as many values as their layer has rows.

    Gates of a layer that the module does not have, or not in full precision, are not counted.
    """
    found = {}
    for own in names:
        layers = COMPONENTS[component].gated_by(own)
        weights = [wanted[name] for layer in layers if (name := f"{layer}.weight") in wanted]
        if layers and len(weights) == len(layers) and all(weight.dtype in FLOAT_DTYPES for weight in weights):
            found[own] = weights[0].new_empty(len(weights[0]))
    return found


def _is_stored_as(info: TensorInfo, tensor: Tensor) -> bool:
    """Whether a stored tensor can be assigned to one of another dtype: floats are converted, others must be equal."""
    stored = STORED_DTYPES.get(info.dtype)
    return stored == tensor.dtype or {stored, tensor.dtype} <= FLOAT_DTYPES | FP8_DTYPES


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + ", …" * (len(names) > SHOWN)
