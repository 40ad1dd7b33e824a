"""Small types that every layer shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Streams(NamedTuple, Generic[T]):
    """One value for video and one for audio; None if a stream is absent."""

    video: T | None = None
    audio: T | None = None

    @property
    def has_both(self) -> bool:
        return self.video is not None and self.audio is not None

    def map(self, function: Callable[..., R], *others: Streams[Any]) -> Streams[R]:
        """Call a function for each stream that is present, with its value here and in the others."""
        pairs = zip(self, *others, strict=True)
        return Streams(*(None if one is None else function(one, *more) for one, *more in pairs))

    def map_each(self, video: Callable[[T], R], audio: Callable[[T], R]) -> Streams[R]:
        """Call one function for the video and another for the audio, if these are present."""
        return Streams(
            None if self.video is None else video(self.video),
            None if self.audio is None else audio(self.audio),
        )
