"""Video and audio streams of a new file.

Source: docs/cli.md, "Colour and container" and "Recipe inside".
"""

from __future__ import annotations

import os
from fractions import Fraction
from math import lcm
from pathlib import Path
from typing import Protocol

import av
import torch
from av import AudioStream, VideoStream
from av.container import OutputContainer
from av.stream import Disposition
from einops import rearrange
from torch import Tensor

from .clip import VIDEO_CODECS, ClipShape, Encoding, VideoCodec
from .copy import LAYOUTS
from .reading import BT709_LIMITED
from .waveform import Waveform, to_pcm

B_FRAMES = 3
LARGEST_TIMESCALE = 2**31 - 1
FORMATS = {torch.int16: "s16", torch.int32: "s32"}


class Track(Protocol):
    """A stream that is written piece by piece."""

    def put(self, until_s: Fraction) -> None:
        """Write everything up to a time that is not written yet."""
        ...

    def end(self) -> None:
        """Write what is left in the encoder, after the last piece."""
        ...


def open_output(path: Path, container_format: str, comment: str | None, *rates: int) -> OutputContainer:
    """Create a file whose bytes are the same in every run.

    Args: rates: units of a second in which its streams end, such as the sample rate of its audio; the first one takes
    precedence if there is no common unit.
    """
    options = {
        "fflags": "+bitexact",  # do not write the library's version and the time
        "movflags": "+faststart",
        "max_interleave_delta": "0",  # any look-ahead of encoders; streams stay interleaved
        "avoid_negative_ts": "disabled",  # otherwise AAC's priming samples would shift the video in AVI by a frame
    }
    # the unit of edit lists: with milliseconds, the default, a stream would not end at a frame or a sample
    common = lcm(*rates)
    options["movie_timescale"] = str(common if common <= LARGEST_TIMESCALE else rates[0])
    container = av.open(f"file:{path.absolute()}", "w", format=container_format, container_options=options)
    if comment is not None:
        container.metadata["comment"] = comment
    return container


def repeatable_options(codec: VideoCodec, width: int, height: int) -> dict[str, str]:
    """Encoder options that give the same bytes in every run on this machine.

    The AVX-512 code of libx264 reads uninitialised memory, and its files then differ from run to run. A CPU with
    AVX-512 has AVX2 too; on other CPUs `asm` is not set, because it overrides what libx264 detects. libx265 has a
    similar problem if a frame is no larger, in either direction, than one of its coding tree units (64 pixels by
    default).
    """
    options = dict(codec.options)
    if codec.encoder == "libx264" and torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        options["x264-params"] = "asm=AVX2"
    smaller_units = [unit for unit in (32, 16) if unit < min(width, height) <= 2 * unit]
    if codec.encoder == "libx265" and smaller_units:
        options["x265-params"] += f":ctu={smaller_units[0]}"
    return options


class VideoTrack:
    """Video that is encoded frame by frame."""

    def __init__(self, container: OutputContainer, shape: ClipShape, encoding: Encoding) -> None:
        codec = VIDEO_CODECS[encoding.video]
        os.environ.setdefault("SVT_LOG", "0")  # the only way to keep SVT-AV1 from writing to stderr
        crf = codec.crf if encoding.crf is None else encoding.crf
        options = {**repeatable_options(codec, shape.width, shape.height), "crf": str(crf)}
        stream = container.add_stream(codec.encoder, rate=shape.fps, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = shape.width, shape.height, "yuv420p"
        context = stream.codec_context
        context.time_base = 1 / shape.fps
        context.codec_tag = codec.tag
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = BT709_LIMITED
        context.max_b_frames = B_FRAMES if shape.frames > B_FRAMES else 0  # for x265's timestamps in short clips
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


class AudioTrack:
    """Audio that is encoded, of one, two or six channels."""

    def __init__(self, container: OutputContainer, codec: str, audio: Waveform) -> None:
        pcm = to_pcm(audio)
        self.container, self.rate = container, audio.sample_rate_hz
        self.format, self.layout = FORMATS[pcm.dtype], LAYOUTS[len(pcm)]
        stream = container.add_stream(codec, rate=self.rate, layout=self.layout)
        assert isinstance(stream, AudioStream)
        taken = [one.name for one in stream.codec_context.codec.audio_formats or ()]
        stream.format = next((name for name in taken if name.rstrip("p") == self.format), stream.format.name)
        stream.disposition = Disposition.default  # takes precedence over a copied stream
        self.stream = stream
        self.pcm = rearrange(pcm, "c s -> s c").cpu().numpy()
        self.done = 0

    def put(self, until_s: Fraction) -> None:
        """Encode everything up to this time that is not encoded yet."""
        piece = self.pcm[self.done : round(until_s * self.rate)]
        if not len(piece):  # there are more frames than announced; the self-check reports it
            return
        frame = av.AudioFrame.from_ndarray(rearrange(piece, "s c -> 1 (s c)"), format=self.format, layout=self.layout)
        frame.sample_rate, frame.pts, frame.time_base = self.rate, self.done, Fraction(1, self.rate)
        self.container.mux(self.stream.encode(frame))
        self.done += len(piece)

    def end(self) -> None:
        self.container.mux(self.stream.encode(None))
