"""Write finished clips, encoded while their frames arrive.

Source: docs/cli.md, "Guarantees"; docs/reference/pipelines.md, "Encoding video";
docs/reference/audio.md, "From samples to a file".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from einops import rearrange
from torch import Tensor

from ..costs.host import MOST_WAITING_BYTES
from ..errors import OutputError
from .behind import Behind
from .check import Findings, VideoCheck, check_audio, check_file, require_finite
from .clip import AUDIO_FILES, VIDEO_CODECS, ClipShape, Encoding, Output
from .copy import CopiedTrack
from .inputs import AudioSource
from .partial import partial_file
from .pixels import to_i420
from .probe import MP4, AudioInfo, MediaInfo, VideoInfo, open_media, probe
from .reading import BT709_LIMITED
from .tracks import AudioTrack, VideoTrack, open_output
from .wav_flac import encode
from .waveform import Waveform, fit_waveform, to_pcm16

OnFrames = Callable[[int], None]  # called with the number of frames encoded so far
MILLISECONDS = 1000  # the unit of a file without audio


@dataclass(frozen=True, slots=True)
class Report:
    """A file that has passed its self-check: its contents, and notes for the user."""

    info: MediaInfo
    warnings: tuple[str, ...]


def write_clip(
    output: Output,
    shape: ClipShape,
    chunks: Iterable[Tensor],
    audio: Waveform | AudioSource | None,
    encoding: Encoding,
    on_frames: OnFrames = lambda done: None,
) -> Report:
    """Write frames, and audio if there is any, as an MP4.

    Args: chunks: (F 3 H W) frames in [0, 1] each, on any device, in display order; the next chunk is requested while
    earlier ones are encoded. audio: fitted to the length of the frames and encoded; for a source, its packets are
    copied instead.
    Raises: OutputError if the self-check fails; the file is then kept under another name. RequestError if the file
    exists. StorageError for a disk error.
    """
    made = fit_waveform(audio, shape.duration_s) if isinstance(audio, Waveform) else None
    video_check = VideoCheck(shape.height)
    with written(output) as path:
        findings = [check_audio(made)] if made else []
        with ExitStack() as files:
            rate_hz = audio.sample_rate_hz if audio else MILLISECONDS
            container = files.enter_context(open_output(path, "mp4", output.comment, rate_hz, shape.fps.numerator))
            video = VideoTrack(container, shape, encoding)
            copied = None
            if isinstance(audio, AudioSource):
                copied = CopiedTrack(container, audio, files.enter_context(open_media(audio.path)))
            track = AudioTrack(container, encoding.audio, made) if made else copied
            _encode(_seen(chunks, video_check), video, track, on_frames)
        info = MediaInfo(
            container=MP4,
            video=_video_info(encoding.video, shape),
            audio=made and audio_info(encoding.audio, made),
            comment=output.comment,
        )
        findings += [video_check.findings(), check_file(path, info, made, [copied.copy] if copied else ())]
        return conclude(output, path, findings)


def _seen(chunks: Iterable[Tensor], check: VideoCheck) -> Iterator[Tensor]:
    """The frames of chunks one by one, converted for a codec: (1 3H/2 W) uint8 on the CPU, each added to the
    self-check.
    """
    frames = (frame for chunk in chunks for frame in chunk.split(1))
    for number, frame in enumerate(frames):
        require_finite(frame, f"frame {number}")
        planes = to_i420(frame).cpu()
        check.add(planes)
        yield planes


def _encode(
    frames: Iterable[Tensor], video: VideoTrack, track: AudioTrack | CopiedTrack | None, on_frames: OnFrames
) -> None:
    """Encode frames and their audio, while the next ones are generated."""

    def put(planes: Tensor) -> None:
        video.put(planes)
        if track:
            track.put(video.done / video.shape.fps)

    with Behind(MOST_WAITING_BYTES, on_frames) as encoder:
        for planes in frames:
            encoder.put(partial(put, planes), planes.nbytes)
    video.end()
    if track:
        track.end()


def write_audio(output: Output, audio: Waveform) -> Report:
    """Write generated audio without video, with its own length, as 16-bit WAV or FLAC by the suffix of the path.

    Raises: as write_clip.
    """
    suffix = output.path.suffix.lower()
    codec = AUDIO_FILES[suffix]
    with written(output) as partial:
        findings = [check_audio(audio)]
        pcm = rearrange(to_pcm16(audio.samples), "c s -> s c").cpu().numpy()
        partial.write_bytes(encode(suffix, pcm, audio.sample_rate_hz, output.comment))
        info = MediaInfo(container=suffix[1:], video=None, audio=audio_info(codec, audio), comment=output.comment)
        findings.append(check_file(partial, info, audio))
        return conclude(output, partial, findings)


def written(output: Output) -> AbstractContextManager[Path]:
    """The hidden file for an output."""
    return partial_file(output.path, overwrite=output.overwrite, before_rename=output.before_rename)


def _video_info(codec: str, shape: ClipShape) -> VideoInfo:
    return VideoInfo(
        codec=VIDEO_CODECS[codec].name,
        tag=VIDEO_CODECS[codec].tag,
        width=shape.width,
        height=shape.height,
        fps=shape.fps,
        frames=shape.frames,
        duration_s=shape.duration_s,
        pixels="yuv420p",
        colour=BT709_LIMITED,
    )


def audio_info(codec: str, audio: Waveform) -> AudioInfo:
    """The expected stream properties for encoded audio."""
    return AudioInfo(
        codec=codec,
        sample_rate_hz=audio.sample_rate_hz,
        channels=len(audio.samples),
        duration_s=audio.duration_s,
    )


def conclude(output: Output, partial: Path, findings: list[Findings]) -> Report:
    """The end of a self-check. Raises: OutputError for an error, and for a warning if those are treated as errors."""
    errors = [text for one in findings for text in one.errors]
    warnings = [text for one in findings for text in one.warnings]
    if errors or (warnings and output.strict):
        raise OutputError(f"{output.path} failed its self-check", "; ".join(errors or warnings))
    return Report(probe(partial), tuple(warnings))
