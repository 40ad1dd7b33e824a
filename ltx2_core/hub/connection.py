"""The only module that opens sockets: requests to one Hub, and to the storage hosts that it redirects to.

Endpoint, token, proxies and the HTTP client are those of huggingface_hub. The token is sent to the endpoint only.
Source: docs/reference/checkpoints.md, "Downloading".
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from ..errors import RequestError, StorageError
from ..version import __version__
from .failures import Wanted, not_a_hub, refusal, storage_refusal, transport_failure, whole_number

if TYPE_CHECKING:
    from urllib.parse import SplitResult

DEFAULT_ENDPOINT = "https://huggingface.co"
COMMIT = "X-Repo-Commit"  # the header by which a Hub is recognised
DOWNLOAD_TIMEOUT_S, ASK_TIMEOUT_S = 30.0, 15.0  # without data; HF_HUB_DOWNLOAD_TIMEOUT, HF_HUB_ETAG_TIMEOUT
REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 6
PORTS = {"http": 80, "https": 443}
NO_RANGE = 416


@dataclass(frozen=True, slots=True)
class Answer:
    """A response. host: its server. chunks: the bytes of its body, as they arrive. abort: stops these from another
    thread.
    """

    status: int
    headers: Mapping[str, str]
    host: str
    chunks: Callable[[], Iterator[bytes]]
    abort: Callable[[], None]

    @property
    def length(self) -> int | None:
        """How many bytes its body has, where it says so."""
        return whole_number(self.headers.get("Content-Length", ""))


class Connection:
    """One endpoint and one token, for questions from several threads."""

    def __init__(self) -> None:
        from huggingface_hub.utils import build_hf_headers, get_session

        _refuse_offline()
        self.endpoint = _endpoint()
        try:
            get_session()
        except (ImportError, ValueError) as error:  # a proxy of an unknown kind, or one that needs a package
            hint = "check HTTPS_PROXY, ALL_PROXY and NO_PROXY"
            raise StorageError("the proxy cannot be used", without_password(str(error)), hint) from error
        headers = build_hf_headers(library_name="ltx2", library_version=__version__)
        self._token = headers.pop("authorization", None)
        self._headers = {**headers, "Accept-Encoding": "identity"}

    @property
    def announcements(self) -> tuple[str, ...]:
        """Messages for the user before the first request, one per line."""
        lines: list[str] = []
        shown = without_password(self.endpoint)
        if self.endpoint != DEFAULT_ENDPOINT:
            lines.append(f"files come from {shown}, as HF_ENDPOINT says")
        if self._token is not None:
            lines.append(f"your Hugging Face token is sent to {shown}")
        if proxy := _proxy(urlsplit(self.endpoint)):
            lines.append(f"connections go through the proxy {without_password(proxy)}")
        return tuple(lines)

    def wanted(self, repository: str, path: str = "") -> Wanted:
        """The requested file, as named in messages."""
        shown = without_password(self.endpoint)
        return Wanted(endpoint=shown, has_token=self._token is not None, repository=repository, path=path)

    def url(self, repository: str, path: str, revision: str) -> str:
        """The address of a file. Raises: RequestError if the repository cannot have such a name."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.errors import HFValidationError

        try:
            return hf_hub_url(repository, path, revision=revision, endpoint=self.endpoint)
        except HFValidationError as error:
            hint = "write it as OWNER/NAME"
            raise RequestError(f"{repository} cannot be the name of a repository", hint=hint) from error

    @contextmanager
    def ask(self, method: str, url: str, wanted: Wanted, headers: Mapping[str, str] | None = None) -> Iterator[Answer]:
        """Send a request and follow redirects, with the token only for the endpoint.

        A HEAD ends with the response that has the facts of a file, which is the redirect to its bytes.
        Yields: a response that is not an error, or one that says that a range does not exist.
        Raises: AccessError, StorageError; Setback for a failure that may be temporary, also while the body is read.
        """
        timeout = _seconds("HF_HUB_DOWNLOAD_TIMEOUT", DOWNLOAD_TIMEOUT_S)
        if method == "HEAD":
            timeout = _seconds("HF_HUB_ETAG_TIMEOUT", ASK_TIMEOUT_S)
        for _ in range(MOST_REDIRECTS):
            with _explained(wanted, url), self._stream(method, url, headers or {}, timeout) as response:
                location = response.headers.get("Location", "")
                is_redirect = response.status_code in REDIRECTS and location
                if not is_redirect or (method == "HEAD" and COMMIT in response.headers):
                    host = urlsplit(url).hostname or ""
                    self._check(wanted, url, response)
                    yield Answer(
                        response.status_code, response.headers, host, response.iter_raw, lambda: _abort(response)
                    )
                    return
            url = _followed(wanted, url, location)
        raise StorageError(f"{wanted.name} cannot be fetched", f"{wanted.endpoint} leads from address to address")

    def close(self) -> None:
        """Close the open connections."""
        from huggingface_hub import close_session

        close_session()

    def _stream(self, method: str, url: str, headers: Mapping[str, str], timeout: float) -> Any:
        """Begin a request; what it gives is a response of httpx or of httpx2."""
        from huggingface_hub.utils import get_session

        sent = {**self._headers, **headers}
        if self._token is not None and self._is_endpoint(url):
            sent["authorization"] = self._token
        return get_session().stream(method, url, headers=sent, timeout=timeout, follow_redirects=False)

    def _is_endpoint(self, url: str) -> bool:
        return _origin(url) == _origin(self.endpoint)

    def _check(self, wanted: Wanted, url: str, response: Any) -> None:
        """Raises: the error that an error response means."""
        status = response.status_code
        if status < 400 or status == NO_RANGE:
            return
        if self._is_endpoint(url):
            raise refusal(wanted, status, response.headers)
        raise storage_refusal(wanted, urlsplit(url).hostname or "", status, response.headers)


@contextmanager
def _explained(wanted: Wanted, url: str) -> Iterator[None]:
    """Turn the errors of a connection into ours. Everything else is raised unchanged."""
    try:
        yield
    except Exception as error:
        failure = transport_failure(wanted, urlsplit(url).hostname or "", error)
        if failure is None:
            raise
        raise failure from error


def without_password(url: str) -> str:
    """An address, or a text with one, without user and password, for messages."""
    return re.sub(r"(^|//)[^/\s]*@", r"\1", url)


def _abort(response: Any) -> None:
    """Close the connection of a response that another thread reads, also while nothing arrives."""
    if opened := response.extensions["network_stream"].get_extra_info("socket"):
        with suppress(OSError):  # it is closed already
            socket.socket.shutdown(opened, socket.SHUT_RDWR)  # SSLSocket.shutdown may only be called by its own thread


def _origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an address. Raises: ValueError if it is not one, or if no host can have that name."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    host.encode("idna")
    return parts.scheme, host, parts.port or PORTS.get(parts.scheme)


def _followed(wanted: Wanted, url: str, location: str) -> str:
    """The address that a redirect leads to. Raises: StorageError if it is not an address."""
    try:
        url = urljoin(url, location)
        _origin(url)
    except ValueError as error:
        raise not_a_hub(wanted, "it leads to something that is not an address") from error
    return url


def _endpoint() -> str:
    """The Hub that HF_ENDPOINT names, read now: huggingface_hub reads it only once, when it is imported."""
    endpoint = (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).strip().rstrip("/")
    try:
        is_address = endpoint.startswith(("http://", "https://")) and bool(_origin(endpoint)[1])
    except ValueError:  # the port is not a number
        is_address = False
    if not is_address:
        what = f"HF_ENDPOINT={without_password(endpoint)} is not an address"
        raise StorageError(what, hint=f"write it as {DEFAULT_ENDPOINT}, or unset it")
    return endpoint


def _refuse_offline() -> None:
    from huggingface_hub import constants

    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    found = [name for name in names if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    if found or constants.HF_HUB_OFFLINE:  # the constant was read when huggingface_hub was imported
        name = (*found, "HF_HUB_OFFLINE")[0]
        raise StorageError(
            f"nothing can be fetched while {name} is set", hint=f"unset {name} and run the command again"
        )


def _proxy(endpoint: SplitResult) -> str | None:
    """The proxy between this machine and an endpoint, as the environment and the system name it."""
    host = endpoint.hostname or ""
    if proxy_bypass(host):
        return None
    proxies = getproxies()
    return proxies.get(endpoint.scheme) or proxies.get("all")


def _seconds(name: str, default: float) -> float:
    """The seconds in an environment variable; the default if it is not a number above 0."""
    try:
        seconds = float(os.environ.get(name, ""))
    except ValueError:
        return default
    return seconds if 0 < seconds < float("inf") else default
