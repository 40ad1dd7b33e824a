"""Clips and audio files for the tests of media, which are written and then read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av import VideoStream
from torch import Tensor

from ltx2_core.media.accept import check_input
from ltx2_core.media.inputs import AudioSource, VideoSource
from ltx2_core.media.video import frames_by_time
from tests.synthetic_media import RATE_HZ, encode_sound, picture, write_sound, write_video

UNEVEN_S = (0, 0.04, 0.08, 0.5, 0.54, 0.96)  # six frames in one second
FPS = Fraction(25)
LOSSY = {"a.mp3": "libmp3lame", "b.m4a": "aac", "c.aac": "aac", "d.ogg": "libopus", "e.ac3": "ac3"}


def clip(path: Path, **options: Any) -> VideoSource:
    return check_input(write_video(path, **options), VideoSource)


def joined(frames: Iterable[Tensor]) -> Tensor:
    return torch.cat(list(frames))


def all_frames(source: VideoSource) -> Iterator[Tensor]:
    return frames_by_time(source, source.frames, source.fps)


def sound(path: Path, codec: str = "pcm_s16le", **options: Any) -> AudioSource:
    return check_input(write_sound(path, codec, **options), AudioSource)


def with_early_audio(path: Path, early_s: Fraction, codecs: tuple[str, str] = ("mpeg4", "aac")) -> Path:
    """A second of video and audio. The tone begins before the first frame, and there is a click at that frame."""
    early = round(early_s * RATE_HZ)
    with av.open(path, "w") as container:
        stream = container.add_stream(codecs[0], rate=25)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25 * 1000)
        track = container.add_stream(codecs[1], rate=RATE_HZ, layout="stereo")
        samples = np.zeros((2, RATE_HZ + early), np.int16)
        samples[:, early : early + 480] = 16000
        encode_sound(container, track, samples)
        for number in range(25):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.time_base, frame.pts = Fraction(1, 25000), round((number / FPS + early_s) * 25000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
