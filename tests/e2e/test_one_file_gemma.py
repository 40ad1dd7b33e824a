"""A Gemma 3 in one safetensors file, plain or quantised, with its tokenizer inside it or next to it, encodes the
prompts.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltx2_core.errors import CheckpointError, LTX2Error
from ltx2_core.headers import FileKind, classify, read_header
from ltx2_core.text.files import find_encoder
from scripts.gguf_writer import gguf_bytes
from scripts.quantise import largest_group, stored, with_markers
from tests.commands import ltx2, rendered

pytestmark = pytest.mark.usefixtures("kept_models")

PREFIX = "language_model.model."
COMMON = ("--preset", "smoke", "--res", "128x128", "--frames", "9", "--seed", "7", "--no-metadata", "--overwrite")
Encoder = Callable[..., Path]


def options(form: str, weight: Tensor) -> dict[str, int]:
    return {"group": largest_group(weight.shape[1])} if form == "convrot" else {}


@pytest.fixture
def encoder(tiny: Path, tmp_path: Path) -> Encoder:
    """Write the tiny Gemma as one file. form: format of the linear layers. has: whether its tokenizer is a tensor in
    it.
    """

    def write(
        form: str = "", table: str = "", *, prefix: str = "model.", has: bool = True, config: bool = True
    ) -> Path:
        tensors = {
            f"{prefix}{name.removeprefix(PREFIX)}": t for name, t in load_file(tiny / "gemma/model.safetensors").items()
        }
        forms = {name: form for name in tensors if form and name.endswith("_proj.weight")}
        forms |= {f"{prefix}embed_tokens.weight": table} if table else {}
        layers = {
            name.removesuffix(".weight"): stored(form, weight, **options(form, weight))
            for name, form in forms.items()
            if (weight := tensors.pop(name)) is not None
        }
        tensors |= with_markers(layers)
        tensors["vision_model.embeddings.weight"] = torch.zeros(4, 4)
        if has:
            text = (tiny / "gemma/tokenizer.json").read_bytes()
            tensors["tokenizer_json"] = torch.tensor(list(text), dtype=torch.uint8)
        path = tmp_path / "encoder" / "gemma_3_12b_it.safetensors"
        path.parent.mkdir(exist_ok=True)
        said = json.loads((tiny / "gemma/config.json").read_text())["text_config"]
        save_file(tensors, path, {"text_config": json.dumps(said)} if config else None)
        return path

    return write


@pytest.fixture(scope="module")
def expected(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The clip that is rendered with the folder."""
    return clip(tiny, tmp_path_factory.mktemp("folder"))


def clip(model: Path, out: Path, *words: object) -> bytes:
    return rendered("t2v", "a bell", "--model", model, *words, *COMMON, "-o", out / "a.mp4").read_bytes()


@pytest.mark.parametrize("prefix", ["model.", "model.language_model."])
def test_one_file_renders_what_the_folder_renders(
    prefix: str, encoder: Encoder, tiny: Path, expected: bytes, tmp_path: Path
) -> None:
    assert clip(tiny, tmp_path, "--text-encoder", encoder(prefix=prefix), "--no-cache") == expected


@pytest.mark.parametrize("names", [("tokenizer.json",), ("tokenizer.json", "tokenizer_config.json")], ids=len)
def test_the_tokenizer_may_lie_beside_the_file(
    names: tuple[str, ...], encoder: Encoder, tiny: Path, expected: bytes, tmp_path: Path
) -> None:
    path = encoder(has=False)
    for name in names:
        shutil.copy(tiny / "gemma" / name, path.parent)
    assert clip(tiny, tmp_path, "--text-encoder", path, "--no-cache") == expected


@pytest.mark.parametrize(("form", "table"), [("fp8", "int8"), ("convrot", "")])
def test_quantised_files_render_something_else(
    form: str, table: str, encoder: Encoder, tiny: Path, expected: bytes, tmp_path: Path
) -> None:
    path = encoder(form, table)
    first = clip(tiny, tmp_path, "--text-encoder", path)
    assert first != expected
    assert clip(tiny, tmp_path, "--text-encoder", path, "--no-cache") == first


def test_a_folder_with_one_file_needs_no_option(encoder: Encoder, tiny: Path, expected: bytes, tmp_path: Path) -> None:
    folder = encoder().parent
    shutil.copy(tiny / "ltx-2-tiny-dev.safetensors", folder)
    assert clip(folder, tmp_path, "--no-cache") == expected
    told = ltx2("inspect", folder)
    assert "gemma_3_12b_it.safetensors" in told.stdout
    assert "problem" not in told.stdout


def test_a_file_without_a_tokenizer_says_which_files_to_put_where(encoder: Encoder, tiny: Path) -> None:
    path = encoder(has=False)
    result = ltx2("t2v", "a bell", "--model", tiny, "--text-encoder", path, *COMMON, "-o", "never.mp4")
    assert result.exit_code == 7
    assert "has no tokenizer" in result.stderr
    assert "put tokenizer.json of https://huggingface.co/Lightricks/gemma" in result.stderr
    assert "problem" in ltx2("inspect", path).stdout


def test_a_file_that_lacks_a_tensor_is_named(encoder: Encoder, tiny: Path) -> None:
    path = encoder()
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, dict(read_header(path).metadata))
    result = ltx2("t2v", "a bell", "--model", tiny, "--text-encoder", path, "--no-cache", *COMMON, "-o", "never.mp4")
    assert result.exit_code == 7
    assert f"{path.name} does not hold the model" in result.stderr
    assert "layers.1.mlp.up_proj.weight" in result.stderr


def test_a_sentencepiece_tokenizer_is_not_enough(encoder: Encoder) -> None:
    path = encoder(has=False)
    tensors = load_file(path) | {"spiece_model": torch.zeros(4, dtype=torch.uint8)}
    save_file(tensors, path, dict(read_header(path).metadata))
    with pytest.raises(LTX2Error) as error:
        find_encoder(path)
    assert "sentencepiece" in error.value.why


def test_a_file_of_other_shapes_needs_a_config(encoder: Encoder) -> None:
    path = encoder(config=False)
    with pytest.raises(CheckpointError, match="its shapes are not those of Gemma 3 12B"):
        find_encoder(path)


def test_a_file_with_a_tokenizer_inside_is_no_later_text_encoder(encoder: Encoder) -> None:
    path = encoder()
    assert classify(read_header(path)) is FileKind.GEMMA
    assert "problem" not in ltx2("inspect", path).stdout


def test_another_kind_of_file_is_refused_by_name(tiny: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        find_encoder(tiny / "ltx-2-tiny-dev.safetensors")
    assert "it is a whole model" in error.value.why


def test_a_gemma_in_a_gguf_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "gemma.gguf"
    path.write_bytes(gguf_bytes({}, {"general.architecture": "gemma3"}))
    with pytest.raises(CheckpointError) as error:
        find_encoder(path)
    assert "it is a Gemma in a GGUF file, which is not supported" in error.value.why
    assert "one safetensors file of it" in error.value.hint


@pytest.mark.parametrize("method", ["bitsandbytes", "torchao", "gptq", "awq", "compressed-tensors"])
def test_a_folder_that_is_quantised_by_another_method_is_refused_by_name(
    method: str, tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "gemma"
    shutil.copytree(tiny / "gemma", folder)
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": {"quant_method": method}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as error:
        find_encoder(folder)
    assert f"its config.json has a quantization_config: {method}" in error.value.why
