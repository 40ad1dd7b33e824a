"""From nothing to a clip: a user's own model, downloaded from a server that behaves like the Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ltx2_core.hub.find import PACKAGE
from ltx2_core.hub.library import models_home
from ltx2_core.hub.registry import registered_models
from tests.commands import ltx2, rendered
from tests.fake_hub import FakeHub, Fault, use

TOY = PACKAGE / "toy"
ENCODER = {path.name: path.read_bytes() for path in (TOY / "text_encoder").iterdir()}
WEIGHTS = {path.name: path.read_bytes() for path in TOY.glob("*.safetensors")}
RENDER = ("t2v", "a lamp blinks", "--res", "128x96", "--frames", "9", "--steps", "2", "--seed", "5", "--no-metadata")
AGREED = ("--yes", "--accept-licence", "ltx-2-community")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with FakeHub(
        {"me/small": {f"parts/{name}": content for name, content in WEIGHTS.items()}, "me/words": ENCODER}
    ) as hub:
        use(hub, monkeypatch, tmp_path / "hub")
        yield hub


@pytest.fixture
def small(hub: FakeHub) -> str:
    """The name of a model whose files are those of the toy, but only on the server."""
    toy = registered_models()["toy"]
    weights = {role: f"me/small/parts/{file}" for role, file in toy.files.items() if role != "text_encoder"}
    entry = {
        "summary": "the toy from afar",
        "generation": toy.generation,
        "files": {**weights, "text_encoder": "me/words"},
        "tiers": [],
        "defaults": json.loads(json.dumps(toy.defaults)),
        "repositories": {"me/small": {"licence": "ltx-2-community"}},
    }
    models_home().mkdir(parents=True)
    (models_home() / "small.yaml").write_text(yaml.safe_dump(entry))
    return "small"


def test_a_model_of_ones_own_is_fetched_and_makes_the_clip_of_the_toy(small: str, hub: FakeHub) -> None:
    before = ltx2(*RENDER, "--model", small, "-o", "before.mp4")
    assert before.exit_code == 7
    assert "hint: ltx2 download small" in before.stderr
    assert hub.seen == []

    fetched = ltx2("download", small, *AGREED)
    assert fetched.exit_code == 0, fetched.stderr
    assert len(fetched.stdout.splitlines()) == 6
    requests = len(hub.seen)

    clip = rendered(*RENDER, "--model", small, "-o", "small.mp4")
    assert clip.read_bytes() == rendered(*RENDER, "--model", "toy", "-o", "toy.mp4").read_bytes()
    assert len(hub.seen) == requests
    assert "small  the toy from afar; 32 MB, verified" in ltx2("models").stdout
    assert ltx2("models", "rm", small, "--yes").exit_code == 0
    assert ltx2(*RENDER, "--model", small, "-o", "after.mp4").exit_code == 7


def test_a_second_download_opens_no_connection(small: str, hub: FakeHub) -> None:
    words = ("download", small, "--only", "upsampler,audio_vae")
    assert ltx2(*words, *AGREED).exit_code == 0
    requests = len(hub.seen)
    assert ltx2(*words).exit_code == 0
    assert len(hub.seen) == requests


def test_a_gated_repository_is_told_before_the_first_byte(small: str, hub: FakeHub) -> None:
    hub.gated.add("me/words")
    refused = ltx2("download", small, *AGREED)
    assert refused.exit_code == 6
    for words in ("me/words is gated", f"{hub.endpoint}/me/words", "hf auth login"):
        assert words in refused.stderr
    assert hub.asked("storage") == []


def test_what_is_interrupted_goes_on_where_it_was(small: str, hub: FakeHub) -> None:
    whole = len(WEIGHTS["upsampler.safetensors"])
    hub.at_storage = [Fault(cut_after=whole // 2)]
    hub.always_at_storage = Fault(status=503)
    words = ("download", small, "--only", "upsampler", *AGREED)
    assert ltx2(*words).exit_code == 7
    hub.always_at_storage = Fault()
    assert ltx2(*words).exit_code == 0
    assert sum(request.sent for request in hub.asked("storage")) == whole


def test_of_two_downloads_at_once_one_fetches_and_the_other_waits(small: str, hub: FakeHub, tmp_path: Path) -> None:
    hub.bytes_per_s = 1_500_000
    command = (sys.executable, "-m", "ltx2_cli", "download", small, "--only", "upsampler", *AGREED)
    environment = {**os.environ, **hub.environment(tmp_path / "hub")}
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert told[0] == told[1]
    assert sum(request.sent for request in hub.asked("storage")) == len(WEIGHTS["upsampler.safetensors"])
