"""The self-check: compare a finished file with the request before it gets its name.

Source: docs/cli.md, "Self-check" and "One clock".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError
from einops import rearrange
from torch import Tensor

from ..errors import MediaError, NotFiniteError
from .copy import Copy
from .probe import MP4, MediaInfo, open_media, probe
from .waveform import Waveform, to_pcm16

EXACT = (MP4, "wav", "flac")  # containers with sample-exact start and end of audio
AAC_FRAME = 1024  # samples per decoded frame; the last ones may be padding
FLAT_SPREAD = 1  # largest range of codes in a plane that counts as one colour
DARK_LUMA = 0.03  # mean over all pixels, 0 black to 1 white
STATIC_CHANGE = 0.1  # largest mean change of luma codes between frames in a static clip
QUIET_DB = -60.0  # root mean square below full scale
CLIPPED_SHARE = 0.001


@dataclass(frozen=True, slots=True)
class Findings:
    """What is wrong with the content of a file: errors and warnings, each a short sentence.

    marks: the findings as one word each: flat, dark, static, silent, quiet, clipped.
    """

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()

    @property
    def by_mark(self) -> Mapping[str, str]:
        """The sentence for each mark."""
        return dict(zip(self.marks, (*self.errors, *self.warnings), strict=True))


class VideoCheck:
    """Statistics of the frames of a video, updated frame by frame."""

    def __init__(self, height: int) -> None:
        self.height = height
        self.frames = 0
        self.is_flat = True
        self.brightness_sum = 0.0
        self.largest_change = 0.0
        self.luma: Tensor | None = None

    def add(self, planes: Tensor) -> None:
        """Add the next frame, in planar I420 (1 3H/2 W), uint8."""
        luma, colour = planes[:, : self.height], planes[:, self.height :]
        blue, red = rearrange(colour, "1 r W -> (r W)").chunk(2)
        self.is_flat &= all(
            int(high) - int(low) <= FLAT_SPREAD for low, high in (x.aminmax() for x in (luma, blue, red))
        )
        self.brightness_sum += (int(luma.sum()) / luma.numel() - 16) / 219
        before = luma if self.luma is None else self.luma
        change = int((luma.short() - before.short()).abs().sum()) / luma.numel()
        self.largest_change = max(self.largest_change, change)
        self.luma = luma
        self.frames += 1

    def findings(self) -> Findings:
        if not self.frames:
            return Findings(("there is not a single frame",))
        if self.is_flat:
            return Findings(("every frame of the video is one flat colour",), marks=("flat",))
        warnings: dict[str, str] = {}
        brightness = self.brightness_sum / self.frames
        if brightness < DARK_LUMA:
            warnings["dark"] = f"the video is dark: its mean brightness is {brightness:.1%}"
        if self.frames > 1 and self.largest_change < STATIC_CHANGE:
            warnings["static"] = "the video is static: hardly anything changes from frame to frame"
        return Findings(warnings=tuple(warnings.values()), marks=tuple(warnings))


def require_finite(values: Tensor, what: str) -> None:
    """Refuse NaN and infinite values. what: their name, for the message. Raises: NotFiniteError."""
    low, high = values.aminmax()  # both are NaN where any value is
    if not (low.isfinite() and high.isfinite()):
        raise NotFiniteError(f"{what} holds values that are not finite")


def check_audio(audio: Waveform) -> Findings:
    """The findings for generated audio; input audio is not checked. Raises: NotFiniteError."""
    require_finite(audio.samples, "the audio")
    if audio.is_given:
        return Findings()
    if not to_pcm16(audio.samples).any():
        return Findings(("the audio is all zeros",), marks=("silent",))
    warnings: dict[str, str] = {}
    samples = audio.samples.double()
    level_db = 20 * float(samples.square().mean().sqrt().log10())
    if level_db < QUIET_DB:
        warnings["quiet"] = f"the audio is very quiet: {-level_db:.0f} dB below full scale"
    clipped = float((samples.abs() >= 1).double().mean())
    if clipped > CLIPPED_SHARE:
        warnings["clipped"] = f"{clipped:.1%} of the samples are clipped"
    return Findings(warnings=tuple(warnings.values()), marks=tuple(warnings))


def check_file(path: Path, expected: MediaInfo, audio: Waveform | None, copies: Sequence[Copy] = ()) -> Findings:
    """Compare a file with what was written: its header, and how much of its video and audio can be decoded.

    Args: expected: what was encoded. audio: its audio, if any. copies: streams that were copied; their headers must be
    unchanged, and all their packets must exist.
    """
    try:
        found = probe(path)
        frames_decoded, samples_decoded = count_decoded(path)
        packets = count_packets(path)
    except (MediaError, FFmpegError) as error:
        return Findings((f"the file cannot be read again: {error}",))
    copied = {copy.kind: None for copy in copies if getattr(expected, copy.kind) is None}
    found = replace(found, **copied)
    is_exact = expected.container in EXACT
    if found.audio and expected.audio and not is_exact:
        found = replace(found, audio=replace(found.audio, duration_s=expected.audio.duration_s))
    errors = [*differences("", expected, found)]
    errors += [f"its {one.kind} is not complete" for one in copies if packets[one.number] != one.packets]
    frames = expected.video.frames if expected.video else 0
    is_complete = frames_decoded > 0 if "video" in copied else frames_decoded == frames
    if not is_complete:
        errors.append(f"{frames_decoded} frames can be decoded, not {frames or 'all'}")
    samples = audio.samples.shape[-1] if audio else 0
    padding = 1
    if expected.audio and expected.audio.codec == "aac":
        padding = AAC_FRAME if is_exact else 2 * AAC_FRAME
    if "audio" not in copied and not 0 <= samples_decoded - samples < padding:
        errors.append(f"{samples_decoded} samples can be decoded, not {samples}")
    return Findings(tuple(errors))


def differences(name: str, expected: Any, found: Any) -> Iterator[str]:
    """Every value of a record that is not as expected, as text."""
    if is_dataclass(expected) and found is None:
        yield f"there is no {name.strip()}"
    elif is_dataclass(expected):
        for field in fields(expected):
            yield from differences(f"{name} {field.name}", getattr(expected, field.name), getattr(found, field.name))
    elif expected != found:
        yield f"{name.strip()} is {found!s:.60}, not {expected!s:.60}"


def count_decoded(path: Path) -> tuple[int, int]:
    """The numbers of frames and of samples per channel that a file's first video and first audio stream decode to."""
    frames = samples = 0
    with open_media(path) as container:
        for stream in container.streams.video:
            stream.thread_type = "AUTO"
        for frame in container.decode([*container.streams.video[:1], *container.streams.audio[:1]]):
            if isinstance(frame, av.VideoFrame):
                frames += 1
            elif isinstance(frame, av.AudioFrame):
                samples += frame.samples
    return frames, samples


def count_packets(path: Path) -> Counter[int]:
    """The number of packets of each stream of a file, by the number of the stream."""
    with open_media(path) as container:
        return Counter(packet.stream.index for packet in container.demux() if packet.size)
