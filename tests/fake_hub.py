"""A server on this machine that answers like the Hugging Face Hub, with every error that a test requests.

It has two hosts: the Hub at 127.0.0.1, and the storage host at localhost, to which the Hub redirects with signed
addresses.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

LARGE = (".safetensors", ".model", ".bin")  # suffixes of files in the large file storage of a repository
FILE = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
MODEL = re.compile(r"/api/models/(?P<repository>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?")
RANGE = re.compile(r"bytes=(\d+)-")
CHUNK = 2**16
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
PAGE = b"<!DOCTYPE html><html><body>log in to use this network</body></html>"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """The errors in one answer.

    Args: status, headers, body: send only these. content: send this instead of the file. kind: its content type.
    cut_after: close the connection after this many bytes of the body. stall_after: send nothing more after this many
    bytes, until the server ends. has_range: whether range requests are supported. has_length: whether the answer has a
    Content-Length. range_shift: offset of the start of a range from the requested start.
    """

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    content: bytes | None = None
    kind: str = "application/octet-stream"
    cut_after: int | None = None
    stall_after: int | None = None
    has_range: bool = True
    has_length: bool = True
    range_shift: int = 0


NO_FAULT = Fault()


@dataclass(kw_only=True)
class Seen:
    """One request. host: "hub" or "storage". sent: number of bytes of the body that were sent."""

    host: str
    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0

    @property
    def begins(self) -> int:
        """The first byte of the requested range."""
        match = RANGE.match(self.headers.get("range", ""))
        return int(match[1]) if match else 0


@lru_cache(maxsize=1000)
def sha256(content: bytes) -> str:
    """The checksum of a large file, computed once."""
    return hashlib.sha256(content).hexdigest()


class FakeHub:
    """A Hub with some repositories; a context manager.

    Args: repositories: the content of each file by its path, for each repository by its name. Attributes: gated:
    repositories whose terms must be accepted. tokens: valid tokens. accepted: tokens of accounts that have accepted the
    terms. at_hub, at_storage: errors in the next answers, one each; requests for metadata alone are not counted at the
    Hub. always_at_hub, always_at_storage: errors in all other answers. renamed: new names of repositories, to which
    requests are redirected. bytes_per_s: speed of each body. delay_s: delay before each answer. seen: all requests so
    far.
    """

    def __init__(self, repositories: Mapping[str, Mapping[str, bytes]], *, bytes_per_s: float | None = None) -> None:
        self.repositories = {name: dict(files) for name, files in repositories.items()}
        self.gated: set[str] = set()
        self.tokens: set[str] = set()
        self.accepted: set[str] = set()
        self.at_hub: list[Fault] = []
        self.at_storage: list[Fault] = []
        self.always_at_hub, self.always_at_storage = NO_FAULT, NO_FAULT
        self.renamed: dict[str, Fault] = {}
        self.bytes_per_s, self.delay_s = bytes_per_s, 0.0
        self.seen: list[Seen] = []
        self._signatures: dict[str, bytes] = {}
        self.ended = Event()
        self._lock = Lock()
        self._servers = [_Server(self, "hub", "127.0.0.1"), _Server(self, "storage", "localhost")]
        self._threads = [Thread(target=one.serve_forever, args=(0.02,), daemon=True) for one in self._servers]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()

    @property
    def endpoint(self) -> str:
        """The value for HF_ENDPOINT."""
        return self._servers[0].address

    @property
    def storage(self) -> str:
        """The address of the storage host."""
        return self._servers[1].address

    def environment(self, home: Path) -> dict[str, str]:
        """Environment variables of a process that uses this server and no settings of the user. home: an empty
        folder.
        """
        return {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1,localhost"}

    def commit(self, repository: str) -> str:
        """The version of a repository, which depends on its files."""
        files = sorted((path, sha256(content)) for path, content in self.repositories[repository].items())
        return hashlib.sha1(repr(files).encode()).hexdigest()

    def asked(self, host: str, method: str = "GET") -> list[Seen]:
        """The requests of one kind at one host."""
        return [one for one in self.seen if (one.host, one.method) == (host, method)]

    def saw(self, request: Seen) -> None:
        with self._lock:
            self.seen.append(request)

    def fault(self, host: str) -> Fault:
        """The errors in the next answer."""
        with self._lock:
            queue = self.at_hub if host == "hub" else self.at_storage
            if queue:
                return queue.pop(0)
        return self.always_at_hub if host == "hub" else self.always_at_storage

    def sign(self, content: bytes) -> str:
        """A new address of a content at the storage host."""
        signature = secrets.token_hex(8)
        self._signatures[signature] = content
        return f"{self.storage}/{sha256(content)}?signature={signature}"

    def signed(self, url: str) -> bytes | None:
        """The content for an address at the storage host."""
        signature = parse_qs(urlsplit(url).query).get("signature", [""])[0]
        return self._signatures.get(signature)


def use(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Let this process use a server, without a token and without delays. home: an empty folder."""
    for name in (*TOKENS, *PROXIES, *map(str.upper, PROXIES)):
        monkeypatch.delenv(name, raising=False)
    for name, value in hub.environment(home).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr("ltx2_core.hub.failures.ASK_WAITS", (0.0, 0.0))
    monkeypatch.setattr("ltx2_core.hub.failures.FETCH_WAITS", (0.0,) * 5)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, hub: FakeHub, name: str, host: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub, self.name = hub, name
        self.address = f"http://{host}:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing, because many tests are about clients that disconnect."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * CHUNK)  # little data in transit
        super().setup()

    def log_message(self, format: str, *values: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub, name = self.server.hub, self.server.name
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.seen = Seen(host=name, method=self.command, path=self.path, headers=headers)
        hub.saw(self.seen)
        time.sleep(hub.delay_s)
        is_question = name == "hub" and self.command == "HEAD"
        fault = hub.always_at_hub if is_question else hub.fault(name)
        if fault.status:
            self.reply(fault.status, fault.headers, fault.body)
        elif name == "storage":
            self.answer_as_storage(fault)
        else:
            self.answer_as_hub(fault)

    def answer_as_storage(self, fault: Fault) -> None:
        content = self.server.hub.signed(self.path)
        if content is None:
            self.reply(403, {}, b"expired")
        else:
            etag = f'"storage-{sha256(content)[:16]}"'
            self.send_file(content, {"ETag": etag}, fault)

    def answer_as_hub(self, fault: Fault) -> None:
        path = urlsplit(self.path).path
        match = FILE.fullmatch(path) or MODEL.fullmatch(path)
        if match is None:
            self.reply(404, {}, b"no such page")
            return
        repository, is_file = match["repository"], match.re is FILE
        if moved := self.server.hub.renamed.get(repository):
            self.reply(moved.status, moved.headers)
            return
        if error := self.refusal(repository, match["revision"], is_file):
            status, code, text = error
            self.reply(status, {"X-Error-Code": code, "X-Error-Message": text}, json.dumps({"error": text}).encode())
        elif is_file:
            self.answer_file(repository, unquote(match["path"]), fault)
        else:
            names = [{"rfilename": name} for name in self.server.hub.repositories[repository]]
            facts = {"id": repository, "sha": self.server.hub.commit(repository), "siblings": names}
            self.reply(200, {"Content-Type": "application/json"}, fault.content or json.dumps(facts).encode())

    def refusal(self, repository: str, revision: str | None, is_file: bool) -> tuple[int, str, str] | None:
        """Status, code and text of an error about the token, the repository, its terms, or the version."""
        hub = self.server.hub
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in hub.tokens:
            return 401, "", "Invalid credentials in Authorization header"
        if repository not in hub.repositories:
            return 404 if token else 401, "RepoNotFound", "Repository not found"
        if is_file and repository in hub.gated and token not in hub.accepted:
            return 403 if token else 401, "GatedRepo", f"Access to model {repository} is restricted"
        if revision not in (None, "main", hub.commit(repository)):
            return 404, "RevisionNotFound", f"Invalid rev id: {revision}"
        return None

    def answer_file(self, repository: str, path: str, fault: Fault) -> None:
        hub = self.server.hub
        content = hub.repositories[repository].get(path)
        commit = {"X-Repo-Commit": hub.commit(repository)}
        if content is None:
            self.reply(404, {**commit, "X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        elif not path.endswith(LARGE):
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            self.send_file(content, {**commit, "ETag": f'"{blob}"'}, fault)
        else:
            linked = {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{sha256(content)}"'}
            self.reply(302, {**commit, **linked, "Location": hub.sign(content)})

    def send_file(self, content: bytes, headers: Mapping[str, str], fault: Fault) -> None:
        """Send a file, or the requested range of it."""
        if fault.content is not None:
            content = fault.content
        match = RANGE.match(self.headers.get("Range", ""))
        is_part = match is not None and fault.has_range
        if self.headers.get("If-Range", headers["ETag"]) != headers["ETag"]:
            is_part = False
        sent = {"Content-Type": fault.kind, "Accept-Ranges": "bytes", **headers}
        if not is_part:
            self.reply(200, sent, content, fault)
            return
        assert match is not None
        begins = int(match[1]) + fault.range_shift
        if begins >= len(content):
            self.reply(416, {"Content-Range": f"bytes */{len(content)}"})
        else:
            sent["Content-Range"] = f"bytes {begins}-{len(content) - 1}/{len(content)}"
            self.reply(206, sent, content[begins:], fault)

    def reply(self, status: int, headers: Mapping[str, str], body: bytes = b"", fault: Fault = NO_FAULT) -> None:
        self.seen.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if fault.has_length:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        for piece in _pieces(body[: fault.cut_after][: fault.stall_after]):
            self.seen.sent += len(piece)
            self.wfile.write(piece)
            if self.server.hub.bytes_per_s:
                time.sleep(len(piece) / self.server.hub.bytes_per_s)
        if fault.stall_after is not None:
            self.server.hub.ended.wait(60)
        if fault.cut_after is not None or not fault.has_length:
            self.close_connection = True


def _pieces(body: bytes) -> Iterable[bytes]:
    return (body[start : start + CHUNK] for start in range(0, len(body), CHUNK))
