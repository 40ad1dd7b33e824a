"""The interface to the Hugging Face Hub: its facts about files, and its files.

Source: docs/reference/checkpoints.md, "Downloading".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from threading import RLock
from typing import Self, TypeVar
from urllib.parse import quote

from . import failures
from .connection import COMMIT, Connection
from .failures import Patience, Setback, Wanted, not_a_hub, whole_number
from .fetch import fetch_file
from .part import RemoteFile

MAIN = "main"
MOST_LIST_BYTES = 64 * 2**20  # limit for a Hub's description of a repository
HEX = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
ETAG = re.compile(r'(?:W/)?"?([^"]*)"?')
T = TypeVar("T")


class Hub:
    """One endpoint, one token and one HTTP client, for several threads at once.

    The version of a repository is fixed by the first request for it, and applies to all that follow.
    """

    def __init__(self) -> None:
        """Raises: StorageError if the environment says to stay offline, or names no usable endpoint or proxy."""
        self._connection = Connection()
        self._commits: dict[str, str] = {}
        self._settling = RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()

    @property
    def announcements(self) -> tuple[str, ...]:
        """Messages for the user before the first request: another endpoint, a token, a proxy; one per line."""
        return self._connection.announcements

    def look_up(self, repository: str, path: str) -> RemoteFile:
        """Ask for the size and the checksum of a file.

        Raises: AccessError if it requires a login or accepted terms; StorageError if there is no such file, or no
        answer.
        """
        with self._settling:
            if repository not in self._commits:
                found = self._asked(lambda: self._head(repository, path, MAIN))
                self._commits[repository] = found.commit
                return found
        return self._asked(lambda: self._head(repository, path, self._commits[repository]))

    def names(self, repository: str) -> list[str]:
        """Ask for the paths of all files in a repository. Raises: as `look_up`."""
        with self._settling:
            commit, names = self._asked(lambda: self._list(repository, self._commits.get(repository, MAIN)))
            self._commits.setdefault(repository, commit)
        return names

    def fetch(
        self,
        file: RemoteFile,
        target: Path,
        on_bytes: Callable[[int], None] = lambda nbytes: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> str:
        """Download a file, or resume an earlier download.

        A file that exists with the right content is not downloaded; while another process downloads it this one waits.
        Args: on_bytes: called with the number of new bytes on disk, including those of an earlier run.
        Returns: the SHA-256 of its content, in hex digits.
        Raises: as `look_up`; StorageError if the disk is full or the content is wrong; KeyboardInterrupt once
        should_stop returns True. The bytes so far stay for the next run, unless the content is wrong.
        """
        return fetch_file(self._connection, file, target, on_bytes, should_stop)

    def _asked(self, question: Callable[[], T]) -> T:
        """Send a request, and retry after failures that may be temporary."""
        patience = Patience(failures.ASK_WAITS, lambda: False)
        while True:
            try:
                return question()
            except Setback as setback:
                patience.bear(setback)

    def _head(self, repository: str, path: str, revision: str) -> RemoteFile:
        wanted = self._connection.wanted(repository, path)
        with self._connection.ask("HEAD", self._connection.url(repository, path, revision), wanted) as answer:
            headers = answer.headers
            size = whole_number(headers.get("X-Linked-Size") or headers.get("Content-Length", ""))
            return _remote_file(wanted, headers, size)

    def _list(self, repository: str, revision: str) -> tuple[str, list[str]]:
        """The commit of a repository at a revision, and the paths of its files."""
        self._connection.url(repository, "README.md", revision)  # this refuses invalid names
        wanted = self._connection.wanted(repository)
        url = f"{self._connection.endpoint}/api/models/{repository}/revision/{quote(revision, safe='')}"
        content = bytearray()
        with self._connection.ask("GET", url, wanted) as answer:
            for data in answer.chunks():
                content += data
                if len(content) > MOST_LIST_BYTES:
                    raise not_a_hub(wanted, f"its list of files is larger than {MOST_LIST_BYTES:,} bytes")
        try:
            facts = json.loads(content)
            commit, names = str(facts["sha"]), [str(one["rfilename"]) for one in facts["siblings"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise not_a_hub(wanted, "its list of files cannot be read") from error
        if strange := [name for name in names if not _is_plain(name)]:
            raise not_a_hub(wanted, f"it names a file {strange[0]!r}")
        return commit, names


def _remote_file(wanted: Wanted, headers: Mapping[str, str], size: int | None) -> RemoteFile:
    """The facts about a file in the headers of a response. Raises: StorageError if they do not come from a Hub."""
    commit = headers.get(COMMIT, "")
    etag = ETAG.fullmatch(headers.get("X-Linked-Etag") or headers.get("ETag", ""))
    checksum = etag[1] if etag else ""
    if not (len(commit) == 40 and HEX.fullmatch(commit)):
        raise not_a_hub(wanted, f"its answer for {wanted.name} names no commit")
    if not HEX.fullmatch(checksum) or size is None:
        raise not_a_hub(wanted, f"its answer for {wanted.name} has no size and no checksum")
    return RemoteFile(repository=wanted.repository, path=wanted.path, commit=commit, nbytes=size, checksum=checksum)


def _is_plain(name: str) -> bool:
    """Whether a path can be shown, and stays in the folder of its repository on every system."""
    path = PurePosixPath(name)
    is_inside = bool(path.name) and not path.is_absolute() and ".." not in path.parts
    return is_inside and name.isprintable() and not re.search(r"[\\:]", name)
