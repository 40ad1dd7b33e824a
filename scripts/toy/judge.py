"""What was found in clips, judged by what was asked for and by what was given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from scripts.toy.detect import Heard, Seen, Sync, match
from scripts.toy.world import ATTRIBUTES, Kind, Scene

SYNCED = (Kind.FLIGHT, Kind.BALL, Kind.DOOR, Kind.LAMP)  # the kinds with events
Given = Literal["neither", "picture", "sound", "both"]


@dataclass(frozen=True)
class Finding:
    """What the detectors found in one clip of a row of the evaluation.

    Args: times_s: when the scene that was asked for has its events. given: what was not made from noise. numbers:
    errors of a reconstruction.
    """

    row: str
    clip: int
    scene: Scene
    times_s: tuple[float, ...]
    given: Given
    seen: Seen
    heard: Heard
    numbers: Mapping[str, float]

    @property
    def judged(self) -> dict[str, bool]:
        """Whether what was not given is as the prompt says, attribute by attribute."""
        answers: dict[str, bool] = {}
        if self.given != "picture":
            answers |= {"scene": self.seen.kind == self.scene.kind, **self._attributes(self.seen, "seen")}
        if self.given != "sound":
            answers |= self._attributes(self.heard, "heard")
        return answers

    def _attributes(self, found: Seen | Heard, how: str) -> dict[str, bool]:
        return {
            f"{name} {how}".replace("_", " "): getattr(found, name) == getattr(self.scene, name)
            for name in ATTRIBUTES[self.scene.kind]
            if hasattr(found, name)
        }

    @property
    def seen_s(self) -> Sequence[float]:
        """When something is seen to happen; nothing if it is another kind of scene."""
        return self.seen.times_s if self.seen.kind == self.scene.kind else ()

    @property
    def reference_s(self) -> Sequence[float]:
        """What others have to be in time with: the given events, or what is seen where both streams are made."""
        return self.times_s if self.given in ("picture", "sound") else self.seen_s

    @property
    def found_s(self) -> Sequence[float]:
        """What has to be in time with them."""
        return self.seen_s if self.given == "sound" else self.heard.onsets_s


def total(scores: Iterable[Sync]) -> Sync:
    return sum(scores, Sync())


def sync(findings: Iterable[Finding], kinds: Sequence[Kind] = SYNCED) -> Sync:
    """How well picture and sound of scenes of some kinds go together."""
    return total(match(f.reference_s, f.found_s) for f in findings if f.scene.kind in kinds)


def shuffled(findings: Sequence[Finding]) -> list[Finding]:
    """Every clip with what was found in the next one of its kind."""
    mixed: list[Finding] = []
    for kind in Kind:
        own = [finding for finding in findings if finding.scene.kind == kind]
        for one, other in zip(own, own[1:] + own[:1], strict=True):
            found = {"seen": other.seen} if one.given == "sound" else {"heard": other.heard}
            mixed.append(replace(one, **found))
    return mixed


def share(findings: Iterable[Finding], name: str) -> float | None:
    """The share of the clips in which one of the answers is right, None if it is asked in none of them."""
    answers = [finding.judged[name] for finding in findings if name in finding.judged]
    return float(np.mean(answers)) if answers else None


def _synced(finding: Finding) -> float | None:
    if finding.scene.kind not in SYNCED:
        return None
    score = match(finding.reference_s, finding.found_s)
    return (score.found + score.justified) / max(score.events + score.onsets, 1)


MEASURES: dict[str, Callable[[Finding], float | None]] = {
    "sync": _synced,
    "adherence": lambda finding: float(np.mean([*finding.judged.values()])),
}
"""What a clip scores: the share of its times, seen and heard, that have a partner, 0 where nothing is seen or heard and
None where nothing has to be; and the share of its attributes that are right."""


def by_clip(findings: Iterable[Finding], measure: str) -> dict[int, float]:
    """The score of each clip that has one."""
    scores = {finding.clip: MEASURES[measure](finding) for finding in findings}
    return {clip: score for clip, score in scores.items() if score is not None}
