"""Which file of a model contains which component: the whole checkpoint, or one file for each part. Headers only.

Source: docs/reference/checkpoints.md, "Which file is which" and "Mixing files".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..components import APART, COMPONENTS, EXTRA, SPLIT, WHOLE, components_in, lacking
from ..config.audio import AudioVAEConfig
from ..config.landmarks import check_header
from ..config.released import effective_config
from ..config.text import ConnectorConfig
from ..config.transformer import TransformerConfig
from ..config.video_vae import VideoVAEConfig
from ..errors import CheckpointError
from ..headers import FileKind, Header, classify, generation, read_header
from ..hub.find import ModelFiles
from ..text.files import source_version
from .values import option_name

if TYPE_CHECKING:
    from .request import Request

ALWAYS_READ = [name for name, row in COMPONENTS.items() if row.is_always_read]
CONNECTORS = ("video_connector", "audio_connector")
TEXT = ("text_projection", *CONNECTORS)
DURATION_HEAD = "duration_head"


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentShapes:
    """The shapes of a model's latents: channels, bins, and pixels per cell."""

    transformer: TransformerConfig
    video_vae: VideoVAEConfig
    audio_vae: AudioVAEConfig


@dataclass(frozen=True)
class ModelHeaders:
    """The headers of the files with a model's components, by role."""

    headers: Mapping[str, Header]

    @classmethod
    def of(cls, files: ModelFiles) -> Self:
        """Read the headers, and check that the files contain what their roles say and belong together.

        Raises: StorageError if a part is missing or cannot be read; CheckpointError if a file is something else, or if
        the files are not parts of one model.
        """
        roles = [role for role in (*WHOLE, *SPLIT, *APART, *EXTRA) if role in files.paths]
        headers = {role: files.assumed.get(role) or _read(role, files.paths[role]) for role in roles}
        parts = cls(headers | _encoder_with_projection(files))
        if "transformer" not in roles:
            files.require_file(
                "checkpoint", "--model takes a file that holds a whole model, or a folder with one or its parts"
            )
        if "checkpoint" not in roles:
            for role in SPLIT:
                files.require_file(role, f"{option_name(role)} FILE names it")
        for component in ALWAYS_READ:
            parts.role(component)
        _check_connectors(parts)
        _check_generations([parts.headers[role] for role in parts.roles])
        return parts

    def role(self, component: str) -> str:
        """The role of the file with a component. Raises: CheckpointError if there is none."""
        row = COMPONENTS[component]
        roles = [role for role in (row.role, *row.else_in, *WHOLE) if role in self.headers]
        for role in roles if row.may_stay else roles[:1]:
            if component in self._held[role]:
                return role
        error = lacking(component, self.headers[roles[0]])
        if component == "text_projection" and (trained_with := source_version(self.headers[roles[0]])) is not None:
            hint = f"--text-encoder FILE names that of {trained_with}, which holds it"
            raise CheckpointError(error.what, f"the model was trained with {trained_with}", hint)
        if row.role in APART:
            hint = f"{option_name(row.role)} FILE names the file that holds it, of the same model as the transformer"
            raise CheckpointError(error.what, error.why, hint)
        raise error

    def header(self, component: str) -> Header:
        """The header of the file with a component. Raises: CheckpointError if there is none."""
        return self.headers[self.role(component)]

    def check(self, components: Iterable[str]) -> None:
        """Compare components with their configs. Raises: CheckpointError for one that cannot be loaded."""
        for component in components:
            check_header(component, self.header(component), self.config(component))

    def config(self, component: str) -> dict[str, Any]:
        """The config for a component: that of its file, or that of the transformer if the text components are in a
        separate file.

        Raises: CheckpointError if the file has no config and its tensors prove no release.
        """
        header = self.header(component)
        if (
            component in (*TEXT, DURATION_HEAD)
            and self.role(component) not in WHOLE
            and "transformer" not in header.config
        ):
            return effective_config(self.header("transformer"))
        return effective_config(header)

    def has_duration_head(self) -> bool:
        """Whether the model can choose the length of a clip.

        Raises: CheckpointError if its duration head needs contexts of another width than the connectors produce.
        """
        holder = next((role for role, held in self._held.items() if DURATION_HEAD in held), None)
        if holder is None:
            return False
        header, config = self.headers[holder], self.config("video_connector")
        for stream in ("video", "audio"):
            width = ConnectorConfig.from_metadata(config, stream).width
            shape = header.matrix_shape(COMPONENTS[DURATION_HEAD].full_name(f"{stream}_input_proj.weight"))
            if shape[1:] != (width,):
                why = f"it reads {stream} contexts of {list(shape[1:])} values, and those of this model have {width}"
                raise CheckpointError(f"the duration head {header.path.name} is of another model", why)
        return True

    @cached_property
    def _held(self) -> dict[str, list[str]]:
        return {role: components_in(header) for role, header in self.headers.items()}

    @property
    def roles(self) -> list[str]:
        """The roles of the files that are read; a whole checkpoint is not read if every part has a separate file."""
        return list(dict.fromkeys(map(self.role, ALWAYS_READ)))

    @property
    def text_roles(self) -> list[str]:
        """The roles of the files that affect a prompt's context: those of the projection and the connectors."""
        return list(dict.fromkeys(map(self.role, TEXT)))

    @cached_property
    def shapes(self) -> LatentShapes:
        """The shapes of the latents.

        Raises: CheckpointError for a setting that is not implemented, and for VAEs that do not fit the transformer.
        """
        shapes = LatentShapes(
            transformer=TransformerConfig.from_metadata(effective_config(self.header("transformer"))),
            video_vae=VideoVAEConfig.from_metadata(effective_config(self.header("video_decoder"))),
            audio_vae=AudioVAEConfig.from_metadata(effective_config(self.header("audio_decoder"))),
        )
        transformer, audio_vae = shapes.transformer, shapes.audio_vae
        widths = {"video_decoder": shapes.video_vae.latent_channels}
        widths["audio_decoder"] = audio_vae.latent_channels * audio_vae.latent_bins
        for (component, width), stream in zip(widths.items(), (transformer.video, transformer.audio), strict=True):
            if stream is not None and width != stream.in_channels:
                option = option_name(COMPONENTS[component].role)
                raise CheckpointError(
                    f"{self.header(component).path.name} does not go with {self.header('transformer').path.name}",
                    f"its latents have {width} values to a token, and the transformer takes {stream.in_channels}",
                    f"{option} FILE names the one that the transformer was trained with",
                )
        return shapes

    def check_contexts(self) -> None:
        """Raises: CheckpointError for connectors whose contexts have another width than the transformer needs."""
        transformer = self.shapes.transformer
        for component, stream in zip(CONNECTORS, (transformer.video, transformer.audio), strict=True):
            given = ConnectorConfig.from_metadata(self.config(component), component.partition("_")[0]).width
            if stream is not None and given != (taken := transformer.caption_channels or stream.width):
                raise CheckpointError(
                    f"{self.header(component).path.name} cannot be used to render",
                    f"the contexts of its {component.replace('_', ' ')} have {given} values, and the transformer takes"
                    f" {taken}",
                )


def components_of(request: Request) -> list[str]:
    """The components that a render reads from the model's own files. Upsamplers and text encoder are in other files."""
    needs = {
        "video_encoder": request.source or request.images or request.references,
        "video_decoder": request.video == "generate",
        "video_statistics": any(stage.enlarges for stage in request.recipe.stages),
        "audio_encoder": request.audio_source or request.voice,
        "audio_decoder": request.audio == "generate",
        "vocoder": request.audio == "generate",
        DURATION_HEAD: request.auto_length is not None,
    }
    return ["transformer", *TEXT, *(component for component, is_read in needs.items() if is_read)]


def _read(role: str, path: Path) -> Header:
    """The header of a file that must match its role; a whole model matches every role."""
    header = read_header(path)
    kind = classify(header)
    if role in WHOLE and kind is not FileKind.MONOLITH:
        raise CheckpointError(f"{header.path.name} cannot be used to render", f"it is {kind.value}")
    allowed = [FileKind.MONOLITH, {**WHOLE, **SPLIT, **APART, **EXTRA}[role]]
    if role in APART:
        allowed.append(FileKind.TRANSFORMER)
    if kind not in allowed:
        raise CheckpointError(f"{option_name(role)} {header.path.name} cannot be used", f"it is {kind.value}")
    return header


def _encoder_with_projection(files: ModelFiles) -> dict[str, Header]:
    """The header of a text encoder in one file that also contains the text projection, by its role."""
    path = files.paths.get("text_encoder")
    header = files.assumed.get("text_encoder")
    if header is None and path is not None and path.is_file():
        header = read_header(path)
    is_of_both = header is not None and "text_projection" in components_in(header)
    return {"text_encoder": header} if header is not None and is_of_both else {}


def _check_connectors(parts: ModelHeaders) -> None:
    """Refuse a file with only one of the two connectors, or with others than the transformer was trained with."""
    header = parts.headers.get("connectors")
    if header is None:
        return
    held = components_in(header)
    for component in CONNECTORS:
        if component not in held:
            raise lacking(component, header)
        if "transformer" not in header.config:
            continue
        own = ConnectorConfig.from_metadata(header.config, component.partition("_")[0])
        transformer = parts.header("transformer")
        wanted = ConnectorConfig.from_metadata(effective_config(transformer), component.partition("_")[0])
        if own != wanted:
            raise CheckpointError(
                f"{header.path.name} does not go with {transformer.path.name}",
                f"their configs describe a different {component.replace('_', ' ')}",
                "--connectors FILE names the one that the transformer was trained with",
            )


def _check_generations(headers: list[Header]) -> None:
    """Refuse files whose tensors prove that they are of different generations."""
    known = [(header.path.name, made) for header in headers if (made := generation(header)) is not None]
    for (name, made), (other, its) in pairwise(known):
        if made != its:
            why = f"{name} is of generation {made}, {other} of {its}"
            raise CheckpointError("these files are not parts of one model", why, "use files of one generation")
