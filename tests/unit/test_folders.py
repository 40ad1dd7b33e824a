"""Models in the folders of other programs: the cache of the Hugging Face Hub, ComfyUI, diffusers, transformers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ltx2_cli.app import app
from ltx2_core.errors import CheckpointError, StorageError
from ltx2_core.folders import snapshot_of
from ltx2_core.headers import FileKind, classify, read_header
from ltx2_core.hub.find import find_model
from ltx2_core.text.files import find_encoder
from ltx2_core.text.gemma import load_gemma

CHECKPOINT, UPSAMPLER = "ltx-2-tiny-dev.safetensors", "ltx-2-tiny-spatial-upscaler-x2-1.0.safetensors"
LORA = "ltx-2-tiny-distilled-lora.safetensors"
MODEL, GEMMA = "models--Lightricks--LTX-2", "models--google--gemma-3-12b-it"


def snapshot(cache: Path, repository: str, files: dict[str, Path], revision: str = "b" * 40) -> Path:
    """Put files into a repository of a Hub cache like huggingface_hub: each as a link to a blob."""
    folder = cache / repository
    for name, file in files.items():
        link = folder / "snapshots" / revision / name
        link.parent.mkdir(parents=True, exist_ok=True)
        (folder / "blobs").mkdir(exist_ok=True)
        blob = folder / "blobs" / f"{revision[0]}-{name.replace('/', '-')}"
        blob.symlink_to(file)  # instead of a copy
        link.symlink_to(os.path.relpath(blob, link.parent))
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(revision)
    return folder / "snapshots" / revision


def hub_cache(tiny: Path, cache: Path) -> Path:
    """A Hub cache with the tiny model, its text encoder, and another text encoder, each in its own repository."""
    snapshot(cache, MODEL, {name: tiny / name for name in (CHECKPOINT, UPSAMPLER, LORA)})
    encoder = {path.name: path for path in (tiny / "gemma").iterdir()}
    snapshot(cache, GEMMA, encoder)
    snapshot(cache, "models--a--gemma-3-4b", encoder)
    missing = cache / GEMMA / ".no_exist" / ("b" * 40) / "config.json"  # the Hub's mark for missing files
    missing.parent.mkdir(parents=True)
    missing.touch()
    (cache / "version.txt").write_text("1")
    (cache / ".locks" / MODEL).mkdir(parents=True)
    return cache


def comfy_tree(tiny: Path, tree: Path) -> Path:
    """ComfyUI's `models` with the tiny model, and with files of other models."""
    places = {
        f"checkpoints/video/{CHECKPOINT}": CHECKPOINT,
        f"latent_upscale_models/{UPSAMPLER}": UPSAMPLER,
        f"loras/ltx/{LORA}": LORA,
        "text_encoders/gemma-3-12b": "gemma",
    }
    for place, name in places.items():
        (tree / place).parent.mkdir(parents=True, exist_ok=True)
        (tree / place).symlink_to(tiny / name)
    (tree / "vae").mkdir()
    save_file({"first_stage.weight": torch.zeros(2)}, tree / "checkpoints" / "other.safetensors")
    (tree / "clip").mkdir()
    (tree / "clip" / "t5.safetensors").write_bytes(b"")
    return tree


def found(spec: Path) -> dict[str, str]:
    """The names of a model's files by role, all of which must be readable."""
    paths = find_model(str(spec), {}).paths
    find_encoder(paths["text_encoder"])
    assert all(path.exists() for path in paths.values())
    return {role: path.name for role, path in paths.items() if role != "text_encoder"}


WHOLE = {"checkpoint": CHECKPOINT, "upsampler": UPSAMPLER, "distilled_lora": LORA}


SNAPSHOT = f"{MODEL}/snapshots/{'b' * 40}"


@pytest.mark.parametrize("inside", ["", MODEL, SNAPSHOT, f"{SNAPSHOT}/{CHECKPOINT}"])
def test_hub_cache_gives_a_model_with_the_text_encoder_of_another_repository(
    inside: str, tiny: Path, tmp_path: Path
) -> None:
    cache = hub_cache(tiny, tmp_path / "hub")
    assert found(cache / inside) == WHOLE
    assert GEMMA in str(find_model(str(cache / inside), {}).paths["text_encoder"])


def test_folder_above_the_hub_cache_stands_for_it(tiny: Path, tmp_path: Path) -> None:
    hub_cache(tiny, tmp_path / "hub")
    assert found(tmp_path) == WHOLE


def test_snapshot_that_the_main_branch_names_is_used(tiny: Path, tmp_path: Path) -> None:
    old = snapshot(tmp_path, MODEL, {CHECKPOINT: tiny / CHECKPOINT}, "c" * 40)
    new = snapshot(tmp_path, MODEL, {CHECKPOINT: tiny / CHECKPOINT}, "a" * 40)
    assert snapshot_of(tmp_path / MODEL) == new
    (tmp_path / MODEL / "refs" / "main").write_text("c" * 40 + "\n")
    assert snapshot_of(tmp_path / MODEL) == old


def test_without_a_main_branch_the_newest_snapshot_is_used(tiny: Path, tmp_path: Path) -> None:
    folders = [snapshot(tmp_path, MODEL, {CHECKPOINT: tiny / CHECKPOINT}, name * 40) for name in "ab"]
    (tmp_path / MODEL / "refs" / "main").unlink()
    os.utime(folders[0], (2e9, 2e9))
    assert snapshot_of(tmp_path / MODEL) == folders[0]


def test_text_encoder_is_read_from_a_repository_of_the_hub_cache(tiny: Path, tmp_path: Path) -> None:
    cache = hub_cache(tiny, tmp_path)
    assert find_encoder(cache / GEMMA).config == find_encoder(tiny / "gemma").config


def test_hub_cache_with_two_models_needs_a_choice_that_can_be_typed(tiny: Path, tmp_path: Path) -> None:
    cache = hub_cache(tiny, tmp_path)
    other = snapshot(cache, "models--x--y", {"z.safetensors": tiny / CHECKPOINT})
    with pytest.raises(CheckpointError, match="more than one checkpoint") as caught:
        find_model(str(cache), {})
    assert str((other / "z.safetensors").relative_to(cache)) in caught.value.why


VIDEO = "models/checkpoints/video"


@pytest.mark.parametrize("inside", ["models", ".", VIDEO, f"{VIDEO}/{CHECKPOINT}"])
def test_tree_of_comfyui_gives_a_model_from_its_folders(inside: str, tiny: Path, tmp_path: Path) -> None:
    comfy_tree(tiny, tmp_path / "models")
    assert found(tmp_path / inside) == WHOLE


def test_folder_with_a_few_names_of_comfyui_is_an_ordinary_one(tiny: Path, tmp_path: Path) -> None:
    for name in ("loras", "vae"):
        (tmp_path / name).mkdir()
    (tmp_path / "loras" / CHECKPOINT).symlink_to(tiny / CHECKPOINT)
    with pytest.raises(StorageError, match="has no checkpoint"):
        find_model(str(tmp_path), {}).require_file("checkpoint")


def test_parts_of_a_split_model_are_found_in_the_tree_of_comfyui(tiny: Path, tmp_path: Path) -> None:
    tree = comfy_tree(tiny, tmp_path)
    whole = load_file(tiny / CHECKPOINT)
    metadata = dict(read_header(tiny / CHECKPOINT).metadata)

    def part(place: str, *starts: str) -> Path:
        (tree / place).parent.mkdir(exist_ok=True)
        save_file({name: tensor for name, tensor in whole.items() if name.startswith(starts)}, tree / place, metadata)
        return tree / place

    part("vae/video.safetensors", "vae.")
    part("vae/audio.safetensors", "audio_vae.", "vocoder.")
    main = part("diffusion_models/denoiser.safetensors", "model.", "text_embedding_projection.")
    names = found(main)
    assert names["transformer"] == "denoiser.safetensors"
    assert (names["video_vae"], names["audio_vae"]) == ("video.safetensors", "audio.safetensors")
    assert "checkpoint" not in names


# --- diffusers


def diffusers_folder(folder: Path, *, names: str = "LTX2Pipeline") -> Path:
    (folder / "transformer").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": names}))
    (folder / "transformer" / "config.json").write_text(json.dumps({"_class_name": "LTX2VideoTransformer3DModel"}))
    return folder


@pytest.mark.parametrize("inside", [".", "transformer"])
@pytest.mark.parametrize(
    ("name", "repository"), [("LTX-2", "Lightricks/LTX-2,"), ("LTX-2.3-Diffusers", "Lightricks/LTX-2.3,")]
)
def test_folder_of_diffusers_is_refused_with_the_repository_to_take(
    inside: str, name: str, repository: str, tmp_path: Path
) -> None:
    folder = diffusers_folder(tmp_path / name) / inside
    result = CliRunner().invoke(app, ["t2v", "x", "--model", str(folder)])
    assert result.exit_code == 7
    assert "in the layout of diffusers, which is not supported" in result.stderr
    assert f"https://huggingface.co/{repository}" in result.stderr


def test_folder_of_diffusers_that_also_holds_a_checkpoint_is_used(tiny: Path, tmp_path: Path) -> None:
    folder = diffusers_folder(tmp_path / "LTX-2")
    (folder / CHECKPOINT).symlink_to(tiny / CHECKPOINT)
    (folder / "text_encoder").mkdir()
    (folder / "tokenizer").mkdir()
    for path in (tiny / "gemma").iterdir():
        place = "tokenizer" if path.name.startswith("tokenizer") else "text_encoder"
        (folder / place / path.name).symlink_to(path)
    assert found(folder) == {"checkpoint": CHECKPOINT}
    assert find_encoder(folder).config["model_type"] == "gemma3"


# --- Gemma without its vision tower

SAVES: dict[str, Callable[[str], str]] = {
    "Gemma3ForCausalLM": lambda name: name.removeprefix("language_model."),
    "Gemma3TextModel": lambda name: name.removeprefix("language_model.model."),
}


@pytest.mark.parametrize("architecture", SAVES)
def test_language_model_that_was_saved_alone_gives_the_same_bits(architecture: str, tiny: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).symlink_to(tiny / "gemma" / name)
    config = json.loads((tiny / "gemma" / "config.json").read_text())["text_config"]
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": [architecture]}))
    tensors = load_file(tiny / "gemma" / "model.safetensors")
    renamed = {SAVES[architecture](name): tensor for name, tensor in tensors.items()}
    head = {"lm_head.weight": torch.zeros(4, 4)} if architecture == "Gemma3ForCausalLM" else {}
    save_file(renamed | head, tmp_path / "model.safetensors", {"format": "pt"})
    assert classify(read_header(tmp_path / "model.safetensors")) is FileKind.GEMMA
    one, other = (load_gemma(find_encoder(folder)) for folder in (tiny / "gemma", tmp_path))
    (states,), (its,) = (gemma(["a bell rings"], 32) for gemma in (one, other))
    assert states.equal(its)


def test_model_in_a_hub_cache_renders(tiny: Path, tmp_path: Path) -> None:
    cache = hub_cache(tiny, tmp_path / "hub")
    size = ["--res", "64x64", "--frames", "9", "--steps", "2", "-o", str(tmp_path / "a.mp4")]
    result = CliRunner().invoke(app, ["t2v", "x", "--model", str(cache / MODEL), *size])
    assert result.exit_code == 0, result.stderr
