"""The examples of the documentation run as documented, on the tiny model and small clips."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import ltx2_core as core
from tests.synthetic_media import write_sound, write_video

pytestmark = pytest.mark.usefixtures("kept_models")

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", (DOCS / "python.md").read_text(), re.DOTALL | re.MULTILINE)
SMALL = {"LTX2_RES": "128x96", "LTX2_FRAMES": "9", "LTX2_STEPS": "2"}
MOST_LINES = 5


def test_every_example_runs_in_its_order(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in SMALL.items():
        monkeypatch.setenv(name, value)
    Path("FOLDER").mkdir()
    Path("FOLDER", "ltx-2-19b-dev.safetensors").symlink_to(tiny / "ltx-2-tiny-dev.safetensors")
    Path("FOLDER", "gemma").symlink_to(tiny / "gemma")
    Image.linear_gradient("L").resize((64, 48)).save("PICTURE.png")
    write_video(Path("CLIP.mp4"))
    write_sound(Path("SONG.wav"))
    for example in EXAMPLES:
        known = {"core": core, "Path": Path, "contextlib": contextlib, "torch": torch, "load_file": load_file}
        exec(compile(example, "docs/python.md", "exec"), known)
    made = {path.name for path in tmp_path.glob("*.mp4")} | {path.name for path in tmp_path.glob("*.wav")}
    assert made >= {"waves.wav", "dubbed.mp4", "bell.mp4", "kept.mp4", "again.mp4"}


def test_every_example_is_short() -> None:
    assert len(EXAMPLES) > 8
    assert [example for example in EXAMPLES if len(example.splitlines()) > MOST_LINES] == []
