"""Finding a model: by registered name, by file, by folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ltx2_core.components import Role
from ltx2_core.errors import CheckpointError, RequestError, StorageError
from ltx2_core.hub.find import find_model
from ltx2_core.hub.library import models_home
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


def test_a_registered_name_goes_before_a_folder_of_that_name(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("Mine").mkdir()
    Path("other").symlink_to(tiny)
    with pytest.raises(StorageError, match="model mine is not installed"):
        find_model("Mine", REGISTERED)
    with pytest.raises(StorageError, match="model Mine has no checkpoint"):
        find_model("./Mine", REGISTERED).require_file("checkpoint")
    assert find_model("other", REGISTERED).paths.keys() == find_model(str(tiny), {}).paths.keys()


@pytest.mark.parametrize(("name", "kind"), [("ltx-9.7", RequestError), ("a.safetensors", StorageError)])
def test_a_number_behind_a_dot_is_no_suffix_of_a_file(name: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=name):
        find_model(name, REGISTERED)


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
    folder = models_home() / "mine"
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


def cut(path: Path, tiny: Path) -> None:
    path.write_bytes((tiny / CHECKPOINT).read_bytes()[:-1000])


def link_to_a_lora(path: Path, tiny: Path) -> None:
    path.symlink_to(tiny / "ltx-2-tiny-lora-style.safetensors")


def holding(content: bytes) -> Callable[[Path, Path], object]:
    return lambda path, _: path.write_bytes(content)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 43285066034\n"
PAGE = b"<!doctype html><title>Sign in</title>"
UNUSABLE: dict[str, tuple[str, Callable[[Path, Path], object], str]] = {
    "cut off": ("a.safetensors", cut, "a.safetensors is cut off or damaged: it has "),
    "empty": ("a.safetensors", holding(b""), "a.safetensors is empty"),
    "LFS pointer": ("a.safetensors", holding(LFS), "a.safetensors cannot be opened: it is a Git LFS pointer"),
    "web page": ("a.safetensors", holding(PAGE), "a.safetensors cannot be opened: it is a web page"),
    "GGUF": ("a.gguf", holding(b"GGUF\3\0\0\0" + bytes(60)), "a.gguf cannot be opened: it is a GGUF file"),
    "pickle": ("a.ckpt", holding(b"PK\3\4" + bytes(60)), "a.ckpt cannot be opened: it is a pickle"),
    "dangling link": ("a.safetensors", lambda path, _: path.symlink_to("b"), "it is a link to b, which does not exist"),
    "another model": ("a.safetensors", link_to_a_lora, "a.safetensors is a LoRA"),
}


@pytest.mark.parametrize(("name", "make", "why"), UNUSABLE.values(), ids=UNUSABLE)
def test_folder_without_a_model_says_what_was_passed_over_and_why(
    name: str, make: Callable[[Path, Path], object], why: str, tiny: Path, tmp_path: Path
) -> None:
    make(tmp_path / name, tiny)
    with pytest.raises(StorageError, match="has no checkpoint") as caught:
        find_model(str(tmp_path), {}).require_file("checkpoint")
    assert caught.value.why.startswith("passed over: ")
    assert why in caught.value.why


def test_file_that_cannot_be_read_is_passed_over_with_the_reason(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.safetensors").symlink_to(tiny / CHECKPOINT)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StorageError, match=r"a\.safetensors cannot be read: its rights"):
        find_model(str(tmp_path), {}).require_file("checkpoint")


def test_text_encoder_that_was_not_downloaded_is_passed_over_with_the_reason(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).symlink_to(tiny / CHECKPOINT)
    (tmp_path / "gemma").mkdir()
    (tmp_path / "gemma" / "config.json").write_bytes(LFS)
    with pytest.raises(StorageError, match=r"no text encoder\npassed over: config\.json .* a Git LFS pointer"):
        find_model(str(tmp_path), {}).require_file("text_encoder")


def test_a_long_list_of_what_was_passed_over_is_cut(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"{number}.safetensors").write_bytes(b"")
    with pytest.raises(StorageError) as caught:
        find_model(str(tmp_path), {}).require_file("checkpoint")
    assert caught.value.why.split("; ")[3:] == ["3.safetensors is empty", "and more"]


@pytest.mark.parametrize(("content", "hint"), [(LFS, "git lfs pull"), (PAGE, "log in")])
def test_what_was_not_downloaded_is_not_to_be_converted(content: bytes, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        find_model(str(path), {})
    assert hint in caught.value.hint
    assert "convert" not in caught.value.hint


def test_link_to_nothing_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(StorageError, match=r"it is a link to .*/gone, which does not exist"):
        find_model(str(tmp_path / "model.safetensors"), {})
