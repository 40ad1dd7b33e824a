"""`ltx2 download` and `ltx2 models` on a terminal: output, questions and refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import ltx2_core as core
from ltx2_cli.app import app
from ltx2_core.hub.library import models_home
from tests.published import ENTRY, FILES, WEIGHTS, Published

QUIET = ("--yes", "--accept-licence", "gemma")


class Session(Published):
    """The Hub in memory, opened and closed like by the command."""

    announcements = ("asking another endpoint",)

    def __init__(self) -> None:
        super().__init__(FILES)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(core, "Hub", Session)
    models_home().mkdir(parents=True)
    (models_home() / "mine.yaml").write_text(ENTRY)
    return models_home()


def said(*words: str, code: int = 0, **more: Any) -> Result:
    result = CliRunner().invoke(app, [*words], **more)
    assert result.exit_code == code, result.stderr
    return result


def events(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_the_paths_are_all_that_stdout_gets(home: Path) -> None:
    result = said("download", "mine", *QUIET)
    assert result.stdout.splitlines() == [
        str(home / "me" / name) for name in ("mine/mine.safetensors", "encoder", "mine/up/upsampler.safetensors")
    ]
    for line in ("asking another endpoint", "fetching mine.safetensors, 21 bytes", "to fetch: 53 bytes into"):
        assert line in result.stderr


def test_json_tells_the_plan_each_file_and_the_paths(home: Path) -> None:
    told = events(said("download", "mine", "--json", *QUIET))
    assert [event["event"] for event in told if event["event"] != "step"] == ["plan", *["output"] * 3, "summary"]
    files = {file["path"]: file for file in told[0]["files"]}
    assert files["mine.safetensors"]["bytes"] == len(WEIGHTS)
    assert not files["mine.safetensors"]["is_verified"]
    steps = [event for event in told if event["event"] == "step"]
    assert {step["name"]: step["done"] == step["total"] for step in steps} == dict.fromkeys(
        ("mine.safetensors", "config.json", "model.safetensors", "upsampler.safetensors"), True
    )


def test_a_plan_is_shown_without_a_connection(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "Hub", lambda: pytest.fail("a connection was opened"))
    shown = said("download", "mine", "--plan").stdout
    for words in ("21 bytes, to fetch: mine.safetensors", "licence gemma", "not accepted yet", "free there"):
        assert words in shown
    assert said("download", "mine", *QUIET, "--plan").stdout == shown  # a complete command line, tried first
    assert not (home / "me").exists()


def test_offline_links_what_is_there_and_opens_no_connection(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said("download", "mine", "--only", "checkpoint", "--to", "elsewhere", *QUIET)
    monkeypatch.setattr(core, "Hub", lambda: pytest.fail("a connection was opened"))
    said("download", "mine", "--only", "checkpoint", "--offline")
    failed = said("download", "mine", "--offline", code=7)
    assert "mine is not whole on this machine\nnot here: text encoder, upsampler\n" in failed.stderr


@pytest.mark.parametrize(
    ("words", "hint"),
    [((), "--accept-licence gemma says yes"), (("--yes",), "--accept-licence gemma"), (QUIET[1:], "--yes says yes")],
)
def test_without_a_terminal_every_question_has_its_option(home: Path, words: tuple[str, ...], hint: str) -> None:
    result = said("download", "mine", *words, code=2)
    assert hint in result.stderr
    assert not list(home.rglob("*.safetensors"))


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a terminal with a user."""
    monkeypatch.setattr("ltx2_cli.downloads.is_asked", lambda: True)


def test_a_person_is_asked_once_about_a_licence_and_about_the_bytes(home: Path, person: None) -> None:
    result = said("download", "mine", "--only", "checkpoint", input="y\ny\n")
    for words in (
        "Gemma Terms of Use: https://ai.google.dev/gemma/terms",
        "do you accept the Gemma",
        "fetch 21 bytes?",
    ):
        assert words in result.stderr
    again = said("download", "mine", "--only", "upsampler", input="y\n")
    assert "do you accept" not in again.stderr


def test_a_no_fetches_nothing(home: Path, person: None) -> None:
    assert "nothing was done" in said("download", "mine", input="n\n", code=2).stderr
    assert "nothing was done" in said("download", "mine", "--accept-licence", "gemma", input="n\n", code=2).stderr
    assert not list(home.rglob("*.safetensors"))


def test_a_question_that_is_broken_off_ends_the_command(home: Path, person: None) -> None:
    result = said("download", "mine", "--to", "my models", "--only", "checkpoint", input="", code=130)
    assert "stopped" in result.stderr
    assert "ltx2 download mine --only checkpoint --to 'my models' goes on from here" in result.stderr
    assert "internal error" not in result.stderr
    assert not list(home.rglob("*.safetensors"))


@pytest.mark.parametrize("more", [(), ("--plan",)])
def test_a_licence_that_is_not_known_is_refused_before_a_connection(
    more: tuple[str, ...], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "Hub", None)
    result = said("download", "mine", "--accept-licence", "mit", *more, code=2)
    assert "there is no licence mit" in result.stderr
    assert "ltx-2-community" in result.stderr


@pytest.mark.parametrize("words", [("--plan",), ("--accept-licence", "gemma"), ("--only", "2.3", "--yes")])
def test_options_without_a_model_are_refused(words: tuple[str, ...], home: Path) -> None:
    assert "the name of a model is missing" in said("download", *words, code=2).stderr


def test_what_cannot_be_used_is_told_in_the_plan_and_not_fetched(home: Path) -> None:
    shown = said("download", "hdr", "--plan").stdout
    assert "problem" in shown
    assert "it cannot be used: it generates high dynamic range video" in " ".join(shown.split())
    (planned, _) = events(said("download", "hdr", "--plan", "--json"))
    assert planned["problem"].startswith("it generates high dynamic range")
    refused = said("download", "hdr", "--yes", "--accept-licence", "LTX-2-community", code=2).stderr
    assert "error: hdr is not fetched, as it cannot be used\nit generates high dynamic range" in refused
    assert "https://huggingface.co/Lightricks/LTX-2.3-22b-IC-LoRA-HDR" in refused
    assert "ltx2 download" not in said("inspect", "hdr").stdout
    (home / "mine.yaml").write_text(f"{ENTRY}precision: w4a8\n")
    assert "this version does not support weights stored as w4a8 yet" in said("download", "mine", *QUIET, code=2).stderr
    assert not list(home.rglob("*.safetensors"))


def test_models_are_listed_with_what_is_there(home: Path) -> None:
    assert "mine  " in said("models").stdout.partition("models to download")[2]
    said("download", "mine", *QUIET)
    installed = said("models").stdout.partition("models to download")[0]
    assert "mine; 53 bytes, verified 20" in installed
    assert "all presets but distilled-lora" in installed


def test_a_model_is_removed_after_a_question(home: Path) -> None:
    said("download", "mine", *QUIET)
    assert "--yes says yes" in said("models", "rm", "mine", code=2).stderr
    assert "removed 4 files, 53 bytes" in said("models", "rm", "mine", "--yes").stderr
    assert [path.name for path in home.rglob("*") if path.is_file()] == ["mine.yaml"]
    assert "there is nothing to remove" in said("models", "rm", "mine", "--yes").stderr


@pytest.mark.parametrize("words", [(), ("mine", "--partial")])
def test_what_to_remove_is_said_in_one_way(home: Path, words: tuple[str, ...]) -> None:
    assert "give either a name or --partial" in said("models", "rm", *words, code=2).stderr


def test_unfinished_downloads_are_removed_when_asked(home: Path) -> None:
    (home / "me").mkdir()
    (home / "me" / "x.safetensors.part").write_bytes(b"123")
    (home / "me" / "x.safetensors.part.json").write_bytes(b"{}")
    assert "x.safetensors.part" in said("models").stdout
    said("models", "rm", "--partial", "--yes")
    assert not (home / "me").exists()


def test_a_damaged_file_is_exit_7_when_models_are_verified(home: Path) -> None:
    none, unknown = said("models", "verify"), said("models", "verify", "mine", code=7)
    assert (none.stdout, "nothing to verify" in none.stderr, "verified" in unknown.stdout) == ("", True, False)
    assert "mine is not installed\nhint: ltx2 download mine" in unknown.stderr
    said("download", "mine", *QUIET)
    assert "as published" in said("models", "verify").stdout
    (home / "me/mine/mine.safetensors").write_bytes(WEIGHTS[:-1] + b"!")
    failed = said("models", "verify", "mine", code=7)
    assert "damaged" in failed.stdout
    assert "ltx2 download mine" in failed.stderr


def test_planning_and_listing_need_neither_torch_nor_the_client_of_the_hub() -> None:
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom ltx2_cli.app import app\n"
        "for words in (['models'], ['download', 'ltx-2', '--plan'], ['models', 'rm', 'ltx-2']):\n"
        "    assert CliRunner().invoke(app, words).exit_code == 0\n"
        "print([name for name in ('torch', 'huggingface_hub', 'numpy', 'av') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
