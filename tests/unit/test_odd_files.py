"""Files beside weights that are not what they should be: pipes, very large ones, indexes, and parts of two models."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from pathlib import Path

import pytest

from ltx2_core import headers
from ltx2_core.disk import disk_errors
from ltx2_core.errors import CheckpointError, StorageError
from ltx2_core.folders import snapshot_of
from ltx2_core.headers import read_header, read_json
from ltx2_core.pipeline.batch.record import read_record
from ltx2_core.pipeline.render import run
from ltx2_core.text.files import INDEX, EncoderFiles, find_encoder
from tests.commands import ltx2, refused, rendered

WEIGHTS = "model.safetensors"
Patch = pytest.MonkeyPatch


@pytest.fixture
def encoder(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the folder of a text encoder."""
    return Path(shutil.copytree(tiny / "gemma", tmp_path / "gemma"))


@pytest.mark.parametrize("name", ["model_index.json", "config.json"])
def test_a_pipe_among_the_files_of_a_model_is_never_opened(name: str, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / name).symlink_to("../pipe")
    assert "model model has no checkpoint" in refused(7, "t2v", "a bell", "--model", tmp_path / "model")
    with pytest.raises(StorageError, match="it is not a regular file"):
        read_json(tmp_path / "model" / name)


def test_a_file_without_an_end_is_never_read(tmp_path: Path):
    (tmp_path / "config.json").symlink_to("/dev/zero")
    with pytest.raises(StorageError, match="it is not a regular file"):
        read_json(tmp_path / "config.json")


def test_of_the_name_of_a_snapshot_no_more_is_read_than_a_name_takes(tmp_path: Path):
    (tmp_path / "refs").mkdir()
    (tmp_path / "snapshots" / "abc").mkdir(parents=True)
    (tmp_path / "refs" / "main").touch()
    os.truncate(tmp_path / "refs" / "main", 2**26)
    tracemalloc.start()
    try:
        assert snapshot_of(tmp_path).name == "abc"
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_tokenizer_that_no_model_could_have_is_not_read(encoder: Path, monkeypatch: pytest.MonkeyPatch):
    files: EncoderFiles = find_encoder(encoder)
    (encoder / "chat_template.jinja").write_text("x" * 100)
    assert files.asset("chat_template.jinja") == "x" * 100
    monkeypatch.setattr(headers, "LARGEST_TEXT", 50)
    for read in (files.read_tokenizer, lambda: files.asset("chat_template.jinja")):
        with pytest.raises(StorageError, match="bytes, and 50 is the most"):
            read()


@pytest.mark.parametrize(
    "content", [{}, {"weight_map": []}, {"weight_map": {}}, {"weight_map": {"a": 1}}, {"weight_map": {"a": ""}}],
    ids=["empty", "a list", "no name", "a number", "an empty name"],
)  # fmt: skip
def test_an_index_that_names_no_files_is_told_by_its_name(content: object, encoder: Path):
    (encoder / INDEX).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=f"{INDEX} is damaged\nits weight_map must name files"):
        find_encoder(encoder)


@pytest.mark.parametrize("place", ["../x.safetensors", "/x.safetensors", "a/x.safetensors"])
def test_an_index_leads_out_of_its_folder_to_nothing(place: str, encoder: Path):
    (encoder / INDEX).write_text(json.dumps({"weight_map": {"a": place}}))
    with pytest.raises(CheckpointError, match="must name files that are in this folder"):
        find_encoder(encoder)


def test_two_files_with_the_same_tensors_are_not_mixed(encoder: Path):
    for name in ("model-a.safetensors", "model-fp8.safetensors"):
        shutil.copy(encoder / WEIGHTS, encoder / name)
    assert [shard.path.name for shard in find_encoder(encoder).weights] == [WEIGHTS]
    (encoder / WEIGHTS).rename(encoder / "old.safetensors")
    with pytest.raises(CheckpointError, match="gemma holds more than one model") as caught:
        find_encoder(encoder)
    assert "model-a.safetensors and model-fp8.safetensors both hold" in caught.value.why
    (encoder / INDEX).write_text(json.dumps({"weight_map": {"a": "model-a.safetensors"}}))
    assert [shard.path.name for shard in find_encoder(encoder).weights] == ["model-a.safetensors"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "it is nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "a number in it has thousands of digits"),
        ('{"a"\n 1}', "it is not JSON: Expecting ':' delimiter at line 2, character 2"),
        ('{"a" 1}', "it is not JSON: Expecting ':' delimiter at character 6"),
    ],
    ids=["deep", "digits", "lines", "line"],
)
def test_json_that_cannot_be_read_says_why_in_plain_words(text: str, why: str, tmp_path: Path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        read_json(tmp_path / "config.json")
    assert caught.value.why == why


@pytest.mark.parametrize("length", [0x3C, 0x213C, 0x683C])
def test_a_header_whose_length_begins_as_a_web_page_does_is_a_header(length: int, tmp_path: Path):
    (tmp_path / "a.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}".ljust(length))
    assert read_header(tmp_path / "a.safetensors").tensors == {}


def test_a_pipe_in_place_of_a_model_is_told_as_what_it_is(tmp_path: Path):
    os.mkfifo(tmp_path / "a.safetensors")
    said = refused(7, "t2v", "a bell", "--model", tmp_path / "a.safetensors")
    assert "cannot be opened it is not a regular file" in said


@pytest.mark.parametrize("strength", ["1_0", "１", "1e999", "0x1"])
def test_a_strength_is_written_in_plain_digits(strength: str, tiny: Path):
    lora = tiny / "ltx-2-tiny-distilled-lora.safetensors"
    said = refused(2, "t2v", "a bell", "--model", tiny, "--lora", f"{lora}:{strength}")
    assert f"{strength} is not a strength from -10 to 10" in said


@pytest.mark.parametrize(
    "words",
    [["t2v", "a bell", "--model", "toy"], ["inspect", "a.mp4"], ["batch", "a.txt"], ["resume", "a.mp4.job"]],
    ids=lambda words: words[0],
)
def test_in_a_folder_that_was_removed_a_line_says_so(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    result = ltx2(*words)
    assert result.exit_code in (2, 7)
    assert "the current folder was removed" in result.stderr


def test_a_file_of_jobs_is_not_replaced_by_the_table_of_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "summary.csv").write_text("prompt,model\na bell,toy\n")
    for words in (["-o", "./"], ["-o", ".", "--plan"]):
        said = refused(2, "batch", "summary.csv", "--overwrite", *words)
        assert "summary.csv cannot be used a batch in . writes a file of this name" in said
    assert (tmp_path / "summary.csv").read_text() == "prompt,model\na bell,toy\n"
    assert "lost.csv cannot be read there is no such file" in refused(2, "batch", "lost.csv", "-o", "./")


@pytest.mark.parametrize("command", ["resume", "decode"])
def test_a_job_is_known_by_any_path_of_its_folder(command: str, tiny: Path, tmp_path: Path, monkeypatch: Patch):
    monkeypatch.chdir(tmp_path)
    words = ("--model", tiny, "--preset", "smoke", "--res", "64x64", "--frames", "9", "--seed", "1")
    made = rendered("t2v", "a bell", *words, "-o", "x.mp4", "--keep-latents")
    before = made.read_bytes()
    made.unlink()
    monkeypatch.chdir("x.mp4.job")
    kept = sorted(Path.cwd().iterdir())
    for name in ("latents-1.safetensors", "job.json", "preview.png"):  # of a process that was killed while it wrote
        Path(f".{name}.0a1b2c.part").write_text("a part")
    assert rendered(command, "." if command == "resume" else "../x.mp4.job/../x.mp4.job").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.mp4", "x.mp4.job"]
    assert sorted(Path.cwd().iterdir()) == kept


def test_the_current_folder_can_be_that_of_a_job_and_the_root_cannot(tiny: Path, tmp_path: Path, monkeypatch: Patch):
    monkeypatch.chdir(tmp_path)
    words = ("t2v", "a bell", "--model", tiny, "--preset", "smoke", "--res", "64x64", "--frames", "9", "-o", "x.mp4")
    assert "it is the root of a disk" in refused(2, *words, "--job-dir", "/")
    rendered(*words, "--job-dir", ".")
    assert [path.name for path in tmp_path.iterdir()] == ["x.mp4"]


@pytest.mark.parametrize("file", ["../victim.mp4", "/victim.mp4", "..", "", "a/b.mp4"])
def test_a_record_of_a_batch_names_files_of_its_own_folder_only(file: str, tmp_path: Path):
    entry = {"job": "a", "file": file, "seed": 1, "fingerprint": {"settings": "", "inputs": ""}}
    record = {"schema": 1, "seed": 1, "jobs": [{**entry, "state": "done", "nbytes": 1}]}
    (tmp_path / "batch.json").write_text(json.dumps(record))
    with pytest.raises(
        StorageError, match=r"it is not what this program wrote: .* not the name of a file in the folder"
    ):
        read_record(tmp_path)
    assert "batch.json cannot be read" in refused(7, "report", tmp_path)


@pytest.mark.parametrize(
    ("leads_to", "why"), [("a.txt", "not followed here"), ("nowhere", "not followed here"), ("link", "leads to itself")]
)
def test_a_link_that_is_not_followed_is_told_apart_from_a_loop(leads_to: str, why: str, tmp_path: Path):
    (tmp_path / "a.txt").touch()
    (tmp_path / "link").symlink_to(leads_to)
    with pytest.raises(StorageError) as caught, disk_errors(tmp_path):
        os.open(tmp_path / "link", os.O_WRONLY | os.O_NOFOLLOW)
    assert why in caught.value.why


def test_a_file_beside_a_kept_render_that_a_killed_process_did_not_write_is_named(
    tiny: Path, tmp_path: Path, monkeypatch: Patch
):
    monkeypatch.setattr(run, "contact_sheet", lambda clip, sheet, **about: sheet.write_text(clip.name))
    monkeypatch.setattr(run, "write_attention", lambda job, path: path.write_text("map"))
    words = ("--model", tiny, "--preset", "smoke", "--res", "64x64", "--frames", "9", "--keep-latents", "--sheet")
    overlay = tmp_path / "map.mp4"
    made = rendered("t2v", "a bell", *words, "--attention", overlay, "-o", tmp_path / "x.mp4")
    job, sheet = tmp_path / "x.mp4.job", made.with_suffix(".png")
    assert "holds a finished render" in refused(2, "resume", job)
    overlay.unlink()
    assert f"{overlay} was not written" in refused(2, "resume", job)
    sheet.unlink()
    said = refused(2, "resume", job)
    assert f"{sheet} was not written" in said
    assert f"ltx2 decode {job} --overwrite --attention {overlay} writes all of it again" in said
    rendered("decode", job, "--overwrite", "--attention", overlay)
    assert (sheet.read_text(), overlay.read_text()) == ("x.mp4", "map")
