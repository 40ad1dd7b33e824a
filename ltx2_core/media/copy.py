"""Copy the packets of an input file into a new file.

Source: docs/cli.md, "Given streams".
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import accumulate, chain, pairwise, takewhile
from math import floor
from typing import NamedTuple

import av
from av import AudioStream, Packet, VideoStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError

from ..errors import RequestError
from ..paths import in_shell
from .inputs import ROUNDING_S, AudioSource, VideoSource, refusal
from .probe import MP4, open_media
from .sources import audio_stream_of, open_clip, video_stream_of

PLAYED_IN_MP4 = frozenset(("aac", "mp3", "alac"))  # supported by every player
PCM = "pcm_"  # prefix of the codec names for uncompressed samples


LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}  # channel layouts that every encoder here supports
SEARCH_S = 1  # how much earlier to seek for a keyframe: files are searched by decoding time
REORDERED_S = 20  # more than the time between decoding and showing a frame
RUN_UP_S = Fraction(1, 20)  # audio before the copied part, which lossy codecs need


class Container(NamedTuple):
    """A container format, its file suffix, and its name in PyAV. has_edits: whether it can hide packets."""

    format: str
    suffix: str
    name: str
    has_edits: bool = False


IN_MP4 = Container("mp4", ".mp4", MP4, has_edits=True)
MOV = Container("mov", ".mov", MP4, has_edits=True)
OWN_CONTAINER = {
    one.name: one for one in (MOV, Container("matroska", ".mkv", "matroska,webm"), Container("avi", ".avi", "avi"))
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A part of a clip whose packets can be copied, from the start of a frame to the start of another.

    lead_in_s: how much earlier the packets start that its first frame needs.
    """

    start_s: Fraction
    end_s: Fraction
    lead_in_s: Fraction

    @property
    def duration_s(self) -> Fraction:
        return self.end_s - self.start_s


def copyable_span(video: VideoSource, start_s: Fraction, end_s: Fraction) -> Span:
    """The part of a clip that can be copied for the time between two points.

    It starts with the next frame. Packets are in decoding order, so a few frames that are shown after the end may be
    included, with the frames between them.
    Raises: RequestError if no frame starts after the beginning. MediaError if the file has no presentation times.
    """
    if not video.is_timed:
        why = "it does not say when its frames are shown, so that no part of it can be copied"
        raise refusal(video.path, why, f"ffmpeg -i {in_shell(video.path)} copy.mp4")
    shown_s: list[Fraction] = []
    with open_clip(video.path) as given:
        for packet in takewhile(lambda one: _decoded_s(one) < end_s + REORDERED_S, _part(given, video, start_s)):
            shown_s.append(_shown_s(packet))
    first = min((time_s for time_s in shown_s if time_s > start_s - ROUNDING_S), default=None)
    if first is None:
        last = f"{floor(1000 * max(shown_s, default=0)) / 1000:g}s"
        what = f"--start {float(start_s):g}s cannot be used"
        raise RequestError(what, f"the last frame of {video.path.name} starts at {last}", f"--start {last}")
    after_s = [*accumulate(reversed([*shown_s[1:], video.duration_s]), min)][::-1]  # shown first of all that follow
    ends = (after for latest, after in zip(accumulate(shown_s, max), after_s, strict=True) if latest < after)
    end_s = next((after for after in ends if after > end_s - ROUNDING_S), video.duration_s)
    return Span(start_s=first, end_s=end_s, lead_in_s=first - shown_s[0])


def may_stand_in_mp4(audio: AudioSource) -> bool:
    """Whether an MP4 can contain the packets of an audio track."""
    return _takes(IN_MP4, audio)


def rate_for(codec: str, sample_rate_hz: int) -> int:
    """The same rate if an encoder supports it, else the next higher supported one, or the highest."""
    rates = av.Codec(codec, "w").audio_rates
    if rates is None or sample_rate_hz in rates:
        return sample_rate_hz
    return min((rate for rate in rates if rate > sample_rate_hz), default=max(rates))


def container_for(video: VideoSource, audio_codec: str, *, keeps_audio: bool) -> Container:
    """The container for copied video with new audio: MP4, or else the container of the input.

    Packets without presentation times stay in theirs. keeps_audio: the packets of the old audio are copied too.
    Raises: MediaError if something cannot be copied. RequestError if the container does not support the new audio.
    """
    candidates = (IN_MP4 if video.is_timed else None, OWN_CONTAINER.get(video.container))
    container = next((one for one in candidates if one and _takes(one, video)), None)
    if container is None:
        raise refusal(
            video.path, f"its video ({video.codec}) cannot be copied", f"ffmpeg -i {in_shell(video.path)} copy.mp4"
        )
    if audio_codec not in _codecs_in(container.format):
        what = f"--audio-codec {audio_codec} cannot be used with {video.path}"
        raise RequestError(what, f"its video needs a {container.suffix} file", "--audio-codec aac")
    if keeps_audio and video.audio and not _takes(container, video.audio):
        why = f"its audio ({video.audio.codec}) cannot be copied into a {container.suffix} file"
        raise refusal(video.path, why, "--old-sound drop")
    return container


class Copy(NamedTuple):
    """A copied stream: "video" or "audio", its number in the new file, and its number of packets."""

    kind: str
    number: int
    packets: int


class CopiedTrack:
    """The video or the audio of an input that is copied into a container, packet by packet."""

    def __init__(
        self,
        container: OutputContainer,
        source: VideoSource | AudioSource,
        given: InputContainer,
        span: Span | None = None,
    ) -> None:
        """given: the opened source file, which stays open until the end and is read only here."""
        stream = _stream_of(source, given)
        self.container, self.stream = container, _add_copy(container, stream)
        has_edits = container.format.name in (IN_MP4.format, MOV.format)
        self.copy = Copy(stream.type, self.stream.index, 0)
        self.packets = _heard(given, source, has_edits=has_edits) if span is None else _cut(given, source, span)
        self.next = next(self.packets, None)

    def put(self, until_s: Fraction) -> None:
        """Copy the remaining packets that are decoded before this time."""
        while self.next is not None and _decoded_s(self.next) < until_s:
            self._copy(self.next)

    def end(self) -> None:
        while self.next is not None:
            self._copy(self.next)

    def _copy(self, packet: Packet) -> None:
        packet.stream = self.stream
        self.container.mux(packet)
        self.copy = self.copy._replace(packets=self.copy.packets + 1)
        self.next = next(self.packets, None)


def _stream_of(source: VideoSource | AudioSource, given: InputContainer) -> VideoStream | AudioStream:
    stream = video_stream_of(given) if isinstance(source, VideoSource) else audio_stream_of(given)
    assert stream is not None
    return stream


def _add_copy(container: OutputContainer, stream: VideoStream | AudioStream) -> VideoStream | AudioStream:
    """Add a stream for the packets of an input stream. It is configured from the decoder, because not every codec has
    an encoder.

    HEVC gets the tag that all players know, unless its packets contain the parameter sets, as the tag "hev1" says.
    """
    added = container.add_stream_from_template(stream, opaque=True)
    codec = stream.codec_context
    if codec.name == "hevc" and codec.codec_tag != "hev1" and container.format.name in ("mp4", "mov"):
        added.codec_context.codec_tag = "hvc1"
    return added


def _whole(given: InputContainer, source: VideoSource | AudioSource) -> Iterator[Packet]:
    """All packets of a source, or those from the present position of the file, on a clock that starts with it."""
    packets = _with_decoding_times(given.demux(_stream_of(source, given)))
    return (_moved(packet, source.zero_s) for packet in packets)


def _heard(given: InputContainer, source: VideoSource | AudioSource, *, has_edits: bool) -> Iterator[Packet]:
    """All packets of a source, without the audio before our time zero, and without those that an edit list hides at the
    end.

    The packets that a decoder needs before that are kept if the container can hide them.
    """
    packets = _without_hidden_end(_whole(given, source))
    if isinstance(source, VideoSource):
        return packets
    run_up_s = RUN_UP_S if has_edits else Fraction(0)
    return (packet for packet in packets if _shown_s(packet) + _lasting_s(packet) > -run_up_s)


def _without_hidden_end(packets: Iterable[Packet]) -> Iterator[Packet]:
    """Packets up to the last one, in decoding order, that is not hidden."""
    hidden: list[Packet] = []
    for packet in packets:
        hidden.append(packet)
        if not packet.is_discard:
            yield from hidden
            hidden = []


def _lasting_s(packet: Packet) -> Fraction:
    return (packet.duration or 0) * packet.time_base


def _cut(given: InputContainer, source: VideoSource | AudioSource, span: Span) -> Iterator[Packet]:
    """The packets of a part, on a clock that starts with it; earlier ones are hidden."""
    run_up_s = 0 if isinstance(source, VideoSource) else RUN_UP_S
    packets = _part(given, source, span.start_s - run_up_s)
    shown = takewhile(lambda packet: _shown_s(packet) < span.end_s, packets)
    return (_moved(packet, span.start_s) for packet in shown)


def _part(given: InputContainer, source: VideoSource | AudioSource, start_s: Fraction) -> Iterator[Packet]:
    """The packets from the last keyframe that is shown at a time or before it."""
    stream = _stream_of(source, given)
    if start_s > SEARCH_S:
        given.seek(floor((start_s - SEARCH_S + source.zero_s) / (stream.time_base or 1)), stream=stream)
        packets = _whole(given, source)
        lead_in = _lead_in(packets, start_s)
        if lead_in and lead_in[0].is_keyframe and _shown_s(lead_in[0]) <= start_s:
            return chain(lead_in, packets)
        given.seek(0)  # in a file without an index, seeking is unreliable
    packets = _whole(given, source)
    return chain(_lead_in(packets, start_s), packets)


def _lead_in(packets: Iterator[Packet], start_s: Fraction) -> list[Packet]:
    """From the last keyframe before a time to the point after which no other can follow; the rest stays in the
    iterator.
    """
    lead_in: list[Packet] = []
    for packet in packets:
        if packet.is_keyframe and _shown_s(packet) <= start_s:
            lead_in = []
        lead_in.append(packet)
        if _decoded_s(packet) > start_s:
            break
    return lead_in


def _shown_s(packet: Packet) -> Fraction:
    return ((packet.dts if packet.pts is None else packet.pts) or 0) * packet.time_base


def _decoded_s(packet: Packet) -> Fraction:
    return (packet.dts or 0) * packet.time_base


def _with_decoding_times(packets: Iterable[Packet]) -> Iterator[Packet]:
    """Packets with decoding times.

    In Matroska the first ones have none: they are placed one after the other before the first one that has, or else
    before anything is shown.
    """
    waiting: list[Packet] = []
    for packet in packets:
        if packet.size:  # an empty packet marks the end
            waiting.append(packet)
        if waiting and (packet.dts is not None or not packet.size):
            dts = waiting[-1].dts
            if dts is None:
                dts = min(one.pts or 0 for one in waiting)
            for one in reversed(waiting):
                one.dts = dts
                dts -= one.duration or 1
            yield from waiting
            waiting = []


def _moved(packet: Packet, zero_s: Fraction) -> Packet:
    """The same packet on a clock that is zero where the old one is `zero_s`."""
    ticks = round(zero_s / packet.time_base)
    packet.dts = None if packet.dts is None else packet.dts - ticks
    packet.pts = None if packet.pts is None else packet.pts - ticks
    return packet


def _takes(container: Container, source: VideoSource | AudioSource) -> bool:
    """Whether a container accepts packets. This is tried in memory: it depends on more than the codec."""
    if source.codec not in _codecs_in(container.format):
        return False
    try:
        with ExitStack() as stack:
            given = stack.enter_context(open_media(source.path))
            if _goes_back(_stream_of(source, given)):
                return False
            if container == IN_MP4 and given.format.name != MP4 and source.codec.startswith(PCM):
                return False  # MP4 changes the packets of other formats
            trial = stack.enter_context(av.open(io.BytesIO(), "w", format=container.format))
            _add_copy(trial, _stream_of(source, given))
            trial.start_encoding()
    except FFmpegError:
        return False
    return True


def _goes_back(stream: VideoStream | AudioStream) -> bool:
    """Whether an edit list puts a stream together from several parts: packets that overlap fit into no container."""
    return any(later.timestamp < earlier.timestamp for earlier, later in pairwise(stream.index_entries))


@cache
def _codecs_in(container_format: str) -> frozenset[str]:
    with av.open(io.BytesIO(), "w", format=container_format) as container:
        return frozenset(container.supported_codecs)
