"""Weights that keep their dtype are views of a file that is mapped read-only: a render that writes into one dies."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from safetensors.torch import load_file, save_file

from ltx2_core.headers import read_header
from tests.synthetic_media import write_sound

ROOT = Path(__file__).parents[2]
RENDER_ALL = """
import json, sys
import torch
from typer.testing import CliRunner
from ltx2_cli.app import app

torch.set_num_threads(1)
for words in json.load(sys.stdin):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, (words, result.stderr)
    print("rendered", words[0], flush=True)
"""


def widened(tiny: Path, folder: Path) -> Path:
    """The tiny model in float32, in which a CPU computes, so that no weight is converted when it is loaded."""
    for path in tiny.rglob("*.*"):
        target = folder / path.relative_to(tiny)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            weights = {name: tensor.float() for name, tensor in load_file(path).items()}
            save_file(weights, target, dict(read_header(path).metadata))
        else:
            shutil.copy(path, target)
    return folder


def test_no_render_writes_into_the_weights_that_it_reads(tiny: Path, tmp_path: Path) -> None:
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "still.png")
    write_sound(tmp_path / "tone.wav")
    model = widened(tiny, tmp_path / "model")
    loras = ["--lora", str(model / "ltx-2-tiny-lora-style.safetensors"), "--preset", "two-stage", "--res", "128x128"]
    common = ["a bell rings", "--model", str(model), "--precision", "fp32", "--frames", "9", "--steps", "2"]
    commands = [
        ["i2v", "still.png", *common, *loras, "-o", "image.mp4"],
        ["a2v", "tone.wav", *common, "--preset", "one-stage", "--res", "64x64", "-o", "sound.mp4"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", RENDER_ALL],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "LTX2_HOME": str(tmp_path / "home"), "LTX2_TEXT_ROWS": "128"},
    )
    assert done.stdout.split() == ["rendered", "i2v", "rendered", "a2v"], done.stderr
    assert done.returncode == 0
