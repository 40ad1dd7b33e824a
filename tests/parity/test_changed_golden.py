"""The check of golden tensors on changed copies: it uses every setting of a case and notices wrong results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ltx2_core.pipeline.render.engine import Engine
from scripts.golden import e2e, transformer
from scripts.golden.packed import unpack
from scripts.golden.recorded_runs import RecordedRuns
from scripts.golden.report import FAIL, LATER, PASS, GoldenFile, Line, Report

GOLDEN = Path(__file__).parents[1] / "golden"
LORA_LAYER = "diffusion_model.transformer_blocks.0.attn1.to_v"


def copy_of_run(target: Path, *files: str) -> Path:
    """A copy of the end-to-end folder with only these files of tensors."""
    unpack(GOLDEN / "e2e" / "2.0", target)
    for path in target.glob("*.safetensors"):
        if path.name not in files:
            path.unlink()
    return target


def change_listing(folder: Path, case: str, files: dict[str, str], **settings: Any) -> None:
    """Change settings of a case, and add files to the list of the model."""
    listing = folder / "cases.json"
    content = json.loads(listing.read_text())
    content["files"] |= files
    content["cases"][case] |= settings
    listing.write_text(json.dumps(content))


def move_into_lora(folder: Path, strength: float) -> str:
    """Subtract a LoRA from the checkpoint, so that a recorded run needs it at this strength. Returns: its file name."""
    generator = torch.Generator().manual_seed(3)
    up, down = torch.randn(40, 2, generator=generator), torch.randn(2, 40, generator=generator)
    save_file(
        {f"{LORA_LAYER}.lora_A.weight": down, f"{LORA_LAYER}.lora_B.weight": up},
        folder / "model" / "user-lora.safetensors",
    )
    path = folder / "model" / "checkpoint.safetensors"
    tensors, metadata = read(path)
    weight = f"model.{LORA_LAYER}.weight"
    tensors[weight] = tensors[weight].float() - strength * up @ down
    save_file(tensors, path, metadata)
    return "user-lora.safetensors"


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def lines_of(folder: Path, later: dict[str, str] | None = None) -> list[Line]:
    report = Report(later or {})
    e2e.run(folder, "e2e/2.0", report)
    return report.lines


def test_a_lora_of_the_user_acts_in_both_stages(tmp_path: Path):
    folder, strength = copy_of_run(tmp_path / "2.0", "hq.safetensors"), 0.5
    name = move_into_lora(folder, strength)
    change_listing(folder, "hq", {"user_lora": name}, loras=[["user_lora", strength]])
    lines = lines_of(folder)
    assert {line.status for line in lines} == {PASS}
    assert {"stage1.video.latent", "stage2.video.latent"} <= {line.tensor for line in lines}


def test_a_run_without_its_lora_fails_in_both_stages(tmp_path: Path):
    folder = copy_of_run(tmp_path / "2.0", "hq.safetensors")
    move_into_lora(folder, 0.5)
    failed = {line.tensor for line in lines_of(folder) if line.status == FAIL}
    assert {"stage1.video.x0.step0", "stage2.video.x0.step0"} <= failed


def test_a_reference_without_an_attention_strength_is_seen_in_full():
    runs = RecordedRuns(GOLDEN / "e2e" / "2.0")
    case = runs.cases["ic_lora"]
    unsaid = {name: value for name, value in case.items() if name != "attention_strength"}
    assert runs.request(unsaid) == runs.request(case | {"attention_strength": 1.0})
    assert runs.request(unsaid) != runs.request(case)


def bfloat16_case(folder: Path) -> e2e.Case:
    golden = GoldenFile(folder / "t2v.bf16.safetensors", "e2e/2.0", Report(), e2e.INPUTS)
    return e2e.Case(golden, RecordedRuns(folder), "t2v", "bf16")


def test_a_bfloat16_run_needs_no_tolerance_of_a_stream_that_is_not_decoded(tmp_path: Path):
    folder = copy_of_run(tmp_path / "2.0", "t2v.bf16.safetensors", "t2v.safetensors")
    recorded = RecordedRuns(folder).cases["t2v"]["bf16_vs_f32"]
    change_listing(folder, "t2v", {}, bf16_vs_f32={"frames": recorded["frames"]})
    case = bfloat16_case(folder)
    for stream in ("video", "audio"):
        expected = 2 * recorded[f"final.{stream}_latent"]
        assert case.tolerance(f"stage1.{stream}.latent") == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("name", "ours", "status"), [("stage1.video.latent", 1.1, PASS), ("stage2.video.latent", 1.05, FAIL)]
)
def test_a_bfloat16_tolerance_is_that_of_the_stage_that_is_compared(
    tmp_path: Path, name: str, ours: float, status: str
):
    """Tolerances of one recorded run: 5 % for its final latents, 40 % in stage 1, 2 % in stage 2."""
    folder = copy_of_run(tmp_path / "2.0")
    for file, first, second in (("t2v", 1.0, 1.0), ("t2v.bf16", 1.2, 1.01)):
        stages = {"stage1.video.latent": torch.tensor([first]), "stage2.video.latent": torch.tensor([second])}
        save_file(stages, folder / f"{file}.safetensors")
    case = bfloat16_case(folder)
    case.compare_tensor(name, torch.tensor([ours]))
    assert [line.status for line in case.golden.report.lines] == [status]


def test_rotary_tables_of_their_own_have_theta_10000_whatever_the_config_says(tmp_path: Path):
    folder = unpack(GOLDEN / "transformer" / "2.0", tmp_path / "2.0")
    tensors, metadata = read(folder / "checkpoint.safetensors")
    config = json.loads(metadata["config"])
    config["transformer"]["positional_embedding_theta"] = 5000.0
    save_file(tensors, folder / "checkpoint.safetensors", metadata | {"config": json.dumps(config)})
    report = Report()
    transformer.run(folder, "transformer/2.0", report)
    statuses = {line.tensor: line.status for line in report.lines}
    assert {status for tensor, status in statuses.items() if tensor.startswith("rope/")} == {PASS}
    assert statuses["basic/out/video.velocity"] == FAIL  # the model itself uses the theta of its config


def test_a_run_that_waits_for_its_vocoder_is_compared_up_to_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(engine: Engine, latent: Tensor) -> None:
        raise RuntimeError("there is no vocoder")

    monkeypatch.setattr(Engine, "decode_audio", broken)
    folder = copy_of_run(tmp_path / "2.0", "v2a.safetensors")
    statuses = {line.tensor: line.status for line in lines_of(folder, {"e2e/2.0/v2a": "no vocoder yet"})}
    assert [tensor for tensor, status in statuses.items() if status == LATER] == ["wave_i16"]
    assert {status for tensor, status in statuses.items() if tensor != "wave_i16"} == {PASS}


@pytest.mark.parametrize(("version", "crf"), [("2.0", 33), ("2.5", 18)])
def test_an_image_is_compressed_as_its_version_does(tmp_path: Path, version: str, crf: int):
    folder = copy_of_run(tmp_path / "2.0")
    change_listing(folder, "i2v", {"version": version})
    runs = RecordedRuns(folder)
    (image,) = runs.request(runs.cases["i2v"]).images
    assert image.crf == crf


def test_a_waveform_at_another_rate_is_noticed(tmp_path: Path):
    folder = copy_of_run(tmp_path / "2.0", "v2a.safetensors")
    change_listing(folder, "v2a", {}, sample_rate=44_100)
    (failed,) = [line for line in lines_of(folder) if line.status == FAIL]
    assert (failed.tensor, failed.note) == ("sample_rate (metadata)", "24000, expected 44100")


def test_media_that_are_stored_under_another_run_are_compared(tmp_path: Path):
    folder = copy_of_run(tmp_path / "2.0", "v2a.safetensors")
    save_file({"clip0.pixels_u8": torch.zeros(1, 3, 17, 64, 96)}, folder / "retake.safetensors")
    lines = [line for line in lines_of(folder) if line.where == "e2e/2.0/v2a"]
    assert [line.tensor for line in lines if line.status == FAIL] == ["clip0.pixels_u8"]
