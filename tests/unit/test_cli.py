"""The command line in this process: what it prints where, and how it ends."""

import json
import struct
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ltx2_core
from ltx2_cli.app import app
from ltx2_cli.display import visible

RUN = CliRunner()


def write_weights(path: Path, **metadata: str) -> Path:
    names = ["transformer_blocks.0.attn1.to_q.weight", "caption_projection.linear_1.weight"]
    tensors = {
        f"model.diffusion_model.{name}": {"dtype": "BF16", "shape": [2], "data_offsets": [4 * i, 4 * i + 4]}
        for i, name in enumerate(names)
    }
    text = json.dumps({"__metadata__": metadata} | tensors).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    return path


def test_the_version_goes_to_stdout():
    result = RUN.invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"ltx2 {ltx2_core.__version__}\n")


def test_without_a_command_the_help_is_shown():
    result = RUN.invoke(app, [])
    assert result.exit_code == 0
    assert "inspect" in result.stdout


def test_inspect_says_what_a_file_is(tmp_path: Path):
    result = RUN.invoke(app, ["inspect", str(write_weights(tmp_path / "a.safetensors"))])
    facts = dict(line.strip().split(maxsplit=1) for line in result.stdout.splitlines()[1:])
    assert facts["kind"] == "a transformer"
    assert facts["generation"] == "2.0"
    assert facts["precision"] == "bf16"
    assert (facts["tensors"], facts["bytes"]) == ("2", "8")


def test_text_from_a_file_cannot_act_on_the_terminal(tmp_path: Path):
    path = write_weights(tmp_path / "a\x1b]0;title\x07.safetensors", model_version="2.0\x1b[31m\u202e")
    result = RUN.invoke(app, ["inspect", str(path)])
    assert result.exit_code == 0
    assert not set(result.stdout) & set("\x1b\x07\u202e")
    assert r"2.0\x1b[31m\u202e" in result.stdout


@pytest.mark.parametrize("text", ["plain, Zürich, 日本語", "100 % — “quoted”"])
def test_ordinary_text_stays_as_it_is(text: str):
    assert visible(text) == text


def test_a_failure_of_core_is_three_lines_on_stderr_and_its_exit_code(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"PK\x03\x04" + bytes(60))
    result = RUN.invoke(app, ["inspect", str(path)])
    assert result.exit_code == 7
    assert result.stdout == ""
    what, why, hint = result.stderr.splitlines()
    assert what == "error: model.safetensors cannot be opened"
    assert "pickle" in why
    assert hint.startswith("hint: ")


@pytest.mark.parametrize("arguments", [["nonsense"], ["inspect"], ["inspect", "a", "--nonsense"]])
def test_wrong_usage_is_exit_2(arguments: list[str]):
    result = RUN.invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
