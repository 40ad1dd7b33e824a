"""Streamed weights give the bits of resident ones: two guided stages with LoRAs, through the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from ltx2_core.pipeline.job import Job
from scripts.make_tiny_checkpoint import make_tiny_checkpoint
from scripts.quantise import PRECISIONS
from tests.commands import rendered

STYLE = "ltx-2-tiny-lora-style.safetensors"


def latents(model: Path, target: Path, *words: object) -> dict[str, object]:
    few = target.with_suffix(".yaml")
    few.write_text("steps: 2\npreset: two-stage\n")
    size = ("--res", "128x128", "--frames", 9, "--seed", 7, "--config", few, "--keep-latents", "-o", target)
    rendered("t2v", "a bell rings", "--model", model, *size, "--lora", f"{model / STYLE}:0.7", *words)
    job = Path(f"{target}.job")
    return {f"{file.name} {name}": x for file in job.glob("*.safetensors") for name, x in load_file(file).items()}


@pytest.mark.parametrize("number", ["fp32", "bf16"])
@pytest.mark.parametrize("weights", ["bf16", *PRECISIONS])
def test_streamed_weights_give_the_bits_of_resident_ones(weights: str, number: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    make_tiny_checkpoint(model, **({} if weights == "bf16" else {"precision": weights}))
    modes = ("resident", "streamed", "lean")
    found = {mode: latents(model, tmp_path / f"{mode}.mp4", "--memory", mode, "--precision", number) for mode in modes}
    assert len(found["resident"]) > 2
    for mode in modes[1:]:
        assert found[mode].keys() == found["resident"].keys()
        assert all(x.equal(found[mode][name]) for name, x in found["resident"].items())


def test_memory_mode_is_shown_and_stored(tiny: Path, tmp_path: Path) -> None:
    latents(tiny, tmp_path / "a.mp4", "--memory", "lean")
    assert Job.open(tmp_path / "a.mp4").task.machine.memory == "lean"
