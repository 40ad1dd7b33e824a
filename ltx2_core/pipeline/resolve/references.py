"""References for in-context LoRAs: images, a voice, another clip.

Source: docs/references.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import MediaError, RequestError
from ...headers import generation
from ...hub.registry import read_catalogue
from ...lora_file import reference_scales
from ...media.accept import check_input
from ...media.inputs import AudioSource, ImageSource
from ...paths import input_path
from ..request import AudioInput, ClipInput, ReferenceInput
from .loras import GivenLora
from .sizes import LONGEST_TRAINED_S

if TYPE_CHECKING:
    from .basis import Basis

VOICE = "voice"  # role of the file of a voice reference
OF_AUDIO = ".audio_attn1."  # part of the name of an audio self-attention layer


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """References beside the clip. scale: the size of the clip relative to the reference. files: by role."""

    images: tuple[ReferenceInput, ...] = ()
    voice: AudioInput | None = None
    scale: int = 1
    files: Mapping[str, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def settle_references(basis: Basis) -> References:
    """The images of `--ref` and the audio of `--voice-ref`, if their streams are generated.

    Raises: RequestError if no LoRA was trained for them; MediaError for a file that is not an image or audio.
    """
    settings = basis.settings
    images = _images(basis, settings.ref) if settings.ref and settings.video == "generate" else References()
    voice = References()
    if settings.voice_ref is not None and settings.sound == "generate":
        voice = _voice(basis, settings.voice_ref)
    return replace(images, voice=voice.voice, files={**images.files, **voice.files}, notes=images.notes + voice.notes)


def _images(basis: Basis, names: Sequence[str]) -> References:
    """The image references."""
    _require(basis, "ref", "images", (lora for lora in basis.loras if _looks_at(lora, "images")))
    spatial, temporal = reference_scales([lora.file for lora in basis.loras])
    sources = [check_input(input_path(name, "--ref", MediaError), ImageSource) for name in names]
    images = tuple(
        ReferenceInput(
            role=f"reference-{number}",
            name=source.path.name,
            spatial_scale=spatial,
            temporal_scale=temporal,
            is_still=True,
        )
        for number, source in enumerate(sources, 1)
    )
    files = {image.role: source.path for image, source in zip(images, sources, strict=True)}
    notes = tuple(note for source in sources for note in source.notes)
    return References(images=images, scale=spatial, files=files, notes=notes)


def _voice(basis: Basis, name: str) -> References:
    """The voice reference."""
    _require(basis, "voice_ref", "voice", (lora for lora in basis.loras if _listens(lora)))
    source = check_input(input_path(name, "--voice-ref", MediaError), AudioSource)
    if source.duration_s > LONGEST_TRAINED_S:
        why = f"it lasts {float(source.duration_s):.1f} s, and {LONGEST_TRAINED_S} s is the most"
        raise RequestError(f"--voice-ref {name} cannot be used", why, "cut it to a few seconds of the voice")
    voice = AudioInput(role=VOICE, name=source.path.name, duration_s=source.duration_s)
    return References(voice=voice, files={VOICE: source.path}, notes=source.notes)


def clip_reference(basis: Basis, clip: ClipInput) -> ReferenceInput:
    """A clip as a reference, at the scales that the in-context LoRAs of the render were trained with."""
    spatial, temporal = reference_scales([lora.file for lora in basis.loras])
    return ReferenceInput(
        role=clip.role,
        name=clip.name,
        start_s=clip.start_s,
        spatial_scale=spatial,
        temporal_scale=temporal,
        reading=clip.reading,
    )


def _looks_at(lora: GivenLora, what: str) -> bool:
    """Whether an in-context LoRA was trained for a kind of reference; for a published one, according to the
    catalogue.
    """
    return lora.file.is_in_context and (lora.published is None or lora.published.looks_at == what)


def _listens(lora: GivenLora) -> bool:
    """Whether an in-context LoRA changes the audio self-attention, without which it cannot use a voice."""
    return _looks_at(lora, "voice") and any(OF_AUDIO in name for name in lora.matched.changes)


def _require(basis: Basis, setting: str, what: str, trained: Iterable[GivenLora]) -> None:
    """Raises: RequestError if there is no LoRA for a kind of reference."""
    if any(True for _ in trained):
        return
    known = {name: one for name, one in read_catalogue().controls.items() if one.looks_at == what and not one.refused}
    made = generation(basis.headers.header("transformer"))
    fitting = next((name for name, one in known.items() if made in one.files), None)
    hint = "--lora FILE adds one"
    if fitting is not None:
        hint = f"--lora {fitting}"
    elif known:
        name, one = next(iter(known.items()))
        hint = f"{hint}; {name} is published for models of generation {' and '.join(one.files)}"
    shown = {"images": "images beside the clip", "voice": "a voice beside the clip"}[what]
    why = f"this render has no in-context LoRA that was trained with {shown}"
    raise RequestError(f"{basis.sources[setting].spelled(setting)} cannot be used", why, hint)
