"""A text encoder in one file that also contains the text projection, together with the other parts of its model.

The tiny model of generation 2.0 is stored here in the layout of LTX-2.5.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ltx2_core.components import DIT, PROJECTION
from ltx2_core.headers import FileKind, classify, read_header
from tests import commands
from tests.commands import ltx2, rendered

pytestmark = pytest.mark.usefixtures("kept_models")

WHOLE = "ltx-2-tiny-dev.safetensors"
COMMON = ("--preset", "smoke", "--res", "128x128", "--frames", "9", "--seed", "7", "--no-metadata")
VERSION = "gemma-tiny-ltx-v1"


def sections(tiny: Path, *names: str) -> str:
    config = read_header(tiny / WHOLE).config
    return json.dumps({name: config[name] for name in names})


def write_encoder(tiny: Path, path: Path, version: str) -> Path:
    """The tiny Gemma with its tokenizer and the projection in one file."""
    gemma, whole = load_file(tiny / "gemma/model.safetensors"), load_file(tiny / WHOLE)
    tensors = {name.removeprefix("language_"): tensor for name, tensor in gemma.items()}
    tensors = {name.replace("model.model.", "model."): tensor for name, tensor in tensors.items()}
    tensors |= {name: tensor for name, tensor in whole.items() if name.startswith(PROJECTION)}
    assets = {"tokenizer_json": "tokenizer.json", "hf_asset__tokenizer_config.json": "tokenizer_config.json"}
    for name, file in assets.items():
        tensors[name] = torch.frombuffer(bytearray((tiny / "gemma" / file).read_bytes()), dtype=torch.uint8)
    config = json.loads((tiny / "gemma/config.json").read_text()) | {"gemma_version": version}
    save_file(tensors, path, {"format": "pt", "gemma_config": json.dumps(config)})
    return path


@pytest.fixture(scope="module")
def parts(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one file per part. It also contains the stock Gemma, which is not the encoder of the model."""
    folder = tmp_path_factory.mktemp("parts")
    weights = load_file(tiny / WHOLE)
    source = json.dumps({"ltx_version": "2.0", "gemma_version": VERSION})
    said = {"config": sections(tiny, "transformer", "scheduler"), "gemma_source_checkpoint": source}
    starts = {
        "transformer": (DIT, said),
        "video_vae": ("vae.", {"config": sections(tiny, "vae")}),
        "audio_vae": (("audio_vae.", "vocoder."), {"config": sections(tiny, "audio_vae", "vocoder")}),
    }
    for role, (start, metadata) in starts.items():
        held = {name: tensor for name, tensor in weights.items() if name.startswith(start)}
        save_file(held, folder / f"{role}.safetensors", metadata)
    write_encoder(tiny, folder / "encoder.safetensors", VERSION)
    (folder / "gemma").symlink_to(tiny / "gemma")
    return folder


def clip(model: Path, out: Path, *words: object) -> bytes:
    out.mkdir(exist_ok=True)
    return rendered("t2v", "a bell", "--model", model, *words, *COMMON, "-o", out / "a.mp4").read_bytes()


def refused(model: Path, *words: object) -> str:
    return commands.refused(7, "t2v", "a bell", "--model", model, *words, *COMMON, "-o", "never.mp4")


def test_it_renders_what_the_whole_model_renders_and_is_found_in_the_folder(
    parts: Path, tiny: Path, tmp_path: Path
) -> None:
    assert classify(read_header(parts / "encoder.safetensors")) is FileKind.TEXT_ENCODER
    first = clip(parts, tmp_path)
    assert first == clip(tiny, tmp_path / "whole", "--no-cache")
    assert first == clip(parts, tmp_path / "again")  # with the cached prompt


@pytest.mark.parametrize("memory", ["streamed", "lean"])
def test_it_renders_the_same_in_less_memory(parts: Path, tmp_path: Path, memory: str) -> None:
    words = ("--memory", memory, "--no-cache")
    assert clip(parts, tmp_path, *words) == clip(parts, tmp_path / "resident", "--memory", "resident", "--no-cache")


def test_inspect_says_what_the_file_holds(parts: Path) -> None:
    told = ltx2("inspect", parts / "encoder.safetensors").stdout
    assert "an LTX-2.5 text encoder" in told
    assert "text projection, language model" in told
    assert "problem" not in told


def test_the_stock_encoder_is_refused_before_anything_is_loaded(parts: Path, tiny: Path) -> None:
    told = refused(parts, "--text-encoder", tiny / "gemma")
    assert "transformer.safetensors has no text projection" in told
    assert f"the model was trained with {VERSION}" in told
    assert f"--text-encoder FILE names that of {VERSION}" in told


def test_an_encoder_of_another_version_is_refused(parts: Path, tiny: Path, tmp_path: Path) -> None:
    other = write_encoder(tiny, tmp_path / "other.safetensors", "gemma-tiny-ltx-v2")
    told = refused(parts, "--text-encoder", other)
    assert "the text encoder does not belong to transformer.safetensors" in told
    assert f"trained with {VERSION}, and this is gemma-tiny-ltx-v2" in told


def test_a_kept_prompt_is_that_of_one_projection(parts: Path, tiny: Path, tmp_path: Path) -> None:
    other = write_encoder(tiny, tmp_path / "other.safetensors", VERSION)
    tensors = load_file(other)
    tensors[f"{PROJECTION}aggregate_embed.weight"] *= -1
    save_file(tensors, other, dict(read_header(other).metadata))
    assert clip(parts, tmp_path) != clip(parts, tmp_path / "other", "--text-encoder", other)
