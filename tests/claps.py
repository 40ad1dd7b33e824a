"""Clips of two clapping hands, whose sound comes at a time that a test chooses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av import AudioStream, VideoStream
from numpy.typing import NDArray

from tests.synthetic_media import TICK, encode_sound

CLAPS_S = (0.62, 1.31, 2.2)
SECONDS = 3
WIDTH, HEIGHT = 96, 64
CHANNELS = {"mono": 1, "stereo": 2, "5.1": 6}


def write_claps(
    path: Path,
    *,
    late_s: float = 0,
    fps: Fraction = Fraction(25),
    times_s: Sequence[float] | None = None,
    rate_hz: int = 48000,
    layout: str = "stereo",
    video_from_s: float = 0,
    audio_from_s: float = 0,
    gain: float = 1,
    is_static: bool = False,
    seconds: float = SECONDS,
) -> Path:
    """Write a clip. late_s: how much later than seen each clap is heard. video_from_s, audio_from_s: start times of the
    tracks.
    """
    shown_s = [number / float(fps) for number in range(math.ceil(seconds * fps))] if times_s is None else times_s
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = TICK
        track = container.add_stream("aac", rate=rate_hz, layout=layout)
        assert isinstance(track, AudioStream)
        heard = gain * sound(late_s, rate_hz, CHANNELS[layout], seconds)
        encode_sound(container, track, (heard * 32767).astype(np.int16), round(audio_from_s * rate_hz))
        for time_s in shown_s:
            frame = av.VideoFrame.from_ndarray(hands(CLAPS_S[0] if is_static else time_s), format="rgb24")
            frame.time_base, frame.pts = TICK, round((time_s + video_from_s) / TICK)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def hands(time_s: float) -> NDArray:
    """A frame (H W 3): the hands accelerate until they meet, bounce off slowly and come to rest."""
    since_s = min((time_s - clap_s for clap_s in CLAPS_S), key=abs)
    apart = 1 - max(1 + since_s / 0.25, 0) ** 2
    if since_s > 0:
        apart = 0.8 * (1 - math.exp(-since_s / 0.12))
    gap = 1 + round(30 * apart)
    pixels = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    for left in (WIDTH // 2 - gap - 10, WIDTH // 2 + gap):
        pixels[20:44, left : left + 10] = 200
    return pixels


def sound(late_s: float, rate_hz: int, channels: int, seconds: float) -> NDArray:
    """Decaying bursts of noise, (c s) in [-1, 1]."""
    samples = np.zeros((channels, round(seconds * rate_hz)))
    burst_s = np.arange(round(0.15 * rate_hz)) / rate_hz
    burst = 0.2 * np.random.default_rng(0).standard_normal(len(burst_s)) * np.exp(-burst_s / 0.03)
    for clap_s in CLAPS_S:
        place = samples[:, round((clap_s + late_s) * rate_hz) :]
        place[:, : len(burst)] += burst[: place.shape[1]]
    return samples.clip(-1, 1)
