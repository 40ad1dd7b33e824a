"""What a file is, in words, from its header alone: weights, or a clip with its recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..components import components_in
from ..errors import MediaError
from ..headers import classify, generation, precision, read_header
from .made import Made
from .values import show_fps

CLIPS = (".mp4", ".mov", ".mkv", ".avi", ".wav", ".flac")


def describe(path: Path) -> dict[str, str]:
    """Facts about a weight file or a clip, by name. Raises: CheckpointError, StorageError, MediaError."""
    return dict(_clip(path) if path.suffix.lower() in CLIPS else _weights(path))


def _weights(path: Path) -> Iterator[tuple[str, str]]:
    header = read_header(path)
    yield "kind", classify(header).value
    if held := components_in(header):
        yield "holds", ", ".join(name.replace("_", " ") for name in held)
    yield "generation", generation(header) or "its tensor names do not tell"
    yield "version", header.metadata.get("model_version", "not given")
    yield "precision", precision(header)
    yield "tensors", f"{len(header.tensors):,}"
    yield "bytes", f"{header.nbytes:,}"


def _clip(path: Path) -> Iterator[tuple[str, str]]:
    from ..media.accept import check_input
    from ..media.inputs import VideoSource
    from ..media.probe import probe  # PyAV, which weight files do not need

    info = probe(path)
    yield "container", info.container
    if video := info.video:
        length = f"{video.frames} frames at {show_fps(video.fps)} fps"
        yield "video stream", f"{video.codec} {video.width}x{video.height}, {length}, {float(video.duration_s):.3f} s"
        with suppress(MediaError):  # what is no input has a header all the same
            source = check_input(path, VideoSource)
            yield "display size", f"{source.width}x{source.height}"
            yield from source.reading.facts.items()
    if audio := info.audio:
        rate = f"{audio.sample_rate_hz} Hz, {audio.channels} channels"
        yield "audio stream", f"{audio.codec} {rate}, {float(audio.duration_s):.3f} s"
    yield from _recipe(info.comment)


def _recipe(comment: str | None) -> Iterator[tuple[str, str]]:
    """What the file says about how it was made; a comment that is not of our kind is shown as it is."""
    if not (comment or "").lstrip().startswith(("{", "[")):
        yield "comment", comment or "none"
        return
    try:
        made = Made.parse(comment or "")
    except (ValueError, RecursionError):
        yield "recipe", "it holds no recipe that can be read"
        return
    yield "made with", ", ".join(f"{name} {version}" for name, version in made.made_with.items())
    yield "model", made.model.name
    for name, value in made.request.model_dump(mode="json").items():
        if value not in ("", None, [], {}):
            yield name, _as_text(value)
    yield "machine", _as_text(made.model_dump(mode="json")["machine"])


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
