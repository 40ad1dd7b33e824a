"""Facts about a weight file: a whole model, one of its parts, a text encoder or an upsampler.

Source: docs/reference/checkpoints.md, "Which file is which" and "Precision of a file".
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...components import COMPONENTS, components_in
from ...config.audio import AudioVAEConfig, VocoderConfig
from ...config.landmarks import check_header
from ...config.released import effective_config
from ...config.transformer import TransformerConfig
from ...config.upsampler import UpsamplerConfig
from ...config.video_vae import VideoVAEConfig
from ...errors import LTX2Error
from ...grids import AUDIO_LATENTS_PER_SECOND
from ...headers import FileKind, Header, classify, generation, read_header
from ...text.files import find_encoder
from ..resolve.presets import names
from . import latents
from .words import UNTOLD, Facts, stored_facts


def facts(path: Path) -> Facts:
    """Facts about a safetensors file. Raises: CheckpointError, StorageError for a file that is not of these models."""
    header = read_header(path)
    if latents.is_latents(header):
        return latents.facts(header)
    kind = classify(header)
    if kind is FileKind.LORA:
        from . import lora  # imports modules that only LoRAs need

        return lora.facts(header)
    return _part(header, kind)


def _part(header: Header, kind: FileKind) -> Facts:
    held = components_in(header)
    yield "kind", kind.value
    if held:
        yield "holds", ", ".join(name.replace("_", " ") for name in held)
    made = None if kind is FileKind.GEMMA else generation(header)  # several generations use the same text encoder
    yield "generation", made or UNTOLD
    yield "version", header.metadata.get("model_version", "not given")
    yield from stored_facts(header)
    problems: list[str] = []
    for component in held:
        if component in SHAPES:
            read, in_text = SHAPES[component]
            try:
                yield component.replace("_", " "), in_text(read(effective_config(header)))
            except LTX2Error as error:
                problems.append(error.sentence)
    if problem := next(iter(problems), None) or _problem(header, kind, held):
        yield "problem", problem


def _transformer(config: TransformerConfig) -> str:
    widths = [f"{stream.width} wide for {name}" for name in ("video", "audio") if (stream := getattr(config, name))]
    return f"{config.layers} blocks, {', '.join(widths)}"


def _video_vae(config: VideoVAEConfig) -> str:
    frames, rows, columns = config.factors
    return f"{config.latent_channels} channels; a cell is {frames} frames of {columns}x{rows} pixels"


def _audio_vae(config: AudioVAEConfig) -> str:
    values = f"{config.latent_channels} channels of {config.latent_bins} bins"
    return f"{values}, {AUDIO_LATENTS_PER_SECOND:g} steps a second"


def _upsampler(config: UpsamplerConfig) -> str:
    frames, sides = config.enlarges
    grown = {"the frames": frames, "width and height": sides}
    return ", ".join(f"{float(factor):g}x {what}" for what, factor in grown.items() if factor != 1)


# Facts from the config of a component, by the component that represents its file.
SHAPES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], str]]] = {
    "transformer": (TransformerConfig.from_metadata, _transformer),
    "video_decoder": (VideoVAEConfig.from_metadata, _video_vae),
    "audio_decoder": (AudioVAEConfig.from_metadata, _audio_vae),
    "vocoder": (VocoderConfig.from_metadata, lambda config: f"{config.sample_rate_hz} Hz"),
    "upsampler": (UpsamplerConfig.from_metadata, _upsampler),
}


def _problem(header: Header, kind: FileKind, held: list[str]) -> str | None:
    """Why a file cannot be used, as far as its header shows."""
    if kind in (FileKind.GEMMA, FileKind.TEXT_ENCODER):
        return _problem_of_encoder(header)
    made = generation(header)
    if kind in UNUSED:
        return f"{kind.value} is not used by this version"
    if made is not None and made not in names("generations"):
        return f"models of generation {made} are not supported yet"
    if kind is FileKind.CONNECTORS and "transformer" not in header.config:
        return None  # the transformer's config describes them
    try:
        if kind is FileKind.DURATION_HEAD:
            check_header("duration_head", header, header.config)  # only its tensors describe it
            return None
        for component in held:
            if COMPONENTS[component].role != "text_encoder":  # its config is in a separate file
                check_header(component, header)
    except LTX2Error as error:
        return error.sentence
    return None


def _problem_of_encoder(header: Header) -> str | None:
    """Why a text encoder in one file cannot be used. A shard in a folder with a config does not count as one."""
    if (header.path.parent / "config.json").is_file():
        return None
    try:
        find_encoder(header.path)
    except LTX2Error as error:
        return error.sentence
    return None


UNUSED = (FileKind.DIFFUSERS,)
