"""Decoded frames with their presentation times: with PyAV, without torch.

Source: docs/reference/pipelines.md, "Decoding video".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from math import floor
from typing import NamedTuple

import av
from av.error import BlockingIOError as NeedsMore
from av.error import EOFError as AtEnd
from av.filter import Graph

from .inputs import VideoSource
from .sources import open_clip, video_stream_of

Frame = av.VideoFrame | av.AudioFrame


class Shown(NamedTuple):
    """A frame, and its start: seconds after the start of its file."""

    frame: av.VideoFrame
    time_s: Fraction


def shown_frames(source: VideoSource, start_s: Fraction | None) -> Iterator[Shown]:
    """All frames, or those from about a time on."""
    with open_clip(source.path) as container:
        stream = video_stream_of(container)
        assert stream is not None
        tick_s = stream.time_base or Fraction(1)
        if start_s is not None:
            container.seek(floor((start_s + source.zero_s) / tick_s), stream=stream)
        for number, frame in enumerate(deinterlaced(container.decode(stream))):
            is_timed = source.is_timed and frame.pts is not None
            yield Shown(frame, _shown_s(frame) - source.zero_s if is_timed else number / source.fps)


def deinterlaced(frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """The same number of frames; frames with two fields are interpolated from the first field."""
    graph = None
    for frame in frames:
        if graph is None and frame.interlaced_frame:
            graph = linked(frame, ("bwdif", "mode=send_frame:deint=interlaced"))
        yield from (frame,) if graph is None else _video(graph, frame)
    if graph is not None:
        yield from _video(graph, None)


def _video(graph: Graph, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
    for done in through(graph, frame):
        assert isinstance(done, av.VideoFrame)
        yield done


def linked(frame: av.VideoFrame, *filters: tuple[str, str]) -> Graph:
    """A graph for frames like this one."""
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    graph.link_nodes(source, *(graph.add(name, options) for name, options in filters), graph.add("buffersink"))
    graph.configure()
    return graph


def through(graph: Graph, frame: Frame | None) -> Iterator[Frame]:
    """The output of a graph after one more frame, or after the last."""
    graph.push(frame)
    while True:
        try:
            yield graph.pull()
        except (NeedsMore, AtEnd):
            return


def _shown_s(frame: av.VideoFrame) -> Fraction:
    return (frame.pts or 0) * (frame.time_base or Fraction(1))
