"""How well a clip loops: its last frame compared with its first, and the audio at its end with that at its start.

Source: docs/loops.md, "How it is measured".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from .inputs import VideoSource
from .pieces import audio_pieces
from .shown import shown_frames

WINDOW, HOP = 512, 128  # samples per spectrum, and between spectra
HIGHEST_SIDE = 256  # size of the compared frames; averages compression noise


@dataclass(frozen=True, slots=True)
class Seam:
    """A seam compared with the rest of the clip.

    Args: step: mean difference of luma between the first frame and the last. steps: the same between all successive
    frames. flux: the maximum growth of the spectrum in a window that reaches over the seam; None without audio. fluxes:
    the same everywhere in the clip.
    """

    step: float
    steps: NDArray
    flux: float | None
    fluxes: NDArray

    @property
    def ratio(self) -> float:
        """The step over the seam as a multiple of the clip's median step."""
        return self.step / max(float(np.median(self.steps)), 1e-9)

    @property
    def is_smooth(self) -> bool:
        """Whether nothing at the seam stands out: the clip has steps and growths of the spectrum as large as those at
        the seam.
        """
        sounds = self.flux is None or self.flux <= np.percentile(self.fluxes, 99)
        return self.step <= self.steps.max() and bool(sounds)

    @property
    def verdict(self) -> str:
        """The result as one line of text."""
        words = f"the step from the last frame to the first is {self.ratio:.2f} times a usual one"
        if self.flux is not None:
            softer = 100 * float(np.mean(self.fluxes < self.flux))
            words += f"; {softer:.0f} % of the clip sounds less abrupt than the seam"
        return words


def measure_seam(video: VideoSource) -> Seam:
    """Compare the two ends of a clip. Raises: MediaError if the file is damaged."""
    scaler, first, before = VideoReformatter(), None, None
    steps: list[float] = []
    scale = min(1.0, HIGHEST_SIDE / max(video.width, video.height))
    size = max(1, round(video.width * scale)), max(1, round(video.height * scale))
    for frame, _ in shown_frames(video, None):
        luma = scaler.reformat(frame, *size, "gray", interpolation="AREA").to_ndarray().astype(np.int16)
        if before is None:
            first = luma
        else:
            steps.append(float(np.abs(luma - before).mean()))
        before = luma
    assert first is not None
    assert before is not None
    step = float(np.abs(first - before).mean())
    fluxes = np.zeros(0) if video.audio is None else ring_flux(_samples(video))
    over = fluxes[-(WINDOW // HOP) :]
    return Seam(step, np.array(steps or [0.0]), float(over.max()) if len(over) else None, fluxes)


def ring_flux(samples: NDArray) -> NDArray:
    """The growth of the spectrum of samples (c s) from each window to the next, cyclically: those over the seam last.

    Returns: (n) float; none for less than two windows.
    """
    mono = samples.mean(0)
    count = -(-len(mono) // HOP)  # windows that begin in the clip
    if len(mono) < 2 * WINDOW:
        return np.zeros(0)
    around = np.concatenate([mono, mono[: WINDOW + HOP]])
    windows = np.lib.stride_tricks.sliding_window_view(around, WINDOW)[: count * HOP + 1 : HOP] * np.hanning(WINDOW)
    spectra = np.abs(np.fft.rfft(windows))
    return np.clip(np.diff(spectra, axis=0), 0, None).sum(1)


def _samples(video: VideoSource) -> NDArray:
    assert video.audio is not None
    return np.concatenate([piece.samples for piece in audio_pieces(video.audio, end_s=video.duration_s)], axis=1)
