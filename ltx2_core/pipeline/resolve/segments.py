"""From `--segment` to the segments of a clip with a known length.

Source: docs/segments.md.
"""

from __future__ import annotations

from itertools import pairwise

from ...errors import RequestError, shown
from ..segments import Segment
from ..values import show_time
from .basis import Basis
from .refusals import check_text
from .sizes import ClipLength


def settle_segments(basis: Basis, length: ClipLength) -> tuple[Segment, ...]:
    """The segments in temporal order. One that ends within a latent frame of the clip's end is extended to the end.

    Raises: RequestError for one outside the clip, two that overlap, and options that cannot be combined with segments.
    """
    given = basis.settings.segment
    if not given:
        return ()
    spelled = basis.sources["segment"].spelled("segment")
    _check_use(basis, length, spelled)
    duration_s, step_s = length.frames / length.fps, basis.frames_per_latent / length.fps
    segments: list[Segment] = []
    for start_s, end_s, prompt in sorted(given):
        check_text(prompt, f"the prompt of {spelled}")
        written = f"{spelled} {show_time(start_s)}-{show_time(end_s)}={shown(prompt, 30)}"
        if start_s >= duration_s or end_s - duration_s >= step_s:
            why = f"the clip lasts {float(duration_s):.2f} s"
            hint = f"a longer --duration, or a segment that ends by {float(duration_s):.2f}s"
            raise RequestError(f"{written} cannot be used", why, hint)
        if duration_s - end_s < step_s:
            end_s = duration_s
        if end_s - start_s < step_s:
            why = f"a segment lasts one latent frame or more, here {float(step_s):.2f} s"
            raise RequestError(f"{written} cannot be used", why, "a longer segment")
        segments.append(Segment(start_s=start_s, end_s=end_s, prompt=prompt))
    for one, other in pairwise(segments):
        if other.start_s < one.end_s:
            what = f"{spelled} {one.name} and {spelled} {other.name} overlap"
            hint = "leave one of them out"
            if other.end_s > one.end_s:
                hint = f"let one of them begin where the other ends, as {show_time(one.end_s)}-{show_time(other.end_s)}"
            raise RequestError(what, "each moment of a clip has one prompt", hint)
    return tuple(segments)


def _check_use(basis: Basis, length: ClipLength, spelled: str) -> None:
    """Raises: RequestError for settings that cannot be combined with segments."""
    if length.auto is not None:
        why = "the length of the clip is not known yet"
        raise RequestError(f"{spelled} cannot be used here", why, "--duration 5s, or leave --segment out")
    if basis.settings.enhance:
        enhance = basis.sources["enhance"].spelled("enhance")
        why = "prompts that are rewritten one by one would describe different scenes"
        raise RequestError(
            f"{spelled} and {enhance} cannot be used together", why, "--enhance-only rewrites one prompt to begin from"
        )
