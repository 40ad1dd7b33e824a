"""What is no path of a file here, wherever a file is read: one message, with the exit code for that kind of file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.commands import ltx2, refused

URL = "https://a.example/b"
TOY = ("--model", "toy")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("a.png")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (3, ("v2v", f"{URL}.mp4", "x", *TOY)),
        (3, ("i2v", f"{URL}.png", *TOY)),
        (3, ("i2v", "a.png", *TOY, "--image", f"{URL}.png@1s:0.5")),
        (3, ("a2v", f"{URL}.wav", *TOY)),
        (3, ("v2a", f"{URL}.mp4", *TOY)),
        (3, ("plan", "v2v", f"{URL}.mp4", *TOY)),
        (3, ("sync", f"{URL}.mp4")),
        (3, ("report", f"{URL}.mp4")),
        (3, ("inspect", f"{URL}.mp4")),
        (3, ("rerun", f"{URL}.mp4")),
        (7, ("inspect", f"{URL}.safetensors")),
        (7, ("convert", f"{URL}.safetensors", "--to", "int8", "-o", "c.safetensors")),
        (7, ("t2v", "x", "--model", f"{URL}.safetensors")),
        (7, ("t2v", "x", *TOY, "--transformer", f"{URL}.safetensors")),
        (7, ("t2v", "x", *TOY, "--lora", f"{URL}.safetensors:0.5")),
        (7, ("t2v", "x", *TOY, "--enhance", "--enhancer", URL)),
        (2, ("t2v", f"@{URL}.txt", *TOY)),
        (2, ("t2v", "x", *TOY, "--config", f"{URL}.yaml")),
        (2, ("batch", f"{URL}.txt", *TOY)),
        (2, ("resume", URL)),
    ],
)
def test_a_url_is_refused_wherever_a_file_is_read(code: int, words: tuple[str, ...]) -> None:
    told = refused(code, *words)
    assert (
        "cannot be used it is a URL, and only files on this machine are read hint: curl -LO https://a.example/b" in told
    )
    assert "https://a.example/b" in told.partition("cannot be used")[0]


def test_a_url_in_a_job_is_one_mistake_of_its_line() -> None:
    Path("a.jsonl").write_text(json.dumps({"mode": "i2v", "input": f"{URL}.png"}))
    assert f"a.jsonl, line 1: input {URL}.png cannot be used it is a URL" in refused(2, "batch", "a.jsonl", *TOY)


def test_a_url_is_no_place_for_a_result() -> None:
    for option in ("-o", "--attention", "--job-dir"):
        told = refused(2, "t2v", "x", *TOY, option, "s3://a/b.mp4")
        assert f"{option} s3://a/b.mp4 cannot be used it is a URL hint: name a place on this machine" in told
    assert not Path("s3:").exists()


def test_an_image_and_a_lora_with_a_line_break_in_their_name_have_a_time_and_a_strength() -> None:
    Image.new("RGB", (64, 64)).save("a\nb.png")
    result = ltx2("plan", "i2v", "a.png", "x", *TOY, "--frames", 17, "--image", "a\nb.png@last:0.5", "--json")
    assert result.exit_code == 0, result.stderr
    (plan,) = (one for one in map(json.loads, result.stdout.splitlines()) if one["event"] == "plan")
    assert [(one["frame"], one["strength"]) for one in plan["request"]["images"]] == [(0, 1.0), (16, 0.5)]
    assert "--lora c\\nd:11 cannot be used 11 is not a strength" in refused(2, "t2v", "x", *TOY, "--lora", "c\nd:11")


def test_a_part_that_does_not_exist_is_told_first_and_also_in_a_plan() -> None:
    Path("a.txt").write_text("a lamp\n")
    for words in ((), ("--plan",), ("--plan", "--seed", 1)):
        assert "--shard 3/2 cannot be used the parts are 0 to 1" in refused(
            2, "batch", "a.txt", *TOY, "--shard", "3/2", *words
        )
    assert ltx2("batch", "a.txt", *TOY, "--shard", "auto", "--plan", "--seed", 1).exit_code == 0
