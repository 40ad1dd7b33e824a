"""What `--loop` comes to: the frames that are kept, the span of a given clip that is regenerated, and what it refuses.

Source: docs/loops.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

from ...errors import RequestError
from ..request import Window
from ..values import AUTO
from .basis import Basis
from .inputs import ModeInputs
from .settings import COMMAND_LINE
from .sizes import ClipLength

LOOPS = ("t2v", "i2v", "v2v")
LEAST_LATENTS = 2  # latent frames of a ring
NEW_END_S = Fraction(1)  # of a given clip, at most
NEW_END_SHARE = Fraction(1, 2)


def looped(basis: Basis, inputs: ModeInputs) -> ModeInputs:
    """The inputs of a request whose end meets its beginning: its first frame is left out, as the last takes its place.

    Raises: RequestError for what does not go together with that.
    """
    if not basis.settings.loop:
        return inputs
    for why, hint in _hindrances(basis, inputs):
        place = basis.sources["loop"]
        if basis.mode.name not in LOOPS and place != COMMAND_LINE:
            return inputs  # of a file for all renders, which this one does not follow
        raise RequestError(f"{place.spelled('loop')} cannot be used here", why, hint)
    frames = inputs.length.frames
    note = f"loop: {frames - 1} frames, the first of which follows the last"
    return replace(inputs, kept_frames=frames - 1, loops=True, notes=(*inputs.notes, note))


def _hindrances(basis: Basis, inputs: ModeInputs) -> Iterator[tuple[str, str]]:
    """Why a request cannot be a loop, and what to do."""
    settings, name = basis.settings, basis.mode.name
    stages, step = basis.recipe.stages, basis.frames_per_latent
    if name not in LOOPS or settings.video != "generate":
        yield "only video that is generated can be made to loop", "leave it out"
    if settings.sound == "keep":
        yield "the end of the kept audio does not meet its beginning", "--sound generate, or --sound off"
    if settings.duration == AUTO and settings.frames is None:
        yield "the length is not known yet", "--duration 5s"
    if inputs.length.frames <= LEAST_LATENTS * step:
        yield f"a loop needs {LEAST_LATENTS * step + 1} frames or more", f"--frames {LEAST_LATENTS * step + 1}"
    if any(stage.rate != 1 for stage in stages):
        yield f"preset {basis.preset} doubles the frame rate", "another --preset"
    if any(not stage.is_whole for stage in stages):
        yield "a stage works in tiles", "a smaller --res, or --tiles 1x1"
    if inputs.length.chain is not None:
        why = "each window of --until continues the one before, and none continues the last"
        yield why, "leave --until out"
    ends = {inputs.files.get(one.role) for one in inputs.images if one.frame in (0, inputs.length.frames - 1)}
    if len(ends) > 1:
        yield "the last frame replaces the first, and each has an image of its own", "leave one of them out"
    if settings.segment:
        yield (
            "the model sees the loop rotated at each step, and a span at another place each time",
            "leave one of them out",
        )
    if settings.voice_ref:
        yield "a reference voice is placed before the beginning, which a loop does not have", "leave one of them out"
    if settings.cache_steps:
        yield "a step would reuse results from another rotation of the loop", "--cache-steps 0"
    if settings.skip_step:
        yield "skipped steps would reuse guidance from another rotation of the loop", "--skip-step 0"
    if inputs.generated_keyframes:
        yield "generated keyframes are not part of the loop", "leave one of them out"
    if settings.attention is not None:
        yield (
            "the model sees the loop rotated at each step, so --attention has no fixed places",
            "leave one of them out",
        )


def new_end(part: ClipLength, frames_per_latent: int) -> Window:
    """The span at the end of a given clip that is regenerated where nobody names one: a second, in whole latent frames,
    or half of a shorter clip.
    """
    end_s = part.frames / part.fps
    length_s = min(NEW_END_S, end_s * NEW_END_SHARE)
    steps = max(1, round(length_s * part.fps / frames_per_latent))
    return Window(start_s=(part.frames - steps * frames_per_latent) / part.fps, end_s=end_s)
