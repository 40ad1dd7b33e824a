"""The files of the toy model: official names and metadata, read by the ordinary loader, within the size limit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ltx2_core.checkpoint import load_component
from ltx2_core.headers import FileKind, classify, read_header
from ltx2_core.text.encode import ContextModels
from ltx2_core.text.files import find_encoder
from ltx2_core.text.gemma import PromptTokenizer, load_gemma
from scripts.toy import model as toy
from scripts.toy.prompts import WORDS
from scripts.toy.text_path import TextPath
from scripts.toy.tokenizer import save_tokenizer, toy_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files of an untrained toy model."""
    out = tmp_path_factory.mktemp("toy")
    for name, file in toy.FILES.items():
        for component in file.components:  # one after another, as in their trainings
            toy.save(name, {component: toy.fresh(component, seed=1)}, out)
    toy.save_gemma(toy.fresh_gemma(seed=1), out)
    save_tokenizer(out)
    return out


@pytest.mark.parametrize("component", toy.FILE_OF)
def test_a_saved_component_is_loaded_with_its_values(folder: Path, component: str) -> None:
    made = toy.fresh(component, seed=1).state_dict()
    loaded = load_component(component, folder / toy.FILE_OF[component]).state_dict()
    assert made.keys() == loaded.keys()
    for name, tensor in made.items():
        assert torch.equal(tensor.to(loaded[name].dtype), loaded[name]), name


def test_files_are_known_by_their_headers(folder: Path) -> None:
    kinds = [FileKind.TRANSFORMER, FileKind.VIDEO_VAE, FileKind.AUDIO, FileKind.UPSAMPLER]
    assert [classify(read_header(folder / name)) for name in toy.FILES] == kinds


def test_saving_a_component_keeps_the_others_and_the_notes(tmp_path: Path) -> None:
    name = "upsampler.safetensors"
    toy.save(name, {"upsampler": toy.fresh("upsampler")}, tmp_path, steps=3)
    toy.save("audio_vae.safetensors", {"vocoder": toy.fresh("vocoder")}, tmp_path, steps=3)
    before = load_component("vocoder", tmp_path / "audio_vae.safetensors").state_dict()
    toy.save("audio_vae.safetensors", {"audio_encoder": toy.fresh("audio_encoder")}, tmp_path, more=1)
    after = load_component("vocoder", tmp_path / "audio_vae.safetensors").state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    metadata = read_header(tmp_path / "audio_vae.safetensors").metadata
    assert (metadata["steps"], metadata["more"]) == ("3", "1")


def test_the_model_is_within_its_budget(folder: Path) -> None:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    lora = 2 * toy.lora_parameters()
    assert max(sizes) <= toy.FILE_BYTES
    assert sum(sizes) + lora * 1.1 <= toy.TOTAL_BYTES


def test_residual_branches_begin_at_zero_with_open_gates() -> None:
    block = toy.fresh("transformer").get_submodule("blocks.0")
    state = block.state_dict()
    assert not state["video.mlp.down.weight"].any()
    assert state["audio.table"][[2, 5]].mean() > 0.2 > state["audio.table"][[0, 1, 3, 4]].mean()
    assert state["exchange.video_table"][4].mean() > 0.2


def test_every_word_of_the_prompts_is_one_token() -> None:
    words = toy_tokenizer()
    assert words.get_vocab_size() <= toy.VOCABULARY
    assert [word for word in WORDS if len(words.encode(f"a {word}").ids) != 3] == []


@pytest.mark.parametrize("text", ["", "Zébra xylophones 😀!", "a rde bal bouncez", "A" * 500])
def test_any_text_has_ids_that_the_language_model_knows(folder: Path, text: str) -> None:
    tokenizer = PromptTokenizer.load(find_encoder(folder / toy.TEXT_ENCODER))
    ids = tokenizer.encode(text, toy.TEXT_ROWS)
    assert ids[0] == tokenizer.bos
    assert max(ids) < toy.VOCABULARY


def test_capitals_do_not_matter() -> None:
    words = toy_tokenizer()
    assert words.encode("Drone Over").ids == words.encode("drone over").ids


@torch.no_grad()
def test_a_batch_of_prompts_gives_the_contexts_of_the_core(folder: Path) -> None:
    prompts = ["Drone over misty mountains, birds chirping", "", "a red ball zzz"]
    text = TextPath.trained(folder)
    together = text(prompts)
    models = ContextModels(text.projection, text.video_connector, text.audio_connector)
    gemma = load_gemma(find_encoder(folder / toy.TEXT_ENCODER), dtype=torch.float32)
    for row, hidden in enumerate(gemma(prompts, toy.TEXT_ROWS)):
        alone = models.connect(hidden, toy.TEXT_ROWS)
        for batched, single in ((together.video, alone.video), (together.audio, alone.audio)):
            assert isinstance(batched, Tensor)
            torch.testing.assert_close(batched[row : row + 1], single, rtol=1e-4, atol=1e-4)
