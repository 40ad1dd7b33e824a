"""A given picture with a new sound: packets are copied, and only the sound is encoded.

Source: spec cli, section 1 (`v2a`).
"""

from __future__ import annotations

from contextlib import ExitStack
from fractions import Fraction
from math import ceil

from .check import check_file, check_sound
from .clip import Output
from .copy import Container, CopiedTrack, Span
from .inputs import SoundSource, VideoSource
from .partial import partial_file
from .probe import MediaInfo, open_media
from .sound import Sound, fit_sound
from .tracks import SoundTrack, Track, open_output
from .writer import Report, audio_info, conclude

PIECE_S = Fraction(1, 4)  # what is written of one stream before the next has its turn


def write_dubbed(
    output: Output,
    video: VideoSource,
    span: Span | None,
    container: Container,
    sound: Sound,
    codec: str,
    *,
    keeps_sound: bool,
) -> Report:
    """Copy a picture, or a part of it, and give it a sound, which is made as long as that.

    Args: codec: of the new sound. keeps_sound: the old one, where there is any, comes second.
    Raises: as write_clip.
    """
    duration_s = video.duration_s if span is None else span.duration_s
    sound = fit_sound(sound, duration_s)
    with partial_file(output.path, overwrite=output.overwrite) as partial:
        findings = [check_sound(sound)]
        with ExitStack() as files:
            file = files.enter_context(open_output(partial, container.format, output.comment, sound.sample_rate_hz))

            def copied(source: VideoSource | SoundSource) -> CopiedTrack:
                return CopiedTrack(file, source, files.enter_context(open_media(source.path)), span)

            copies = [copied(video)]
            tracks: list[Track] = [*copies, SoundTrack(file, codec, sound)]
            if keeps_sound and video.sound:
                copies.append(copied(video.sound))
                tracks.append(copies[-1])
            for number in range(1, ceil(duration_s / PIECE_S) + 1):
                for track in tracks:
                    track.put(number * PIECE_S)
            for track in tracks:
                track.end()
        info = MediaInfo(container=container.name, video=None, audio=audio_info(codec, sound), comment=output.comment)
        findings.append(check_file(partial, info, sound, [track.copy for track in copies]))
        return conclude(output, partial, findings)
