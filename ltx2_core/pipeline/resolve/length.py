"""The length of a clip that no input determines: that of the settings, or one that the model chooses later.

Source: docs/cli.md, "Length".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

from ...errors import RequestError
from ..request import AutoLength, ImageInput
from ..values import AUTO
from .basis import Basis
from .long_clips import length_until, until_of
from .settings import required
from .sizes import LONGEST_TRAINED_S, ClipLength, beyond_training, choose_length

SHORTEST_S = 1


def length_of(basis: Basis) -> ClipLength:
    """The length of a render; if the model chooses it, the longest possible one.

    Raises: as `choose_length`, and RequestError if the model has no duration head.
    """
    merged = basis.merged
    until = until_of(merged)
    if until is not None:
        return length_until(basis, until, required(merged.settings.fps))
    if merged.settings.frames is not None or merged.settings.duration != AUTO:
        length, offers = choose_length(merged, basis.frames_per_latent), not merged.settings.loop
        return replace(length, warnings=beyond_training(length.frames, length.fps, offers_windows=offers))
    if not basis.headers.has_duration_head():
        why = f"model {basis.files.name} has no duration head, which chooses the length"
        raise RequestError(f"{_spelled(basis)} cannot be used", why, "--duration 5s, or --duration-head FILE names one")
    auto, fps = AutoLength(shortest_s=Fraction(SHORTEST_S), longest_s=Fraction(LONGEST_TRAINED_S)), merged.settings.fps
    frames = auto.frames(LONGEST_TRAINED_S, required(fps), basis.frames_per_latent)
    note = f"the length is chosen at run time, {SHORTEST_S} to {LONGEST_TRAINED_S} s"
    return ClipLength(
        frames=frames,
        fps=required(fps),
        auto=auto,
        notes=(f"{note}; this is planned for the longest, {frames} frames",),
        warnings=beyond_training(frames, required(fps)),
    )


def require_known_times(basis: Basis, length: ClipLength, images: Iterable[ImageInput]) -> None:
    """Raises: RequestError for an image inside a clip of unknown length."""
    later = next((image for image in images if image.frame > 0), None)
    if length.auto is not None and later is not None:
        why = f"{later.name} stands inside the clip, whose length is not known yet"
        raise RequestError(
            f"{_spelled(basis)} cannot be used", why, "--duration 5s, or images at the first frame alone"
        )


def keyframes_within(basis: Basis, length: ClipLength) -> int:
    """The number of keyframes that the model generates with a clip.

    Raises: RequestError if the model does not support it, and if the first stage has too few frames between its ends.
    """
    settings, count = basis.settings, required(basis.settings.generated_keyframes)
    if count == 0 or settings.video == "off" or length.chain is not None:
        return 0  # it is from a settings file for all renders; otherwise `in_windows` refuses it
    what = f"--generated-keyframes {count} cannot be used"
    if not basis.transformer.has_keyframe_embedding:
        why = f"model {basis.files.name} has no keyframe embedding, which marks such frames"
        raise RequestError(what, why, "leave it out")
    frames = length.frames
    if length.auto is not None:
        frames = length.auto.frames(0, length.fps, basis.frames_per_latent)
    inside = basis.recipe.stages[0].frames(frames) - 2
    if count > inside:
        shortest = "the shortest clip that the model may choose" if length.auto else "the clip"
        why = f"{shortest} has {max(0, inside)} frames between its ends in the first stage"
        raise RequestError(what, why, "a longer clip, or fewer keyframes")
    return count


def _spelled(basis: Basis) -> str:
    return f"--duration {AUTO}"
