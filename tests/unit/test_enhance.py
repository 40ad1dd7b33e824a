"""Language models that rewrite prompts: the conversation, the choice of tokens, and usable folders."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ltx2_core.errors import CheckpointError, LTX2Error, StorageError
from ltx2_core.text.enhance import Answer, Conversation, Writer, load_network
from ltx2_core.text.enhancers import ENHANCERS, EnhancerFiles, enhancer_of_encoder, find_enhancer
from ltx2_core.text.files import find_encoder
from ltx2_core.text.gemma import load_gemma, stream_gemma

GOLDEN = Path(__file__).parents[1] / "golden/text"
GEMMA_3, GEMMA_4 = GOLDEN / "2.0" / "gemma", GOLDEN / "2.5" / "text_encoder.safetensors"
CPU = torch.device("cpu")
FEW = 5


def short(files: EnhancerFiles) -> EnhancerFiles:
    """The same model, limited to a few tokens."""
    return replace(files, enhancer=replace(files.enhancer, most_tokens=FEW))


@pytest.fixture(scope="module")
def gemma() -> EnhancerFiles:
    return short(find_enhancer(GEMMA_3))


@pytest.fixture(scope="module")
def writer(gemma: EnhancerFiles) -> Writer:
    return Writer.of_gemma(gemma, load_gemma(gemma.files, dtype=torch.float32))


@pytest.fixture(scope="module")
def whole(gemma: EnhancerFiles) -> Writer:
    return Writer(Conversation(gemma), load_network(gemma, device=CPU, dtype=torch.float32))


def copied(target: Path, **config: object) -> Path:
    """A copy of the Gemma 3 folder with changed values in its config."""
    shutil.copytree(GEMMA_3, target)
    said = json.loads((target / "config.json").read_text()) | config
    (target / "config.json").write_text(json.dumps(said))
    return target


def test_the_same_seed_gives_the_same_answer_and_nobody_elses_random_numbers_move(writer: Writer) -> None:
    before = torch.get_rng_state()
    answers = [writer.write("a dog runs", seed) for seed in (5, 5, 6)]
    assert answers[0] == answers[1] != answers[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_the_language_model_alone_writes_what_the_whole_folder_writes(writer: Writer, whole: Writer) -> None:
    assert writer.write("a dog runs", 5) == whole.write("a dog runs", 5)


def test_streamed_layers_write_what_loaded_ones_write(gemma: EnhancerFiles, writer: Writer) -> None:
    given = {"device": CPU, "dtype": torch.float32}
    streamed = [Writer.of_gemma(gemma, stream_gemma(gemma.files, **given, resident=count)) for count in (0, 2)]
    assert {one.write("a dog runs", 5) for one in streamed} == {writer.write("a dog runs", 5)}


def test_whoever_watches_is_told_of_every_token_and_may_stop(writer: Writer) -> None:
    told: list[int] = []
    assert not writer.write("a dog runs", 5, on_token=told.append).has_ended
    assert told == list(range(1, FEW + 1))

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writer.write("a dog runs", 5, on_token=stop)


def test_an_image_is_looked_at(gemma: EnhancerFiles, whole: Writer) -> None:
    assert gemma.sees_images
    image = torch.zeros(3, 30, 40, dtype=torch.uint8)
    text = whole.conversation.render("a dog runs", with_image=True)
    assert "<start_of_image>User Raw Input Prompt: a dog runs." in text
    dark, light = (whole.conversation.encode_with_image(text, one) for one in (image, 255 - image))
    assert dark["input_ids"].shape[1] % 8 == 0
    assert dark["token_type_ids"].sum() == gemma.files.config["mm_tokens_per_image"]
    with torch.no_grad():
        assert not torch.allclose(whole.network(**dark).logits[0, -1], whole.network(**light).logits[0, -1])
    assert whole.write("a dog runs", 5, image) != whole.write("a dog runs", 5)


def test_an_answer_ends_with_any_stop_token_of_the_two_configs_or_the_end_of_a_turn(gemma: EnhancerFiles) -> None:
    conversation = Conversation(gemma)
    assert conversation.stops == [1, 6]
    assert conversation.decode(torch.tensor([290, 347, 6])) == Answer("use", has_ended=True)
    assert not conversation.decode(torch.tensor([290, 347])).has_ended


def test_the_instructions_that_come_along_are_one_paragraph_of_their_own_each() -> None:
    files = find_enhancer(GEMMA_3)
    texts = {files.instructions(with_image=True)}
    texts |= {replace(files, enhancer=one).instructions(with_image=False) for one in ENHANCERS}
    assert len(texts) == 3
    assert all(len(text) > 1000 and "\n" not in text for text in texts)


def test_a_gemma_4_instruct_folder_is_loaded_whole_and_writes(tmp_path: Path) -> None:
    from transformers import Gemma4Config, Gemma4ForConditionalGeneration

    text = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"],
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "global_head_dim": 8,
        "vocab_size": 592,
        "vocab_size_per_layer_input": 592,
        "hidden_size_per_layer_input": 8,
    }
    torch.manual_seed(0)
    Gemma4ForConditionalGeneration(Gemma4Config(text_config=text, vision_config=None)).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(GEMMA_3 / name, tmp_path)
    found = short(find_enhancer(tmp_path))
    assert (found.enhancer.title, found.sees_images) == ("Gemma 4", False)
    assert found.is_loaded_whole(with_image=False)
    own = Writer(Conversation(found), load_network(found, device=CPU, dtype=torch.float32))
    assert own.write("a dog runs", 5) == own.write("a dog runs", 6)  # tokens are not sampled


def test_the_encoder_of_2_5_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot rewrite prompts") as own:
        enhancer_of_encoder(find_encoder(GEMMA_4))
    with pytest.raises(CheckpointError, match="cannot be used") as named:
        find_enhancer(copied(tmp_path / "unified", model_type="gemma4_unified"))
    for error in (own.value, named.value):
        assert "gemma4_unified" in error.why
        assert "--enhancer FOLDER" in error.hint


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    folder = copied(tmp_path / "gemma")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError) as refused:
        find_enhancer(folder)
    assert "has no chat template" in refused.value.why


def test_a_chat_template_is_found_wherever_a_model_keeps_it(tmp_path: Path) -> None:
    folder = copied(tmp_path / "gemma")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert find_enhancer(folder).template == template
    (folder / "chat_template.json").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert find_enhancer(folder).template == template


@pytest.mark.parametrize(
    ("make", "kind", "why"),
    [
        (lambda path: path / "nothing", StorageError, "several files"),
        (lambda path: path, StorageError, "no config.json"),
        (lambda path: copied(path / "t5", model_type="t5"), CheckpointError, "'gemma3' and 'gemma4' can be used"),
    ],
    ids=["no folder", "an empty folder", "another model"],
)
def test_a_folder_that_is_no_such_model_is_refused(make, kind: type[LTX2Error], why: str, tmp_path: Path) -> None:
    with pytest.raises(kind) as refused:
        find_enhancer(make(tmp_path))
    assert why in refused.value.why
    assert "--enhancer FOLDER" in refused.value.hint


def test_a_folder_without_what_looks_at_images_rewrites_from_texts_alone(tmp_path: Path) -> None:
    folder = copied(tmp_path / "gemma")
    (folder / "preprocessor_config.json").unlink()
    assert not find_enhancer(folder).sees_images


def test_a_folder_whose_weights_are_not_all_there_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied(tmp_path / "gemma")
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "post_layernorm" not in name}
    save_file(kept, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as refused:
        load_network(find_enhancer(folder), device=CPU, dtype=torch.float32)
    assert "post_layernorm" in refused.value.why
