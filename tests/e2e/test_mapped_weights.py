"""Weights that keep their dtype are views of a file that is mapped read-only: a render that writes into one crashes."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from ltx2_core.headers import read_header
from tests.commands import ltx2
from tests.synthetic_media import write_sound


def widened(tiny: Path, folder: Path) -> Path:
    """The tiny model in float32, the compute dtype of a CPU, so that no weight is converted when it is loaded."""
    for path in tiny.rglob("*.*"):
        target = folder / path.relative_to(tiny)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            weights = {name: tensor.float() for name, tensor in load_file(path).items()}
            save_file(weights, target, dict(read_header(path).metadata))
        else:
            shutil.copy(path, target)
    return folder


def test_no_render_writes_into_the_weights_that_it_reads(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "still.png")
    write_sound(tmp_path / "tone.wav")
    model = widened(tiny, tmp_path / "model")
    loras = ["--lora", str(model / "ltx-2-tiny-lora-style.safetensors"), "--preset", "two-stage", "--res", "128x128"]
    common = ["a bell rings", "--model", str(model), "--precision", "fp32", "--frames", "9", "--steps", "2"]
    commands = [
        ["i2v", "still.png", *common, *loras, "-o", "image.mp4"],
        ["a2v", "tone.wav", *common, "--preset", "one-stage", "--res", "64x64", "-o", "sound.mp4"],
    ]
    monkeypatch.chdir(tmp_path)
    for words in commands:
        with warnings.catch_warnings(action="ignore"):  # the warning is about threads in the parent: they only wait
            child = os.fork()
        if child == 0:
            code = 1
            try:
                code = ltx2(*words).exit_code
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, words
        assert Path(words[-1]).is_file()
