"""`ltx2 convert` through the real command line: the file that it writes, renders with that file, and what it
refuses.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx2_core import disk
from ltx2_core.headers import read_header
from ltx2_core.pipeline.convert import run as converting
from ltx2_core.quantize.decode import decode
from ltx2_core.weights import map_tensors
from scripts.gguf_writer import Stored, gguf_bytes
from tests import commands
from tests.commands import ltx2, rendered

pytestmark = pytest.mark.usefixtures("kept_models")

CHECKPOINT, STYLE = "ltx-2-tiny-dev.safetensors", "ltx-2-tiny-lora-style.safetensors"
# Relative root mean square error of an encoded matrix. int8: a step is 1/127 of the largest number of a row, which is
# assumed to be 6 times the root mean square; the rounding error is 1/√12 of a step. E4M3: 1/√3 of half a step, 1/16.
LARGEST_ERROR = {"int8": 0.014, "fp8": 0.036}
GUIDANCE_GAIN = 2  # tolerance of the latents relative to that of the weights, because guidance multiplies differences
PLAIN = "model.diffusion_model.transformer_blocks.1.attn1.to_q"


@pytest.fixture(scope="module")
def source(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint in bf16, alone in a folder."""
    path = tmp_path_factory.mktemp("source") / CHECKPOINT
    bf16 = {
        name: one.bfloat16() if one.dtype == torch.float32 else one
        for name, one in load_file(tiny / CHECKPOINT).items()
    }
    save_file(bf16, path, dict(read_header(tiny / CHECKPOINT).metadata))
    return path


def decoded(path: Path) -> dict[str, torch.Tensor]:
    """The quantised weights of a file in float32."""
    header = read_header(path)
    found = {}
    for name, layer in header.stored.layers.items():
        tensors = map_tensors(header, layer.tensors.values())
        found[name] = decode(layer, {role: tensors[one] for role, one in layer.tensors.items()}, range(layer.shape[0]))
    return found


@pytest.mark.parametrize("to", ["int8", "fp8"])
def test_matrices_are_within_the_error_of_the_format_and_the_rest_is_the_same(
    to: str, source: Path, tmp_path: Path
) -> None:
    new = rendered("convert", source, "--to", to, "-o", tmp_path / "new.safetensors")
    before, after, matrices = load_file(source), load_file(new), decoded(new)
    assert len(matrices) > 50
    for name, matrix in matrices.items():
        assert (matrix - before[name].float()).norm() / before[name].float().norm() < LARGEST_ERROR[to]
    for name in before.keys() - matrices.keys():
        assert torch.equal(after[name], before[name])
    assert read_header(new).metadata == read_header(source).metadata
    order = [name for name in read_header(new).tensors if name in before]
    assert order == sorted(before, key=lambda name: read_header(source).tensors[name].start)
    assert new.stat().st_size < source.stat().st_size


def latents(model: Path, target: Path) -> dict[str, torch.Tensor]:
    """The latents of a guided clip of few steps, computed in float32."""
    few = ("--res", "128x128", "--frames", 9, "--seed", 7, "--steps", 2, "--preset", "one-stage", "--precision", "fp32")
    rendered("t2v", "a bell", "--model", model, *few, "--keep-latents", "-o", target)
    return load_file(Path(f"{target}.job") / "latents-1.safetensors")


@pytest.fixture(scope="module")
def from_bf16(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The render of the model in bf16."""
    return latents(tiny, tmp_path_factory.mktemp("bf16") / "a.mp4")


@pytest.mark.parametrize("to", ["int8", "fp8"])
def test_a_converted_model_renders_within_the_error_of_its_format(
    to: str, tiny: Path, source: Path, from_bf16: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    rendered("convert", source, "--to", to, "-o", model / CHECKPOINT, "--overwrite")
    ours = latents(model, tmp_path / "a.mp4")
    for stream in ("video", "audio"):
        error = (ours[stream] - from_bf16[stream]).norm() / from_bf16[stream].norm()
        assert 0 < error < GUIDANCE_GAIN * LARGEST_ERROR[to]


def test_a_converted_transformer_of_ltx_2_5_renders_within_the_error_of_int8(
    tiny_of: Callable[[str], Path], tmp_path: Path
) -> None:
    model = tiny_of("2.5")
    whole = model / "ltx-2.5-tiny-dev-transformer.safetensors"
    new = rendered("convert", whole, "--to", "int8", "-o", tmp_path / "new.safetensors")

    def audio_of(transformer: Path) -> torch.Tensor:
        few = ("--video", "off", "--frames", 9, "--seed", 7, "--steps", 2, "--audio-stg", 0, "--keep-latents")
        target = tmp_path / f"{transformer.stem}.wav"
        rendered("t2v", "a bell", "--model", model, "--transformer", transformer, *few, "-o", target)
        return load_file(Path(f"{target}.job") / "latents-1.safetensors")["audio"]

    ours, theirs = audio_of(new), audio_of(whole)
    error = (ours - theirs).norm() / theirs.norm()
    assert 0 < error < GUIDANCE_GAIN * LARGEST_ERROR["int8"]


def test_the_same_input_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    first, second = (
        rendered("convert", source, "--to", "int8", "-o", tmp_path / f"{name}.safetensors") for name in "ab"
    )
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_a_lora_is_merged_in_float32_before_the_matrices_are_encoded(tiny: Path, source: Path, tmp_path: Path) -> None:
    lora = tiny / STYLE
    new = rendered("convert", source, "--to", "int8", "-o", tmp_path / "new.safetensors", "--lora", f"{lora}:0.5")
    factors, before, matrices = load_file(lora), load_file(source), decoded(new)
    with safe_open(lora, "pt") as file:
        metadata = file.metadata() or {}
    assert "alpha" not in " ".join([*factors, *metadata])  # without alpha, the scale of the file is 1
    downs = [name for name in factors if name.endswith("lora_A.weight")]
    assert downs
    for name in downs:
        official = f"model.{name.removesuffix('.lora_A.weight')}.weight"
        change = 0.5 * factors[name.replace("lora_A", "lora_B")].float() @ factors[name].float()
        wanted, after = before[official].float() + change, matrices.get(official, load_file(new)[official]).float()
        assert change.norm() / wanted.norm() > LARGEST_ERROR["int8"]
        assert (after - wanted).norm() / wanted.norm() < LARGEST_ERROR["int8"]
    assert json.loads(read_header(new).metadata["merged_loras"]) == [{"name": STYLE, "strength": 0.5}]


def test_verbose_tells_the_error_of_every_layer_and_the_end_the_largest(source: Path, tmp_path: Path) -> None:
    result = ltx2("convert", source, "--to", "int8", "-o", tmp_path / "new.safetensors", "-v")
    assert result.exit_code == 0
    lines = [line for line in result.stderr.splitlines() if ": error " in line]
    assert len(lines) == len(read_header(tmp_path / "new.safetensors").stored.layers)
    assert "largest error" in result.stderr
    assert "→" in result.stderr


def test_json_tells_the_path_and_the_sizes(source: Path, tmp_path: Path) -> None:
    result = ltx2("convert", source, "--to", "fp8", "-o", tmp_path / "new.safetensors", "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    outputs = [event for event in events if event["event"] == "output"]
    assert outputs[0]["path"].endswith("new.safetensors")
    assert outputs[1]["facts"]["bytes_after"] == str((tmp_path / "new.safetensors").stat().st_size)
    assert {event["phase"] for event in events if event["event"] == "phase"} == {"check", "convert", "verify"}


def gemma_file(path: Path) -> Path:
    """One file with a language layer of a Gemma 3, its embeddings and a part of its vision tower."""
    layer = "language_model.model.layers.0."
    matrices = [f"self_attn.{one}_proj" for one in "qkvo"] + [f"mlp.{one}_proj" for one in ("gate", "up", "down")]
    names = [f"{layer}{matrix}.weight" for matrix in matrices]
    names += [
        "language_model.model.embed_tokens.weight",
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
    ]
    generator = torch.Generator().manual_seed(0)
    save_file({name: torch.randn(32, 64, generator=generator).bfloat16() for name in names}, path)
    return path


@pytest.mark.parametrize("to", ["int8", "fp8"])
def test_the_language_layers_of_a_text_encoder_are_encoded(to: str, tmp_path: Path) -> None:
    source = gemma_file(tmp_path / "gemma.safetensors")
    new = rendered("convert", source, "--to", to, "-o", tmp_path / "new.safetensors")
    before, after, matrices = load_file(source), load_file(new), decoded(new)
    assert len(matrices) == 7
    assert all(name.startswith("language_model.model.layers.0.") for name in matrices)
    for name, matrix in matrices.items():
        assert (matrix - before[name].float()).norm() / before[name].float().norm() < LARGEST_ERROR[to]
    assert all(torch.equal(after[name], before[name]) for name in before.keys() - matrices.keys())


def test_one_file_of_several_is_refused(tmp_path: Path) -> None:
    shard = gemma_file(tmp_path / "model-00001-of-00002.safetensors")
    assert "one of several files" in refused(7, shard, "--to", "int8", "-o", tmp_path / "new.safetensors")


def refused(exit_code: int, *words: object) -> str:
    return commands.refused(exit_code, "convert", *words)


def test_what_cannot_be_converted_is_refused_before_anything_is_written(
    tiny: Path, source: Path, tmp_path: Path
) -> None:
    new = tmp_path / "new.safetensors"
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(gguf_bytes({f"{PLAIN}.weight": Stored("BF16", (1, 2), bytes(4))}))
    assert "--to int4 is not known" in refused(2, source, "--to", "int4", "-o", new)
    assert "--to is missing" in refused(2, source, "-o", new)
    assert "-o is missing" in refused(2, source, "--to", "int8")
    assert "ends in .safetensors" in refused(2, source, "--to", "int8", "-o", tmp_path / "new.gguf")
    assert "it is the file that is converted" in refused(2, source, "--to", "int8", "-o", source, "--overwrite")
    assert "it is a LoRA" in refused(7, tiny / STYLE, "--to", "int8", "-o", new)
    assert "it is a folder" in refused(7, tiny, "--to", "int8", "-o", new)
    assert "it is a GGUF file" in refused(7, gguf, "--to", "int8", "-o", new)
    assert "there is no such file" in refused(7, tmp_path / "none.safetensors", "--to", "int8", "-o", new)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_a_quantised_file_is_refused_by_the_name_of_a_layer(source: Path, tmp_path: Path) -> None:
    new = rendered("convert", source, "--to", "fp8", "-o", tmp_path / "new.safetensors")
    told = refused(7, new, "--to", "int8", "-o", tmp_path / "again.safetensors")
    assert "already quantised" in told
    assert "transformer_1d_blocks" in told or "transformer_blocks" in told


def test_an_existing_target_is_replaced_only_where_that_is_asked_for(source: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.safetensors"
    new.write_text("mine")
    assert "already exists" in refused(2, source, "--to", "int8", "-o", new)
    assert new.read_text() == "mine"
    rendered("convert", source, "--to", "int8", "-o", new, "--overwrite")
    assert read_header(new).stored.layers


def test_weights_that_are_not_finite_are_refused_by_name(source: Path, tmp_path: Path) -> None:
    tensors = load_file(source)
    tensors[f"{PLAIN}.weight"][1, 2] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors", dict(read_header(source).metadata))
    told = refused(7, tmp_path / "nan.safetensors", "--to", "int8", "-o", tmp_path / "new.safetensors")
    assert f"{PLAIN}.weight" in told
    assert not (tmp_path / "new.safetensors").exists()


def test_a_lora_that_is_merged_is_not_replaced(tiny: Path, source: Path, tmp_path: Path) -> None:
    lora = tmp_path / "lora.safetensors"
    lora.write_bytes((tiny / STYLE).read_bytes())
    told = refused(2, source, "--to", "int8", "-o", lora, "--lora", lora, "--overwrite")
    assert "it is a LoRA that is merged" in told
    assert lora.read_bytes() == (tiny / STYLE).read_bytes()


def test_a_lora_of_another_model_is_refused(tiny: Path, source: Path, tmp_path: Path) -> None:
    factors = load_file(tiny / STYLE)
    factors |= {
        "diffusion_model.elsewhere.lora_A.weight": torch.ones(2, 8),
        "diffusion_model.elsewhere.lora_B.weight": torch.ones(8, 2),
    }
    save_file(factors, tmp_path / "odd.safetensors")
    words = (source, "--to", "fp8", "-o", tmp_path / "new.safetensors", "--lora", tmp_path / "odd.safetensors")
    assert "does not fit" in refused(7, *words)
    assert rendered("convert", *words, "--allow-partial-lora").is_file()


def test_a_disk_without_room_is_told_before_anything_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltx2_core.pipeline.convert.plan.free_bytes", lambda folder: 1000)
    assert "does not fit on the disk" in refused(7, source, "--to", "int8", "-o", tmp_path / "new.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_what_is_stopped_leaves_nothing_behind(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(converting, "_verify", stop)
    assert "stopped" in refused(130, source, "--to", "int8", "-o", tmp_path / "new.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_reads_back_wrong_never_takes_its_name(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = converting._write

    def write_wrong(partial: Path, conversion: converting.Conversion, *others: object) -> None:
        write(partial, conversion, *others)  # pyright: ignore[reportArgumentType]
        with partial.open("r+b") as file:
            file.seek(conversion.tensors[f"{PLAIN}.weight"].start)
            file.write(bytes(100))
        disk.sync(partial)

    monkeypatch.setattr(converting, "_write", write_wrong)
    told = refused(8, source, "--to", "int8", "-o", tmp_path / "new.safetensors")
    assert PLAIN in told
    assert not (tmp_path / "new.safetensors").exists()
