"""Access rights: tokens are only sent to their Hub, and a refusal says what to do."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session

from ltx2_core.errors import AccessError, LTX2Error, RequestError, StorageError
from ltx2_core.hub.connection import Connection
from ltx2_core.hub.remote import Hub
from tests.fake_hub import PAGE, FakeHub, Fault, use

ROOT = Path(__file__).parents[2]
OPENS_SOCKETS = {"ltx2_core/hub/connection.py"}
NETWORK = ("aiohttp", "ftplib", "http", "httpx", "httpx2", "huggingface_hub", "requests", "socket", "ssl", "urllib3")
REPOSITORY, FILE, TOKEN = "somebody/model", "transformer.safetensors", "hf_secretsecretsecret"
CONTENT = bytes(1000)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub({REPOSITORY: {FILE: CONTENT, "a.json": b"{}"}}) as server:
        use(server, monkeypatch, tmp_path / "home")
        yield server


@pytest.fixture
def token(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> str:
    """A valid token of an account that has not accepted any terms."""
    server.tokens.add(TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return TOKEN


@pytest.fixture(scope="module", autouse=True)
def _one_client() -> Iterator[None]:
    yield
    close_session()


def refused(path: str = FILE, repository: str = REPOSITORY) -> LTX2Error:
    """The refusal of a Hub to a request for the metadata of a file."""
    with pytest.raises(LTX2Error) as caught:
        Hub().look_up(repository, path)
    return caught.value


def test_token_goes_to_the_hub_and_never_to_another_host(server: FakeHub, token: str, tmp_path: Path):
    server.gated.add(REPOSITORY)
    server.accepted.add(token)
    hub = Hub()
    server.at_storage = [Fault(cut_after=10), Fault(status=403)]
    for path in hub.names(REPOSITORY):
        hub.fetch(hub.look_up(REPOSITORY, path), tmp_path / "models" / path)
    assert {one.headers.get("authorization") for one in server.seen if one.host == "hub"} == {f"Bearer {token}"}
    assert len(server.asked("storage")) == 3
    assert not any(token in str(one) for one in server.seen if one.host == "storage")


def test_token_stays_where_the_hub_leads_to_another_one(server: FakeHub, token: str):
    location = f"{server.storage}/{REPOSITORY}/resolve/main/{FILE}"
    server.always_at_hub = Fault(status=307, headers={"Location": location})
    refused()
    assert {one.headers.get("authorization") for one in server.asked("storage", "HEAD")} == {None}


@pytest.mark.parametrize(
    ("endpoint", "url", "is_same"),
    [
        ("https://hub.example", "https://hub.example:443/a", True),
        ("https://hub.example:443", "https://HUB.example/a", True),
        ("http://hub.example", "http://hub.example:80/a", True),
        ("https://hub.example", "https://hub.example:444/a", False),
        ("https://hub.example", "http://hub.example:443/a", False),
        ("https://hub.example", "https://other.example/a", False),
    ],
)
def test_the_usual_port_may_be_written_in_the_address_of_the_hub(
    endpoint: str, url: str, is_same: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert Connection()._is_endpoint(url) == is_same


def test_renamed_repository_is_followed_with_the_token(server: FakeHub, token: str):
    server.repositories["somebody/renamed"] = {FILE: CONTENT}
    server.gated.add(REPOSITORY)
    server.accepted.add(token)
    location = {"Location": f"/{REPOSITORY}/resolve/main/{FILE}"}
    server.renamed["somebody/renamed"] = Fault(status=307, headers=location)
    assert Hub().look_up("somebody/renamed", FILE).nbytes == 1000


def test_token_is_in_no_message_log_or_file(
    server: FakeHub, token: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    server.gated.add(REPOSITORY)
    error = refused()
    server.gated.clear()
    hub = Hub()
    target = tmp_path / "models" / FILE
    server.at_storage = [Fault(cut_after=10)]
    with pytest.raises(KeyboardInterrupt):
        hub.fetch(hub.look_up(REPOSITORY, FILE), target, should_stop=lambda: len(server.asked("storage")) > 1)
    written = [path.read_bytes() for path in target.parent.iterdir()]
    assert len(written) == 2
    seen = (str(error), repr(error), repr(error.__cause__), repr(hub), *hub.announcements, caplog.text, str(written))
    assert not any(token in text for text in seen)


def test_gated_without_a_login_says_where_to_accept_and_how_to_log_in(server: FakeHub):
    server.gated.add(REPOSITORY)
    error = refused()
    assert isinstance(error, AccessError)
    assert error.what == f"{REPOSITORY} is gated"
    assert "nobody is logged in" in error.why
    assert f"{server.endpoint}/{REPOSITORY}" in error.hint
    assert "hf auth login" in error.hint


def test_gated_with_a_login_says_that_the_account_has_not_accepted(server: FakeHub, token: str):
    server.gated.add(REPOSITORY)
    error = refused()
    assert isinstance(error, AccessError)
    assert "this account has not accepted its terms" in error.why
    assert "fine-grained" in error.hint


def test_terms_that_are_withdrawn_during_a_download_are_told(server: FakeHub, tmp_path: Path):
    hub = Hub()
    file = hub.look_up(REPOSITORY, FILE)
    server.gated.add(REPOSITORY)
    with pytest.raises(AccessError, match="is gated"):
        hub.fetch(file, tmp_path / FILE)
    assert not [path for path in tmp_path.iterdir() if FILE in path.name]


def test_token_that_is_wrong_is_told_as_such(server: FakeHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    error = refused()
    assert isinstance(error, AccessError)
    assert "does not accept the token" in error.what


def test_token_without_a_permission_is_told_as_such(server: FakeHub, token: str):
    server.always_at_hub = Fault(status=403, headers={"X-Error-Message": "Forbidden: permission missing"})
    error = refused()
    assert isinstance(error, AccessError)
    assert error.why == "Forbidden: permission missing"


@pytest.mark.parametrize("has_token", [True, False])
def test_private_and_misspelt_repositories_look_the_same(
    server: FakeHub, has_token: bool, request: pytest.FixtureRequest
):
    if has_token:
        request.getfixturevalue("token")
    error = refused(repository="somebody/other")
    assert isinstance(error, StorageError)
    assert error.what == "somebody/other cannot be found"
    assert "private" in error.why


def test_missing_file_is_named(server: FakeHub):
    error = refused("no-such.safetensors")
    assert isinstance(error, StorageError)
    assert error.what == f"{REPOSITORY}/no-such.safetensors does not exist"


def test_version_that_is_gone_is_told(server: FakeHub, tmp_path: Path):
    hub = Hub()
    file = hub.look_up(REPOSITORY, FILE)
    server.repositories[REPOSITORY]["new.json"] = b""
    with pytest.raises(StorageError, match="cannot be found"):
        hub.fetch(file, tmp_path / FILE)


@pytest.mark.parametrize("name", ["one word", "../up/x", "a/b/c"])
def test_name_that_no_repository_can_have_is_refused(server: FakeHub, name: str):
    assert isinstance(refused(repository=name), RequestError)
    assert server.seen == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=200, body=PAGE),
        Fault(status=200, headers={"X-Repo-Commit": "main", "ETag": '"' + "0" * 40 + '"'}),
        Fault(status=200, headers={"X-Repo-Commit": "0" * 40, "ETag": '"md5"'}),
        Fault(status=302, headers={"Location": "/"}),
        Fault(status=302, headers={"Location": "http://[/"}),
    ],
)
def test_server_that_is_no_hub_is_told_as_such(server: FakeHub, fault: Fault):
    server.always_at_hub = fault
    assert isinstance(refused(), StorageError)


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a/../../b", "c:x", "a\\b", ""])
def test_names_that_lead_out_of_their_folder_are_refused(server: FakeHub, name: str):
    server.repositories[REPOSITORY][name] = b""
    with pytest.raises(StorageError, match="does not answer as"):
        Hub().names(REPOSITORY)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"sha": 1}', b'{"sha": "x", "siblings": [1]}', b"[" * 100_000])
def test_list_of_files_that_is_none_is_refused(server: FakeHub, content: bytes):
    server.at_hub = [Fault(content=content)]
    with pytest.raises(StorageError, match="does not answer as"):
        Hub().names(REPOSITORY)


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("http://127.0.0.1:9", "refused"),
        ("http://no-such-host.invalid", "its name cannot be looked up"),
    ],
)
def test_hub_that_cannot_be_reached_is_named(server: FakeHub, monkeypatch: pytest.MonkeyPatch, endpoint: str, why: str):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    error = refused()
    assert isinstance(error, StorageError)
    assert error.what == f"{endpoint.split('/')[2].split(':')[0]} cannot be reached"
    assert why in error.why


def test_hub_without_the_encryption_that_was_asked_for_is_named(server: FakeHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint.replace("http:", "https:"))
    assert "certificate" in refused().why


def test_slow_hub_is_waited_for_as_long_as_the_environment_says(server: FakeHub, monkeypatch: pytest.MonkeyPatch):
    server.delay_s = 0.3
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.05")
    error = refused()
    assert "did not answer in time" in error.why
    assert "HF_HUB_ETAG_TIMEOUT" in error.hint


def test_offline_is_refused_by_name(server: FakeHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(StorageError, match="HF_HUB_OFFLINE"):
        Hub()


@pytest.mark.parametrize("endpoint", ["huggingface.co", "ftp://host", "http://", "http://host:port", "http://["])
def test_endpoint_that_is_no_address_is_refused(monkeypatch: pytest.MonkeyPatch, server: FakeHub, endpoint: str):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(StorageError, match="HF_ENDPOINT"):
        Hub()


def test_what_is_not_usual_is_announced_without_secrets(server: FakeHub, token: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://me:secret@hub.example")
    monkeypatch.setenv("http_proxy", "http://me:secret@proxy.example:3128")
    lines = Hub().announcements
    assert len(lines) == 3
    assert "http://hub.example" in lines[0]
    assert "token" in lines[1]
    assert "http://proxy.example:3128" in lines[2]
    assert not any(secret in line for line in lines for secret in (token, "secret"))


def test_the_usual_is_not_announced(server: FakeHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_ENDPOINT")
    assert Hub().announcements == ()


def test_proxy_of_an_unknown_kind_is_refused_without_its_password(server: FakeHub, monkeypatch: pytest.MonkeyPatch):
    close_session()
    monkeypatch.setenv("http_proxy", "gopher://me:hidden@proxy.example")
    with pytest.raises(StorageError) as caught:
        Hub()
    assert "proxy" in caught.value.what
    assert "hidden" not in str(caught.value)


def network_imports(source: str) -> set[str]:
    """The imported modules of a source, at any place in it, that can open a socket."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name for name in names if name.split(".")[0] in NETWORK or name.startswith("urllib.request")}
    return found


def test_one_module_opens_sockets():
    files = [*ROOT.glob("ltx2_core/**/*.py"), *ROOT.glob("ltx2_cli/**/*.py")]
    found = {path.relative_to(ROOT).as_posix(): network_imports(path.read_text(encoding="utf-8")) for path in files}
    assert found.pop("ltx2_core/lock.py") == {"socket"}  # for gethostname
    assert {name for name, imports in found.items() if imports} == OPENS_SOCKETS


@pytest.mark.parametrize(
    "source",
    [
        "import socket",
        "def f():\n    from urllib import request",
        "import urllib.request as u",
        "from huggingface_hub import x",
        "import http.client",
    ],
)
def test_import_that_opens_sockets_is_noticed(source: str):
    assert len(network_imports(source)) == 1


def test_pages_are_parsed_without_a_socket():
    assert network_imports("from urllib.parse import urlsplit\nfrom . import socket") == set()
