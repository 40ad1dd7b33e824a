"""Small files like those of users, generated on the spot, and their content."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av import AudioStream, VideoStream
from av.container import OutputContainer
from numpy.typing import NDArray

TICK = Fraction(1, 90000)
RATE_HZ = 48000


def picture(number: int, width: int = 48, height: int = 32) -> NDArray:
    """A frame (H W 3) whose grey encodes its number, and whose white corner at the top left shows its orientation."""
    pixels = np.full((height, width, 3), 16 + 7 * number % 192, np.uint8)
    pixels[: height // 2, : width // 2] = 255
    return pixels


def write_video(
    path: Path,
    *,
    frames: int = 12,
    fps: Fraction = Fraction(25),
    times_s: Sequence[float] | None = None,
    size: tuple[int, int] = (48, 32),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rotation: int = 0,
    sound: str | None = None,
    layout: str = "stereo",
    is_silent: bool = False,
    options: dict[str, str] | None = None,
    preset: str = "medium",
) -> Path:
    """Write a clip.

    Args: times_s: start times of the frames, if the rate is not constant. sound: an encoder, for a tone or silence.
    """
    with av.open(path, "w", options=options or {}) as container:
        stream = container.add_stream(
            codec, rate=fps, options={"crf": "10", "preset": preset} if codec == "libx264" else {}
        )
        assert isinstance(stream, VideoStream)
        (stream.width, stream.height), stream.pix_fmt = size, pixels
        stream.codec_context.time_base = TICK if times_s else 1 / fps
        if rotation:
            stream.set_display_rotation(rotation)
        track = container.add_stream(sound, rate=RATE_HZ, layout=layout) if sound else None
        for number in range(len(times_s) if times_s else frames):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
            frame.time_base = stream.codec_context.time_base
            frame.pts = round(times_s[number] / TICK) if times_s else number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if isinstance(track, AudioStream):
            notes = tone(round(RATE_HZ * frames / fps), track.codec_context.channels)
            encode_sound(container, track, notes * (not is_silent))
    return path


def tone(samples: int, channels: int = 2, rate_hz: int = RATE_HZ) -> NDArray:
    """A different note in each channel, (c s) int16."""
    notes_hz = 220 * np.arange(1, channels + 1)[:, None]
    return (8000 * np.sin(2 * np.pi * notes_hz * np.arange(samples) / rate_hz)).astype(np.int16)


def write_sound(
    path: Path,
    codec: str = "pcm_s16le",
    *,
    samples: NDArray | None = None,
    rate_hz: int = RATE_HZ,
    layout: str = "stereo",
) -> Path:
    """Write an audio file, by default a second of a tone. samples: (c s) int16."""
    with av.open(path, "w") as container:
        track = container.add_stream(codec, rate=rate_hz, layout=layout)
        assert isinstance(track, AudioStream)
        encode_sound(
            container, track, tone(rate_hz, track.codec_context.channels, rate_hz) if samples is None else samples
        )
    return path


def encode_sound(container: OutputContainer, track: AudioStream, samples: NDArray, begin: int = 0) -> None:
    """Encode a whole track: samples (c s) int16. begin: the timestamp of its beginning in samples."""
    context = track.codec_context
    interleaved = np.ascontiguousarray(samples.T).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(interleaved, format="s16", layout=context.layout.name)
    frame.sample_rate, frame.pts = context.sample_rate, begin
    resampler = av.AudioResampler(format=context.format.name, layout=context.layout.name, rate=context.sample_rate)
    for piece in resampler.resample(frame):
        container.mux(track.encode(piece))
    container.mux(track.encode(None))


def packets(path: Path, kind: str, stream: int = 0) -> list[tuple[bytes, Fraction]]:
    """The packets of a stream, each with its presentation time."""
    with av.open(path) as container:
        track = container.streams.get({kind: stream})[0]
        return [(bytes(one), (one.pts or 0) * one.time_base) for one in container.demux(track) if one.size]


def contents(given: list[tuple[bytes, Fraction]]) -> list[bytes]:
    """The packets without their times."""
    return [data for data, _ in given]


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size but contains almost nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )
