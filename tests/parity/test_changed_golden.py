"""The check of golden tensors on changed copies: it obeys every setting of a case and notices a wrong result."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from scripts.golden import e2e
from scripts.golden.report import FAIL, PASS, Line, Report

GOLDEN = Path(__file__).parents[1] / "golden"
LORA_LAYER = "diffusion_model.transformer_blocks.0.attn1.to_v"


def copy_of_run(target: Path, *files: str) -> Path:
    """A copy of the end-to-end folder with only these files of tensors."""
    shutil.copytree(GOLDEN / "e2e" / "2.0", target)
    for path in target.glob("*.safetensors"):
        if path.name not in files:
            path.unlink()
    return target


def change_listing(folder: Path, case: str, files: dict[str, str], **settings: Any) -> None:
    """Change settings of a case, and name more files of the model."""
    listing = folder / "cases.json"
    content = json.loads(listing.read_text())
    content["files"] |= files
    content["cases"][case] |= settings
    listing.write_text(json.dumps(content))


def move_into_lora(folder: Path, strength: float) -> str:
    """Take a LoRA out of the checkpoint, so that a recorded run needs it at this strength; returns its file name."""
    generator = torch.Generator().manual_seed(3)
    up, down = torch.randn(40, 2, generator=generator), torch.randn(2, 40, generator=generator)
    save_file(
        {f"{LORA_LAYER}.lora_A.weight": down, f"{LORA_LAYER}.lora_B.weight": up},
        folder / "model" / "user-lora.safetensors",
    )
    path = folder / "model" / "checkpoint.safetensors"
    packed = path.with_name(f"{path.name}.gz")
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weight = f"model.{LORA_LAYER}.weight"
    tensors[weight] = tensors[weight].float() - strength * up @ down
    save_file(tensors, path, metadata)
    return "user-lora.safetensors"


def lines_of(folder: Path) -> list[Line]:
    report = Report()
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


def test_a_reference_without_an_attention_strength_is_seen_in_full(tmp_path: Path):
    world = e2e.World(GOLDEN / "e2e" / "2.0", tmp_path)
    case = world.settings["cases"]["ic_lora"]
    unsaid = {name: value for name, value in case.items() if name != "attention_strength"}
    assert world.request(unsaid, "fp32") == world.request(case | {"attention_strength": 1.0}, "fp32")
    assert world.request(unsaid, "fp32") != world.request(case, "fp32")
