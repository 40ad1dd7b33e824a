"""Samplers and noise levels by option, through the real command line on the tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from ltx2_cli.app import app
from ltx2_core.sampling.distilled import DISTILLED_SIGMAS
from ltx2_core.sampling.schedules import ltx2_schedule
from tests.commands import UNGUIDED

pytestmark = pytest.mark.usefixtures("kept_models")

RUN = CliRunner()


def latents(tiny: Path, folder: Path, *words: str) -> list[torch.Tensor]:
    """The video latents after each stage of a render."""
    target = folder / "a.mp4"
    size = ("--res", "128x128", "--frames", "9", "--seed", "7", "--keep-latents", "--overwrite", "-o", str(target))
    result = RUN.invoke(app, ["t2v", "a bell rings", "--model", str(tiny), *size, *words])
    assert result.exit_code == 0, result.stderr
    return [load_file(path)["video"] for path in sorted(folder.glob("a.mp4.job/latents-*.safetensors"))]


@pytest.mark.parametrize(
    ("preset", "steps", "levels"),
    [
        ("one-stage", ("--steps", "4"), (1.0, *ltx2_schedule(4)[1:].tolist())),
        ("distilled", (), DISTILLED_SIGMAS["distilled-8"]),
    ],
)
def test_noise_levels_by_option_take_the_place_of_the_presets_own(
    preset: str, steps: tuple[str, ...], levels: tuple[float, ...], tiny: Path, tmp_path: Path
) -> None:
    own = latents(tiny, tmp_path, "--preset", preset, *steps)
    listed = latents(tiny, tmp_path, "--preset", preset, "--sigmas", ",".join(map(repr, levels)))
    for one, other in zip(own, listed, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)  # a schedule begins at 0.99999994


@pytest.mark.parametrize("sampler", ["gradient", "ancestral", "res2s"])
def test_sampler_by_option_goes_another_way_and_the_same_one_again(sampler: str, tiny: Path, tmp_path: Path) -> None:
    words = ("--preset", "two-stage", "--steps", "3", *UNGUIDED)
    euler, _ = latents(tiny, tmp_path, *words)
    other, refined = latents(tiny, tmp_path, *words, "--sampler", sampler)
    again, refined_again = latents(tiny, tmp_path, *words, "--sampler", sampler)
    assert not other.allclose(euler, atol=1e-2)
    assert other.equal(again)
    assert refined.equal(refined_again)
