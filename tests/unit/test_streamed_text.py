"""The text encoder layer by layer: the same bits as the whole one, in a folder and in one file, and what stays
loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ltx2_core.components import COMPONENTS
from ltx2_core.costs.text import is_projected_from_file
from ltx2_core.headers import Header, read_header
from ltx2_core.hub.find import find_model
from ltx2_core.machine import Machine, Precision
from ltx2_core.models import connector
from ltx2_core.pipeline.render.models import Models
from ltx2_core.quantize.embedding import QuantisedEmbedding
from ltx2_core.stored.layer import StoredLayer, StoredLayers
from ltx2_core.streaming import SLOTS, StreamedBlocks
from ltx2_core.text.files import EncoderFiles, find_encoder
from ltx2_core.text.gemma import Gemma, load_gemma, stream_gemma
from ltx2_core.tiles import TilePlan
from scripts.quantise import largest_group, stored, with_markers

CPU = torch.device("cpu")
PROMPTS = ["a bell rings", "", "worst quality " * 40]
ROWS = 128
FORMS = [("", ""), ("fp8", ""), ("fp8", "int8"), ("convrot", "fp8_rows")]  # of the linear layers, and of the table


def one_file(tiny: Path, out: Path, form: str, table: str) -> EncoderFiles:
    """The tiny Gemma in one file that contains its tokenizer."""
    tensors = load_file(tiny / "gemma/model.safetensors")
    forms = {name: form for name in tensors if form and name.endswith("_proj.weight")}
    forms |= {name: table for name in tensors if table and name.endswith("embed_tokens.weight")}
    layers = {}
    for name, chosen in forms.items():
        weight = tensors.pop(name)
        options = {"group": largest_group(weight.shape[1])} if chosen == "convrot" else {}
        layers[name.removesuffix(".weight")] = stored(chosen, weight, **options)
    tensors |= with_markers(layers)
    tensors["tokenizer_json"] = torch.frombuffer(
        bytearray((tiny / "gemma/tokenizer.json").read_bytes()), dtype=torch.uint8
    )
    said = json.loads((tiny / "gemma/config.json").read_text())["text_config"]
    save_file(tensors, out / "gemma.safetensors", {"text_config": json.dumps(said)})
    return find_encoder(out / "gemma.safetensors")


def assert_same_bits(files: EncoderFiles, dtype: torch.dtype) -> Gemma:
    whole, streamed = load_gemma(files, dtype=dtype), stream_gemma(files, device=CPU, dtype=dtype)
    pairs = zip(whole(PROMPTS, ROWS), streamed(PROMPTS, ROWS), strict=True)
    assert all(found.equal(expected) and found.dtype == dtype for expected, found in pairs)
    return streamed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_streamed_layers_give_the_bits_of_a_folder_that_is_loaded_whole(tiny: Path, dtype: torch.dtype) -> None:
    assert_same_bits(find_encoder(tiny / "gemma"), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("form", "table"), FORMS)
def test_streamed_layers_give_the_bits_of_a_file_that_is_loaded_whole(
    form: str, table: str, dtype: torch.dtype, tiny: Path, tmp_path: Path
) -> None:
    gemma = assert_same_bits(one_file(tiny, tmp_path, form, table), dtype)
    assert isinstance(gemma.model.embed_tokens.table, QuantisedEmbedding) == bool(table)


def test_the_table_stays_in_its_file_and_two_layers_are_alive(tiny: Path) -> None:
    gemma = stream_gemma(find_encoder(tiny / "gemma"), device=CPU, dtype=torch.float32)
    layers: StreamedBlocks = gemma.model.layers
    places: set[int] = set()
    layers.arrived = lambda number: places.add(next(layers[number].parameters()).untyped_storage().data_ptr())
    gemma(PROMPTS[:1], ROWS)
    assert len(places) == SLOTS < len(layers)
    assert all(x.is_meta for x in layers.parameters())
    assert gemma.model.embed_tokens.table.weight.dtype == torch.bfloat16  # the stored dtype, not the compute dtype


def test_no_layer_stays_when_the_text_is_read(tiny: Path) -> None:
    tiles = TilePlan()
    machine = Machine(
        device="cpu", precision="fp32", memory="lean", kept_bytes=10**9, decode_tiles=tiles, encode_tiles=tiles
    )
    with Models(find_model(str(tiny), {}), machine).text_encoder() as gemma:
        gemma(PROMPTS[:1], ROWS)
        layers: StreamedBlocks = gemma.model.layers
        assert len(layers._slots) == SLOTS
    assert not layers._slots


def test_connectors_are_streamed_too_with_the_bits_of_those_that_are_loaded_whole(tiny: Path) -> None:
    tiles = TilePlan()
    machine = Machine(device="cpu", precision="bf16", decode_tiles=tiles, encode_tiles=tiles)
    hidden = torch.randn(1, 5, 32, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
    contexts = []
    for memory in ("resident", "streamed"):
        models = Models(find_model(str(tiny), {}), replace(machine, memory=memory))
        with models.connectors() as found:
            contexts.append(found.connect(hidden, ROWS))
            assert isinstance(found.video.blocks, StreamedBlocks) == (memory == "streamed")
    assert contexts[0].video.equal(contexts[1].video)
    assert contexts[0].audio.equal(contexts[1].audio)
    assert all(x.is_meta for x in found.audio.blocks.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("version", "few"), [("2.0", 16), ("2.3", 40), ("2.5", 40)])  # pieces have at least 16 rows
def test_the_projection_that_stays_in_its_file_gives_the_bits_of_one_that_is_loaded(
    version: str, few: int, precision: Precision, tiny_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = TilePlan()
    machine = Machine(device="cpu", precision=precision, decode_tiles=tiles, encode_tiles=tiles)
    found = []
    for memory, rows in (("resident", 10_000), ("streamed", 10_000), ("lean", few), ("resident", few)):
        monkeypatch.setattr(connector, "PROJECTED_ROWS", rows)
        models = Models(find_model(str(tiny_of(version)), {}), replace(machine, memory=memory))
        with models.connectors() as parts:
            weights = [weight for name, weight in parts.projection.named_parameters() if name.endswith("weight")]
            is_stored = all(weight.dtype == torch.bfloat16 for weight in weights)
            assert is_stored == (memory != "resident" or precision == "bf16")
            features = parts.projection.config.features
            hidden = torch.randn(1, 5, features // 4, 4, generator=torch.Generator().manual_seed(1)).to(models.dtype)
            found.append(parts.projection(hidden))
    first, *others = found
    assert [[one.equal(other) for one, other in zip(first, pair, strict=True)] for pair in others] == [[True, True]] * 3


def test_a_projection_that_is_quantised_is_loaded(tiny_in: Callable[[str], Path]) -> None:
    header = read_header(next(tiny_in("bf16").glob("ltx-2-tiny-dev*")))
    name = next(iter(COMPONENTS["text_projection"].names_in(header)))
    machine = Machine(device="cpu", precision="bf16", decode_tiles=TilePlan(), encode_tiles=TilePlan())
    for memory, expected in (("resident", False), ("streamed", True), ("lean", True)):
        assert is_projected_from_file(header, replace(machine, memory=memory)) == expected
    stored = StoredLayers(
        layers={name: StoredLayer(name=name, format="fp8", tensors={}, shape=(1, 1))}, companions=frozenset()
    )
    quantised = Header(header.path, header.metadata, header.tensors)
    quantised.__dict__["stored"] = stored
    assert not is_projected_from_file(quantised, replace(machine, memory="lean"))
