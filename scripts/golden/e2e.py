"""Whole runs. There is no pipeline yet, so nothing is run and every expected tensor is listed."""

from __future__ import annotations

from pathlib import Path

from scripts.golden.report import GoldenFile, Report

INPUTS = ("stage*.noise", "stage*.sde_noise.*", "clip*.pixels*", "sound*.wave_i16", "frames_index")


def run(folder: Path, where: str, report: Report) -> None:
    """Account for every file of one generation; a file is a case, in float32 or in bfloat16."""
    for path in sorted(folder.glob("*.safetensors")):
        case = path.name.removesuffix(".safetensors")
        GoldenFile(path, where, report, INPUTS).close(lambda name, case=case: case)
