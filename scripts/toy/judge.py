"""Compare the findings in clips with the attributes in the prompt and with the given stream."""

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
    """The findings of the detectors in one clip of a row of the evaluation.

    Args: times_s: times of the events in the requested scene. given: the streams that were not generated. numbers:
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
        """Whether each attribute of the generated streams is as in the prompt."""
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
        """The times of visible events; empty if another kind of scene is seen."""
        return self.seen.times_s if self.seen.kind == self.scene.kind else ()

    @property
    def reference_s(self) -> Sequence[float]:
        """The times with which sync is measured: the given events, or the visible events if both streams are
        generated.
        """
        return self.times_s if self.given in ("picture", "sound") else self.seen_s

    @property
    def found_s(self) -> Sequence[float]:
        """The times that are compared with `reference_s`."""
        return self.seen_s if self.given == "sound" else self.heard.onsets_s


def total(scores: Iterable[Sync]) -> Sync:
    return sum(scores, Sync())


def sync(findings: Iterable[Finding], kinds: Sequence[Kind] = SYNCED) -> Sync:
    """How well video and audio of scenes of some kinds are synchronised."""
    return total(match(f.reference_s, f.found_s) for f in findings if f.scene.kind in kinds)


def shuffled(findings: Sequence[Finding]) -> list[Finding]:
    """The findings of every clip, with the generated stream replaced by that of the next clip of its kind."""
    mixed: list[Finding] = []
    for kind in Kind:
        own = [finding for finding in findings if finding.scene.kind == kind]
        for one, other in zip(own, own[1:] + own[:1], strict=True):
            found = {"seen": other.seen} if one.given == "sound" else {"heard": other.heard}
            mixed.append(replace(one, **found))
    return mixed


def share(findings: Iterable[Finding], name: str) -> float | None:
    """The share of the clips for which one attribute is right; None if no clip has that attribute."""
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
"""Scores of a clip: the share of its events, seen and heard, with a partner (0 if nothing is seen or heard, None if
its kind has no events), and the share of its attributes that are right."""


def by_clip(findings: Iterable[Finding], measure: str) -> dict[int, float]:
    """The score of each clip that has one."""
    scores = {finding.clip: MEASURES[measure](finding) for finding in findings}
    return {clip: score for clip, score in scores.items() if score is not None}
