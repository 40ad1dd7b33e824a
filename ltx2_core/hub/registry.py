"""The named models and LoRAs, and the known facts about their files on the Hugging Face Hub.

The shipped entries are in presets/models, controls, repositories and licences; the user's own models are in
LTX2_HOME/models. Source: docs/models.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field

from ..components import Role
from ..disk import disk_reason
from ..errors import RequestError, StorageError, shown
from ..home import ltx2_home
from ..paths import given_path
from ..records import Record, presets_folder
from ..yaml_file import read_yaml

REFERENCE = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(/(?P<path>.+))?", re.ASCII)
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")  # name of a model: no characters that need quotes in a shell
BUILT_PRECISIONS = ("bf16", "fp32", "fp8", "int8", "nvfp4")  # formats of weights that this version can load


@dataclass(frozen=True, slots=True)
class Reference:
    """A file on the Hub, or all files of a repository that a model needs. path: inside it; "" for all."""

    repository: str
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """`OWNER/NAME` or `OWNER/NAME/PATH`; None for anything else, such as a file name or a path."""
        found = REFERENCE.fullmatch(text)
        if found is None or text.startswith(".") or any(part in ("", ".", "..") for part in text.split("/")):
            return None
        return cls(found["repository"], found["path"] or "")

    @property
    def last(self) -> str:
        """The name of the file, or that of the folder with all files."""
        return Path(str(self)).name

    def __str__(self) -> str:
        return f"{self.repository}/{self.path}" if self.path else self.repository


def _usable(text: str) -> str:
    """A file's location in a model's entry. Raises: ValueError if it is neither a reference, a path nor a name."""
    if "/" in text and not text.startswith(("/", "~")) and Reference.parse(text) is None:
        raise ValueError(f"{shown(text)} is neither OWNER/NAME/PATH on the Hub, nor a file name, nor a whole path")
    given_path(text, "a file")
    return text


Place = Annotated[str, AfterValidator(_usable)]


class PublishedFile(Record):
    """The known facts about a file on the Hub. bytes: its size; about_bytes: its approximate size; sha256: of its
    content.
    """

    bytes: Annotated[int, Field(gt=0)] | None = None
    about_bytes: Annotated[int, Field(gt=0)] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None

    @property
    def size(self) -> int | None:
        """Its size, exact or approximate; None if unknown."""
        return self.bytes or self.about_bytes


class Repository(Record):
    """The known facts about a repository on the Hub.

    Args: licence: by its name in presets/licences. gated: whether its terms must be accepted there first; None if
    unknown. open_copy: a repository with the same files that is not gated. files: by path; the listed ones are those
    that a model needs.
    """

    licence: str | None = None
    gated: bool | None = None
    open_copy: str | None = None
    files: dict[str, PublishedFile] = Field(default_factory=dict)


class Licence(Record):
    """The terms under which files are published. points: what the user must see before accepting them."""

    name: str
    url: str
    points: tuple[str, ...] = ()


class RegisteredModel(Record):
    """A named model.

    Args: files: role (checkpoint, text_encoder …) to a reference on the Hub, a file name or a path. precision: how its
    weights are stored. card_gb: the GPU memory that holds its largest part completely. folder: inside the package, for
    the built-in model. tiers: the sizes by name that it supports; None for all. defaults: values for settings, which
    override those of its generation; `preset` is its default recipe. repositories: facts about the repositories of its
    files that are not in the catalogue.
    """

    summary: str
    generation: str
    files: dict[Role, Place]
    precision: str = "bf16"
    card_gb: int | None = None
    folder: str | None = None
    tiers: tuple[str, ...] | None = None
    defaults: dict[str, Any] = Field(default_factory=dict)
    repositories: dict[str, Repository] = Field(default_factory=dict)

    @property
    def lacking(self) -> str | None:
        """A feature that the model needs and this version does not support; None if it can be rendered."""
        if not (presets_folder() / "generations" / f"{self.generation}.yaml").is_file():
            return f"models of generation {self.generation}"
        if self.precision not in BUILT_PRECISIONS:
            return f"weights stored as {self.precision}"
        return None

    @property
    def problem(self) -> str | None:
        """Why this version cannot use the model, as a sentence; None if it can."""
        return self.lacking and f"this version does not support {self.lacking} yet"


class Control(Record):
    """A named published LoRA.

    Args: files: generation of the model to a reference on the Hub. in_context: whether it uses a reference beside the
    clip. looks_at: the kind of reference: a clip, as for `--control`, or images or a voice. strength: if it is not 1;
    is_strength_fixed: it works at no other. spatial_scale: the size of the result relative to the reference, if the
    file does not say. refused: why this version cannot use it; None if it can.
    """

    summary: str
    in_context: bool
    looks_at: Literal["clip", "images", "voice"] = "clip"
    files: dict[str, Place]
    strength: float = 1.0
    is_strength_fixed: bool = False
    spatial_scale: Annotated[int, Field(ge=1)] = 1
    refused: str | None = None

    @property
    def problem(self) -> str | None:
        """Why this version cannot use the LoRA, as a sentence; None if it can."""
        return self.refused

    def is_in(self, file_name: str) -> bool:
        """Whether a lower-case file name is that of the LoRA for a generation."""
        references = map(Reference.parse, self.files.values())
        return any(one is not None and one.path and one.last.lower() == file_name for one in references)


@dataclass(frozen=True)
class Catalogue:
    """All named models and LoRAs, and the repositories of their files."""

    models: Mapping[str, RegisteredModel]
    controls: Mapping[str, Control]
    repositories: Mapping[str, Repository]

    def control_in(self, file_name: str) -> Control | None:
        """The published LoRA with this file name; None if there is none."""
        name = file_name.lower()
        of_files = (control for control in self.controls.values() if control.is_in(name))
        return next(of_files, None)

    def repository(self, name: str) -> Repository:
        """The facts about a repository; none if it is not listed. One without files uses the list of its copy."""
        known = self.repositories.get(name) or Repository()
        if known.files or known.open_copy is None:
            return known
        copied = self.repositories.get(known.open_copy) or Repository()
        return known.model_copy(update={"files": copied.files})

    def published(self, reference: Reference) -> PublishedFile:
        """The facts about a file."""
        return self.repository(reference.repository).files.get(reference.path) or PublishedFile()

    def files_of(self, place: str) -> list[Reference]:
        """The files on the Hub that an entry refers to; none if it is not on the Hub.

        A repository whose files are not listed is returned as it is: only the Hub knows its files.
        """
        reference = Reference.parse(place)
        if reference is None:
            return []
        listed = self.repository(reference.repository).files
        if reference.path or not listed:
            return [reference]
        return [Reference(reference.repository, path) for path in listed]

    def twins(self, reference: Reference) -> Iterator[Reference]:
        """A file, and the same file in repositories that are copies of its own."""
        yield reference
        copies = {name for name, known in self.repositories.items() if known.open_copy == reference.repository}
        copies |= {self.repositories.get(reference.repository, Repository()).open_copy or ""} - {""}
        for name in sorted(copies):
            yield Reference(name, reference.path)


def registered_models() -> Mapping[str, RegisteredModel]:
    """All named models. Raises: RequestError if an entry is not valid."""
    return read_catalogue().models


def read_catalogue() -> Catalogue:
    """The shipped entries, and the user's own models. Raises: RequestError if an entry is not valid."""
    shipped, own = read_shipped(), _own_models()
    if not own:
        return shipped
    repositories = dict(shipped.repositories)
    for model in own.values():
        repositories = model.repositories | repositories
    return Catalogue({**shipped.models, **own}, shipped.controls, repositories)


@cache
def licences() -> Mapping[str, Licence]:
    """The licences under which files are published, by name."""
    return {path.stem: Licence.checked(_where(path), read_yaml(path)) for path in _presets("licences")}


@cache
def read_shipped() -> Catalogue:
    """The shipped entries."""
    models = {path.stem: RegisteredModel.checked(_where(path), read_yaml(path)) for path in _presets("models")}
    controls = {path.stem: Control.checked(_where(path), read_yaml(path)) for path in _presets("controls")}
    repositories: dict[str, Repository] = {}
    for path in _presets("repositories"):
        for name, content in read_yaml(path).items():
            repositories[name] = Repository.checked(f"{_where(path)}, {name}", content)
    return Catalogue(models, controls, repositories)


def _own_models() -> dict[str, RegisteredModel]:
    """The models that the user has described in LTX2_HOME/models."""
    found: dict[str, RegisteredModel] = {}
    folder = ltx2_home() / "models"
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".yaml")
    except (FileNotFoundError, NotADirectoryError):
        return found
    except OSError as error:
        hint = "check the rights on that folder, or export LTX2_HOME=FOLDER names another"
        raise StorageError(f"{folder} cannot be read", disk_reason(error), hint) from error
    for path in paths:
        name = path.stem.lower()
        if name in read_shipped().models:
            raise RequestError(f"{path} cannot be used", f"{name} is the name of another model", "rename the file")
        if not NAME.fullmatch(name):
            why = "a model's name holds letters, digits, dots, hyphens and underscores"
            raise RequestError(f"{path} cannot be used", why, "rename the file")
        found[name] = RegisteredModel.checked(str(path), read_yaml(path))
        _check_own(path, found[name])
    return found


def _check_own(path: Path, model: RegisteredModel) -> None:
    """Raises: RequestError for an entry of the user's own that only a shipped one could be."""
    if model.folder is not None:
        why = "folder is for the model that comes with this program"
        raise RequestError(f"{path} cannot be used", why, "name the files with whole paths")
    for licence in (known.licence for known in model.repositories.values()):
        if licence is not None and licence not in licences():
            why = f"there is no licence {shown(licence)}"
            raise RequestError(f"{path} cannot be used", why, f"known are {', '.join(licences())}")


def _presets(kind: str) -> list[Path]:
    return sorted((presets_folder() / kind).glob("*.yaml"))


def _where(path: Path) -> str:
    return f"presets/{path.parent.name}/{path.name}"
