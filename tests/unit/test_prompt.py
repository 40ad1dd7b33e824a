"""The prompt: a text, standard input, or a file."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from ltx2_core.errors import RequestError
from ltx2_core.pipeline.resolve.prompt import read_prompt
from ltx2_core.pipeline.resolve.refusals import MOST_CHARACTERS
from tests.commands import refused


@pytest.mark.parametrize("text", ["a bell rings", "", "- a list", " @home", "--"])
def test_a_text_is_the_prompt_itself(text: str):
    assert read_prompt(text) == text


def test_a_hyphen_reads_standard_input(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("a bell\nrings in Zürich\n".encode())))
    assert read_prompt("-") == "a bell\nrings in Zürich"


def test_an_at_sign_reads_a_file(tmp_path: Path):
    (tmp_path / "a.txt").write_text("\ufeffa bell rings\n", encoding="utf-8")
    assert read_prompt(f"@{tmp_path}/a.txt") == "a bell rings"


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"\xff", "not text in UTF-8"), (b"x" * (2**20 + 1), "longer than 1 MB")],
    ids=["bytes", "long"],
)
def test_a_file_that_is_no_prompt_is_refused(content: bytes, why: str, tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(RequestError, match="cannot be used") as caught:
        read_prompt(f"@{tmp_path}/a.txt")
    assert why in caught.value.why
    assert caught.value.hint


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["{}"], "the prompt"),
        (["a bell", "--negative", "{}"], "the negative prompt"),
        (["a bell", "--segment", "0s-0.5s={}"], "the prompt of --segment"),
    ],
)
def test_every_text_for_the_model_is_text_of_a_length_that_can_be_read(words: list[str], name: str):
    for text, why in (("a\udcff", "bytes that are not text"), ("x" * (MOST_CHARACTERS + 1), "has 100,001 characters")):
        said = refused(2, "t2v", *(word.format(text) for word in words), "--model", "toy", "--duration", "1s")
        assert f"error: {name} cannot be" in said
        assert why in said
