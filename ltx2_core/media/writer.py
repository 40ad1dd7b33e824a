"""Finished clips as files, encoded while their frames arrive.

Source: spec cli, "What must never be lost or wrong"; spec pipelines, "Video encode"; spec audio, "Output".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av import AudioStream, VideoStream
from av.container import OutputContainer
from einops import rearrange
from torch import Tensor

from ..errors import OutputError
from .check import Findings, PictureCheck, check_file, check_sound, require_finite
from .clip import SOUND_FILES, VIDEO_CODECS, ClipShape, Encoding, Output
from .partial import partial_file
from .pixels import to_i420
from .probe import BT709_LIMITED, MP4, AudioInfo, MediaInfo, VideoInfo
from .sound import Sound, fit_sound, to_pcm16

B_FRAMES = 3

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
    sound: Sound | None,
    encoding: Encoding,
    on_frames: OnFrames = lambda done: None,
) -> Report:
    """Write frames, and generated sound if there is any, as an MP4.

    Args: chunks: (F 3 H W) frames in [0, 1] each, on any device, in display order; the next is asked for when one has
    been encoded. sound: is made as long as the frames.
    Raises: OutputError if the self-check fails; the file is then kept under another name. RequestError if there is a
    file already. StorageError if the disk refuses.
    """
    sound = sound and fit_sound(sound, shape)
    picture = PictureCheck(shape.height)
    with partial_file(output.path, overwrite=output.overwrite) as partial:
        findings = [check_sound(sound)] if sound else []
        with _open(partial, "mp4", output.comment, sound) as container:
            video = _VideoTrack(container, shape, encoding)
            audio = _SoundTrack(container, encoding.audio, sound) if sound else None
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
            audio=sound and _audio_info(encoding.audio, sound),
            comment=output.comment,
        )
        findings += [picture.findings(), check_file(partial, info, sound)]
        return _report(output, info, findings)


def write_sound(output: Output, sound: Sound) -> Report:
    """Write generated sound alone, of the length that it has, as WAV or FLAC by the suffix of the path: 16 bits.

    Raises: as write_clip.
    """
    suffix = output.path.suffix.lower()
    codec = SOUND_FILES[suffix]
    with partial_file(output.path, overwrite=output.overwrite) as partial:
        findings = [check_sound(sound)]
        with _open(partial, suffix[1:], output.comment, sound) as container:
            track = _SoundTrack(container, codec, sound)
            track.put(sound.duration_s)
            track.end()
        info = MediaInfo(container=suffix[1:], video=None, audio=_audio_info(codec, sound), comment=output.comment)
        findings.append(check_file(partial, info, sound))
        return _report(output, info, findings)


def _open(path: Path, container_format: str, comment: str | None, sound: Sound | None) -> OutputContainer:
    """A new file in which nothing differs between two runs."""
    options = {
        "fflags": "+bitexact",  # no version of the library, no time
        "movflags": "+faststart",
        "max_interleave_delta": "0",  # encoders may look ahead as far as they like, the streams stay interleaved
    }
    if sound:  # edit lists count in this unit: in milliseconds, the default, the sound would not end on its sample
        options["movie_timescale"] = str(sound.sample_rate_hz)
    container = av.open(f"file:{path.absolute()}", "w", format=container_format, container_options=options)
    if comment is not None:
        container.metadata["comment"] = comment
    return container


class _VideoTrack:
    """The picture on its way into a container."""

    def __init__(self, container: OutputContainer, shape: ClipShape, encoding: Encoding) -> None:
        codec = VIDEO_CODECS[encoding.video]
        os.environ.setdefault("SVT_LOG", "0")  # the only way to keep SVT-AV1 from writing to stderr
        crf = codec.crf if encoding.crf is None else encoding.crf
        stream = container.add_stream(codec.encoder, rate=shape.fps, options={**codec.options, "crf": str(crf)})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = shape.width, shape.height, "yuv420p"
        context = stream.codec_context
        context.time_base = 1 / shape.fps
        context.codec_tag = codec.tag
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = BT709_LIMITED
        context.max_b_frames = B_FRAMES if shape.frames > B_FRAMES else 0  # x265 invents timestamps in shorter clips
        self.container, self.stream, self.shape = container, stream, shape
        self.done = 0

    def put(self, planes: Tensor) -> None:
        """Encode the next frame, in planar I420 (1 3H/2 W), uint8."""
        rows = rearrange(planes, "1 r W -> r W", r=self.shape.height * 3 // 2, W=self.shape.width)
        frame = av.VideoFrame.from_ndarray(rows.cpu().numpy(), format="yuv420p")
        frame.pts, frame.time_base = self.done, 1 / self.shape.fps
        self.container.mux(self.stream.encode(frame))
        self.done += 1

    def end(self) -> None:
        self.container.mux(self.stream.encode(None))


class _SoundTrack:
    """Sound on its way into a container, piece by piece."""

    def __init__(self, container: OutputContainer, codec: str, sound: Sound) -> None:
        self.container, self.rate = container, sound.sample_rate_hz
        stream = container.add_stream(codec, rate=self.rate, layout="stereo")
        assert isinstance(stream, AudioStream)
        self.stream = stream
        self.pcm = rearrange(to_pcm16(sound.samples), "c s -> s c", c=2).cpu().numpy()
        self.done = 0

    def put(self, until_s: Fraction) -> None:
        """Encode what is still to come up to this time."""
        piece = self.pcm[self.done : round(until_s * self.rate)]
        if not len(piece):  # more frames came than were announced; the self-check will say so
            return
        frame = av.AudioFrame.from_ndarray(rearrange(piece, "s c -> 1 (s c)"), format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = self.rate, self.done, Fraction(1, self.rate)
        self.container.mux(self.stream.encode(frame))
        self.done += len(piece)

    def end(self) -> None:
        self.container.mux(self.stream.encode(None))


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


def _audio_info(codec: str, sound: Sound) -> AudioInfo:
    return AudioInfo(codec=codec, sample_rate_hz=sound.sample_rate_hz, channels=2, duration_s=sound.duration_s)


def _report(output: Output, info: MediaInfo, findings: list[Findings]) -> Report:
    """The end of a self-check."""
    errors = [text for one in findings for text in one.errors]
    warnings = [text for one in findings for text in one.warnings]
    if errors or (warnings and output.strict):
        raise OutputError(f"{output.path} failed its self-check", "; ".join(errors or warnings))
    return Report(info, tuple(warnings))
