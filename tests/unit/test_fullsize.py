"""The sparse model of full size: it passes both checks of files, and its encoders divide by ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from ltx2_core.checkpoint import BUILDERS, build_component, load_component
from ltx2_core.headers import read_header
from ltx2_core.keymap import own_names
from ltx2_core.pipeline.resolve.resolve import resolve
from scripts.make_fullsize_checkpoint import make_fullsize_model
from tests.places import A_FILE

Paths = dict[str, Path]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A model in one file, with its Gemma folder."""
    return make_fullsize_model(tmp_path_factory.mktemp("whole"), "ltx-2")


@pytest.fixture(scope="module")
def in_parts(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A model with one file per part, of which the largest is quantised."""
    return make_fullsize_model(tmp_path_factory.mktemp("parts"), "ltx-2.5-int8")


@pytest.mark.skipif(sys.platform == "win32", reason="files have no holes unless they are asked for")
def test_it_has_the_published_sizes_and_takes_no_room_on_the_disk(whole: Paths, in_parts: Paths) -> None:
    shards = [*whole["text_encoder"].glob("*.safetensors")]
    assert round(whole["checkpoint"].stat().st_size, -5) == 43_285_100_000
    assert round(whole["distilled_lora"].stat().st_size, -6) == 7_675_000_000
    assert round(sum(path.stat().st_size for path in shards) / 1e9, 1) == 24.4
    assert round(in_parts["transformer"].stat().st_size, -5) == 21_504_000_000
    assert round(in_parts["text_encoder"].stat().st_size, -5) == 15_373_000_000
    files = [path.stat() for path in (*shards, whole["checkpoint"], in_parts["transformer"], in_parts["video_vae"])]
    assert 512 * sum(status.st_blocks for status in files) < 5_000_000


@pytest.mark.parametrize("preset", ["one-stage", "two-stage"])
@pytest.mark.parametrize("layout", ["whole", "in_parts"])
def test_its_headers_are_those_of_a_model(
    request: pytest.FixtureRequest, tmp_path: Path, preset: str, layout: str
) -> None:
    paths: Paths = request.getfixturevalue(layout)
    flags = {"model": str(paths["video_vae" if layout == "in_parts" else "checkpoint"].parent), "preset": preset}
    more = {"res": "768x512", "output": str(tmp_path / "x.mp4"), "force": True}
    files = resolve("t2v", "x", [(A_FILE, flags | more)]).task.files
    assert files.paths["text_encoder"] == paths["text_encoder"]


@pytest.mark.parametrize("name", [name for name in BUILDERS if name not in ("upsampler", "duration_head")])
def test_its_tensors_are_those_of_the_modules(whole: Paths, name: str) -> None:
    header = read_header(whole["checkpoint"])
    assert build_component(name, header).state_dict().keys() >= {*own_names(name, header).values()}


@pytest.mark.parametrize("name", ["upsampler", "temporal_upsampler"])
def test_its_upsamplers_have_the_tensors_of_the_modules(whole: Paths, name: str) -> None:
    header = read_header(whole[name])
    assert build_component("upsampler", header).state_dict().keys() == {*own_names("upsampler", header).values()}


def test_latents_are_divided_by_ones(whole: Paths) -> None:
    statistics = load_component("video_statistics", whole["checkpoint"])
    assert statistics.get_buffer("std-of-means").equal(torch.ones(128, dtype=torch.bfloat16))
    assert not statistics.get_buffer("mean-of-means").any()
