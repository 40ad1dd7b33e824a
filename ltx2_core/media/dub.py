"""Input video with new audio: packets are copied, and only the audio is encoded.

Source: docs/cli.md, "Given streams".
"""

from __future__ import annotations

from contextlib import ExitStack
from fractions import Fraction
from math import ceil

from .check import check_audio, check_file
from .clip import Output
from .copy import Container, CopiedTrack, Span
from .inputs import AudioSource, VideoSource
from .probe import MediaInfo, open_media
from .tracks import AudioTrack, Track, open_output
from .waveform import Waveform, fit_waveform
from .writer import Report, audio_info, conclude, written

PIECE_S = Fraction(1, 4)  # streams are interleaved in pieces of this duration


def write_dubbed(
    output: Output,
    video: VideoSource,
    span: Span | None,
    container: Container,
    audio: Waveform,
    codec: str,
    *,
    keeps_audio: bool,
) -> Report:
    """Copy a video, or a part of it, and add audio, which is fitted to its length.

    Args: codec: of the new audio. keeps_audio: whether the old audio, if any, becomes the second track.
    Raises: as write_clip.
    """
    duration_s = video.duration_s if span is None else span.duration_s
    audio = fit_waveform(audio, duration_s)
    with written(output) as partial:
        findings = [check_audio(audio)]
        with ExitStack() as files:
            file = files.enter_context(open_output(partial, container.format, output.comment, audio.sample_rate_hz))

            def copied(source: VideoSource | AudioSource) -> CopiedTrack:
                return CopiedTrack(file, source, files.enter_context(open_media(source.path)), span)

            copies = [copied(video)]
            tracks: list[Track] = [*copies, AudioTrack(file, codec, audio)]
            if keeps_audio and video.audio:
                copies.append(copied(video.audio))
                tracks.append(copies[-1])
            for number in range(1, ceil(duration_s / PIECE_S) + 1):
                for track in tracks:
                    track.put(number * PIECE_S)
            for track in tracks:
                track.end()
        info = MediaInfo(container=container.name, video=None, audio=audio_info(codec, audio), comment=output.comment)
        findings.append(check_file(partial, info, audio, [track.copy for track in copies]))
        return conclude(output, partial, findings)
