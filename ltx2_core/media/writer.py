"""Finished clips as files, encoded while their frames arrive.

Source: spec cli, "What must never be lost or wrong"; spec pipelines, "Video encode"; spec audio, "Output".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from einops import rearrange
from torch import Tensor

from ..errors import OutputError
from .check import Findings, PictureCheck, check_file, check_sound, require_finite
from .clip import SOUND_FILES, VIDEO_CODECS, ClipShape, Encoding, Output
from .copy import CopiedTrack
from .inputs import SoundSource
from .partial import partial_file
from .pixels import to_i420
from .probe import BT709_LIMITED, MP4, AudioInfo, MediaInfo, VideoInfo, open_media, probe
from .sound import Sound, fit_sound, to_pcm16
from .tracks import SoundTrack, VideoTrack, open_output
from .wav_flac import encode

OnFrames = Callable[[int], None]  # takes how many frames have been encoded so far


@dataclass(frozen=True, slots=True)
class Report:
    """A file that has passed its self-check: what it holds, and what a person should know about it."""

    info: MediaInfo
    warnings: tuple[str, ...]


def write_clip(
    output: Output,
    shape: ClipShape,
    chunks: Iterable[Tensor],
    sound: Sound | SoundSource | None,
    encoding: Encoding,
    on_frames: OnFrames = lambda done: None,
) -> Report:
    """Write frames, and sound if there is any, as an MP4.

    Args: chunks: (F 3 H W) frames in [0, 1] each, on any device, in display order; the next is asked for when one has
    been encoded. sound: is made as long as the frames, and encoded; the packets of a source are copied instead.
    Raises: OutputError if the self-check fails; the file is then kept under another name. RequestError if there is a
    file already. StorageError if the disk refuses.
    """
    made = fit_sound(sound, shape.duration_s) if isinstance(sound, Sound) else None
    picture = PictureCheck(shape.height)
    with partial_file(output.path, overwrite=output.overwrite) as partial:
        findings = [check_sound(made)] if made else []
        with ExitStack() as files:
            rate_hz = sound.sample_rate_hz if sound else None
            container = files.enter_context(open_output(partial, "mp4", output.comment, rate_hz))
            video = VideoTrack(container, shape, encoding)
            copied = None
            if isinstance(sound, SoundSource):
                copied = CopiedTrack(container, sound, files.enter_context(open_media(sound.path)))
            audio = SoundTrack(container, encoding.audio, made) if made else copied
            frames = (frame for chunk in chunks for frame in chunk.split(1))
            for number, frame in enumerate(frames):
                require_finite(frame, f"frame {number}")
                planes = to_i420(frame)
                picture.add(planes)
                video.put(planes)
                if audio:
                    audio.put((number + 1) / shape.fps)
                on_frames(number + 1)
            video.end()
            if audio:
                audio.end()
        info = MediaInfo(
            container=MP4,
            video=_video_info(encoding.video, shape),
            audio=made and audio_info(encoding.audio, made),
            comment=output.comment,
        )
        findings += [picture.findings(), check_file(partial, info, made, [copied.copy] if copied else ())]
        return conclude(output, partial, findings)


def write_sound(output: Output, sound: Sound) -> Report:
    """Write generated sound alone, of the length that it has, as WAV or FLAC by the suffix of the path: 16 bits.

    Raises: as write_clip.
    """
    suffix = output.path.suffix.lower()
    codec = SOUND_FILES[suffix]
    with partial_file(output.path, overwrite=output.overwrite) as partial:
        findings = [check_sound(sound)]
        pcm = rearrange(to_pcm16(sound.samples), "c s -> s c").cpu().numpy()
        partial.write_bytes(encode(suffix, pcm, sound.sample_rate_hz, output.comment))
        info = MediaInfo(container=suffix[1:], video=None, audio=audio_info(codec, sound), comment=output.comment)
        findings.append(check_file(partial, info, sound))
        return conclude(output, partial, findings)


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


def audio_info(codec: str, sound: Sound) -> AudioInfo:
    """What a file should say about a sound that was encoded."""
    return AudioInfo(
        codec=codec,
        sample_rate_hz=sound.sample_rate_hz,
        channels=len(sound.samples),
        duration_s=sound.duration_s,
    )


def conclude(output: Output, partial: Path, findings: list[Findings]) -> Report:
    """The end of a self-check. Raises: OutputError for an error, and for a warning where those count as such."""
    errors = [text for one in findings for text in one.errors]
    warnings = [text for one in findings for text in one.warnings]
    if errors or (warnings and output.strict):
        raise OutputError(f"{output.path} failed its self-check", "; ".join(errors or warnings))
    return Report(probe(partial), tuple(warnings))
