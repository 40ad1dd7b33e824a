"""Unusable weights are refused early: from headers alone, or by comparison with the modules."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from ltx2_cli.app import app
from ltx2_core import checkpoint
from ltx2_core.headers import read_header
from tests.commands import run_in_process

ROOT = Path(__file__).parents[2]
CHECKPOINT, GEMMA = "ltx-2-tiny-dev.safetensors", "gemma/model.safetensors"
UPSAMPLER = "ltx-2-tiny-spatial-upscaler-x2-1.0.safetensors"
BLOCK = "model.diffusion_model.transformer_blocks.1."
TO_Q = BLOCK + "attn1.to_q."
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 33384570\n"

Tensors = dict[str, Tensor]
Change = Callable[[Tensors], object]


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """A change to a file of the tiny model, and the message of a command that would read the file."""

    change: Change
    says: tuple[str, ...]
    file: str = CHECKPOINT
    words: tuple[str, ...] = ("t2v", "x")


def with_(**tensors: Tensor) -> Change:
    """Add tensors at the layer TO_Q."""
    return lambda state: state.update({TO_Q + name: tensor for name, tensor in tensors.items()})


def stored(file: str, name: str, dtype: torch.dtype, **words: tuple[str, ...]) -> Wrong:
    """Change the dtype of a weight."""
    says = (f"{Path(file).name if file == CHECKPOINT else 'gemma'} has quantised", name.removesuffix(".weight"))
    return Wrong(file=file, change=lambda state: state.update({name: state[name].to(dtype)}), says=says, **words)


def drop(*starts: str) -> Change:
    def change(state: Tensors) -> None:
        for name in [name for name in state if name.startswith(starts)]:
            del state[name]

    return change


FP8, BYTES = torch.float8_e4m3fn, torch.uint8
I2V = ("i2v", "still.png", "x")
TWO_STAGE = ("t2v", "x", "--preset", "two-stage", "--res", "128x128")
SEEN_IN_HEADERS = {
    "fp8": Wrong(
        change=with_(weight=torch.zeros(80, 80, dtype=FP8), weight_scale=torch.ones(3)),
        says=("has quantised weights that cannot be used", "to_q: weight_scale is F32 [3]", "hint: use the published"),
    ),
    "nvfp4": Wrong(
        change=with_(weight=torch.zeros(80, 40, dtype=BYTES), weight_scale=torch.zeros(128, 8, dtype=FP8)),
        says=("has quantised weights that cannot be used", "to_q: it is U8 and lacks weight_scale or weight_scale_2"),
    ),
    "int8": Wrong(
        change=with_(weight=torch.zeros(80, 80, dtype=torch.int8), weight_scale=torch.ones(80, 1)),
        says=("has quantised weights that cannot be used", "to_q: it is int8 without a marker"),
    ),
    "scale beside bf16": Wrong(
        change=with_(weight_scale=torch.ones(())), says=("to_q.weight_scale: no quantised weight belongs to it",)
    ),
    "quantised text encoder": stored(GEMMA, "language_model.model.layers.3.mlp.up_proj.weight", torch.int8),
    "quantised video encoder": stored(CHECKPOINT, "vae.encoder.conv_out.conv.weight", FP8, words=I2V),
    "block that is missing": Wrong(change=drop(BLOCK), says=("does not hold the model", "3 transformer_blocks")),
    "layer of the text encoder that is missing": Wrong(
        file=GEMMA, change=drop("language_model.model.layers.6."), says=("does not hold", "6 layers, its config says 7")
    ),
    "other width": Wrong(
        change=lambda state: state.update({"vocoder.conv_pre.weight": torch.zeros(8, 128, 7)}),
        says=("does not hold the model", "vocoder.conv_pre.weight is [8, 128, 7], its config says [64, …]"),
    ),
    "component that is missing": Wrong(change=drop("vae.encoder."), says=("has no video encoder",), words=I2V),
    "upsampler of another width": Wrong(
        file=UPSAMPLER,
        change=lambda state: state.update({"final_conv.weight": torch.zeros(9, 32, 3, 3, 3)}),
        says=("upscaler-x2-1.0.safetensors does not hold the model", "final_conv.weight is [9, 32"),
        words=TWO_STAGE,
    ),
}
SEEN_IN_MODULES = {
    "missing": Wrong(change=drop(TO_Q + "bias"), says=("does not hold the model", "1 missing", TO_Q + "bias")),
    "extra": Wrong(
        change=with_(extra=torch.zeros(1)), says=("does not hold the model", "1 unexpected", TO_Q + "extra")
    ),
    "misshapen": Wrong(
        change=with_(weight=torch.zeros(80, 79)), says=("1 of another shape", "is [80, 79], expected [80, 80]")
    ),
    "whole numbers": Wrong(
        change=with_(bias=torch.zeros(80, dtype=torch.int32)), says=("1 of another type", "bias is I32")
    ),
    "vocoder": Wrong(change=drop("vocoder.conv_post.bias"), says=("1 missing", "vocoder.conv_post.bias")),
    "video encoder": Wrong(
        change=drop("vae.encoder.conv_in.conv.bias"), says=("1 missing", "conv_in.conv.bias"), words=I2V
    ),
    "upsampler": Wrong(
        file=UPSAMPLER, change=drop("initial_norm.bias"), says=("1 missing", "initial_norm.bias"), words=TWO_STAGE
    ),
    "text encoder": Wrong(
        file=GEMMA,
        change=drop("language_model.model.layers.1.mlp.up_proj"),
        says=("gemma", "does not hold the model", "1 missing", "layers.1.mlp.up_proj.weight"),
    ),
}


def spoiled(wrong: Wrong, tiny: Path, folder: Path) -> list[str]:
    """Write the tiny model with one changed file into a folder. Returns: the command that would read it."""
    model = folder / "model"
    (model / "gemma").mkdir(parents=True)
    for path in [*tiny.glob("*.safetensors"), *(tiny / "gemma").iterdir()]:
        (model / path.relative_to(tiny)).symlink_to(path)
    state = load_file(tiny / wrong.file)
    wrong.change(state)
    (model / wrong.file).unlink()
    save_file(state, model / wrong.file, dict(read_header(tiny / wrong.file).metadata))
    Image.new("RGB", (64, 64)).save(folder / "still.png")
    common = ["--model", str(model), "-o", str(folder / "x.mp4"), "--frames", "9"]
    size = [] if "--res" in wrong.words else ["--res", "64x64"]
    return [word.replace("still.png", str(folder / "still.png")) for word in wrong.words] + common + size


NAN, INFINITY = float("nan"), float("inf")


def broken(name: str, value: float, file: str = CHECKPOINT, words: tuple[str, ...] = ("t2v", "x")) -> Wrong:
    """Give a weight one value that is not finite."""

    def change(state: Tensors) -> None:
        state[name].view(-1)[-1] = value

    says = (f"{Path(file).name} holds NaN or infinite values", f"in the tensor {name}", "hint: download the file again")
    return Wrong(change=change, says=says, file=file, words=(*words, "--precision", "fp32", "--no-cache"))


FOUND_IN_THE_END = {
    "denoiser": broken(TO_Q + "weight", NAN),
    "infinity": broken(TO_Q + "bias", -INFINITY),
    "connector": broken("model.diffusion_model.audio_embeddings_connector.learnable_registers", INFINITY),
    "text encoder": broken("language_model.model.layers.3.mlp.down_proj.weight", NAN, GEMMA),
    "video decoder": broken("vae.decoder.conv_out.conv.bias", NAN),
    "vocoder": broken("vocoder.conv_post.bias", NAN),
    "video encoder": broken("vae.encoder.conv_in.conv.bias", NAN, words=I2V),
    "upsampler": broken("initial_conv.bias", NAN, UPSAMPLER, TWO_STAGE),
}


def refusal(words: list[str]) -> str:
    """The message of a command that is refused because of its files."""
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, result.stdout) == (7, ""), result.stderr
    return result.stderr[result.stderr.index("error: ") :]


def in_order(fragments: tuple[str, ...]) -> re.Pattern[str]:
    """A pattern for a message that contains some fragments, one after the other."""
    return re.compile(".*".join(map(re.escape, fragments)), re.DOTALL)


@pytest.mark.parametrize("wrong", FOUND_IN_THE_END.values(), ids=FOUND_IN_THE_END)
def test_weight_that_breaks_a_render_down_is_named_with_its_file(wrong: Wrong, tiny: Path, tmp_path: Path) -> None:
    assert in_order(wrong.says).search(refusal([*spoiled(wrong, tiny, tmp_path), "--steps", "2"]))


def test_breakdown_that_no_stored_weight_causes_is_told_as_before(tiny: Path, tmp_path: Path) -> None:
    def enlarge(state: Tensors) -> None:
        for name in (TO_Q + "weight", BLOCK + "attn1.to_out.0.weight", BLOCK + "attn1.to_v.weight"):
            state[name].fill_(3e38)

    words = spoiled(Wrong(change=enlarge, says=()), tiny, tmp_path)
    result = CliRunner().invoke(app, [*words, "--steps", "2", "--precision", "fp32"])
    assert result.exit_code == 8, result.stderr
    assert "the model produced NaN or infinite values\nstep 1 of 2 gave them" in result.stderr
    assert "hint: another --seed\n" in result.stderr  # float32 is not offered in addition


@pytest.mark.parametrize("wrong", SEEN_IN_HEADERS.values(), ids=SEEN_IN_HEADERS)
def test_what_a_header_shows_is_said(wrong: Wrong, tiny: Path, tmp_path: Path) -> None:
    assert in_order(wrong.says).search(refusal(spoiled(wrong, tiny, tmp_path)))
    assert not (tmp_path / "x.mp4.job").exists()


def test_tokenizer_that_was_not_downloaded_is_told_as_such(tiny: Path, tmp_path: Path) -> None:
    words = spoiled(Wrong(change=dict, says=()), tiny, tmp_path)
    tokenizer = tmp_path / "model" / "gemma" / "tokenizer.json"
    tokenizer.unlink()
    tokenizer.write_text(LFS)
    says = ("tokenizer.json cannot be opened", "Git LFS pointer", "hint: fetch it with git lfs pull")
    assert in_order(says).search(refusal(words))


REFUSE_ALL = """
import json, sys
from typer.testing import CliRunner
from ltx2_cli.app import app

for words in json.load(sys.stdin):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 7, result.stderr
    heavy = {"torch", "transformers", "numpy"} & sys.modules.keys()
    assert not heavy, (words, heavy)
"""


def test_what_a_header_shows_is_said_without_torch(tiny: Path, tmp_path: Path) -> None:
    commands = []
    for number, wrong in enumerate(SEEN_IN_HEADERS.values()):
        (tmp_path / str(number)).mkdir()
        commands.append(spoiled(wrong, tiny, tmp_path / str(number)))
    done = run_in_process(REFUSE_ALL, commands, tmp_path / "home")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("wrong", SEEN_IN_MODULES.values(), ids=SEEN_IN_MODULES)
def test_what_the_modules_show_is_said_before_a_weight_is_read(
    wrong: Wrong, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*args: object) -> None:
        raise AssertionError("weights are read")

    words = spoiled(wrong, tiny, tmp_path)
    monkeypatch.setattr(checkpoint, "map_tensors", read)
    assert in_order(wrong.says).search(refusal(words))
