"""How well `ltx2 sync` distinguishes the audio that belongs to a clip of the toy world from the same audio at another
time.

    python scripts/toy/synchrony.py [--clips 100] [--row rendered|reconstructed|t2v]

Each clip is written to an MP4 file. Its audio is measured without change, and shifted by each of SHIFTS_MS. Only kinds
of scenes with events are used, because the others have nothing that could be too early or too late.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import count, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that it runs from anywhere

import numpy as np
import torch
from einops import rearrange

from ltx2_core.media.accept import check_input
from ltx2_core.media.clip import ClipShape, Encoding, Output
from ltx2_core.media.inputs import AudioSource, VideoSource
from ltx2_core.media.sync import Sync, measure_sync
from ltx2_core.media.waveform import Waveform
from ltx2_core.media.writer import write_audio, write_clip
from scripts.toy.codec import Codec
from scripts.toy.evaluate import CODEC, ROWS, Case, make
from scripts.toy.generate import Generator, toy_request
from scripts.toy.judge import SYNCED
from scripts.toy.world import FPS, NOISE_FLOOR, RATE_HZ

SHIFTS_MS = (-160, -80, 80, 160)
FRAME_S = 1 / FPS
BATCH = 10


@dataclass(frozen=True)
class Measured:
    """The results for a clip without change, and with its audio shifted by each of SHIFTS_MS."""

    matching: Sync
    shifted: tuple[Sync, ...]

    @property
    def told_apart(self) -> list[bool]:
        """For each shift, whether the matching audio agrees better with the video."""
        return [self.matching.agreement > other.agreement for other in self.shifted]

    @property
    def recovered(self) -> list[bool]:
        """For each shift, starting with 0, whether the measured lag is that shift to within a frame."""
        lags = zip((0, *SHIFTS_MS), (self.matching, *self.shifted), strict=True)
        return [abs(one.lag_s - shift_ms / 1000) <= FRAME_S + 1e-9 for shift_ms, one in lags]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--row", choices=("rendered", "reconstructed", "t2v"), default="rendered")
    options = parser.parse_args()
    found = [measured(*clip) for clip in islice(clips(options.row), options.clips)]
    report(options.row, found)


def report(row: str, found: Sequence[Measured]) -> None:
    """Print the shares."""

    def share(answers: Sequence[bool]) -> str:
        return f"{100 * np.mean(answers):.1f} %"

    clear = [one for one in found if one.matching.is_clear]
    lags = [answer for one in found for answer in one.recovered]
    clear_lags = [one.recovered[0] for one in clear]
    print(f"{row}, {len(found)} clips, shifts of {', '.join(map(str, SHIFTS_MS))} ms")
    print(f"  matching audio agrees better than every shifted one: {share([all(one.told_apart) for one in found])}")
    print(f"  pairs told apart: {share([answer for one in found for answer in one.told_apart])}")
    print(f"  lag within a frame, matching and shifted: {share(lags)}")
    print(f"  clear: {len(clear)} of {len(found)} matching ones, their lag within a frame: {share(clear_lags)}")


def clips(row: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames (F H W 3) uint8 and sounds (2 s) of scenes with events, as an endless sequence."""
    (kind,) = (one for one in ROWS if one.name == row)
    cases = (case for number in count() if (case := Case.of(number, kind.is_held_out)).clip.scene.kind in SYNCED)
    if row == "rendered":
        yield from ((case.clip.frames, case.clip.sound) for case in cases)
    codec, resolved = Codec.load(*CODEC), toy_request(output="unused.mp4")
    generator = Generator.of(resolved)
    while batch := [*islice(cases, BATCH)]:
        yield from zip(*make(kind, batch, codec, generator, resolved.request), strict=True)


def measured(frames: np.ndarray, sound: np.ndarray) -> Measured:
    """Write a clip with each of its sounds, and measure them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        count, height, width, _ = frames.shape
        shape = ClipShape(width=width, height=height, frames=count, fps=Fraction(FPS))
        pixels = rearrange(torch.from_numpy(frames), "F H W c -> F c H W") / 255
        write_clip(Output(path=path), shape, [pixels], Waveform(torch.from_numpy(sound), RATE_HZ), Encoding())
        video = check_input(path, VideoSource)
        assert video.audio is not None
        others = [_shifted(Path(folder), sound, shift_ms) for shift_ms in SHIFTS_MS]
        return Measured(measure_sync(video, video.audio), tuple(measure_sync(video, other) for other in others))


def _shifted(folder: Path, sound: np.ndarray, shift_ms: int) -> AudioSource:
    """The sound (2 s), delayed; the gap is filled with the noise floor of the world."""
    by = round(shift_ms / 1000 * RATE_HZ)
    moved = np.roll(sound, by, axis=1)
    hole = slice(0, by) if by > 0 else slice(by, None)
    moved[:, hole] = NOISE_FLOOR * np.random.default_rng(0).standard_normal(moved[:, hole].shape)
    path = folder / f"{shift_ms}.wav"
    write_audio(Output(path=path), Waveform(torch.from_numpy(moved), RATE_HZ))
    return check_input(path, AudioSource)


if __name__ == "__main__":
    main()
