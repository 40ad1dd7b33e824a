"""Text connectors in a separate file: they give the same render as the whole model, and are never chosen silently."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltx2_core.components import DIT
from ltx2_core.headers import read_header
from scripts.gguf_writer import Stored, gguf_bytes
from scripts.quantise import stored_as
from tests import commands
from tests.commands import ltx2, rendered

pytestmark = pytest.mark.usefixtures("kept_models")

WHOLE = "ltx-2-tiny-dev.safetensors"
SECTIONS = ("transformer", "scheduler")
CONNECTORS = tuple(f"{DIT}{stream}_embeddings_connector." for stream in ("video", "audio"))
PROJECTION = ("text_embedding_projection.",)
COMMON = ("--preset", "smoke", "--res", "128x128", "--frames", "9", "--seed", "7", "--no-metadata")


def write(
    tiny: Path, path: Path, starts: tuple[str, ...], sections: tuple[str, ...] = (), without: tuple[str, ...] = ()
) -> Path:
    """Write some tensors of the tiny model to a separate file, with sections of its config."""
    weights = {
        name.removeprefix("vae."): tensor
        for name, tensor in load_file(tiny / WHOLE).items()
        if name.startswith(starts) and not (without and name.startswith(without))
    }
    config = {section: value for section, value in read_header(tiny / WHOLE).config.items() if section in sections}
    save_file(weights, path, {"config": json.dumps(config)} if config else None)
    return path


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A folder with a transformer without connectors and the text encoder, but without a file of connectors."""
    folder = tmp_path / "model"
    folder.mkdir()
    write(tiny, folder / "transformer.safetensors", (DIT,), SECTIONS, CONNECTORS)
    write(tiny, folder / "video.safetensors", ("vae.",), ("vae",))
    write(tiny, folder / "audio.safetensors", ("audio_vae.", "vocoder."), ("audio_vae", "vocoder"))
    (folder / "gemma").symlink_to(tiny / "gemma")
    return folder


@pytest.fixture
def apart(tiny: Path, tmp_path: Path) -> Path:
    """The connectors and the projection, without a config, in another folder."""
    place = tmp_path / "elsewhere"
    place.mkdir()
    return write(tiny, place / "connectors.safetensors", (*CONNECTORS, *PROJECTION))


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The clip of the whole model."""
    return clip(tiny, tmp_path_factory.mktemp("whole"))


def clip(model: Path, out: Path, *words: object) -> bytes:
    target = out / "a.mp4"
    return rendered("t2v", "a bell", "--model", model, *words, *COMMON, "--overwrite", "-o", target).read_bytes()


def refused(model: Path, *words: object) -> str:
    return commands.refused(7, "t2v", "a bell", "--model", model, *words, *COMMON, "-o", "never.mp4")


def test_connectors_that_are_named_render_what_the_whole_model_renders(
    folder: Path, apart: Path, whole: bytes, tmp_path: Path
) -> None:
    assert clip(folder, tmp_path, "--connectors", apart) == whole


def test_the_only_connectors_of_the_folder_are_used_and_the_plan_says_so(
    folder: Path, apart: Path, whole: bytes, tmp_path: Path
) -> None:
    apart.rename(folder / "mine.safetensors")
    told = ltx2("t2v", "a bell", "--model", folder, *COMMON, "-o", tmp_path / "a.mp4")
    assert "the text connectors are those of mine.safetensors; --connectors FILE names others" in told.stderr
    assert (tmp_path / "a.mp4").read_bytes() == whole


def test_two_files_of_connectors_need_a_choice(folder: Path, apart: Path, whole: bytes, tmp_path: Path) -> None:
    for name in ("dev.safetensors", "distilled.safetensors"):
        (folder / name).write_bytes(apart.read_bytes())
    told = refused(folder)
    assert "holds more than one file of text connectors" in told
    assert "dev.safetensors, distilled.safetensors" in told
    assert "hint: --connectors FILE chooses one of them" in told
    assert clip(folder, tmp_path, "--connectors", folder / "dev.safetensors") == whole


def test_connectors_that_lie_nowhere_are_asked_for(folder: Path) -> None:
    told = refused(folder)
    assert "transformer.safetensors has no video connector" in told
    assert "--connectors FILE names the file that holds it" in told


def test_connectors_beside_a_file_that_is_the_model_are_not_taken_by_themselves(folder: Path, apart: Path) -> None:
    there = apart.rename(folder / "connectors.safetensors")
    told = refused(folder / "transformer.safetensors")
    assert "transformer.safetensors has no text connectors" in told
    assert f"--connectors {there}" in told


def test_a_tree_of_comfyui_takes_no_connectors_that_lie_beside(
    folder: Path, apart: Path, whole: bytes, tmp_path: Path
) -> None:
    tree = tmp_path / "models"
    for name in ("diffusion_models", "vae", "text_encoders", "loras"):
        (tree / name).mkdir(parents=True)
    (folder / "transformer.safetensors").rename(tree / "diffusion_models" / "transformer.safetensors")
    for name in ("video.safetensors", "audio.safetensors"):
        (folder / name).rename(tree / "vae" / name)
    (folder / "gemma").rename(tree / "text_encoders" / "gemma")
    there = apart.rename(tree / "text_encoders" / "connectors.safetensors")
    assert f"--connectors {there}" in refused(tree / "diffusion_models")
    assert clip(tree / "diffusion_models", tmp_path, "--connectors", there) == whole


def test_connectors_go_before_those_of_the_checkpoint(tiny: Path, apart: Path, whole: bytes, tmp_path: Path) -> None:
    weights = {name: tensor * 0.5 for name, tensor in load_file(apart).items()}
    other = tmp_path / "other.safetensors"
    save_file(weights, other)
    assert clip(tiny, tmp_path, "--connectors", apart) == whole
    assert clip(tiny, tmp_path, "--connectors", other) != whole


def test_one_of_the_two_connectors_is_not_enough(tiny: Path, tmp_path: Path) -> None:
    half = write(tiny, tmp_path / "half.safetensors", (CONNECTORS[0], *PROJECTION))
    assert "half.safetensors has no audio connector" in refused(tiny, "--connectors", half)


def test_connectors_of_another_width_are_refused(tiny: Path, apart: Path, tmp_path: Path) -> None:
    registers = f"{CONNECTORS[0]}learnable_registers"
    narrow = {**load_file(apart), registers: load_file(apart)[registers][:, :-8].contiguous()}
    save_file(narrow, tmp_path / "narrow.safetensors")
    told = refused(tiny, "--connectors", tmp_path / "narrow.safetensors")
    assert "narrow.safetensors does not hold the model that its config describes" in told


def test_a_registered_model_may_name_its_connectors(
    folder: Path, apart: Path, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"transformer": "transformer", "video_vae": "video", "audio_vae": "audio"}
    files = {role: str(folder / f"{name}.safetensors") for role, name in names.items()}
    files |= {"connectors": str(apart), "text_encoder": str(folder / "gemma")}
    entry = tmp_path / "home" / "models" / "mine.yaml"
    entry.parent.mkdir(parents=True)
    entry.write_text(json.dumps({"summary": "in parts", "generation": "2.0", "files": files}))
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    assert clip(Path("mine"), tmp_path) == whole
    assert str(apart) in ltx2("inspect", "mine").stdout


def test_a_quantised_gemma_in_one_file_goes_with_connectors_apart(
    folder: Path, apart: Path, tiny: Path, whole: bytes, tmp_path: Path
) -> None:
    weights = load_file(tiny / "gemma" / "model.safetensors")
    linears = {name.removesuffix(".weight"): weights.pop(name) for name in [*weights] if name.endswith("_proj.weight")}
    tokenizer = torch.tensor(list((tiny / "gemma" / "tokenizer.json").read_bytes()), dtype=torch.uint8)
    gemma, said = tmp_path / "gemma.safetensors", json.loads((tiny / "gemma" / "config.json").read_text())
    tensors = weights | stored_as("int8", linears) | {"tokenizer_json": tokenizer}
    save_file(tensors, gemma, {"text_config": json.dumps(said["text_config"])})
    (folder / "gemma").unlink()
    words = ("--text-encoder", gemma, "--no-cache")
    found = clip(folder, tmp_path, "--connectors", apart, *words)
    assert found == clip(tiny, tmp_path, *words)
    assert found != whole


def in_gguf(tensor: Tensor) -> Stored:
    kind = {torch.bfloat16: "BF16", torch.float32: "F32"}[tensor.dtype]
    return Stored(kind, tuple(tensor.shape), tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())


def test_a_gguf_transformer_takes_connectors_apart(folder: Path, apart: Path, whole: bytes, tmp_path: Path) -> None:
    source = folder / "transformer.safetensors"
    weights = {name.removeprefix(DIT): tensor for name, tensor in load_file(source).items()}
    config = {"config": json.dumps(read_header(source).config)}
    stored = {name: in_gguf(tensor) for name, tensor in weights.items()}
    (folder / "transformer.gguf").write_bytes(gguf_bytes(stored, config))
    source.unlink()
    assert clip(folder, tmp_path, "--connectors", apart) == whole
