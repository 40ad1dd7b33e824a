"""Streamed weights give the same bits as resident ones, in two guided stages with LoRAs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ltx2_core.pipeline.events import Watch
from ltx2_core.pipeline.job import Job
from ltx2_core.pipeline.render.engine import Engine
from ltx2_core.pipeline.render.models import Models
from ltx2_core.pipeline.render.run import identities
from ltx2_core.pipeline.resolve.resolve import resolve
from ltx2_core.pipeline.resolve.settings import COMMAND_LINE
from tests.commands import rendered

GUIDED: dict[str, str] = {}  # the defaults of the model: four passes
UNGUIDED = {
    f"{stream}_{name}": value
    for stream in ("video", "audio")
    for name, value in (("st", "1"), ("sm", "1"), ("stg", "0"))
}
STYLE = "ltx-2-tiny-lora-style.safetensors"


def latents(model: Path, target: Path, **flags: str) -> dict[str, torch.Tensor]:
    """The latents of both stages. They are not decoded, because the memory mode does not affect decoding."""
    given = {"model": str(model), "output": str(target), "preset": "two-stage", "lora": f"{model / STYLE}:0.7"}
    size = {"res": "128x128", "frames": 9, "seed": 7, "steps": 2}
    resolved = resolve("t2v", "a bell rings", [(COMMAND_LINE, given | size | flags)])
    task = resolved.task
    job = Job.create(resolved.job_dir, task, identities(task))
    with torch.inference_mode():
        Engine(job, Models(task.files, task.machine), Watch()).denoise(torch.Generator().manual_seed(7))
    files = sorted(resolved.job_dir.glob("*.safetensors"))
    return {f"{file.name} {name}": x for file in files for name, x in load_file(file).items()}


# "mixed" has layers in all other formats of safetensors files
@pytest.mark.parametrize(
    ("weights", "number"),
    [("bf16", "fp32"), pytest.param("bf16", "bf16", marks=pytest.mark.slow), ("mixed", "bf16"), ("gguf-q4_k", "fp32")],
)
def test_streamed_weights_give_the_bits_of_resident_ones(
    weights: str, number: str, tiny_in: Callable[[str], Path], tmp_path: Path
) -> None:
    model = tiny_in(weights)
    modes = ("resident", "streamed", "lean")
    given = {"precision": number} | (GUIDED if (weights, number) == ("bf16", "fp32") else UNGUIDED)
    found = {mode: latents(model, tmp_path / f"{mode}.mp4", memory=mode, **given) for mode in modes}
    assert len({name.partition(" ")[0] for name in found["resident"]}) == 2  # one file per stage
    for mode in modes[1:]:
        assert found[mode].keys() == found["resident"].keys()
        assert all(x.equal(found[mode][name]) for name, x in found["resident"].items())


def test_memory_mode_is_stored(tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    words = ("--preset", "smoke", "--memory", "lean", "--keep-latents", "-o", target)
    rendered("t2v", "a bell rings", "--model", tiny, *words)
    assert Job.open(target).task.machine.memory == "lean"
