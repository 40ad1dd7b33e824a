"""Text conditioning: tokenizer rules, a tiny Gemma on disk, features and connectors."""

from __future__ import annotations

import gc
import gzip
import json
import shutil
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import Gemma3Config, Gemma3TextModel

from ltx2_core.checkpoint import load_component
from ltx2_core.components import COMPONENTS
from ltx2_core.config.text import ConnectorConfig, ProjectionConfig
from ltx2_core.errors import CheckpointError, StorageError
from ltx2_core.header_text import TensorInfo
from ltx2_core.headers import Header, read_header
from ltx2_core.hub.published import TENSORS
from ltx2_core.keymap import official_name
from ltx2_core.models.connector import Connector, TextProjection
from ltx2_core.text.encode import ContextModels, TextContext, encode_prompts
from ltx2_core.text.files import check_pair, find_encoder
from ltx2_core.text.gemma import Gemma, PromptTokenizer, build_language_model, load_gemma, pad_left
from ltx2_core.text.released import config_of

MANIFEST = TENSORS / "text-2.0.json.gz"
ROWS = 64
WORDS = ["<pad>", "<eos>", "<bos>", "<unk>"]
WORDS += ["a", "red", "fox", "walks", "through", "deep", "snow", "while", "wind", "blows"]
PROMPTS = ["a red fox", "", "wind blows while a fox walks through deep red snow " * 3]
TEXT_CONFIG = {
    "vocab_size": len(WORDS),
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": 1024,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
FEATURES = 24 * 4
SHARED = {"transformer": {"connector_num_attention_heads": 2, "connector_attention_head_dim": 4}}
SHARED["transformer"] |= {"connector_num_learnable_registers": 16, "connector_positional_embedding_max_pos": [4096]}
SEPARATE = {
    "transformer": {
        **SHARED["transformer"],
        "audio_connector_attention_head_dim": 6,
        "connector_apply_gated_attention": True,
        "caption_proj_before_connector": True,
        "caption_projection_first_linear": False,
        "caption_proj_input_norm": False,
        "caption_projection_second_linear": False,
    }
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread, because waiting for other threads takes longer than these tiny products."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def gemma_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma 3 folder as it is published: two shards with an index, names of the multimodal model."""
    folder = tmp_path_factory.mktemp("gemma")
    torch.manual_seed(0)
    config = Gemma3Config(text_config=TEXT_CONFIG)
    state = Gemma3TextModel(config.text_config).bfloat16().state_dict()
    state = {f"language_model.model.{name}": torch.randn_like(tensor) * 0.3 for name, tensor in state.items()}
    state["multi_modal_projector.mm_soft_emb_norm.weight"] = torch.ones(4)
    write_shards(folder, state)
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": TEXT_CONFIG}))
    write_tokenizer(folder, adds_bos=True)
    return folder


@pytest.fixture
def own_folder(gemma_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(gemma_folder, tmp_path / "gemma"))


@pytest.fixture
def gemma(gemma_folder: Path) -> Gemma:
    return load_gemma(find_encoder(gemma_folder), dtype=torch.float32)


def write_shards(folder: Path, state: dict[str, torch.Tensor]) -> None:
    names = sorted(state)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, held in halves.items():
        save_file({name: state[name] for name in held}, folder / shard)
    index = {"weight_map": {name: shard for shard, held in halves.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def read_shards(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for shard in folder.glob("*.safetensors") for name, tensor in load_file(shard).items()}


def write_tokenizer(folder: Path, *, adds_bos: bool) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(WORDS[:4])
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": {"content": "<bos>"}, "eos_token": "<eos>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def filled(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give a module small random weights."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return module.requires_grad_(False).eval()


def projection(config: dict, seed: int = 0) -> TextProjection:
    shapes = {"aggregate_embed.weight": (8, FEATURES)}
    return filled(TextProjection(ProjectionConfig.from_metadata({**config, "shapes": shapes})), seed)


def connector(config: dict, stream: str = "video", seed: int = 1) -> Connector:
    return filled(Connector(ConnectorConfig.from_metadata(config, stream)), seed)


def context_models(config: dict) -> ContextModels:
    return ContextModels(projection(config), connector(config, "video"), connector(config, "audio", seed=2))


def hidden_states(length: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, length, 24, 4, generator=torch.Generator().manual_seed(seed))


# Tokenizer


def test_one_bos_is_first_whether_or_not_the_assets_add_it(own_folder: Path) -> None:
    with_bos = PromptTokenizer.load(find_encoder(own_folder)).encode("a red fox", ROWS)
    write_tokenizer(own_folder, adds_bos=False)
    without = PromptTokenizer.load(find_encoder(own_folder)).encode("a red fox", ROWS)
    assert with_bos == without == [2, 4, 5, 6]


def test_a_written_bos_is_doubled_only_by_assets_that_add_one(own_folder: Path) -> None:
    assert PromptTokenizer.load(find_encoder(own_folder)).encode("<bos>a", ROWS) == [2, 2, 4]
    write_tokenizer(own_folder, adds_bos=False)
    assert PromptTokenizer.load(find_encoder(own_folder)).encode("<bos>a", ROWS) == [2, 4]


def test_an_empty_prompt_is_the_bos_alone(gemma: Gemma) -> None:
    assert gemma.tokenizer.encode(" \n\u00a0", ROWS) == [gemma.tokenizer.bos]


def test_space_around_a_prompt_means_nothing(gemma: Gemma) -> None:
    assert gemma.tokenizer.encode("\u00a0\n a red\tfox \t", ROWS) == gemma.tokenizer.encode("a red\tfox", ROWS)


def test_a_long_prompt_loses_its_end_which_is_counted(gemma: Gemma) -> None:
    prompt = "a red fox walks"
    whole = gemma.tokenizer.encode(prompt, 5)
    assert gemma.tokenizer.encode(prompt, 3) == whole[:3]
    assert [gemma.tokenizer.count_dropped(prompt, rows) for rows in (6, 5, 3)] == [0, 0, 2]


def test_padding_that_the_assets_ask_for_is_ignored(own_folder: Path) -> None:
    plain = PromptTokenizer.load(find_encoder(own_folder)).encode("a red fox", ROWS)
    assets = Tokenizer.from_file(str(own_folder / "tokenizer.json"))
    assets.enable_padding(length=9)
    assets.enable_truncation(2)
    assets.save(str(own_folder / "tokenizer.json"))
    assert PromptTokenizer.load(find_encoder(own_folder)).encode("a red fox", ROWS) == plain


# Gemma


def run_padded(gemma: Gemma, prompt: str) -> torch.Tensor:
    """The hidden states of the real tokens (l d k), with the prompt padded to all rows."""
    ids = gemma.tokenizer.encode(prompt, ROWS)
    tokens, mask = pad_left([ids], ROWS, gemma.tokenizer.pad)
    with torch.no_grad():
        result = gemma.model(input_ids=tokens, attention_mask=mask, use_cache=False, output_hidden_states=True)
    return torch.stack(result.hidden_states, dim=-1)[0, -len(ids) :]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_real_tokens_alone_give_the_bits_of_a_padded_prompt(gemma_folder: Path, dtype: torch.dtype) -> None:
    gemma = load_gemma(find_encoder(gemma_folder), dtype=dtype)
    for prompt in PROMPTS:
        assert torch.equal(gemma([prompt], ROWS)[0][0], run_padded(gemma, prompt))


def test_a_batch_gives_the_bits_of_its_prompts_alone(gemma: Gemma) -> None:
    for batched, prompt in zip(gemma(PROMPTS, ROWS), PROMPTS, strict=True):
        assert torch.equal(batched, gemma([prompt], ROWS)[0])


def test_weights_in_place_equal_a_model_that_was_built_whole(gemma_folder: Path, gemma: Gemma) -> None:
    whole = Gemma3TextModel(Gemma3Config(text_config=TEXT_CONFIG).text_config).eval()
    state = {name.removeprefix("language_model.model."): tensor for name, tensor in read_shards(gemma_folder).items()}
    whole.load_state_dict({name: state[name] for name in whole.state_dict()})
    assert torch.equal(gemma(PROMPTS[:1], ROWS)[0], Gemma(whole, gemma.tokenizer)(PROMPTS[:1], ROWS)[0])


@pytest.mark.parametrize("prefix", ["model.language_model.", "model."])
def test_other_names_of_the_same_tensors_are_understood(own_folder: Path, gemma: Gemma, prefix: str) -> None:
    renamed = {
        name.replace("language_model.model.", prefix): tensor for name, tensor in read_shards(own_folder).items()
    }
    write_shards(own_folder, renamed)
    other = load_gemma(find_encoder(own_folder), dtype=torch.float32)
    assert torch.equal(other(PROMPTS[:1], ROWS)[0], gemma(PROMPTS[:1], ROWS)[0])


def test_weights_keep_the_dtype_of_the_file_unless_asked(gemma_folder: Path) -> None:
    kept = load_gemma(find_encoder(gemma_folder))
    assert {parameter.dtype for parameter in kept.parameters()} == {torch.bfloat16}
    assert kept.model.embed_tokens.embed_scale.dtype == torch.float32


def test_the_published_gemma_has_the_tensors_that_are_loaded() -> None:
    listed = json.loads(gzip.decompress(MANIFEST.read_bytes()))["text_encoder"]
    with torch.device("meta"):
        model = build_language_model(listed["config"])
    prefix = COMPONENTS["language_model"].prefixes[0]
    ours = {official_name("language_model", name): list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert ours == {name: shape for name, shape in listed["tensors"].items() if name.startswith(prefix)}


def published_shapes() -> dict[str, tuple[int, ...]]:
    listed = json.loads(gzip.decompress(MANIFEST.read_bytes()))["text_encoder"]["tensors"]
    return {name: tuple(shape) for name, shape in listed.items()}


def header_of(shapes: Mapping[str, tuple[int, ...]]) -> Header:
    return Header(Path("g.safetensors"), {}, {name: TensorInfo("BF16", shape, 0, 0) for name, shape in shapes.items()})


def test_the_shapes_of_the_published_gemma_prove_its_config() -> None:
    expected = json.loads(gzip.decompress(MANIFEST.read_bytes()))["text_encoder"]["config"]["text_config"]
    found = config_of(header_of(published_shapes()))["text_config"]
    assert found.items() <= expected.items()
    assert found["vocab_size"] == 262208


@pytest.mark.parametrize(
    ("name", "shape", "why"),
    [
        ("layers.0.self_attn.k_proj.weight", (4096, 3840), "layers.0.self_attn.k_proj.weight is not [2048, 3840]"),
        ("layers.0.mlp.down_proj.weight", None, "layers.0.mlp.down_proj.weight is not [3840, 15360]"),
        ("embed_tokens.weight", (262208, 2560), "embed_tokens.weight is not 3840 wide"),
        ("embed_tokens.weight", None, "embed_tokens.weight is not 3840 wide"),
        ("layers.48.mlp.up_proj.weight", (15360, 3840), "it has 49 layers"),
    ],
)
def test_one_shape_that_differs_proves_nothing(name: str, shape: tuple[int, ...] | None, why: str) -> None:
    shapes = published_shapes() | {COMPONENTS["language_model"].prefixes[0] + name: shape}
    with pytest.raises(CheckpointError, match="its shapes are not those of Gemma 3 12B") as error:
        config_of(header_of({name: shape for name, shape in shapes.items() if shape is not None}))
    assert error.value.why == why


def test_a_folder_around_the_encoder_is_as_good(gemma_folder: Path) -> None:
    assert find_encoder(gemma_folder.parent).config == find_encoder(gemma_folder).config


# Refusals


def test_a_missing_tensor_is_not_left_random(own_folder: Path) -> None:
    state = read_shards(own_folder)
    del state["language_model.model.layers.1.mlp.up_proj.weight"]
    write_shards(own_folder, state)
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        load_gemma(find_encoder(own_folder))


def test_quantised_weights_are_refused(own_folder: Path) -> None:
    state = read_shards(own_folder)
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    write_shards(own_folder, {**state, name: state[name].to(torch.int8)})
    with pytest.raises(CheckpointError, match="quantised"):
        load_gemma(find_encoder(own_folder))


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model-00002-of-00002.safetensors"]
)
def test_an_incomplete_folder_says_what_is_missing(own_folder: Path, name: str) -> None:
    (own_folder / name).unlink()
    with pytest.raises(StorageError) as refusal:
        find_encoder(own_folder)
    assert name in str(refusal.value)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 33384570\n"


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors.index.json",
        "model-00002-of-00002.safetensors",
    ],
)
def test_what_was_not_downloaded_is_told_as_such_from_the_headers_alone(own_folder: Path, name: str) -> None:
    (own_folder / name).write_bytes(LFS)
    with pytest.raises(CheckpointError, match="Git LFS pointer") as refusal:
        find_encoder(own_folder)
    assert refusal.value.what == f"{name} cannot be opened"


def test_quantised_weights_are_refused_from_the_headers_alone(own_folder: Path) -> None:
    state = read_shards(own_folder)
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    write_shards(own_folder, {**state, name: state[name].to(torch.int8)})
    with pytest.raises(CheckpointError, match="gemma has quantised weights") as refusal:
        find_encoder(own_folder)
    assert refusal.value.why.startswith(name.removesuffix(".weight"))


def test_config_that_says_that_weights_are_quantised_is_refused(own_folder: Path) -> None:
    config = json.loads((own_folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (own_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"gemma is quantised.*\n.*quantization_config: gptq"):
        find_encoder(own_folder)


def test_folder_with_fewer_layers_than_its_config_says_is_refused_from_the_headers_alone(own_folder: Path) -> None:
    config = json.loads((own_folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 4
    (own_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="it has 3 layers, its config says 4"):
        find_encoder(own_folder)


def test_another_kind_of_model_is_refused(own_folder: Path) -> None:
    (own_folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(CheckpointError) as refusal:
        find_encoder(own_folder)
    assert "'llama'" in refusal.value.why
    assert refusal.value.hint


def test_a_damaged_tokenizer_is_refused(own_folder: Path) -> None:
    (own_folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is damaged"):
        PromptTokenizer.load(find_encoder(own_folder))


def write_checkpoint(path: Path, features: int, **metadata: str) -> Path:
    tensors = {"text_embedding_projection.aggregate_embed.weight": torch.randn(8, features)}
    save_file(tensors, path, {"config": json.dumps(SHARED), **metadata})
    return path


def test_an_encoder_of_another_size_is_refused_before_it_is_loaded(gemma_folder: Path, tmp_path: Path) -> None:
    encoder = find_encoder(gemma_folder)
    check_pair(encoder, *[read_header(write_checkpoint(tmp_path / "fits.safetensors", FEATURES))] * 2)
    with pytest.raises(CheckpointError) as refusal:
        check_pair(encoder, *[read_header(write_checkpoint(tmp_path / "other.safetensors", FEATURES + 24))] * 2)
    assert "120 values" in refusal.value.why


def test_a_checkpoint_with_its_own_gemma_refuses_the_stock_one(gemma_folder: Path, tmp_path: Path) -> None:
    source = json.dumps({"gemma_version": "gemma4-12b-ltx-v1"})
    path = write_checkpoint(tmp_path / "c.safetensors", FEATURES, gemma_source_checkpoint=source)
    with pytest.raises(CheckpointError) as refusal:
        check_pair(find_encoder(gemma_folder), read_header(path), read_header(path))
    assert "gemma4-12b-ltx-v1" in refusal.value.why


def test_an_unknown_text_path_is_refused_by_name() -> None:
    odd = {"transformer": {**SEPARATE["transformer"], "caption_proj_input_norm": True}}
    with pytest.raises(CheckpointError, match="caption_proj_input_norm"):
        ProjectionConfig.from_metadata(odd)


# Features


def test_the_projection_takes_the_encoder_s_size_from_its_tensor(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "c.safetensors", 40)
    module = load_component("text_projection", path)
    assert torch.equal(
        module.aggregate_embed.weight, load_file(path)["text_embedding_projection.aggregate_embed.weight"]
    )
    assert ProjectionConfig.from_metadata({"transformer": {}}).features == 188160


def test_shared_features_ignore_offset_and_size_of_a_layer() -> None:
    hidden = hidden_states()
    changed = hidden * torch.tensor([1.0, 3.0, 0.5, 7.0]) + torch.tensor([0.0, 2.0, -1.0, 5.0])
    normalise = projection(SHARED).normalise
    torch.testing.assert_close(normalise(changed), normalise(hidden))


def test_separate_features_ignore_the_size_of_a_token_and_of_its_neighbours() -> None:
    hidden = hidden_states()
    sizes = torch.rand(1, 5, 1, 4) + 0.5
    normalise = projection(SEPARATE).normalise
    torch.testing.assert_close(normalise(hidden * sizes), normalise(hidden))
    assert torch.equal(normalise(hidden)[:, 2:], normalise(hidden[:, 2:]))


@pytest.mark.parametrize("config", [SHARED, SEPARATE])
def test_layers_of_one_channel_lie_side_by_side(config: dict) -> None:
    hidden = hidden_states()
    normalise = projection(config).normalise
    only = torch.where(torch.arange(4) == 3, hidden, 0.0)
    assert torch.equal(normalise(only)[..., 3::4], normalise(hidden)[..., 3::4])


def test_one_matrix_serves_both_streams_and_two_have_their_own_scale() -> None:
    hidden = hidden_states()
    video, audio = projection(SHARED)(hidden)
    assert torch.equal(video, audio)
    model = projection(SEPARATE)
    video, audio = model(hidden)
    for features, embed, width in ((video, model.video_aggregate_embed, 8), (audio, model.audio_aggregate_embed, 12)):
        expected = model.normalise(hidden) @ embed.weight.T * (width / 24) ** 0.5 + embed.bias
        torch.testing.assert_close(features, expected)


# Connectors


def test_registers_stand_at_their_own_rows() -> None:
    model = connector(SEPARATE)
    rows = model.learnable_registers.repeat(4, 1)[None]
    contexts = [model(rows[:, :length], ROWS) for length in (1, 5, 16, 37, 64)]
    assert all(torch.equal(contexts[0], context) for context in contexts)


def test_a_context_has_all_rows_and_the_prompt_reaches_each_of_them() -> None:
    model = connector(SHARED)
    one, other = torch.randn(1, 3, 8), torch.randn(1, 3, 8)
    difference = (model(one, ROWS) - model(other, ROWS)).abs().amax(-1)
    assert difference.shape == (1, ROWS)
    assert difference.min() > 0


def test_the_order_of_tokens_matters() -> None:
    model = connector(SHARED)
    features = torch.randn(1, 4, 8)
    assert not torch.allclose(model(features, ROWS)[:, 4:], model(features.flip(1), ROWS)[:, 4:])


def test_audio_connectors_take_over_what_only_video_states() -> None:
    video, audio = (ConnectorConfig.from_metadata(SHARED, stream) for stream in ("video", "audio"))
    assert video == audio
    assert ConnectorConfig.from_metadata(SEPARATE, "audio").width == 12


def test_released_connectors_have_128_registers_of_the_released_width() -> None:
    with torch.device("meta"):
        model = Connector(ConnectorConfig.from_metadata({"transformer": {}}, "video"))
    assert model.learnable_registers.shape == (128, 3840)


# Prompts to contexts


def test_prompts_together_give_the_contexts_of_prompts_alone(gemma: Gemma) -> None:
    made_of = context_models(SEPARATE)

    def encode(prompts: list[str]) -> list[TextContext]:
        return encode_prompts(prompts, lambda: nullcontext(gemma), lambda: nullcontext(made_of), ROWS)

    for together, prompt in zip(encode(PROMPTS), PROMPTS, strict=True):
        (alone,) = encode([prompt])
        assert torch.equal(together.video, alone.video)
        assert torch.equal(together.audio, alone.audio)
        assert (together.video.shape, together.audio.shape) == ((1, ROWS, 8), (1, ROWS, 12))


class Stored8(nn.Module):
    """A linear layer without bias whose weight is stored as integers; it computes in the dtype of its input."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", (weight * 64).round().to(torch.int8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.get_buffer("weight").to(x.dtype) / 64).T


def test_hidden_states_keep_their_type_whatever_the_weights_are_stored_as() -> None:
    rounded, stored = context_models(SHARED), context_models(SHARED)
    weight = rounded.projection.aggregate_embed.weight
    stored.projection.aggregate_embed = Stored8(weight)
    rounded.projection.aggregate_embed.weight = nn.Parameter((weight * 64).round() / 64, requires_grad=False)
    contexts = [made_of.connect(hidden_states(), ROWS) for made_of in (rounded, stored)]
    torch.testing.assert_close(contexts[1].video, contexts[0].video)
    torch.testing.assert_close(contexts[1].audio, contexts[0].audio)


def test_gemma_is_gone_before_the_connectors_come(gemma_folder: Path) -> None:
    alive: list[weakref.ref[Gemma]] = []

    @contextmanager
    def encoder():
        gemma = load_gemma(find_encoder(gemma_folder), dtype=torch.float32)
        alive.append(weakref.ref(gemma))
        yield gemma

    @contextmanager
    def models_after():
        gc.collect()
        assert alive[0]() is None
        yield context_models(SHARED)

    assert len(encode_prompts(PROMPTS, encoder, models_after, ROWS)) == len(PROMPTS)
