"""Facts about clips and audio, and the recipe in a finished file.

Source: docs/cli.md, "Inputs" and "Recipe inside".
"""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import MediaError
from ..made import Made
from ..values import counted, show_fps
from .words import Facts, numbered, recipe_facts, require_content

if TYPE_CHECKING:  # PyAV, which is only needed for clips
    from ...media.probe import AudioInfo, Track, TrackList, VideoInfo

DESCRIBED = ("video", "audio", "subtitle", "data", "attachment", "unknown")  # kinds of streams, in the order of facts


def facts(path: Path) -> Facts:
    """Facts about a file with video or audio: every stream, and its recipe. Raises: MediaError."""
    from ...media.kinds import cannot_be_opened
    from ...media.probe import list_tracks

    require_content(path)
    try:
        listed = list_tracks(path)
    except MediaError as error:
        raise cannot_be_opened(path) from error
    found = {track.kind for track in listed.tracks if not track.is_cover}
    kinds = [kind for kind in ("video", "audio") if kind in found]
    if not kinds:
        raise cannot_be_opened(path)
    yield "kind", " and ".join(kinds)
    yield "container", listed.container
    if listed.title:
        yield "title", listed.title
    for kind in DESCRIBED:
        rows = (_stream(track, listed) for track in listed.tracks if track.kind == kind)
        for number, row in enumerate(numbered(f"{kind} stream", rows), 1):
            yield row
            if kind == "video" and number == 1:
                yield from _reading(path)
    yield "bytes", f"{path.stat().st_size:,}"
    folder = Path(f"{path}.job")
    if folder.is_dir():
        yield "job folder", str(folder)
    yield from _recipe(listed.comment)


def _reading(path: Path) -> Facts:
    """How the frames of a clip are converted."""
    from ...media.sources import reading_of

    with suppress(MediaError):  # a file that is not a valid input still has a header
        reading = reading_of(path)
        yield "display size", "x".join(map(str, reading.upright_size))
        yield from reading.facts.items()


def _stream(track: Track, listed: TrackList) -> str:
    """One stream: its codec, size, duration, language, and title."""
    words = [track.codec]
    if track.video:
        words = [_video(track.video, listed)]
    elif track.audio:
        words = [_audio(track.audio, listed)]
    if track.language:
        words.append(f"language {track.language}")
    if track.title:
        words.append(f"title {track.title}")
    if track.is_default and _has_choice(track, listed):
        words.append("default")
    if track.is_cover:
        words.append("cover art")
    return ", ".join(words)


def _has_choice(track: Track, listed: TrackList) -> bool:
    return sum(other.kind == track.kind for other in listed.tracks) > 1


def _video(info: VideoInfo, listed: TrackList) -> str:
    rate = f"at {show_fps(info.fps)} fps"
    length = f"{counted(info.frames, 'frame')} {rate}" if info.frames else rate
    return f"{info.codec} {info.width}x{info.height}, {length}, {_seconds(info.duration_s, listed)}"


def _audio(info: AudioInfo, listed: TrackList) -> str:
    rate = f"{info.sample_rate_hz} Hz, {counted(info.channels, 'channel')}"
    return f"{info.codec} {rate}, {_seconds(info.duration_s, listed)}"


def _seconds(own: Fraction, listed: TrackList) -> str:
    """The duration of a stream; if its header does not say, that of the file."""
    seconds = own or listed.duration_s
    return f"{float(seconds):.3f} s" if seconds else "of unknown length"


def _recipe(comment: str | None) -> Facts:
    """The recipe in the file; any other comment is shown unchanged."""
    if not (comment or "").lstrip().startswith(("{", "[")):
        yield "comment", comment or "none"
        return
    try:
        made = Made.parse(comment or "")
    except (ValueError, RecursionError):
        yield "recipe", "it holds no recipe that can be read"
        return
    yield from recipe_facts(made)
