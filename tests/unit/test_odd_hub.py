"""Entries of models, and answers of the Hub, that nobody means: rings, unknown names, hosts that no network has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import close_session

from ltx2_core.errors import StorageError
from ltx2_core.hub.library import hub_cache
from ltx2_core.hub.registry import Catalogue, PublishedFile, Repository
from ltx2_core.hub.remote import Hub
from tests.commands import refused
from tests.fake_hub import FakeHub, Fault, use
from tests.published import SECOND


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's own entries."""
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "models").mkdir(parents=True)
    return tmp_path / "home" / "models"


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("folder: /etc\n", "folder is for the model that comes with this program"),
        ("repositories: {me/mine: {licence: nope}}\n", "there is no licence nope"),
    ],
)
@pytest.mark.parametrize("words", [["models"], ["download", "mine", "--plan"], ["t2v", "a bell", "--model", "mine"]])
def test_an_entry_that_only_a_shipped_model_could_have_is_refused(words: list[str], more: str, why: str, home: Path):
    (home / "mine.yaml").write_text(SECOND + more)
    said = refused(2, *words)
    assert "mine.yaml cannot be used" in said
    assert why in said


def test_copies_of_each_other_are_no_ring():
    ring = Catalogue({}, {}, {"a/a": Repository(open_copy="b/b"), "b/b": Repository(open_copy="a/a")})
    assert ring.repository("a/a").files == {}
    listed = {"x.safetensors": PublishedFile(bytes=5)}
    copy = Catalogue({}, {}, {"a/a": Repository(open_copy="b/b"), "b/b": Repository(files=listed)})
    assert copy.repository("a/a").files == listed


@pytest.mark.parametrize("name", ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
def test_a_cache_of_an_unknown_user_is_refused_by_the_name_of_its_variable(name: str, monkeypatch: pytest.MonkeyPatch):
    for one in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(one, raising=False)
    monkeypatch.setenv(name, "~nosuchuser/x")
    assert f"{name} ~nosuchuser/x cannot be used there is no user nosuchuser" in refused(2, "models")


def test_a_user_without_a_home_is_told_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("LTX2_HOME", "HOME", "XDG_DATA_HOME", "HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda user: {}[user])
    assert not hub_cache().exists()
    assert "this user has none hint: export LTX2_HOME=FOLDER" in refused(2, "models")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["\ud800.safetensors", "a\nb.safetensors", "\x1b[31m.json", "a\\b.json", "../a.json"])
def test_files_that_the_hub_names_oddly_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with FakeHub({"me/mine": {}}) as server:
        use(server, monkeypatch, tmp_path / "home")
        body = {"sha": "a" * 40, "siblings": [{"rfilename": name}]}
        server.at_hub.append(Fault(content=json.dumps(body).encode()))
        with pytest.raises(StorageError, match="does not answer as a Hugging Face Hub\nit names a file"):
            Hub().names("me/mine")
    close_session()


@pytest.mark.parametrize("host", ["a" * 64, "a..b", "b" * 300 + ".example"])
def test_a_host_that_no_network_can_have_is_refused_before_it_is_asked(host: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_ENDPOINT", f"http://{host}")
    with pytest.raises(StorageError, match="is not an address"):
        Hub()
