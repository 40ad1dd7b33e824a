"""`ltx2 doctor` tries a model through the ordinary engine, and its measurements of this machine affect later
renders.
"""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from ltx2_core.errors import NotFiniteError
from ltx2_core.pipeline.doctor import tune
from ltx2_core.pipeline.doctor.proof import sha256_of
from ltx2_core.pipeline.render import engine
from ltx2_core.types import Streams
from tests.commands import ltx2


def test_the_built_in_model_is_tried_and_told_in_one_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTX2_STEPS", "50")  # settings of a render do not affect the trial
    monkeypatch.setenv("LTX2_DEVICE", "cpu")
    monkeypatch.chdir(tmp_path)
    result = ltx2("doctor", "--try", "toy")
    assert result.exit_code == 0, result.stderr
    rows = dict(line.split(": ", 1) for line in result.stdout.splitlines() if ": " in line)
    assert rows["result"].startswith("it works: 2 steps, 256x192, 9 frames, seed 7; latents are finite")
    assert "transformer.safetensors (13 MB)" in rows["files"]
    assert re.fullmatch(r"sha256 [0-9a-f]{64}", rows["latents"])
    assert "denoising, stage 1 of 1 " in rows["seconds"]
    assert "GiB of the machine's" in rows["peak memory"]
    assert "/" not in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_there_ends_as_its_render_would() -> None:
    result = ltx2("doctor", "--try", "ltx-2")
    assert (result.exit_code, result.stdout) == (7, "")
    assert "not installed" in result.stderr


def test_a_model_that_fails_ends_with_the_code_of_its_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(engine.Engine, "decode_audio", fail)
    result = ltx2("doctor", "--try", "toy", "--json")
    assert result.exit_code == 5
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [told[-2]["event"], told[-2]["code"]] == ["error", 5]


def test_what_is_measured_here_is_obeyed_by_the_next_render(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tune, "lacking_compiler", lambda device: "there is none, and a minute is saved")
    shapes = (tune.Shape(name="all", width=64, height=64, frames=9),)
    monkeypatch.setattr(tune, "PLANS", {"cpu": tune.Plan(heads=1, text_rows=8, shapes=shapes)})
    monkeypatch.setattr(tune, "LEAST_GAIN", 1e-6)  # every choice that is not the default is made
    measured = ltx2("doctor", "--tune")
    assert measured.exit_code == 0, measured.stderr
    assert "batches_passes, up to 8 tokens  on (on: " in measured.stdout
    assert str(tmp_path / "home" / "machine.json") in measured.stdout
    words = (
        "t2v",
        "a lamp blinks",
        "--model",
        "toy",
        "--frames",
        "9",
        "--steps",
        "2",
        "--res",
        "64x64",
        "-o",
        tmp_path / "a.mp4",
    )
    result = ltx2(*words, "--seed", "1", "--json")
    assert result.exit_code == 0, result.stderr
    (plan,) = (one for one in map(json.loads, result.stdout.splitlines()) if one["event"] == "plan")
    chosen = plan["machine"]
    assert (chosen["precision"], chosen["batches_passes"], chosen["keeps_text"]) == ("bf16", True, False)
    assert any(note.startswith("machine.json: precision bf16, batches_passes True") for note in plan["notes"])
    assert '"batches_passes": true' in ltx2("inspect", tmp_path / "a.mp4", "--json").stdout.replace('\\"', '"')


def test_the_digest_of_latents_is_that_of_their_bytes_and_nan_has_none() -> None:
    video, audio = torch.arange(6.0).reshape(1, 2, 3), torch.ones(1, 4, dtype=torch.bfloat16)
    digest = sha256_of(Streams(video, audio))
    assert digest == sha256(video.numpy().tobytes() + audio.view(torch.uint8).numpy().tobytes()).hexdigest()
    assert sha256_of(Streams(video.mT, audio)) != digest
    with pytest.raises(NotFiniteError):
        sha256_of(Streams(video / 0, audio))
