"""The components of a model in one table: the names of each component's tensors, and the files that may contain it.

Source: docs/reference/checkpoints.md, "Tensor names of the components".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from operator import methodcaller
from typing import Literal, get_args

from .errors import CheckpointError
from .headers import FileKind, Header

Role = Literal[
    "checkpoint",
    "transformer",
    "connectors",
    "video_vae",
    "video_vae_conv",
    "audio_vae",
    "text_encoder",
    "upsampler",
    "upsampler_x1.5",
    "temporal_upsampler",
    "distilled_lora",
    "duration_head",
]
ROLES: tuple[Role, ...] = get_args(Role)
# A model is one file that holds all its components, or a file for each of these roles.
WHOLE: dict[Role, FileKind] = {"checkpoint": FileKind.MONOLITH}
SPLIT: dict[Role, FileKind] = {
    "transformer": FileKind.TRANSFORMER,
    "video_vae": FileKind.VIDEO_VAE,
    "audio_vae": FileKind.AUDIO,
}
# Parts that may be in a separate file if the transformer's file lacks them.
APART: dict[Role, FileKind] = {"connectors": FileKind.CONNECTORS}
# Parts of some models only, in a separate file or in the whole checkpoint.
EXTRA: dict[Role, FileKind] = {"duration_head": FileKind.DURATION_HEAD}
# The role of an upsampler, by what it does to the frame rate and to height and width.
UPSAMPLERS: dict[tuple[Fraction, Fraction], Role] = {
    (Fraction(1), Fraction(2)): "upsampler",
    (Fraction(1), Fraction(3, 2)): "upsampler_x1.5",
    (Fraction(2), Fraction(1)): "temporal_upsampler",
}
# A second video VAE of a registered model, with the convolutional decoder; a render takes one of the two.
CONV_VAE: Role = "video_vae_conv"
NOT_ALWAYS_NEEDED = {*UPSAMPLERS.values(), "distilled_lora", "duration_head", CONV_VAE}

DIT = "model.diffusion_model."  # prefix in official files
# Possible prefixes of a denoiser's names, with the same meaning.
DENOISER_PREFIXES = (DIT, "diffusion_model.", "")
VIDEO_CONNECTOR, AUDIO_CONNECTOR = "video_embeddings_connector.", "audio_embeddings_connector."
PROJECTION = "text_embedding_projection."
STATISTICS = "per_channel_statistics."
UNUSED_STATISTICS = frozenset(
    STATISTICS + name for name in ("mean-of-stds", "mean-of-stds_over_std-of-means", "channel")
)
VIDEO_VAE_PREFIXES = ("vae.", "")
UNUSED_TYPES = frozenset({"decoder.type_emb"})  # for keyframes, in a decoder that was never released
COARSE = "decoder.coarse_"  # prefix of tensors for a coarse prediction, which is not used
# Vectors that some files have in a decoder block, each with the layers whose outputs it scales.
GATES: Mapping[str, tuple[str, ...]] = {
    "gate_msa": ("attn.proj",),
    "gate_mlp": ("mlp.w_down",),
    "gate_ctx": ("context_proj",),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Component:
    """The part of a model that one module loads. All names are official ones.

    Args: role: of the file that contains it in a model with several files. else_in: the roles of other files that may
    contain it. may_stay: whether other files, at last the whole checkpoint, are used if the file of its role lacks it.
    is_always_read: whether every render needs it. prefixes: possible prefixes of its tensor names in a file; the first
    one that occurs, followed by the sign, is used for all. parts: what may follow the prefix, and its name in the
    module. excludes: what may follow but belongs to other components, or to nothing. optional: names without prefix
    that are zeros if the file lacks them. ignored: names without prefix that files contain and nothing uses. gates: the
    last part of the names of vectors that are multiplied into other weights when they are loaded, each with the layers
    beside it whose rows it scales.
    """

    role: Role
    else_in: tuple[Role, ...] = ()
    may_stay: bool = False
    is_always_read: bool = True
    prefixes: tuple[str, ...]
    sign: str = ""
    parts: Mapping[str, str] = field(default_factory=lambda: {"": ""})
    excludes: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    ignored: frozenset[str] = frozenset()
    gates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def prefix_in(self, names: Iterable[str]) -> str | None:
        """The prefix of this component's tensors among the names of a file; None if it has none of them."""
        names = list(names)
        for prefix in self.prefixes:
            if any(map(methodcaller("startswith", prefix + self.sign), names)):
                return prefix
        return None

    def names_in(self, header: Header) -> Mapping[str, str]:
        """The names in a file of this component's tensors, each with its official name inside the component."""
        return header.once(("names", self), lambda: self._find_names(header))

    def _find_names(self, header: Header) -> dict[str, str]:
        prefix = self.prefix_in(header.tensors)
        found: dict[str, str] = {}
        if prefix is None:
            return found
        for name in header.tensors:
            rest = name[len(prefix) :]
            if not name.startswith(prefix) or rest in self.ignored or rest.startswith(self.excludes):
                continue
            part = next((part for part in self.parts if rest.startswith(part)), None)
            if part is not None:
                found[name] = self.parts[part] + rest[len(part) :]
        return found

    def gated_by(self, inside: str) -> tuple[str, ...]:
        """The layers whose rows a tensor scales, by its name inside the component; none if it is not a gate."""
        block, _, last = inside.rpartition(".")
        return tuple(f"{block}.{layer}" for layer in self.gates.get(last, ()))

    def full_name(self, inside: str, prefix: str | None = None) -> str:
        """The name in a file of a tensor of this component. prefix: None uses that of the official files."""
        longest_first = sorted(self.parts.items(), key=lambda item: len(item[1]), reverse=True)
        part, own = next((part, own) for part, own in longest_first if inside.startswith(own))
        return (self.prefixes[0] if prefix is None else prefix) + part + inside[len(own) :]


def _in_denoiser(name: str) -> tuple[str, ...]:
    return tuple(prefix + name for prefix in DENOISER_PREFIXES)


COMPONENTS: dict[str, Component] = {
    "transformer": Component(
        role="transformer",
        prefixes=DENOISER_PREFIXES,
        sign="transformer_blocks.",
        excludes=(VIDEO_CONNECTOR, AUDIO_CONNECTOR, PROJECTION, "vae.", "audio_vae.", "vocoder.", "duration_head."),
        optional=frozenset({"keyframes_abs_pos_embedding"}),
    ),
    "video_connector": Component(
        role="connectors", else_in=("transformer",), may_stay=True, prefixes=_in_denoiser(VIDEO_CONNECTOR)
    ),
    "audio_connector": Component(
        role="connectors", else_in=("transformer",), may_stay=True, prefixes=_in_denoiser(AUDIO_CONNECTOR)
    ),
    "text_projection": Component(
        role="connectors", else_in=("transformer", "text_encoder"), may_stay=True, prefixes=(PROJECTION,)
    ),
    "video_encoder": Component(
        role="video_vae",
        is_always_read=False,
        prefixes=VIDEO_VAE_PREFIXES,
        sign="encoder.",
        parts={"encoder.": "", STATISTICS: STATISTICS},
        ignored=UNUSED_STATISTICS,
    ),
    "video_decoder": Component(
        role="video_vae",
        prefixes=VIDEO_VAE_PREFIXES,
        sign="decoder.",
        parts={"decoder.": "", STATISTICS: STATISTICS},
        excludes=(COARSE,),
        ignored=UNUSED_STATISTICS | UNUSED_TYPES,
        gates=GATES,
    ),
    "video_statistics": Component(
        role="video_vae",
        prefixes=VIDEO_VAE_PREFIXES,
        sign=STATISTICS,
        parts={STATISTICS: ""},
        ignored=UNUSED_STATISTICS,
    ),
    "audio_encoder": Component(
        role="audio_vae",
        is_always_read=False,
        prefixes=("audio_vae.",),
        sign="encoder.",
        parts={"encoder.": "", STATISTICS: STATISTICS},
    ),
    "audio_decoder": Component(
        role="audio_vae",
        prefixes=("audio_vae.",),
        sign="decoder.",
        parts={"decoder.": "", STATISTICS: STATISTICS},
    ),
    "vocoder": Component(
        role="audio_vae",
        may_stay=True,
        prefixes=("vocoder.",),
        optional=frozenset({"mel_stft.stft_fn.inverse_basis"}),  # stored in files, but not used
    ),
    "upsampler": Component(role="upsampler", is_always_read=False, prefixes=("",), sign="initial_conv."),
    "duration_head": Component(role="duration_head", is_always_read=False, prefixes=("duration_head.",)),
    # The vision and audio parts of a Gemma (a vision tower, projectors) are not read.
    "language_model": Component(
        role="text_encoder",
        is_always_read=False,
        prefixes=("language_model.model.", "model.language_model.", "model.", ""),
        sign="layers.",
        parts={name: name for name in ("embed_tokens.", "layers.", "norm.")},
    ),
}


def lacking(component: str, header: Header) -> CheckpointError:
    """The error for a file that has no tensor of a component."""
    row = COMPONENTS[component]
    why = f"no tensor is named {row.prefixes[0]}{row.sign}…"
    return CheckpointError(f"{header.path.name} has no {component.replace('_', ' ')}", why)


def components_in(header: Header) -> list[str]:
    """The components that a file contains."""

    def find() -> list[str]:
        return [name for name, row in COMPONENTS.items() if row.prefix_in(header.tensors) is not None]

    return header.once(components_in, find)
