"""The system memory of renders: there is no second copy of weights, and it does not grow from render to render."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ltx2_core import keymap
from ltx2_core.components import DIT
from ltx2_core.config.transformer import TransformerConfig
from ltx2_core.pipeline.doctor.sample import random_transformer, scaled_settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]
MIB = 2**20
RENDERS, FIRST = 30, 10  # the first renders fill caches
MEASURE = """
import sys
from pathlib import Path

def measured(name):
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.partition(f"{name}:")[2].split()[0])
"""
RENDER_OFTEN = f"""{MEASURE}
import gc
import ltx2_core as core

for number in range(int(sys.argv[1])):
    words = {{"model": "toy", "steps": "2", "frames": "9", "output": f"{{number}}.mp4", "device": "cpu"}}
    core.run(core.resolve("t2v", f"a red ball rolls {{number}}", core.gather(words).layers))
    gc.collect()
    print(measured("VmRSS"))
"""
STREAM = f"""{MEASURE}
import torch
from ltx2_core.checkpoint import assign_streamed, build_component
from ltx2_core.headers import read_header
from scripts.benchmarks.subjects import Ours, make_inputs

header, device = read_header(Path(sys.argv[1])), torch.device("cpu")
model = build_component("transformer", header)
assign_streamed(model, "transformer", [header], device=device, dtype=torch.bfloat16, resident=0)
before = measured("RssAnon"), measured("RssFile")
with torch.inference_mode():
    Ours(model).forward(make_inputs(model.config, (128, 128, 9), torch.bfloat16, device))()
print(measured("RssAnon") - before[0])
print(measured("RssFile") - before[1])
"""


def numbers_of(code: str, *words: str, folder: Path) -> list[int]:
    """The numbers that a program prints, one per line."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env={"PYTHONPATH": str(root), "LTX2_HOME": str(folder / "home"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.split()]


def test_renders_in_one_process_leave_no_memory_behind(tmp_path: Path) -> None:
    resident = numbers_of(RENDER_OFTEN, str(RENDERS), folder=tmp_path)
    assert len(resident) == RENDERS
    later = resident[FIRST:]
    slope, _ = np.polyfit(range(len(later)), later, 1)
    assert slope <= MIB, f"{resident[0] / MIB:.0f} MiB after the first, {resident[-1] / MIB:.0f} after the last"


def test_a_streamed_model_of_300_million_parameters_is_not_held_twice(tmp_path: Path) -> None:
    settings = scaled_settings(5, 12)
    model = random_transformer(TransformerConfig.from_metadata(settings), torch.bfloat16, torch.device("cpu"))
    tensors = {DIT + keymap.to_official(name, keymap.TRANSFORMER): one for name, one in model.state_dict().items()}
    file = tmp_path / "model.safetensors"
    save_file(tensors, file, {"config": json.dumps(settings)})
    parameters = sum(one.numel() for one in tensors.values())
    assert 250e6 < parameters < 400e6
    anonymous, mapped = numbers_of(STREAM, str(file), folder=tmp_path)
    size = file.stat().st_size
    assert mapped <= 1.15 * size, f"{mapped / MIB:.0f} of {size / MIB:.0f} MiB"
    assert anonymous <= 0.5 * size, f"{anonymous / MIB:.0f} beside {size / MIB:.0f} MiB"
