"""Long clips of the toy model: is the audio in sync after a minute, and can the seams between windows be seen or heard?

    python scripts/toy/long.py [--until 60s] [--clips 6] [--presets one-stage distilled-lora] [--memory]

The script renders bouncing balls of held-out combinations and wordings with `--until`, like `ltx2`, and prints a table.
`--memory` renders a single window and a whole clip in separate processes and prints the peak memory of each.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that it runs from anywhere

import av
import numpy as np

import ltx2_core as core
from ltx2_core.pipeline.windows import windows_of
from scripts.toy import prompts, world
from scripts.toy.detect import END_S, TOLERANCE_S, Sync, hear, see
from scripts.toy.world import FPS, RATE_HZ, Kind, Scene

SEED = 6000
AROUND_S, WIDER_S = 0.7, 2.1  # on each side of a seam, to compare loudness: two slow bounces, and six
PIECE_S = 10  # length of the pieces in which attributes are checked


@dataclass(frozen=True)
class Long:
    """A long clip. frames: (F H W 3) uint8. sound: (2 s) float32. news: index of the first new frame of each window."""

    scene: Scene
    frames: np.ndarray
    sound: np.ndarray
    news: Sequence[int]

    @property
    def seams(self) -> Sequence[int]:
        return self.news[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--until", default="60s")
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--presets", nargs="+", default=["one-stage", "distilled-lora"])
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    if options.memory:
        for until in ("2s", options.until):
            print(f"{until}: at most {peak_bytes(until) / 1e6:.0f} MB of memory")
        return
    for preset in options.presets:
        clips = [*rendered(preset, options.until, options.clips)]
        print(f"{preset}, {len(clips)} clips of {len(clips[0].news)} windows")
        for line in lines(clips):
            print(f"- {line}", flush=True)


def rendered(preset: str, until: str, count: int) -> Iterator[Long]:
    """Clips as `ltx2 t2v --until` makes them."""
    for number in range(count):
        rng = np.random.default_rng((SEED, number))
        scene = world.draw(rng, [Kind.BALL], held_out=True)
        sentence = prompts.prompt(scene, rng, held_out=True, bare_share=0)
        with tempfile.TemporaryDirectory() as folder:
            flags = {"model": "toy", "until": until, "preset": preset, "seed": str(number), "audio_codec": "flac"}
            resolved = core.resolve("t2v", sentence, core.gather({**flags, "output": f"{folder}/a.mp4"}).layers)
            core.run(resolved)
            frames, sound = read(resolved.target)
        places = [window.place for window in windows_of(resolved.request)]
        yield Long(scene, frames, sound, [place.begin + place.carried + bool(place.number) for place in places])


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The frames (F H W 3) and the samples (2 s) of a clip."""
    with av.open(path) as file:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    with av.open(path) as file:
        to_float = av.AudioResampler(format="fltp", layout="stereo", rate=RATE_HZ)
        sound = [part.to_ndarray() for frame in file.decode(audio=0) for part in to_float.resample(frame)]
    return frames, np.concatenate(sound, axis=-1)


def lines(clips: Sequence[Long]) -> Iterator[str]:
    """The results as lines of text."""
    by_window = [sum(column, Sync()) for column in zip(*(syncs(clip) for clip in clips), strict=True)]
    later = sum(by_window[1:], Sync())
    first = by_window[0]
    thirds = [sum(part, Sync()) for part in np.array_split(np.array(by_window[1:], object), 3)]
    yield f"sync in window 1: {told(first)}; in windows 2 and later: {told(later)}"
    yield f"the later ones in thirds: {'; '.join(map(told, thirds))}"
    jumps = np.concatenate([jumps_at_seams(clip) for clip in clips])
    at_seams = f"mean {jumps.mean():.2f}, most {jumps.max():.2f}, {100 * np.mean(jumps > 1):.1f} % above 1"
    yield f"frame difference at seams, of the clip's 99th percentile: {at_seams}"
    for name, at in (("at seams", seam_times), ("half-way between them", other_times)):
        steps = np.concatenate([level_steps_db(clip, at(clip)) for clip in clips])
        spread = f"deviation {steps.std():.2f} dB, {100 * np.mean(np.abs(steps) <= 1):.0f} % within 1 dB"
        yield f"loudness {name} above that around: mean {steps.mean():+.2f} dB, {spread}"
    drift = [level_db(clip, -PIECE_S, None) - level_db(clip, 0, PIECE_S) for clip in clips]
    most = f"most {np.abs(drift).max():.2f} dB"
    yield f"loudness of the last {PIECE_S} s above the first: mean {np.mean(drift):+.2f} dB, {most}"
    for what in ("colour", "size", "side", "tempo"):
        shares = np.mean([[right(clip, what, start) for start in starts(clip)] for clip in clips], axis=0)
        yield f"{what} right in each {PIECE_S} s: {' '.join(f'{100 * share:.0f}' for share in shares)} %"
    moved = [backdrop_drift(clip) for clip in clips]
    both = f"mean {np.mean(moved):.1f} of 255, most {max(moved):.1f}"
    yield f"backdrop of the last {PIECE_S} s beside that of the first: {both}"


def told(sync: Sync) -> str:
    return f"{100 * sync.recall:.1f} / {100 * sync.precision:.1f} % of {sync.events} / {sync.onsets}"


def syncs(clip: Long) -> list[Sync]:
    """For each window, its bounces and thuds that have a partner anywhere; those near the ends of the clip do not
    count.
    """
    events, onsets = see(clip.frames).times_s, hear(clip.sound, Kind.BALL).onsets_s
    i = j = 0
    pairs: list[tuple[int, int]] = []
    while i < len(events) and j < len(onsets):
        if abs(events[i] - onsets[j]) <= TOLERANCE_S:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif events[i] < onsets[j]:
            i += 1
        else:
            j += 1
    seen, heard = ({pair[side] for pair in pairs} for side in (0, 1))
    end_s = (len(clip.frames) - 1) / FPS - END_S
    bounds = [END_S, *(new / FPS for new in clip.seams), end_s]

    def within(times_s: Sequence[float], window: int) -> set[int]:
        return {k for k, time_s in enumerate(times_s) if bounds[window] <= time_s < bounds[window + 1]}

    found = []
    for window in range(len(clip.news)):
        own_events, own_onsets = within(events, window), within(onsets, window)
        found.append(Sync(len(own_events & seen), len(own_events), len(own_onsets & heard), len(own_onsets)))
    return found


def jumps_at_seams(clip: Long) -> np.ndarray:
    """The difference between the frames on both sides of each seam, divided by the clip's 99th percentile of such
    differences.
    """
    differences = np.array([np.abs(a - b).mean() for a, b in pairs_of(clip.frames)])
    return differences[np.array(clip.seams) - 1] / np.quantile(differences, 0.99)


def pairs_of(frames: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    before = frames[0].astype(np.float32)
    for frame in frames[1:]:
        now = frame.astype(np.float32)
        yield before, now
        before = now


def seam_times(clip: Long) -> list[float]:
    return [new / FPS for new in clip.seams]


def other_times(clip: Long) -> list[float]:
    """Times half-way between seams, to measure the same where there is no seam."""
    return [(a + b) / 2 / FPS for a, b in pairwise(clip.seams)]


def level_steps_db(clip: Long, times_s: Sequence[float]) -> np.ndarray:
    """The loudness near each of the times minus the loudness in a wider range around it."""
    inside = [time_s for time_s in times_s if WIDER_S <= time_s <= clip.sound.shape[1] / RATE_HZ - WIDER_S]
    near, wide = ([level_db(clip, t - d, t + d) for t in inside] for d in (AROUND_S, WIDER_S))
    return np.array(near) - np.array(wide)


def level_db(clip: Long, start_s: float, end_s: float | None) -> float:
    """The mean power of a part; a start below 0 counts from the end."""
    part = clip.sound[:, int(start_s * RATE_HZ) : None if end_s is None else int(end_s * RATE_HZ)]
    return float(10 * np.log10(np.mean(part**2) + 1e-12))


def starts(clip: Long) -> list[int]:
    """The first frames of the pieces in which attributes are checked."""
    return [*range(0, len(clip.frames) - PIECE_S * FPS + 1, PIECE_S * FPS)]


def right(clip: Long, what: str, start: int) -> bool:
    """Whether an attribute of the ball is as requested in a piece of the clip."""
    return getattr(see(clip.frames[start : start + PIECE_S * FPS]), what) == getattr(clip.scene, what)


def backdrop_drift(clip: Long) -> float:
    """The mean difference between the median colours of each pixel at the beginning and at the end of the clip."""
    first, last = (
        np.median(part[::8], axis=0) for part in (clip.frames[: PIECE_S * FPS], clip.frames[-PIECE_S * FPS :])
    )
    return float(np.abs(first - last).mean())


def peak_bytes(until: str) -> int:
    """The peak memory of a process that renders a clip. Larger clips must come later, because the peak is that of all
    child processes so far.
    """
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "t2v",
            "a red ball bounces",
            "--model",
            "toy",
            "--until",
            until,
            "--preset",
            "distilled-lora",
            "--quiet",
        ]
        command = [sys.executable, "-m", "ltx2_cli", *words, "-o", f"{folder}/a.mp4"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


if __name__ == "__main__":
    main()
