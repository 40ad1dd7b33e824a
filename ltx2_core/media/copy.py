"""Packets of a given file in a new one, untouched.

Source: spec cli, section 1 (`a2v`, `v2a`).
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import av
from av import Packet
from av.container import InputContainer, OutputContainer

from ..errors import RequestError
from .inputs import SoundSource, VideoSource, refusal
from .probe import MP4
from .sources import picture_of, sound_of

MP4_SOUND = frozenset(("aac", "mp3", "alac", "ac3", "opus"))  # what players expect there
TIMES_AS_GIVEN = {"avoid_negative_ts": "disabled"}  # else AVI moves a picture by a frame for what AAC puts in front


class Container(NamedTuple):
    """A format to write, and the suffix of its files."""

    format: str
    suffix: str


IN_MP4 = Container("mp4", ".mp4")
OWN_CONTAINER = {  # by what an input is called
    MP4: Container("mov", ".mov"),
    "matroska,webm": Container("matroska", ".mkv"),
    "avi": Container("avi", ".avi"),
}


def may_stand_in_mp4(sound: SoundSource) -> bool:
    """Whether the packets of a sound can be copied into an MP4."""
    return sound.codec in MP4_SOUND


def container_for(video: VideoSource, sound_codec: str, *, keeps_sound: bool) -> Container:
    """Where the packets of a picture can stand beside a new sound: MP4, or else the container that they come from.

    Packets that do not say when they are shown stay in theirs. keeps_sound: the packets of the old sound come along.
    Raises: MediaError if something cannot be copied. RequestError if the container does not take the new sound.
    """
    candidates = (IN_MP4 if video.is_timed else None, OWN_CONTAINER.get(video.container))
    container = next((one for one in candidates if one and video.codec in _codecs_in(one.format)), None)
    if container is None:
        raise refusal(video.path, f"its picture ({video.codec}) cannot be copied", f"ffmpeg -i {video.path} copy.mp4")
    codecs = _codecs_in(container.format)
    if sound_codec not in codecs:
        what = f"--audio-codec {sound_codec} cannot be used with {video.path}"
        raise RequestError(what, f"its picture needs a {container.suffix} file", "--audio-codec aac")
    if keeps_sound and video.sound and video.sound.codec not in codecs:
        why = f"its sound ({video.sound.codec}) cannot be copied into a {container.suffix} file"
        raise refusal(video.path, why, "--old-sound drop")
    return container


class CopiedTrack:
    """The picture or the sound of an input on its way into a container, packet by packet."""

    def __init__(self, container: OutputContainer, source: VideoSource | SoundSource, given: InputContainer) -> None:
        """given: the file of the source, which stays open until the end and is read by nobody else."""
        stream = picture_of(given) if isinstance(source, VideoSource) else sound_of(given)
        assert stream is not None
        self.container, self.stream = container, container.add_stream_from_template(stream)
        self.packets = (_moved(packet, source.zero_s) for packet in _with_decoding_times(given.demux(stream)))
        self.next = next(self.packets, None)

    def put(self, until_s: Fraction) -> None:
        """Copy what is still to come of the packets that are decoded before this time."""
        while self.next is not None and (self.next.dts or 0) * self.next.time_base < until_s:
            self._copy(self.next)

    def end(self) -> None:
        while self.next is not None:
            self._copy(self.next)

    def _copy(self, packet: Packet) -> None:
        packet.stream = self.stream
        self.container.mux(packet)
        self.next = next(self.packets, None)


def _with_decoding_times(packets: Iterable[Packet]) -> Iterator[Packet]:
    """Packets that all say when they are decoded.

    In Matroska the first ones do not: they come one after the other before the first that does, or else before anything
    is shown.
    """
    waiting: list[Packet] = []
    for packet in packets:
        waiting += [packet] if packet.size else []  # an empty one is the end
        if waiting and (packet.dts is not None or not packet.size):
            dts = waiting[-1].dts
            dts = min(one.pts or 0 for one in waiting) if dts is None else dts
            for one in reversed(waiting):
                one.dts = dts
                dts -= one.duration or 1
            yield from waiting
            waiting = []


def _moved(packet: Packet, zero_s: Fraction) -> Packet:
    """The same packet by a clock that shows zero where the old one shows `zero_s`."""
    ticks = round(zero_s / packet.time_base)
    packet.dts = None if packet.dts is None else packet.dts - ticks
    packet.pts = None if packet.pts is None else packet.pts - ticks
    return packet


@cache
def _codecs_in(container_format: str) -> frozenset[str]:
    with av.open(io.BytesIO(), "w", format=container_format) as container:
        return frozenset(container.supported_codecs)
