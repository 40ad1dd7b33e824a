"""Headers of weight files: reading, refusing, classifying, and the config of a copy without its own config."""

import gzip
import json
import logging
import struct
import tracemalloc
from pathlib import Path

import pytest

from ltx2_core import headers
from ltx2_core.config import released
from ltx2_core.disk import RIGHTS
from ltx2_core.errors import CheckpointError, StorageError
from ltx2_core.headers import FileKind, Header, TensorInfo, classify, generation, precision, read_header
from ltx2_core.hub.published import TENSORS
from ltx2_core.log import warn_once

PREFIX = "model.diffusion_model."
DENOISER = PREFIX + "transformer_blocks.0.attn1.to_q.weight"


def raw_file(header: dict | bytes, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin: int = 0, end: int = 8, dtype: str = "F32", shape: tuple[int, ...] = (2,)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def header_of(*names: str, metadata: dict | None = None, **infos: tuple[str, tuple[int, ...]]) -> Header:
    """A header without a file: names of BF16 tensors, or name=(dtype, shape)."""
    tensors = {name: TensorInfo("BF16", (1,), 0, 2) for name in names}
    tensors |= {name: TensorInfo(dtype, shape, 0, 2) for name, (dtype, shape) in infos.items()}
    return Header(Path("some.safetensors"), metadata or {}, tensors)


def manifest(name: str) -> dict[str, list[int]]:
    """Every tensor of a released component, with its shape."""
    content = json.loads(gzip.decompress((TENSORS / f"{name}.json.gz").read_bytes()))
    parts = [content] if "tensors" in content else [content["projection"], content["connectors"]]
    return {key: shape for part in parts for key, shape in part["tensors"].items()}


def header_of_release(*names: str) -> Header:
    tensors = {key: TensorInfo("BF16", tuple(shape), 0, 0) for name in names for key, shape in manifest(name).items()}
    return Header(Path("copy.safetensors"), {}, tensors)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return tmp_path / "weights.safetensors"


def test_a_header_gives_metadata_and_the_place_of_every_tensor(weights: Path):
    entries = {"__metadata__": {"config": '{"a": 1}'}, "x": entry(), "y": entry(8, 10, "U8")}
    weights.write_bytes(raw_file(entries, bytes(8) + b"\x05\x07"))
    header = read_header(weights)
    y = header.tensors["y"]
    assert header.config == {"a": 1}
    assert weights.read_bytes()[y.start : y.end] == b"\x05\x07"
    assert header.nbytes == 10


@pytest.mark.parametrize("length", [0x80 + 256, 0x280, 0x4B50])
def test_a_header_length_that_looks_like_a_pickle_is_no_pickle(weights: Path, length: int):
    text = json.dumps({"x": entry()}).encode()
    weights.write_bytes(raw_file(text.ljust(length), bytes(8)))
    assert weights.read_bytes()[:1] in b"\x80P"
    assert list(read_header(weights).tensors) == ["x"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PK\x03\x04" + bytes(60), "pickle"),
        (b"\x80\x02}q\x00." + bytes(60), "pickle"),
        (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94." + bytes(60), "pickle"),
        (b"GGUF\x03\x00\x00\x00" + bytes(60), "GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS"),
        (b"<!doctype html><html></html>", "web page"),
        (b"tiny", "not a safetensors file"),
        (bytes(64), "not a safetensors file"),
        (raw_file(b"[1, 2]"), "not a safetensors file"),
    ],
)
def test_what_is_no_safetensors_file_is_refused_by_content_whatever_its_name(weights: Path, content: bytes, what: str):
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be opened") as caught:
        read_header(weights)
    assert what in caught.value.why
    assert caught.value.hint


@pytest.mark.parametrize(
    "header",
    [
        b"{not json",
        b'{"x": ' + b"[" * 100_000,
        b"{\xff\xfe}",
        {"x": 5},
        {"x": {"dtype": "F32"}},
        {"__metadata__": 3},
        {"__metadata__": {"a": 3}},
        {"__metadata__": {"a": ["b"]}},
        {"x": entry(shape=(1,) * 9)},
        {"x": entry(shape=(2**63,), dtype="F4")},
        {"x": entry(shape=(True, 2))},
        {"x": entry() | {"shape": [[2]]}},
        b'{"x": {"dtype": "F32", "shape": [' + b"9" * 4300 + b'], "data_offsets": [0, 8]}}',
        b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "x": {"dtype": "F32", "shape": [2], '
        b'"data_offsets": [8, 16]}}',
        b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}} more',
        b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},}',
        {"x": entry(shape=(3,))},
        {"x": entry(shape=(-1, -2))},
        {"x": entry(8, 0)},
        {"x": entry(begin=8, end=16)},
        {"x": entry(), "y": entry(4, 12)},
        {"x": entry(), "y": entry(16, 24)},
        {"x": entry() | {"dtype": 32}},
        {"x": entry() | {"data_offsets": [0, "8"]}},
    ],
    ids=str,
)
def test_a_header_that_is_not_of_the_format_is_refused(weights: Path, header: dict | bytes):
    weights.write_bytes(raw_file(header, bytes(24)))
    with pytest.raises(CheckpointError, match="cannot be opened"):
        read_header(weights)


def test_a_header_over_the_limit_is_refused_before_it_is_read(weights: Path):
    with weights.open("wb") as file:
        file.write(struct.pack("<Q", 25_000_001) + b"{")
        file.truncate(200_000_000)  # sparse: takes no space
    with pytest.raises(CheckpointError) as caught:
        read_header(weights)
    assert "25,000,001" in caught.value.why


HOSTILE = {
    "brackets inside brackets": b'{"x": ' + b"[" * 24_000_000,
    "lists beside lists": b'{"x": [' + b"[]," * 8_000_000 + b"[]]}",
    "lists in the metadata": b'{"__metadata__": {"a": [' + b"[]," * 8_000_000 + b"[]]}}",
    "a text without an end": b'{"' + b"x" * 24_000_000,
    "backslashes without an end": b'{"' + b"\\" * 24_000_000,
    "spaces without an end": b"{" + b" " * 24_000_000,
    "long numbers": b'{"x": {"dtype": "F32", "shape": ['
    + b",".join([b"9" * 4300] * 1500)
    + b'], "data_offsets": [0]}}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused_before_it_becomes_objects(weights: Path, name: str):
    weights.write_bytes(raw_file(HOSTILE[name]))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="cannot be opened"):
            read_header(weights)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000_000


def test_a_header_of_more_tensors_than_any_model_has_is_refused(weights: Path):
    one = b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    weights.write_bytes(raw_file(b"{" + b",".join(one % number for number in range(30_001)) + b"}"))
    with pytest.raises(CheckpointError, match="cannot be opened"):
        read_header(weights)


def test_a_header_of_many_tensors_and_texts_is_read_like_any_other(weights: Path):
    entries = {f"layer.{n}\n\u00e9": entry(8 * n, 8 * n + 8) for n in range(2_000)}
    metadata = {"config": json.dumps({"a": '"\\[{'}), "empty": ""}
    weights.write_bytes(raw_file({"__metadata__": metadata, **entries}, bytes(16_000)))
    header = read_header(weights)
    assert header.metadata == metadata
    assert list(header.tensors) == list(entries)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]" * 3_000_000, "{", "9" * 5000], ids=lambda text: text[:3])
def test_a_config_that_is_no_object_or_too_large_is_refused_by_name(weights: Path, text: str):
    weights.write_bytes(raw_file({"__metadata__": {"config": text}, "x": entry()}, bytes(8)))
    with pytest.raises(CheckpointError, match="damaged config"):
        _ = read_header(weights).config


def test_a_config_may_be_as_long_as_the_limit_and_no_longer(monkeypatch: pytest.MonkeyPatch):
    text = '{"a": 1}'
    header = header_of("x", metadata={"config": text})
    monkeypatch.setattr(headers, "LARGEST_JSON_BYTES", len(text))
    assert header.entry("config") == {"a": 1}
    monkeypatch.setattr(headers, "LARGEST_JSON_BYTES", len(text) - 1)
    with pytest.raises(CheckpointError, match="longer than 7 characters"):
        header.entry("config")


def test_a_version_of_thousands_of_digits_counts_as_none():
    assert header_of("x", metadata={"model_version": "2." + "9" * 5000}).model_version == (2,)


def test_a_cut_file_is_refused_wherever_the_cut_is(weights: Path):
    whole = raw_file({"x": entry()}, bytes(8))
    for length in (0, 20, len(whole) - 1):
        weights.write_bytes(whole[:length])
        with pytest.raises(StorageError) as caught:
            read_header(weights)
        assert caught.value.hint == "download it again"


def test_bytes_after_the_last_tensor_are_refused(weights: Path):
    weights.write_bytes(raw_file({"x": entry()}, bytes(9)))
    with pytest.raises(StorageError, match="damaged"):
        read_header(weights)


def test_a_folder_is_no_weight_file(tmp_path: Path):
    with pytest.raises(CheckpointError) as caught:
        read_header(tmp_path)
    assert caught.value.why == "it is a folder"


@pytest.mark.parametrize("name", ["missing.safetensors", "with\0zero.safetensors"])
def test_a_missing_file_is_a_storage_error(tmp_path: Path, name: str):
    with pytest.raises(StorageError, match="cannot be read"):
        read_header(tmp_path / name)


def test_a_file_without_permission_is_a_storage_error(weights: Path, monkeypatch: pytest.MonkeyPatch):
    weights.write_bytes(raw_file({}))

    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StorageError) as caught:
        read_header(weights)
    assert (caught.value.why, caught.value.hint) == RIGHTS


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000])
def test_a_damaged_config_is_refused(text: str):
    with pytest.raises(CheckpointError, match="damaged config"):
        _ = header_of(metadata={"config": text}).config


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("2.5.0", (2, 5, 0)), ("2.3", (2, 3)), ("2.3.rc1", (2, 3)), ("2.4-rc2", (2, 4)), ("v2.3", ()), ("2.²", (2,))],
)
def test_model_version_is_its_leading_numbers(text: str, numbers: tuple[int, ...]):
    assert header_of(metadata={"model_version": text}).model_version == numbers
    assert header_of().model_version == ()


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (FileKind.LORA, ["diffusion_model.transformer_blocks.0.attn1.to_q.lora_A.weight"]),
        (FileKind.LORA, ["transformer_blocks.0.attn1.to_q.lora_down.weight", DENOISER]),
        (FileKind.MONOLITH, [DENOISER, "vae.decoder.conv_in.conv.weight"]),
        (FileKind.TRANSFORMER, [DENOISER]),
        (FileKind.TRANSFORMER, [DENOISER.removeprefix("model.")]),
        (FileKind.TRANSFORMER, [DENOISER.removeprefix(PREFIX)]),
        (FileKind.DIFFUSERS, ["transformer_blocks.0.attn1.to_q.weight", "proj_in.weight", "time_embed.linear.weight"]),
        (FileKind.DIFFUSERS, ["transformer_blocks.0.attn1.to_q.weight", "transformer_blocks.0.attn1.norm_q.weight"]),
        (FileKind.TEXT_ENCODER, ["tokenizer_json", "model.layers.0.input_layernorm.weight"]),
        (FileKind.TEXT_ENCODER, ["tokenizer_json", "model.language_model.layers.0.input_layernorm.weight"]),
        (FileKind.GEMMA, ["language_model.model.layers.0.input_layernorm.weight"]),
        (FileKind.VIDEO_VAE, ["vae.decoder.up_blocks.0.x", "vae.per_channel_statistics.mean-of-means"]),
        (FileKind.VIDEO_VAE, ["encoder.down_blocks.0.x", "decoder.stages.0.x", "per_channel_statistics.std-of-means"]),
        (FileKind.AUDIO, ["audio_vae.decoder.up.0.x"]),
        (FileKind.AUDIO, ["vocoder.vocoder.ups.0.weight"]),
        (FileKind.UPSAMPLER, ["initial_conv.weight", "upsampler.0.weight", "final_conv.weight"]),
        (FileKind.DURATION_HEAD, ["duration_head.attention_pooler.query_tokens"]),
        (FileKind.CONNECTORS, [PREFIX + "video_embeddings_connector.learnable_registers"]),
    ],
)
def test_a_file_is_known_by_its_tensor_names(kind: FileKind, names: list[str]):
    assert classify(header_of(*names)) is kind


@pytest.mark.parametrize("names", [[], ["encoder.weight"], ["model.layers.0.mlp.weight"], ["model.model." + DENOISER]])
def test_a_file_of_another_model_is_refused_with_some_of_its_names(names: list[str]):
    with pytest.raises(CheckpointError, match="is not a file of an LTX-2 model") as caught:
        classify(header_of(*names))
    assert (names[0] if names else "nothing") in caught.value.why


BIAS = PREFIX + "transformer_blocks.0.ff.net.2.bias"
AUDIO_BIAS = PREFIX + "transformer_blocks.0.audio_ff.net.2.bias"
PROMPT_ADALN = PREFIX + "prompt_adaln_single.linear.weight"


@pytest.mark.parametrize(
    ("expected", "names"),
    [
        ("2.0", [PREFIX + "caption_projection.linear_1.weight", BIAS]),
        ("2.3", [PROMPT_ADALN, BIAS, AUDIO_BIAS]),
        ("2.5", [PROMPT_ADALN, AUDIO_BIAS]),
        (None, [PREFIX + "caption_projection.linear_1.weight", PROMPT_ADALN, BIAS]),
        (None, ["audio_vae.decoder.conv_in.conv.weight"]),
    ],
)
def test_the_generation_is_what_the_names_prove_and_nothing_else(expected: str | None, names: list[str]):
    assert generation(header_of(*names)) == expected


@pytest.mark.parametrize("name", ["transformer-2.0", "text-2.0", "video-vae-2.0", "vocoder-2.0"])
def test_every_released_component_of_2_0_proves_its_generation(name: str):
    assert generation(header_of_release(name)) == "2.0"


@pytest.mark.parametrize(
    ("expected", "infos"),
    [
        ("bf16", {"a.weight": ("BF16", (4, 4))}),
        ("fp32", {"a.weight": ("F32", (4, 4))}),
        ("fp8 (scaled)", {"a.weight": ("F8_E4M3", (4, 4)), "a.weight_scale": ("F32", ())}),
        ("bf16", {"tokenizer_json": ("U8", (2,)), "a.weight": ("BF16", (4, 4)), "b.weight": ("BF16", (4, 4))}),
        ("none", {}),
    ],
)
def test_the_precision_is_that_of_the_linears(expected: str, infos: dict):
    assert precision(header_of(**infos)) == expected


def test_a_file_with_a_config_uses_its_own():
    header = header_of("whatever", metadata={"config": '{"transformer": {}}'})
    assert released.effective_config(header) == {"transformer": {}}


def test_a_copy_of_2_0_without_metadata_gets_the_released_config_and_one_warning(caplog: pytest.LogCaptureFixture):
    header = header_of_release("transformer-2.0", "text-2.0", "video-vae-2.0", "audio-vae-2.0", "vocoder-2.0")
    warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, "ltx2"):
        config = released.effective_config(header)
        assert released.effective_config(header) == config
    assert config.keys() == {"transformer", "vae", "audio_vae", "vocoder", "scheduler"}
    assert config["transformer"]["frequencies_precision"] == "float64"
    assert [record.getMessage().split()[0] for record in caplog.records] == ["copy.safetensors"]


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("upsampler-spatial-x2-2.0", "spatial_upsample"),
        ("upsampler-spatial-x2-2.3", "spatial_upsample"),
        ("upsampler-spatial-x1.5-2.3", "spatial_upsample"),
        ("upsampler-temporal-x2", "temporal_upsample"),
    ],
)
def test_an_upsampler_without_metadata_is_known_by_its_middle(name: str, setting: str):
    assert released.effective_config(header_of_release(name))[setting] is True


@pytest.mark.parametrize("name", ["transformer-2.5", "video-vae-2.5-diffusion"])
def test_parts_of_2_5_without_metadata_are_known_by_their_tensors(name: str):
    assert released.effective_config(header_of_release(name)) == released.released_configs()["2.5"]


@pytest.mark.parametrize(
    "names",
    [
        ["initial_conv.weight", "upsampler.0.weight", "final_conv.weight"],
        ["audio_vae.decoder.conv_in.conv.weight"],
    ],
)
def test_a_file_without_metadata_that_could_be_anything_is_refused(names: list[str]):
    with pytest.raises(CheckpointError, match="has no config") as caught:
        released.effective_config(header_of(*names))
    assert "do not prove" in caught.value.why


@pytest.mark.parametrize(
    ("release", "name", "section"),
    [
        ("2.0", "video-vae-2.0", "vae"),
        ("2.0", "audio-vae-2.0", "audio_vae"),
        ("2.0", "vocoder-2.0", "vocoder"),
        ("upsampler-spatial-x2-rational", "upsampler-spatial-x2-2.0", None),
        ("upsampler-temporal-x2", "upsampler-temporal-x2", None),
    ],
)
def test_the_built_in_configs_are_those_of_the_manifests(release: str, name: str, section: str | None):
    content = json.loads(gzip.decompress((TENSORS / f"{name}.json.gz").read_bytes()))
    ours = released.released_configs()[release]
    if section is None:
        assert ours == content["metadata_config"]
    else:
        assert ours[section] == content.get("metadata_config", content.get("config"))[section]


def test_the_built_in_transformer_config_has_the_text_settings_of_the_manifest():
    content = json.loads(gzip.decompress((TENSORS / "text-2.0.json.gz").read_bytes()))
    ours = released.released_configs()["2.0"]["transformer"]
    assert ours == ours | content["transformer_config_text_keys"]
