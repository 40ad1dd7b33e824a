"""Errors between this machine and the Hub: messages with hints, and which errors may be temporary.

Source: docs/reference/checkpoints.md, "Downloading".
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from ..errors import AccessError, LTX2Error, StorageError

ASK_WAITS = (1.0, 3.0)  # seconds before each new attempt of a request
FETCH_WAITS = (1.0, 3.0, 10.0, 30.0, 60.0)  # the same for a download, since the last byte received
LONGEST_WAIT = 300.0  # limit for the delay that a server requests
POLL_S = 0.2  # longest time until a stop is noticed
PASSING = {408, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524}
EXPIRED = {401, 403, 410}  # status codes of a storage host for an expired signed address
PROGRAMS = {"httpx", "httpx2"}  # HTTP libraries of huggingface_hub; their errors are not OSErrors
NAME_UNKNOWN = re.compile(r"getaddrinfo|name resolution|name or service|nodename|no address", re.IGNORECASE)
CERTIFICATE = re.compile(r"ssl|certificate|tls", re.IGNORECASE)


class Setback(Exception):
    """A failure that may be temporary. failure: the error to raise if it is not. after: seconds that the server asks
    for.
    """

    def __init__(self, failure: StorageError, after: float = 0.0) -> None:
        super().__init__(failure.what)
        self.failure, self.after = failure, after


class Patience:
    """Counts the retries without progress, with longer and longer waits."""

    def __init__(self, waits: Sequence[float], should_stop: Callable[[], bool]) -> None:
        self._waits, self._should_stop = waits, should_stop
        self._tries = 0

    def renew(self) -> None:
        """Reset the count, because the last try made progress."""
        self._tries = 0

    def bear(self, setback: Setback) -> None:
        """Wait before the next try. Raises: the failure of the setback after too many tries; KeyboardInterrupt."""
        if self._tries == len(self._waits):
            raise setback.failure from setback.__cause__
        seconds = max(self._waits[self._tries], setback.after)
        self._tries += 1
        pause(min(seconds, LONGEST_WAIT), self._should_stop)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The request, for messages. endpoint: without a password. path: empty for a repository."""

    endpoint: str
    has_token: bool
    repository: str
    path: str = ""

    @property
    def name(self) -> str:
        """The file, or the repository, in the usual notation."""
        return f"{self.repository}/{self.path}" if self.path else self.repository

    @property
    def page(self) -> str:
        """The page of the repository."""
        return f"{self.endpoint}/{self.repository}"


def pause(seconds: float, should_stop: Callable[[], bool]) -> None:
    """Sleep. Raises: KeyboardInterrupt as soon as it should stop."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        stop_if(should_stop)
        time.sleep(min(left, POLL_S))


def stop_if(should_stop: Callable[[], bool]) -> None:
    """Raises: KeyboardInterrupt if it should stop."""
    if should_stop():
        raise KeyboardInterrupt


def refusal(wanted: Wanted, status: int, headers: Mapping[str, str]) -> LTX2Error | Setback:
    """The error for an error response of the Hub."""
    code = headers.get("X-Error-Code", "")
    if status in PASSING:
        return _busy(wanted, wanted.endpoint, status, headers)
    if code == "GatedRepo":
        return _gated(wanted)
    if code == "EntryNotFound":
        return StorageError(f"{wanted.name} does not exist", f"{wanted.page} has no such file", _other_name(wanted))
    if code == "RevisionNotFound":
        why = f"{wanted.page} has no such version"
        return StorageError(f"{wanted.name} cannot be found", why, "run the command again: it may have just changed")
    if status == 401 and wanted.has_token and "credentials" in headers.get("X-Error-Message", "").lower():
        hint = "hf auth login, or set HF_TOKEN to a valid token, or unset it"
        return AccessError(f"{wanted.endpoint} does not accept the token", "it is wrong or has expired", hint)
    if code == "RepoNotFound" or status in (401, 404):
        why = f"{wanted.endpoint} has no such repository, or it is private and this account may not see it"
        return StorageError(f"{wanted.repository} cannot be found", why, f"look at {wanted.page}")
    if status == 403:
        why = headers.get("X-Error-Message") or "the token of this account does not allow it"
        hint = f"look at {wanted.page}; a fine-grained token needs the permission to read this repository"
        return AccessError(f"{wanted.name} may not be read", why, hint)
    why = headers.get("X-Error-Message") or f"{wanted.endpoint} answered with status {status}"
    return StorageError(f"{wanted.name} cannot be fetched", why, f"look at {wanted.page}")


def storage_refusal(wanted: Wanted, host: str, status: int, headers: Mapping[str, str]) -> LTX2Error | Setback:
    """The error for an error response of the storage host that the Hub redirects to."""
    if status in PASSING:
        return _busy(wanted, host, status, headers)
    failure = StorageError(
        f"{wanted.name} cannot be fetched",
        f"the storage host {host} answered with status {status}",
        "run the command again later: what was fetched is kept",
    )
    return Setback(failure) if status in EXPIRED else failure


def transport_failure(wanted: Wanted, host: str, error: Exception) -> Setback | StorageError | None:
    """The error for a failure of the connection; None for any other exception."""
    names = {one.__name__ for one in type(error).__mro__ if one.__module__.partition(".")[0] in PROGRAMS}
    if "InvalidURL" in names or "UnsupportedProtocol" in names:
        return StorageError(f"{host} leads to an address that cannot be used", hint="check HF_ENDPOINT and the proxy")
    if not names & {"TransportError", "DecodingError"}:
        return None
    text = str(error)
    what, why = f"{host} cannot be reached", ""
    hint = "check the network connection, HF_ENDPOINT and the proxy"
    if "ProxyError" in names:
        why, hint = f"the proxy refused: {_first_line(text)}", "check HTTPS_PROXY, ALL_PROXY and NO_PROXY"
    elif "TimeoutException" in names:
        why = "it did not answer in time"
        hint = "run the command again; HF_HUB_DOWNLOAD_TIMEOUT=120 and HF_HUB_ETAG_TIMEOUT=60 wait longer"
    elif "ConnectError" in names and CERTIFICATE.search(text):
        why = f"its certificate cannot be checked: {_first_line(text)}"
        hint = "check the date of this machine; behind a company's proxy set SSL_CERT_FILE to its certificate"
    elif "ConnectError" in names and NAME_UNKNOWN.search(text):
        why = "its name cannot be looked up"
    elif "ConnectError" in names:
        why = _first_line(text)
    else:
        what = f"the connection to {host} was lost"
        hint = "run the command again: what was fetched is kept"
    return Setback(StorageError(what, why, hint))


def not_a_hub(wanted: Wanted, why: str) -> StorageError:
    """The error for a response that does not come from a Hub."""
    hint = "HF_ENDPOINT has to name a Hub or its mirror; a network that asks for a login may have answered instead"
    return StorageError(f"{wanted.endpoint} does not answer as a Hugging Face Hub", why, hint)


def _gated(wanted: Wanted) -> AccessError:
    why = "nobody is logged in, and its terms have to be accepted first"
    if wanted.has_token:
        why = "this account has not accepted its terms, or its token may not read gated repositories"
    hint = (
        f"open {wanted.page} and accept the terms, then run hf auth login or set HF_TOKEN; "
        "a fine-grained token needs the permission to read gated repositories"
    )
    return AccessError(f"{wanted.repository} is gated", why, hint)


def _busy(wanted: Wanted, host: str, status: int, headers: Mapping[str, str]) -> Setback:
    why = f"{host} answered with status {status}"
    if status == 429:
        why = f"{host} takes no more requests for now"
    hint = "run the command again later: what was fetched is kept"
    return Setback(StorageError(f"{wanted.name} cannot be fetched", why, hint), _asked_wait(status, headers))


def _asked_wait(status: int, headers: Mapping[str, str]) -> float:
    """The seconds that a server asks to wait, in Retry-After or in the Hub's own RateLimit; 0 if there are none."""
    text = headers.get("Retry-After", "").strip()
    if (seconds := whole_number(text)) is not None:
        return float(seconds)
    try:
        return max((parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        window = re.search(r"\bt=(\d{1,6})\b", headers.get("RateLimit", ""))
    return float(window[1]) if window and status == 429 else 0.0


def whole_number(text: str) -> int | None:
    """The number in a header; None if it is no number, or one of more digits than any size or time has."""
    return int(text) if re.fullmatch(r"\d{1,18}", text, re.ASCII) else None


def _other_name(wanted: Wanted) -> str:
    return f"{wanted.page}/tree/main lists its files"


def _first_line(text: str) -> str:
    return (text.splitlines() or ["no reason was given"])[0]
