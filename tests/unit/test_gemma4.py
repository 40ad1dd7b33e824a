"""The text encoder of LTX-2.5: one file with its tokenizer and projection, and the models that it belongs to."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltx2_core.components import COMPONENTS
from ltx2_core.costs.text import LanguageModel
from ltx2_core.errors import CheckpointError
from ltx2_core.header_text import TensorInfo
from ltx2_core.headers import FileKind, Header, classify, read_header
from ltx2_core.hub.published import tensor_list
from ltx2_core.log import warn_once
from ltx2_core.text import gemma
from ltx2_core.text.encoders import GEMMA_3, GEMMA_4
from ltx2_core.text.files import EncoderFiles, check_pair, find_encoder
from ltx2_core.text.gemma import PromptTokenizer, build_language_model, load_gemma, stream_gemma
from scripts.quantise import stored, with_markers

FILE = Path(__file__).parents[1] / "golden/text/2.5/text_encoder.safetensors"
ASSET = "hf_asset__tokenizer_config.json"
VERSION = "gemma4-tiny-ltx-v1"
PROMPTS = ["a red fox", ""]
ROWS = 128
Tensors = dict[str, Tensor]


def metadata() -> dict[str, str]:
    return dict(read_header(FILE).metadata)


def config() -> dict:
    return json.loads(metadata()["gemma_config"])


def written(folder: Path, tensors: Mapping[str, Tensor], said: Mapping[str, str] | None = None) -> Path:
    path = folder / "encoder.safetensors"
    save_file(dict(tensors), path, dict(metadata() if said is None else said))
    return path


def ids(path: Path, prompt: str) -> list[int]:
    return PromptTokenizer.load(find_encoder(path)).encode(prompt, ROWS)


def hidden(found: EncoderFiles) -> list[Tensor]:
    return load_gemma(found, dtype=torch.float32)(PROMPTS, ROWS)


def test_the_file_says_which_encoder_it_is() -> None:
    found = find_encoder(FILE)
    assert classify(found.header) is FileKind.TEXT_ENCODER
    assert found.encoder is GEMMA_4
    assert found.features == 32 * 7
    assert found.paths == [FILE]


def test_the_first_token_is_put_before_a_prompt_whose_tokenizer_does_not() -> None:
    assert ids(FILE, "") == [2]
    assert ids(FILE, " <bos>hello ") == ids(FILE, "hello")
    assert ids(FILE, "hello")[0] == 2


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_the_tokenizer_may_be_stored_as_any_bytes(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = load_file(FILE)
    tensors["tokenizer_json"] = tensors["tokenizer_json"].view(dtype)
    assert ids(written(tmp_path, tensors), "a red fox") == ids(FILE, "a red fox")


def test_special_tokens_may_be_named_in_the_metadata(tmp_path: Path) -> None:
    tensors = load_file(FILE)
    settings = json.loads(bytes(tensors.pop(ASSET).tolist())) | {"bos_token": "<eos>"}
    path = written(tmp_path, tensors, metadata() | {"tokenizer_config.json": json.dumps(settings)})
    assert ids(path, "hello") == [1, *ids(FILE, "hello")[1:]]


def test_damaged_special_tokens_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, load_file(FILE) | {ASSET: torch.zeros(4, dtype=torch.uint8)})
    with pytest.raises(CheckpointError, match="is damaged"):
        ids(path, "hello")


def test_names_as_transformers_saves_them_give_the_same_bits(tmp_path: Path) -> None:
    nested = {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in load_file(FILE).items()}
    pairs = zip(hidden(find_encoder(written(tmp_path, nested))), hidden(find_encoder(FILE)), strict=True)
    assert all(found.equal(expected) for found, expected in pairs)


def test_the_scalar_of_each_layer_is_read(tmp_path: Path) -> None:
    tensors = load_file(FILE)
    tensors["model.layers.1.layer_scalar"] *= 2
    changed, before = hidden(find_encoder(written(tmp_path, tensors)))[0], hidden(find_encoder(FILE))[0]
    assert changed[..., :2].equal(before[..., :2])
    torch.testing.assert_close(changed[..., 2], 2 * before[..., 2])


def convrot(tensors: Tensors) -> Tensors:
    """The same tensors with linear layers stored as in the published int8 file."""
    names = [name for name in tensors if name.endswith("_proj.weight")]
    layers = {name.removesuffix(".weight"): stored("convrot", tensors.pop(name), group=16) for name in names}
    return tensors | with_markers(layers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_quantised", [False, True])
def test_streamed_layers_give_the_bits_of_a_file_that_is_loaded_whole(
    tmp_path: Path, dtype: torch.dtype, is_quantised: bool
) -> None:
    found = find_encoder(written(tmp_path, convrot(load_file(FILE)))) if is_quantised else find_encoder(FILE)
    whole, streamed = load_gemma(found, dtype=dtype), stream_gemma(found, device=torch.device("cpu"), dtype=dtype)
    pairs = zip(whole(PROMPTS, ROWS), streamed(PROMPTS, ROWS), strict=True)
    assert all(ours.equal(expected) and ours.dtype == dtype for ours, expected in pairs)


def test_its_layers_are_counted_without_what_else_the_file_holds() -> None:
    counted = LanguageModel.of(read_header(FILE))
    model = load_gemma(find_encoder(FILE)).model
    assert (counted.width, counted.layers, counted.feed_forward) == (32, 6, 64)
    assert counted.parameters == sum(p.numel() for name, p in model.layers.named_parameters() if p.ndim == 2)


def test_the_published_file_has_the_tensors_that_are_loaded() -> None:
    listed = tensor_list("text-2.5")["text_encoder"]
    header = Header(Path("published.safetensors"), {}, dict.fromkeys(listed["tensors"]))  # pyright: ignore[reportArgumentType]
    names = COMPONENTS["language_model"].names_in(header)
    with torch.device("meta"):
        model = build_language_model(listed["config"])
    ours = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert ours == {own: listed["tensors"][name] for name, own in names.items()}
    assert len(ours) == 666


def test_a_version_of_transformers_without_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    later = replace(GEMMA_4, model_class="GemmaOfTomorrow")
    monkeypatch.setattr(gemma, "encoder_of", lambda _: later)
    with pytest.raises(CheckpointError, match="Gemma 4 cannot be loaded with this version of transformers") as error:
        load_gemma(find_encoder(FILE))
    assert "has no GemmaOfTomorrow" in error.value.why


# What is refused


def without(name: str) -> tuple[Tensors, dict[str, str]]:
    """The file without one tensor or metadata entry."""
    tensors, said = load_file(FILE), metadata()
    tensors.pop(name, None)
    said.pop(name, None)
    return tensors, said


@pytest.mark.parametrize(
    ("lacks", "why"),
    [
        ("gemma_config", "its metadata has no usable gemma_config"),
        ("tokenizer_json", "holds its own as tokenizer_json, and no other goes with it"),
        ("model.norm.weight", "norm.weight is missing"),
    ],
)
def test_a_file_that_lacks_something_is_refused(tmp_path: Path, lacks: str, why: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(bytes(load_file(FILE)["tokenizer_json"].tolist()))  # not used
    path = written(tmp_path, *without(lacks))
    with pytest.raises(CheckpointError) as error:
        find_encoder(path)
    assert why in error.value.why + error.value.what


def test_another_language_model_is_refused_by_its_type(tmp_path: Path) -> None:
    other = config() | {"model_type": "gemma5"}
    path = written(tmp_path, load_file(FILE), {"gemma_config": json.dumps(other)})
    with pytest.raises(CheckpointError) as error:
        find_encoder(path)
    assert error.value.why == "its metadata says model_type 'gemma5', and 'gemma3' and 'gemma4_unified' can be used"


# The models that it belongs to


def encoder(version: str | None, *, is_stock: bool = False) -> EncoderFiles:
    model_type = GEMMA_3.model_type if is_stock else GEMMA_4.model_type
    said = {"model_type": model_type, "text_config": {"hidden_size": 32, "num_hidden_layers": 6}}
    said |= {"gemma_version": version} if version else {}
    return EncoderFiles(config=said, config_file=None, tokenizer=FILE, tokenizer_config=None, weights=())


def transformer(**said: str) -> Header:
    return Header(Path("transformer.safetensors"), said, {})


NAMED = {"gemma_source_checkpoint": json.dumps({"ltx_version": "2.5.0", "gemma_version": VERSION})}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (encoder(VERSION), NAMED),
        (encoder(VERSION), NAMED | {"model_version": "2.3"}),
        (encoder(None, is_stock=True), {}),
        (encoder(None, is_stock=True), {"model_version": "2.3.rc1"}),
        (encoder(None), {"model_version": "2.4-rc2"}),
    ],
)
def test_an_encoder_of_the_same_version_is_taken(found: EncoderFiles, said: dict[str, str]) -> None:
    check_pair(found, transformer(**said), read_header(FILE))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (encoder("gemma4-12b-ltx-v2"), NAMED),
        (encoder(None), NAMED),
        (encoder(None, is_stock=True), NAMED),
        (encoder(VERSION), {}),
        (encoder(VERSION), {"model_version": "2.5.0"}),
        (encoder(None), {"model_version": "2.3"}),
        (encoder(None), {}),
    ],
)
def test_an_encoder_of_another_version_is_refused_with_the_one_that_is_wanted(
    found: EncoderFiles, said: dict[str, str]
) -> None:
    with pytest.raises(CheckpointError, match=r"does not belong to transformer\.safetensors") as error:
        check_pair(found, transformer(**said), read_header(FILE))
    wanted = VERSION if said.keys() & NAMED.keys() else "Gemma 3"
    assert error.value.hint == f"--text-encoder FOLDER|FILE names {wanted}"


# The tensors that identify a transformer of 2.5 without metadata.
OF_2_5 = {"transformer_blocks.0.attn1.to_q.weight", "prompt_adaln_single.linear.weight"}


def without_metadata() -> Header:
    return Header(Path("transformer.gguf"), {}, dict.fromkeys(OF_2_5, TensorInfo("BF16", (1,), 0, 2)))


def test_a_copy_of_2_5_without_metadata_takes_gemma_4_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, "ltx2"):
        check_pair(encoder(VERSION), without_metadata(), read_header(FILE))
    assert "transformer.gguf does not say which text encoder it was trained with" in caplog.text


def test_a_copy_of_2_5_without_metadata_takes_no_gemma_3() -> None:
    with pytest.raises(CheckpointError, match="does not belong to transformer") as error:
        check_pair(encoder(None, is_stock=True), without_metadata(), read_header(FILE))
    assert error.value.hint == "--text-encoder FOLDER|FILE names Gemma 4"


def test_a_late_model_that_names_no_encoder_is_used_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, "ltx2"):
        check_pair(encoder(None), transformer(model_version="2.4.0"), read_header(FILE))
    assert "does not say which text encoder it was trained with" in caplog.text


def test_the_projection_in_the_file_must_take_what_the_encoder_gives(tmp_path: Path) -> None:
    tensors = load_file(FILE)
    name = "text_embedding_projection.audio_aggregate_embed.weight"
    tensors[name] = tensors[name][:, :100].contiguous()
    with pytest.raises(CheckpointError) as error:
        check_pair(encoder(VERSION), transformer(**NAMED), read_header(written(tmp_path, tensors)))
    assert f"{name} takes 100 values for a token, and this encoder gives 224" in error.value.why
