"""Compare schedules and grids: noise levels of a run, numbers of tokens and frames."""

from __future__ import annotations

from fractions import Fraction

import torch

from ltx2_core.grids import Factors, VideoGrid, audio_latent_count, evenly_spaced, frames_lasting, snap_down
from ltx2_core.sampling.distilled import DISTILLED_SIGMAS
from ltx2_core.sampling.schedules import ltx2_schedule

from ..report import GoldenFile
from .cases import CaseTable, Parameters, exact

FACTORS = Factors(8, 32, 32)
DISTILLED_CASES = {
    "distilled_stage_1": "distilled-8",
    "distilled_stage_2": "distilled-3",
    "distilled_dfr_temporal": "temporal-4",
}


def schedule(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    options = {name: parameters[name] for name in ("max_shift", "base_shift", "terminal") if name in parameters}
    if parameters.get("stretch") is False:
        options["terminal"] = None
    tokens = parameters.get("tokens", parameters.get("default_number_of_tokens", 4096))
    exact(golden, f"{case}/sigmas", ltx2_schedule(parameters["steps"], tokens, **options))


def distilled(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    exact(golden, f"{case}/sigmas", torch.tensor(DISTILLED_SIGMAS[DISTILLED_CASES[case]]))


def token_counts(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    rows = []
    for frames, fps, *_ in golden[f"{case}/table"].tolist():
        grid = VideoGrid(frames=int(frames), height=32, width=32, factors=FACTORS)
        rows.append([frames, fps, grid.latent[0], audio_latent_count(int(frames), Fraction(fps))])
    exact(golden, f"{case}/table", torch.tensor(rows, dtype=torch.float64))


def snapped(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    ours = [snap_down(frames) for frames in golden[f"{case}/n"].tolist()]
    exact(golden, f"{case}/out", torch.tensor(ours))


def lasting(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    rows = [[*given, frames_lasting(*given)] for *given, _ in golden[f"{case}/table"].tolist()]
    exact(golden, f"{case}/table", torch.tensor(rows, dtype=torch.float64))


def spaced(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    exact(golden, f"{case}/out", torch.tensor(evenly_spaced(parameters["num_keyframes"], parameters["num_frames"])))


SCHEDULES = CaseTable(checks={"ltx2_*": schedule, "distilled_*": distilled})
GRIDS = CaseTable(
    inputs=("snap_down/n",),
    checks={"token_counts": token_counts, "snap_down": snapped, "auto_duration": lasting, "evenly_spaced_*": spaced},
)
