"""Download one file: resume an earlier download, verify it, and rename it only when it is right.

Source: docs/reference/checkpoints.md, "Downloading".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from ..disk import disk_errors, show_bytes
from ..errors import StorageError
from ..lock import locked
from . import failures
from .checksums import read_digest
from .connection import NO_RANGE, Answer, Connection
from .failures import Patience, Setback, Wanted, not_a_hub, pause, stop_if
from .part import Part, RemoteFile

PARTIAL = 206
MOST_BEGINNINGS = 5  # of one file, where a server cannot go on in the middle
CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", re.ASCII)
PAGE = re.compile(rb"\s*<(!doctype|html|head|\?xml)", re.IGNORECASE)
PAGE_TYPES = ("text/html", "application/xhtml")
PAGE_ENDINGS = (".html", ".htm", ".xml")


def fetch_file(
    connection: Connection,
    file: RemoteFile,
    target: Path,
    on_bytes: Callable[[int], None],
    should_stop: Callable[[], bool],
) -> str:
    """Download a file, unless it exists or another process is downloading it.

    Returns: the SHA-256 of its content. Raises: AccessError, StorageError, KeyboardInterrupt; the bytes so far are kept
    for the next run.
    """
    with disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target, wait=lambda: pause(failures.POLL_S, should_stop)):
        if target.is_file():
            found = read_digest(target, file.checksum, lambda nbytes: stop_if(should_stop))
            if found.checksum == file.checksum:
                on_bytes(file.nbytes)
                return found.sha256
        with Part(file, target, on_bytes) as part:
            return _Transfer(connection, part, should_stop).run()


class _Transfer:
    """The transfer of one file into its partial file."""

    def __init__(self, connection: Connection, part: Part, should_stop: Callable[[], bool]) -> None:
        self._connection, self._part, self._should_stop = connection, part, should_stop
        self._file = part.file
        self._wanted: Wanted = connection.wanted(part.file.repository, part.file.path)
        self._beginnings = 0
        self._is_pieced = False  # whether its bytes come from more than one answer

    def run(self) -> str:
        """Download the missing bytes and verify the file; start once more from the beginning if pieces do not match."""
        self._part.resume(self._should_stop)
        self._is_pieced = self._part.size > 0
        self._fill()
        if self._part.checksum != self._file.checksum and self._is_pieced:
            self._begin_again("its parts do not fit together")
            self._fill()
        if self._part.checksum != self._file.checksum:
            raise self._wrong_content()
        return self._part.finish()

    def _fill(self) -> None:
        patience = Patience(failures.FETCH_WAITS, self._should_stop)
        while (before := self._part.size) < self._file.nbytes:
            stop_if(self._should_stop)
            try:
                self._receive()
            except Setback as setback:
                stop_if(self._should_stop)
                if self._part.size > before:
                    patience.renew()
                patience.bear(setback)

    def _receive(self) -> None:
        """Request the missing bytes, always from the endpoint, which signs a new address each time, and write them."""
        headers = {}
        if self._part.size:
            self._is_pieced = True
            headers["Range"] = f"bytes={self._part.size}-"
            if self._part.etag:
                headers["If-Range"] = self._part.etag
        url = self._connection.url(self._file.repository, self._file.path, self._file.commit)
        with self._connection.ask("GET", url, self._wanted, headers) as answer:
            if self._is_to_be_taken(answer):
                self._take(answer)
                self._require_end()

    def _is_to_be_taken(self, answer: Answer) -> bool:
        """Check the headers of a response; if its bytes do not continue the existing ones, request again."""
        self._check_kind(answer)
        begins, total = 0, answer.length
        if answer.status == PARTIAL:
            begins, total = _content_range(answer)
        if answer.status == NO_RANGE or begins != self._part.size:
            if self._part.etag and answer.status != NO_RANGE:
                self._part.remember("")  # the checksum decides, whatever version the storage host reports
                return False
            self._begin_again(f"{answer.host} cannot go on in the middle of a file")
            if answer.status == NO_RANGE or begins:
                return False
        if total is not None and total != self._file.nbytes:
            raise self._wrong_length(answer, total)
        self._part.remember(_strong_etag(answer))
        return True

    def _take(self, answer: Answer) -> None:
        with _aborted_by(self._should_stop, answer.abort):
            self._write(answer)

    def _write(self, answer: Answer) -> None:
        for data in answer.chunks():
            stop_if(self._should_stop)
            if self._part.size == 0 and self._is_page(data):
                raise not_a_hub(self._wanted, f"{answer.host} sent a web page and not {self._file.name}")
            if self._part.size + len(data) > self._file.nbytes:
                raise self._wrong_length(answer, self._part.size + len(data))
            self._part.write(data)

    def _check_kind(self, answer: Answer) -> None:
        kind = answer.headers.get("Content-Type", "").lower()
        if kind.startswith(PAGE_TYPES) and not self._file.path.endswith(PAGE_ENDINGS):
            raise not_a_hub(self._wanted, f"{answer.host} sent a web page and not {self._file.name}")

    def _is_page(self, data: bytes) -> bool:
        return PAGE.match(data) is not None and not self._file.path.endswith(PAGE_ENDINGS)

    def _begin_again(self, why: str) -> None:
        self._beginnings += 1
        if self._beginnings == MOST_BEGINNINGS:
            raise StorageError(f"{self._file.name} cannot be fetched", why, "run the command again later")
        self._part.begin_again()
        self._is_pieced = False

    def _require_end(self) -> None:
        """Raises: Setback if a response has ended before the file does."""
        if self._part.size < self._file.nbytes:
            hint = "run the command again: what was fetched is kept"
            what = f"{self._file.name} ended after {show_bytes(self._part.size)} of {show_bytes(self._file.nbytes)}"
            raise Setback(StorageError(what, "the connection was lost", hint))

    def _wrong_length(self, answer: Answer, found: int) -> StorageError:
        why = f"{answer.host} sends {found:,} bytes or more, and the Hub says {self._file.nbytes:,}"
        return StorageError(f"{self._file.name} has a wrong length", why, "run the command again later")

    def _wrong_content(self) -> StorageError:
        found = self._part.checksum
        self._part.discard()
        why = f"its checksum is {found} and should be {self._file.checksum}"
        hint = "run the command again; if it is wrong each time, a proxy or a mirror changes it"
        return StorageError(f"{self._file.name} was fetched with a wrong content", why, hint)


@contextmanager
def _aborted_by(should_stop: Callable[[], bool], abort: Callable[[], None]) -> Iterator[None]:
    """Abort what a block waits for as soon as it should stop."""

    def watch() -> None:
        while not is_done.wait(failures.POLL_S):
            if should_stop():
                abort()
                return

    is_done = Event()
    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_done.set()
        watcher.join()


def _content_range(answer: Answer) -> tuple[int, int | None]:
    """The first byte of a partial response, and the length of the whole file; (-1, None) without a valid header."""
    match = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    if match is None:
        return -1, None
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _strong_etag(answer: Answer) -> str:
    """The etag of a response, if it guarantees that bytes of two responses can be combined."""
    etag = answer.headers.get("ETag", "").strip()
    return etag if etag.startswith('"') else ""
