"""Files that are unusual, broken or not what they seem, each as a function that writes it to a path."""

from __future__ import annotations

import ctypes
import os
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
from av import VideoStream
from av.container import OutputContainer
from av.stream import Disposition
from PIL import Image

from tests.synthetic_media import encode_sound, picture, tone, write_sound, write_video

CASES = Path(__file__).parent / "media"
IN_OPEN = 0x20  # the event of Linux's inotify for opening
Write = Callable[[Path], Any]


@contextmanager
def watched(path: Path) -> Iterator[Callable[[], bool]]:
    """Ask the kernel, which must be Linux, whether a file has been opened since the last call."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(watch, os.fsencode(path), IN_OPEN) >= 0

    def was_opened() -> bool:
        try:
            return bool(os.read(watch, 4096))
        except BlockingIOError:
            return False

    try:
        yield was_opened
    finally:
        os.close(watch)


def text(content: str) -> Write:
    return lambda path: path.write_text(content)


def cut(write: Write, share: float) -> Write:
    """A truncated file."""

    def write_and_cut(path: Path) -> None:
        write(path)
        data = path.read_bytes()
        path.write_bytes(data[: round(len(data) * share)])

    return write_and_cut


def still(mode: str = "RGB", size: tuple[int, int] = (48, 32), **options: Any) -> Write:
    return lambda path: Image.fromarray(picture(3, *size)).convert(mode).save(path, **options)


def written(data: bytes) -> Write:
    return lambda path: path.write_bytes(data)


def moving(path: Path) -> None:
    frames = [Image.fromarray(picture(number)) for number in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def grey(dtype: type) -> Write:
    """An image of one channel, with values of a type."""
    return lambda path: Image.fromarray(np.ones((8, 8), dtype)).save(path)


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def second_view(path: Path) -> None:
    """A file as phones write it: a photo, followed by another image of the same moment."""
    view = Image.new("RGB", (8, 8))
    Image.fromarray(picture(0)).save(path, format="MPO", save_all=True, append_images=[view])


def case(name: str) -> Write:
    """A file that our encoders cannot make."""
    return lambda path: path.write_bytes((CASES / name).read_bytes())


def video(**options: Any) -> Write:
    return lambda path: write_video(path, **options)


def sound(codec: str = "pcm_s16le", **options: Any) -> Write:
    return lambda path: write_sound(path, codec, **options)


def with_cover(path: Path) -> None:
    """A music file: audio, and an image of the cover."""
    with av.open(path, "w") as container:
        cover = add_picture(container, "png", "rgb24")
        cover.disposition = Disposition.attached_pic
        track = container.add_stream("flac", rate=48000, layout="stereo")
        container.mux(cover.encode(av.VideoFrame.from_ndarray(picture(0), format="rgb24")))
        container.mux(cover.encode(None))
        encode_sound(container, track, tone(4608))


def without_frames(path: Path) -> None:
    """Audio, and a video stream without a single frame."""
    with av.open(path, "w") as container:
        add_picture(container, "mpeg4", "yuv420p")
        encode_sound(container, container.add_stream("aac", rate=48000, layout="stereo"), tone(4608))


def without_samples(path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(48000)


def add_picture(container: OutputContainer, codec: str, pixels: str) -> VideoStream:
    stream = container.add_stream(codec, rate=25)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height, stream.pix_fmt = 48, 32, pixels
    return stream
