"""The comparison with the official code: with recorded runs, and with the package if it can be imported."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import pytest

from ltx2_core.pipeline.render.run import run
from ltx2_core.pipeline.resolve.resolve import resolve
from ltx2_core.pipeline.resolve.settings import COMMAND_LINE
from scripts import compare_official
from scripts.compare_official import OFFICIAL, compare_recorded, compare_rendered, official_command
from tests import tolerances

RECORDED = Path(__file__).parents[1] / "golden" / "e2e" / "2.0"
RECORDED_STAGES = {"t2v": ["stage 1", "shipped"], "hq": ["stage 1", "stage 2", "shipped"]}


def settings(tiny: Path, **given: Any) -> dict[str, Any]:
    return {"model": str(tiny), "preset": "one-stage", "res": "64x96", "frames": "9", "steps": "2", "seed": "7"} | given


@pytest.fixture
def resolved(tiny: Path, tmp_path: Path) -> Any:
    """A request for a preset, with its input files."""

    def of(preset: str) -> Any:
        given = settings(tiny, preset=preset, res="128x128", steps=None, output=str(tmp_path / "ours.mp4"))
        return resolve("t2v", "a bell", [(COMMAND_LINE, given)])

    return of


@pytest.mark.parametrize("case", RECORDED_STAGES)
def test_every_stage_is_that_of_the_recorded_run(case: str):
    [(title, rows)] = compare_recorded(RECORDED, [case])
    assert title == case
    assert [row.what for row in rows] == RECORDED_STAGES[case]
    for row in rows:
        assert row.psnr is None or row.psnr > tolerances.RECORDED_PSNR_DB
        assert row.ssim is None or row.ssim > 1 - tolerances.RECORDED_SSIM
        assert row.waveform is not None
        assert row.waveform < tolerances.RECORDED_SOUND
        latents = [one for one in (row.video_latent, row.audio_latent) if one is not None]
        assert len(latents) == (0 if row.what == "shipped" else 2)
        assert all(one < tolerances.RECORDED_LATENTS for one in latents)
    assert rows[-1].psnr is not None


def test_tables_are_printed(capsys: pytest.CaptureFixture[str]):
    assert compare_official.main(["recorded", str(RECORDED), "t2v"]) == 0
    title, _, header, _, stage, shipped, *_ = capsys.readouterr().out.splitlines()
    assert title == "## t2v"
    assert header.split()[1::2] == ["what", "psnr", "ssim", "waveform", "video_latent", "audio_latent"]
    assert shipped.split("|")[-3:-1] == [" –            ", " –            "]
    assert "–" not in stage


def test_two_renders_of_one_request_leave_files_without_a_difference(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Our command replaces the official one, so everything except its names is tested."""

    def stand_in(command: list[str], check: bool) -> None:
        target = command[command.index("--output-path") + 1]
        run(resolve("t2v", "a bell", [(COMMAND_LINE, settings(tiny, output=target))]))

    monkeypatch.setattr(compare_official.subprocess, "run", stand_in)
    [(title, [row])] = compare_rendered("a bell", settings(tiny), tmp_path)
    assert (title, row.what, row.psnr, row.waveform) == ("one-stage", "file", math.inf, 0.0)
    assert row.ssim == pytest.approx(1)


@pytest.mark.parametrize("preset", OFFICIAL)
def test_the_official_command_gets_the_files_that_the_recipe_needs(preset: str, resolved: Any):
    request, files = resolved(preset).request, resolved(preset).task.files
    command = official_command(request, files, Path("out.mp4"))
    assert command[1:3] == ["-m", OFFICIAL[preset]]
    needed = {str(files.paths[role]) for role in ("checkpoint", "text_encoder", *request.recipe.needs)}
    assert needed <= set(command)
    assert not set(command) & ({str(path) for path in files.paths.values()} - needed)
    assert ("--negative-prompt" in command) == request.recipe.is_guided


def test_rendering_needs_the_official_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(compare_official, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as caught:
        compare_official.main(["render", "a bell", "--model", "tiny", "--preset", "one-stage"])
    assert caught.value.code == 2
    assert "is not installed" in capsys.readouterr().err


def test_the_official_package_renders_the_same_clip(tiny: Path, tmp_path: Path):
    module = OFFICIAL["one-stage"]
    try:
        importlib.import_module(module)
    except Exception as error:
        pytest.skip(f"{module} cannot be imported here: {error} (its torchaudio needs a CUDA build of torch)")
    [(_, [row])] = compare_rendered("a bell", settings(tiny), tmp_path)
    assert row.psnr is not None
    assert row.psnr > tolerances.OFFICIAL_FILE_PSNR_DB
