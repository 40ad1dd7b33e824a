"""Generated headers of published files: they have the size of the files, and are recognised."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltx2_core.components import COMPONENTS, components_in
from ltx2_core.costs.weights import ALIGNMENT, block_bytes, component_bytes, converted_bytes, streamed_bytes
from ltx2_core.headers import FileKind, Header, classify, generation, precision
from ltx2_core.hub.published import published_header
from ltx2_core.hub.registry import Reference, read_catalogue

CATALOGUE = read_catalogue()
HEADER_BYTES = 2_000_000  # largest size of the header itself
# This file has one more unquantised block than the others, and it is not known which one.
ONE_BLOCK = {"ltx-2.3-distilled-fp8": 390_000_000}


def header(name: str, role: str) -> Header:
    found = published_header(CATALOGUE.models[name], role, Path(role))
    assert found is not None
    return found


@pytest.mark.parametrize("name", [name for name in CATALOGUE.models if name != "toy"])
def test_headers_describe_as_many_bytes_as_are_published(name: str) -> None:
    for role, place in CATALOGUE.models[name].files.items():
        reference = Reference.parse(place)
        assert reference is not None
        published = CATALOGUE.published(reference)
        if published.bytes is not None:
            short = published.bytes - header(name, role).nbytes
            assert 0 <= short <= HEADER_BYTES + ONE_BLOCK.get(name, 0), role


def test_header_is_known_for_what_it_is() -> None:
    assert classify(header("ltx-2-fp8", "checkpoint")) is FileKind.MONOLITH
    assert generation(header("ltx-2-fp8", "checkpoint")) == "2.0"
    assert [precision(header(name, "checkpoint")) for name in ("ltx-2", "ltx-2-fp8", "ltx-2-nvfp4")] == [
        "bf16",
        "fp8 (scaled)",
        "nvfp4",
    ]
    assert classify(header("ltx-2", "distilled_lora")) is FileKind.LORA
    assert components_in(header("ltx-2", "text_encoder")) == ["language_model"]


def test_parts_are_known_for_what_they_are() -> None:
    names = ("ltx-2.5", "ltx-2.5-int8", "ltx-2.5-distilled-nvfp4")
    files = [header(name, "transformer") for name in names]
    assert [precision(file) for file in files] == ["bf16", "int8 (convrot)", "nvfp4"]
    assert {generation(file) for file in files} == {"2.5"}
    assert classify(header("ltx-2.5", "video_vae")) is FileKind.VIDEO_VAE
    assert components_in(header("ltx-2.5", "text_encoder")) == ["text_projection", "language_model"]
    assert precision(header("ltx-2.5-int8", "text_encoder")) == "int8 (convrot)"
    assert published_header(CATALOGUE.models["ltx-2.5"], "checkpoint", Path("x")) is None


@pytest.mark.parametrize("name", [name for name, model in CATALOGUE.models.items() if model.folder is None])
def test_quantised_matrices_are_as_a_render_reads_them(name: str) -> None:
    for role in CATALOGUE.models[name].files.keys() & {"checkpoint", "transformer", "text_encoder"}:
        file = header(name, role)
        is_large = precision(file) in ("bf16", "fp32")
        assert is_large or len(file.stored.layers) > 300, role


def test_blocks_and_the_rest_are_the_whole() -> None:
    for name, role, component in (
        ("ltx-2-fp8", "checkpoint", "transformer"),
        ("ltx-2", "text_encoder", "language_model"),
    ):
        file = header(name, role)
        sizes = block_bytes(file, component, 2)
        assert len(sizes.blocks) == 48
        padding = sizes.whole - component_bytes(file, component, 2)
        assert 0 <= padding < ALIGNMENT * len(COMPONENTS[component].names_in(file))
        assert sizes.streamed(48) == sizes.whole
        assert sizes.streamed(0) == sizes.outside + 2 * max(sizes.blocks)


def test_streamed_blocks_take_two_slots_beside_those_that_stay() -> None:
    assert streamed_bytes([5, 3, 4], 0) == 10
    assert streamed_bytes([5, 3, 4], 1) == 13
    assert streamed_bytes([5, 3, 4], 2) == 12
    assert streamed_bytes([5, 3, 4], 3) == 12
    assert streamed_bytes([], 0) == 0


def test_sizes_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    file = header("ltx-2", "upsampler")

    def count() -> list[int]:
        return [component_bytes(file, "upsampler", 2), *(converted_bytes(file, "upsampler", size) for size in (2, 4))]

    assert count() == [file.nbytes, 0, 2 * file.nbytes]
    monkeypatch.setattr(Header, "loaded_bytes", lambda *given: pytest.fail("it is counted again"))
    assert count() == [file.nbytes, 0, 2 * file.nbytes]
