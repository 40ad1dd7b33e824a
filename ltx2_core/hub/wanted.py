"""Plan a download: which files it needs, their sizes, and which of them are on this machine already.

Source: docs/models.md, "Downloading".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from ..disk import free_bytes
from ..errors import RequestError, shown
from ..paths import require_writable
from .installed import generations_here
from .ledger import is_accepted, verified
from .library import ANYBODYS, PART, Library, is_file, models_home
from .registry import Catalogue, Control, PublishedFile, Reference, RegisteredModel
from .remote import RemoteFile


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedFile:
    """One file of a model.

    Args: role: its part; for a LoRA, the generation of the models that it is for. reference: where it is published;
    without a path if only the Hub knows the files of the repository. known: its size and checksum, as far as known.
    target: its future path. found: its present path, if it exists. begun: bytes of an unfinished download. remote: the
    Hub's facts about it, once it was asked.
    """

    role: str
    reference: Reference
    known: PublishedFile
    target: Path
    found: Path | None = None
    begun: int = 0
    remote: RemoteFile | None = None

    @property
    def checksum(self) -> str | None:
        """Its checksum: from the Hub, else from the catalogue."""
        return self.known.sha256 if self.remote is None else self.remote.checksum

    @property
    def is_verified(self) -> bool:
        """Whether it exists, and its content was compared with its checksum."""
        return self.found is not None and verified(self.found) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadPlan:
    """A download.

    Args: name, summary: of the model or LoRA. to: the folder for the files, if the user named one. free: bytes on the
    target disk. licences: by their names in presets/licences. gated: repositories whose terms must be accepted on the
    Hub first. problem: why this version cannot use the download; None if it can.
    """

    name: str
    summary: str
    files: tuple[WantedFile, ...]
    to: Path | None
    free: int
    licences: tuple[str, ...]
    gated: tuple[str, ...]
    problem: str | None = None

    @property
    def folder(self) -> Path:
        """Where the files go."""
        return self.to or models_home()

    @property
    def missing(self) -> tuple[WantedFile, ...]:
        """The files that have to be downloaded."""
        return tuple(file for file in self.files if file.found is None)

    @property
    def to_fetch(self) -> int:
        """Their total size, as far as it is known."""
        return sum(max((file.known.size or 0) - file.begun, 0) for file in self.missing)

    @property
    def is_complete(self) -> bool:
        """Whether the sizes of all files to download are known, exactly or approximately."""
        return all(file.known.size is not None for file in self.missing)

    @property
    def is_exact(self) -> bool:
        """Whether the sizes of all files that have to be fetched are known exactly."""
        return all(file.known.bytes is not None for file in self.missing)

    @property
    def to_accept(self) -> tuple[str, ...]:
        """The licences that have not been accepted on this machine yet."""
        return tuple(one for one in self.licences if not is_accepted(one))


def plan_download(name: str, library: Library, only: Collection[str] = (), to: Path | None = None) -> DownloadPlan:
    """The files of a model, or a LoRA, and which of them exist. No connection is opened.

    Args: only: roles, such as transformer, or for a LoRA generations, such as 2.3; empty means all of a model, and for
    a LoRA the generations of the installed models. to: a folder instead of LTX2_HOME/models.
    Raises: RequestError for an unknown name, and for a role that it does not have; StorageError if the folder `to`
    cannot be written.
    """
    catalogue = library.catalogue
    entry = _entry(name.lower(), catalogue)
    known = {str(role): place for role, place in entry.files.items()}
    wanted = {one.replace("-", "_").lower() for one in only}
    if name.lower() in catalogue.controls and not only:
        wanted = known.keys() & generations_here(library)
    places = _chosen(name, known, wanted)
    folder = to or models_home()
    if to is not None:
        require_writable(to, str(to))
    files = [
        wanted_file(role, file, library, to) for role, place in places.items() for file in catalogue.files_of(place)
    ]
    repositories = dict.fromkeys(file.reference.repository for file in files)
    facts = {one: catalogue.repository(one) for one in repositories}
    return DownloadPlan(
        name=name.lower(),
        summary=entry.summary,
        files=tuple(files),
        to=to,
        free=free_bytes(folder),
        licences=tuple(dict.fromkeys(fact.licence for fact in facts.values() if fact.licence is not None)),
        gated=tuple(one for one, fact in facts.items() if fact.gated),
        problem=entry.problem,
    )


def target_of(reference: Reference, library: Library, to: Path | None) -> Path:
    """The path of a file: under LTX2_HOME by its repository, and in a user's folder by its path only.

    In a user's folder, a file with a generic name is put into a folder with the name of its repository.
    """
    if to is None:
        return library.home_of(reference)
    is_named = not ANYBODYS.fullmatch(Path(reference.path).name)
    return (to if is_named else to / Path(reference.repository).name) / reference.path


def wanted_file(role: str, reference: Reference, library: Library, to: Path | None) -> WantedFile:
    """A file, with the known facts and its state on this machine."""
    target = target_of(reference, library, to)
    begun = target.with_name(target.name + PART)
    known = library.catalogue.published(reference)
    found = library.find_all(reference)
    if found is None and reference.path and is_file(target, known.bytes):
        found = target
    return WantedFile(
        role=role,
        reference=reference,
        known=known,
        target=target,
        found=found,
        begun=begun.stat().st_size if reference.path and begun.is_file() else 0,
    )


def _entry(name: str, catalogue: Catalogue) -> RegisteredModel | Control:
    """The model or LoRA of a name. Raises: RequestError if it is unknown or has no files on the Hub."""
    entry = catalogue.models.get(name) or catalogue.controls.get(name)
    if entry is None:
        known = [*catalogue.models, *catalogue.controls]
        close = get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "ltx2 models lists what can be downloaded"
        raise RequestError(f"unknown model {shown(name)}", "it is the name of no model and of no LoRA", hint)
    if not any(map(catalogue.files_of, entry.files.values())):
        where = "it comes with this program" if getattr(entry, "folder", None) else "its entry names no file on the Hub"
        raise RequestError(f"{name} has no files on the Hub", where, f"ltx2 inspect {name}")
    return entry


def _chosen(name: str, places: Mapping[str, str], only: Collection[str]) -> Mapping[str, str]:
    """The locations of the selected roles; all without a selection. Raises: RequestError for an unknown role."""
    wrong = next((one for one in sorted(only) if one not in places), None)
    if wrong is not None:
        why = f"{name} consists of {', '.join(places)}"
        raise RequestError(f"--only {shown(wrong)} cannot be used", why, f"--only {next(iter(places))}")
    return {role: place for role, place in places.items() if not only or role in only}
