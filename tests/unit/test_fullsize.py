"""The model of full size that takes no room: it passes both looks, and its encoders divide by ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from ltx2_core.checkpoint import BUILDERS, build_component, load_component
from ltx2_core.headers import read_header
from ltx2_core.keymap import own_names
from ltx2_core.pipeline.resolve.resolve import resolve
from scripts.make_fullsize_checkpoint import CHECKPOINT, GEMMA, LORA, UPSAMPLERS, make_fullsize_checkpoint
from tests.places import A_FILE


@pytest.fixture(scope="module")
def fullsize(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fullsize")
    make_fullsize_checkpoint(folder)
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="files have no holes unless they are asked for")
def test_it_has_the_published_sizes_and_takes_no_room_on_the_disk(fullsize: Path) -> None:
    files = [path.stat() for path in fullsize.rglob("*") if path.is_file()]
    assert round((fullsize / CHECKPOINT).stat().st_size, -5) == 43_285_100_000
    assert round((fullsize / LORA).stat().st_size, -6) == 7_675_000_000
    assert round(sum(path.stat().st_size for path in (fullsize / GEMMA).glob("*.safetensors")) / 1e9, 1) == 24.4
    assert 512 * sum(status.st_blocks for status in files) < 5_000_000


@pytest.mark.parametrize("preset", ["one-stage", "two-stage"])
def test_its_headers_are_those_of_a_model(fullsize: Path, tmp_path: Path, preset: str) -> None:
    flags = {"model": str(fullsize), "preset": preset, "res": "768x512", "output": str(tmp_path / "x.mp4")}
    files = resolve("t2v", "x", [(A_FILE, flags)]).task.files
    assert files.paths["text_encoder"] == fullsize / GEMMA


@pytest.mark.parametrize("name", [name for name in BUILDERS if name not in ("upsampler", "duration_head")])
def test_its_tensors_are_those_of_the_modules(fullsize: Path, name: str) -> None:
    header = read_header(fullsize / CHECKPOINT)
    assert build_component(name, header).state_dict().keys() >= {*own_names(name, header).values()}


@pytest.mark.parametrize("name", UPSAMPLERS)
def test_its_upsamplers_have_the_tensors_of_the_modules(fullsize: Path, name: str) -> None:
    header = read_header(fullsize / name)
    assert build_component("upsampler", header).state_dict().keys() == {*own_names("upsampler", header).values()}


def test_latents_are_divided_by_ones(fullsize: Path) -> None:
    statistics = load_component("video_statistics", fullsize / CHECKPOINT)
    assert statistics.get_buffer("std-of-means").equal(torch.ones(128, dtype=torch.bfloat16))
    assert not statistics.get_buffer("mean-of-means").any()
