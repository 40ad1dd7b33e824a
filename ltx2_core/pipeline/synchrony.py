"""The measurement of `ltx2 sync`: whether audio and motion of a clip are in sync.

Source: docs/reference/sync.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..media.accept import check_input
from ..media.inputs import VideoSource, refusal
from .events import Watch

if TYPE_CHECKING:  # PyAV and numpy, which are not needed to refuse a file
    from ..media.sync import Sync

NOBODY = Watch()


def sync_of(path: Path, watch: Watch = NOBODY) -> Sync:
    """Measure how well audio and motion of a clip agree. Raises: MediaError for a file without video or without
    audio.
    """
    video = check_input(path, VideoSource)
    if video.audio is None:
        raise refusal(path, "there is no audio in it", "give a clip with video and audio")
    from ..media.sync import measure_sync

    with watch.phase("sync", "comparing audio and motion", video.frames) as on_frames:
        return measure_sync(video, video.audio, on_frames)
