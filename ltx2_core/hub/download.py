"""Download the files of a model, or link to those that are on this machine already, and verify both.

Source: docs/models.md, "Downloading".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from threading import Event

from ..disk import disk_errors, disk_reason, show_bytes
from ..errors import AccessError, RequestError, StorageError, TargetTakenError
from ..paths import require_writable
from .checksums import is_sha256, read_digest
from .installed import files_in, parts_of
from .ledger import known_checksum, remember_verified, still_verified
from .library import WEIGHTS, Library, models_home
from .registry import PublishedFile, Reference
from .remote import Hub
from .wanted import DownloadPlan, WantedFile, wanted_file

AT_ONCE = 3  # files that are fetched at the same time
OF_ENCODERS = ("*.safetensors", "*.json", "*.model", "*.jinja")  # the files of a text encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class FileProgress:
    """The progress of one file. action: "fetching" or "verifying". done, total: bytes."""

    action: str
    name: str
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Receives the events of a download, from several threads at once, and may stop it."""

    on_progress: Callable[[FileProgress], None] = lambda progress: None
    on_warning: Callable[[str], None] = lambda warning: None
    should_stop: Callable[[], bool] = lambda: False

    def counter(self, action: str, name: str, total: int) -> Callable[[int], None]:
        """A function that counts the bytes of one file."""
        done = 0

        def count(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            self.on_progress(FileProgress(action=action, name=name, done=done, total=total))

        return count


def verify_found(plan: DownloadPlan, listener: Listener) -> DownloadPlan:
    """Compare existing files with their checksums, if known; a file that was verified before is not read again.

    A file with a wrong checksum counts as missing, with a warning. Raises: StorageError if a file cannot be read, or if
    files are missing and the folder for them cannot be written.
    """
    if plan.missing:
        require_writable(plan.folder, str(plan.folder))
    return replace(plan, files=tuple(_verified(file, listener) for file in plan.files))


def look_up(plan: DownloadPlan, library: Library, hub: Hub, listener: Listener) -> DownloadPlan:
    """Ask the Hub about every file that is missing, or that exists and has no known checksum.

    If the Hub and the catalogue differ, the Hub is right, and a warning says so.
    Raises: RequestError for a model or LoRA that this version cannot use; AccessError if the Hub requires a login or
    accepted terms; StorageError if it cannot be reached or has no such file.
    """
    _require_usable(plan)
    files: list[WantedFile] = []
    for file in plan.files:
        for one in _expanded(file, plan, library, hub):
            files.append(one if _is_settled(one) else _looked_up(one, library, hub, listener))
    return verify_found(replace(plan, files=tuple(files)), listener)


def needs_hub(plan: DownloadPlan) -> bool:
    """Whether any file is missing, or has a checksum that only the Hub knows."""
    return any(not _is_settled(file) for file in plan.files)


def fetch_files(plan: DownloadPlan, hub: Hub, listener: Listener) -> None:
    """Download the missing files, several at once.

    Raises: StorageError, AccessError, KeyboardInterrupt if the listener stops it; the bytes so far are kept, and the
    next download resumes.
    """
    if plan.to_fetch > plan.free:
        short = show_bytes(plan.to_fetch - plan.free)
        why = f"{show_bytes(plan.to_fetch)} are to be fetched, and {plan.folder} has room for {show_bytes(plan.free)}"
        raise StorageError(
            f"{plan.name} does not fit on the disk: {short} too little", why, "--to FOLDER names another"
        )
    for file in plan.missing:
        _require_replaceable(file, plan)
    stop = Event()
    shared = replace(listener, should_stop=lambda: stop.is_set() or listener.should_stop())
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = [pool.submit(_fetch, file, hub, shared) for file in plan.missing]
        try:
            for ended in wait(running, return_when=FIRST_EXCEPTION).done:
                ended.result()
        finally:
            stop.set()  # the other threads end with their next piece, so that this command ends too
            pool.shutdown(cancel_futures=True)
    if listener.should_stop():
        raise KeyboardInterrupt


def link_files(plan: DownloadPlan, library: Library, listener: Listener) -> list[Path]:
    """Link every file that is elsewhere into LTX2_HOME/models.

    Returns: the location of each part of the model. Raises: StorageError if one is missing.
    """
    for file in plan.files:
        if file.reference.path and (path := file.found or file.target).exists():
            _link(library.home_of(file.reference), path, listener)
    roles = list(dict.fromkeys(file.role for file in plan.files))
    paths = parts_of(plan.name, library)
    missing = [role.replace("_", " ") for role in roles if role not in paths]
    if missing:
        what, why = f"{plan.name} is not whole on this machine", f"not here: {', '.join(missing)}"
        raise StorageError(what, why, f"ltx2 download {plan.name} without --offline fetches what is missing")
    return [paths[role] for role in roles]


def verify_again(plan: DownloadPlan, listener: Listener) -> dict[Path, bool | None]:
    """Read all existing files of a model, and compare them with their checksums.

    Returns: whether each is right; None if only the Hub knows its checksum. Raises: StorageError.
    """
    found: dict[Path, bool | None] = {}
    for file in plan.files:
        for path in [] if file.found is None else files_in(file.found):
            published = file.checksum if file.reference.path else None
            expected = published or known_checksum(path)
            found[path] = None if expected is None else _checksum_of(path, expected, listener) == expected
    return found


def _require_usable(plan: DownloadPlan) -> None:
    """Raises: RequestError if this version cannot use the download."""
    if plan.problem is not None and plan.missing:
        repositories = dict.fromkeys(file.reference.repository for file in plan.missing)
        pages = " and ".join(f"https://huggingface.co/{name}" for name in repositories)
        hint = f"ltx2 models lists what can be used; for other programs the files are at {pages}"
        raise RequestError(f"{plan.name} is not fetched, as it cannot be used", plan.problem, hint)


def _is_settled(file: WantedFile) -> bool:
    return file.found is not None and (file.is_verified or file.checksum is not None)


def _checksum_of(path: Path, expected: str, listener: Listener) -> str:
    """The checksum of a file, of the same kind as another; if both are equal the file counts as verified from
    now on.
    """
    with disk_errors(path, "cannot be read"):
        count = listener.counter("verifying", path.name, path.stat().st_size)
        digest = read_digest(path, expected, count)
        if digest.checksum == expected:
            with suppress(StorageError):  # in a read-only LTX2_HOME it is verified again next time
                remember_verified(path, digest.sha256)
    return digest.checksum


def _verified(file: WantedFile, listener: Listener) -> WantedFile:
    """A file whose checksum is wrong becomes a missing one."""
    if file.found is None or file.checksum is None or not file.reference.path or still_verified(file.found):
        return file
    found = _checksum_of(file.found, file.checksum, listener)
    if found == file.checksum:
        return file
    listener.on_warning(f"{file.found} is not the published file: its checksum is {found}, not {file.checksum}")
    return replace(file, found=None)


def _expanded(file: WantedFile, plan: DownloadPlan, library: Library, hub: Hub) -> Iterator[WantedFile]:
    """The file itself, or those of its repository if only the Hub has their list."""
    reference = file.reference
    if reference.path:
        yield file
        return
    with _open_copy_named(reference, library):
        names = hub.names(reference.repository)
    patterns = OF_ENCODERS if file.role == "text_encoder" else (f"*{WEIGHTS}",)
    chosen = [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
    if not chosen or (len(chosen) > 1 and file.role != "text_encoder"):
        what = f"{reference.repository} holds no single file of weights"
        raise StorageError(what, ", ".join(chosen) or "it holds none", f"name one as {reference.repository}/FILE")
    for name in chosen:
        yield wanted_file(file.role, Reference(reference.repository, name), library, plan.to)


def _looked_up(file: WantedFile, library: Library, hub: Hub, listener: Listener) -> WantedFile:
    with _open_copy_named(file.reference, library):
        remote = hub.look_up(file.reference.repository, file.reference.path)
    sha256 = remote.checksum if is_sha256(remote.checksum) else None
    known = PublishedFile(bytes=remote.nbytes or None, sha256=sha256)
    differing = [
        f"{name} {said}, not {expected}"
        for name, said, expected in (
            ("bytes", known.bytes, file.known.bytes),
            ("sha256", known.sha256, file.known.sha256),
        )
        if expected is not None and said != expected
    ]
    if differing:
        what = " and ".join(differing)
        listener.on_warning(
            f"{file.reference} is not as the catalogue describes it, and is fetched as the Hub has it: {what}"
        )
    return replace(file, known=known, remote=remote)


def _require_replaceable(file: WantedFile, plan: DownloadPlan) -> None:
    """Raises: TargetTakenError if the user's folder has another file of that name, which was never verified here."""
    if plan.to is not None and file.target.is_file() and known_checksum(file.target) is None:
        why = "it is not the published file of that name"
        raise TargetTakenError(f"{file.target} already exists", why, "move it away, or give another folder after --to")


def _fetch(file: WantedFile, hub: Hub, listener: Listener) -> None:
    assert file.remote is not None
    target = file.target
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink():
        target.unlink()  # the target of the link is missing or wrong
    count = listener.counter("fetching", target.name, file.remote.nbytes)
    sha256 = hub.fetch(file.remote, target, count, listener.should_stop)
    remember_verified(target, sha256)


def _link(home: Path, path: Path, listener: Listener) -> None:
    """Link a file that is elsewhere into LTX2_HOME/models."""
    models = models_home().absolute()
    if path.absolute().is_relative_to(models) or (home.exists() and home.samefile(path)):
        return
    if home.exists() and not home.is_symlink():
        listener.on_warning(f"{home} is another file than {path}, and stays; remove it to use that one")
        return
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        home.unlink(missing_ok=True)
        os.symlink(path.absolute(), home)  # noqa: PTH211
    except OSError as error:
        why = disk_reason(error)
        listener.on_warning(f"{home} cannot be made a link to {path}: {why}; model_folders: [{path.parent}] finds it")


@contextmanager
def _open_copy_named(reference: Reference, library: Library) -> Iterator[None]:
    """Add to a refusal which repository has the same files and asks for no login."""
    try:
        yield
    except AccessError as error:
        if copy := library.catalogue.repository(reference.repository).open_copy:
            error.hint += f"; {copy} has the same files and asks for no login"
        raise
