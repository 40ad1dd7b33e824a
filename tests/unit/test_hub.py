"""Finding a model: by registered name, by file, by folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ltx2_core.components import Role
from ltx2_core.errors import CheckpointError, RequestError, StorageError
from ltx2_core.hub.find import find_model, search_folders
from ltx2_core.hub.registry import RegisteredModel

CHECKPOINT = "ltx-2-tiny-dev.safetensors"
FILES: dict[Role, str] = {"checkpoint": CHECKPOINT, "text_encoder": "gemma", "upsampler": "up.safetensors"}
REGISTERED = {"mine": RegisteredModel(summary="", generation="2.0", files=FILES)}


def test_folder_gives_each_file_its_role(tiny: Path) -> None:
    files = find_model(str(tiny), {})
    assert files.name == tiny.name
    assert {role: path.name for role, path in files.paths.items()} == {
        "checkpoint": CHECKPOINT,
        "text_encoder": "gemma",
        "upsampler": "ltx-2-tiny-spatial-upscaler-x2-1.0.safetensors",
        "upsampler_x1.5": "ltx-2-tiny-spatial-upscaler-x1.5-1.0.safetensors",
        "temporal_upsampler": "ltx-2-tiny-temporal-upscaler-x2-1.0.safetensors",
        "distilled_lora": "ltx-2-tiny-distilled-lora.safetensors",
    }


def test_file_is_found_with_what_lies_beside_it(tiny: Path) -> None:
    by_file, by_folder = find_model(str(tiny / CHECKPOINT), {}), find_model(str(tiny), {})
    assert by_file.paths == by_folder.paths
    assert by_file.name == CHECKPOINT


def test_given_file_stands_in_for_the_models_own(tiny: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    assert find_model(str(tiny), {}, {"upsampler": other}).paths["upsampler"] == other


def test_folder_with_two_checkpoints_needs_a_choice(tiny: Path, tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        shutil.copy(tiny / CHECKPOINT, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"more than one checkpoint\na.safetensors, b.safetensors"):
        find_model(str(tmp_path), {})
    assert find_model(str(tmp_path / "b.safetensors"), {}).paths["checkpoint"] == tmp_path / "b.safetensors"


def test_registered_name_is_found_whatever_its_case_under_the_home_folder(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LTX2_HOME", str(tmp_path))
    folder = search_folders("mine")[0]
    shutil.copytree(tiny, folder)
    files = find_model("Mine", REGISTERED)
    assert files.paths == {"checkpoint": folder / CHECKPOINT, "text_encoder": folder / "gemma"}


def test_registered_name_that_is_not_installed_says_what_where_and_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LTX2_HOME", str(tmp_path))
    with pytest.raises(StorageError) as caught:
        find_model("mine", REGISTERED)
    for fragment in (CHECKPOINT, "gemma", str(tmp_path), "put the files into"):
        assert fragment in str(caught.value)


def test_name_that_nobody_knows_gets_a_suggestion() -> None:
    with pytest.raises(RequestError, match=r"did you mean mine\?"):
        find_model("mien", REGISTERED)


def test_missing_role_is_named_when_it_is_needed(tiny: Path) -> None:
    files = find_model(str(tiny), {})
    with pytest.raises(StorageError, match="has no video vae"):
        files.require_file("video_vae")


def test_file_that_is_nothing_of_ours_may_lie_beside_a_model(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    save_file({"weight": torch.zeros(2)}, folder / "zz.safetensors")
    assert find_model(str(folder), {}).paths.keys() == find_model(str(tiny), {}).paths.keys()
