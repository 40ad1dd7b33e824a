"""The files of a recipe on this machine, found by their content: a recipe has their names and hashes, but no path.

Source: docs/cli.md, "Rendering again".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

from ...components import ROLES, WHOLE
from ...disk import show_bytes
from ...errors import LTX2Error, MediaError, StorageError, shown
from ...hub.find import ModelFiles, find_model, own_files
from ...hub.installed import installed_models
from ...hub.ledger import place_of
from ...hub.library import Library, hub_cache, models_home
from ...hub.registry import registered_models
from ...identity import identity
from ...text.files import find_encoder
from ..job import content_of
from ..made import Made
from ..parts import DURATION_HEAD
from ..request import MadeFile, Request
from .settings import media_of

ENCODER = "text_encoder"
DEEPEST = 4  # levels of folders to search for models
MOST_LOOKED_AT = 20_000  # names in one folder to check
MOST_TOLD = 4


@dataclass(frozen=True, kw_only=True)
class Search:
    """Where files are searched for.

    Args: clip: the file with the recipe. given: files and folders that the user named. model: its name.
    """

    library: Library
    clip: Path
    given: Sequence[Path]
    model: str

    def find(self, role: str, known: MadeFile) -> Path | None:
        """The file of a role with the recorded content; None if there is none."""
        own = (path for path in (place_of(known.fingerprint),) if path is not None)
        places = chain(self._given(role), own, self._places(role))
        return next((path for path in places if _holds(path, role, known, is_named=path in self.given)), None)

    @property
    def told(self) -> str:
        """The searched places, for a message."""
        return ", ".join(dict.fromkeys(map(str, (*self.given, *self._folders, models_home(), hub_cache()))))

    def _given(self, role: str) -> Iterator[Path]:
        for path in self.given:
            yield path
            yield from _below(path, DEEPEST, role)

    def _places(self, role: str) -> Iterator[Path]:
        if role in ROLES or role.startswith("lora"):
            yield from self._installed
            yield from chain.from_iterable(_below(one, DEEPEST, role) for one in (models_home(), *self.library.folders))
        for folder in self._folders:
            yield from _below(folder, 1, role)

    @cached_property
    def _folders(self) -> list[Path]:
        return list(dict.fromkeys((self.clip.absolute().parent, Path.cwd())))

    @cached_property
    def _installed(self) -> list[Path]:
        """The files of all named models and LoRAs, those of the recipe's model first."""
        registered = registered_models().get(self.model)
        own = own_files(self.model, registered, self.library).values() if registered else ()
        return [*own, *(path for model in installed_models(self.library) for path in model.paths.values())]


def find_files(search: Search, made: Made, left_out: Iterable[str]) -> dict[str, Path]:
    """The paths of a recipe's files, by role. left_out: roles of files that are not needed.

    Raises: StorageError for missing weights, MediaError for a missing image, clip or audio; both name all of them.
    """
    media, left_out = media_of(made.request), {*left_out}
    roles = [*(role for role in made.model.files if role in ROLES), *(lora.role for lora in made.request.loras), *media]
    wanted = [role for role in dict.fromkeys(roles) if role not in left_out]
    for role in (role for role in wanted if role not in made.model.files):
        raise MediaError(f"{search.clip} cannot be rendered again", f"its recipe names no file for {shown(role)}")
    found = {role: search.find(role, made.model.files[role]) for role in wanted}
    missing = [role for role, path in found.items() if path is None and role != DURATION_HEAD]
    if missing:
        raise _missing(search, made, [role for role in missing if role not in media] or missing)
    return {role: path for role, path in found.items() if path is not None}


def _missing(search: Search, made: Made, roles: Sequence[str]) -> LTX2Error:
    """The error for missing files, all weights or all media."""
    told = [_told(made.model.files[role]) for role in roles[:MOST_TOLD]]
    more = f" and {len(roles) - MOST_TOLD} more" if len(roles) > MOST_TOLD else ""
    what = f"{', '.join(told)}{more}: no file here holds what the recipe says"
    why = f"searched {search.told}"
    if roles[0] in media_of(made.request):
        return MediaError(what, why, "--input FILE|FOLDER says where it is, whatever its name is now")
    is_known = made.model.name in registered_models() and not roles[0].startswith("lora")
    fetch = f"ltx2 download {made.model.name}, or " if is_known else ""
    return StorageError(what, why, f"{fetch}--input FILE|FOLDER says where it is, --set model=NAME takes another model")


def _told(file: MadeFile) -> str:
    return shown(file.name) if file.size is None else f"{shown(file.name)} ({show_bytes(file.size)})"


def model_of(made: Made, found: Mapping[str, Path], library: Library) -> ModelFiles:
    """The model of a recipe: the files that were found, and for other roles the files beside them."""
    paths = {role: path for role, path in found.items() if role in ROLES}
    models, name = registered_models(), made.model.name
    main = next((paths[role] for role in (*WHOLE, "transformer") if role in paths), None)
    spec = name if name in models else str(main)
    try:
        files = find_model(spec, models, paths, library)
    except LTX2Error:  # the files are ambiguous, but not needed
        files = ModelFiles(name=name, paths=paths)
    return replace(files, name=name, passed_over=(), notes=())


def with_names(request: Request, names: Mapping[str, str]) -> Request:
    """A request with the file names in the recipe, by role, whatever the names are now."""

    def named(one):
        return one if one is None or one.role not in names else one.model_copy(update={"name": names[one.role]})

    return request.model_copy(
        update={
            "loras": tuple(map(named, request.loras)),
            "images": tuple(map(named, request.images)),
            "references": tuple(map(named, request.references)),
            "source": named(request.source),
            "audio_source": named(request.audio_source),
            "voice": named(request.voice),
        }
    )


def _holds(path: Path, role: str, known: MadeFile, *, is_named: bool) -> bool:
    """Whether a file, or the folder of a text encoder, has the recorded content.

    is_named: whether the user has named it, so that it is read whatever its name. If a recipe contains no size, other
    files are read only if they have the recorded name.
    """
    if known.size is None and not is_named and path.name != known.name:
        return False
    try:
        if role == ENCODER:
            files = {f"{role}/{one.name}": one for one in find_encoder(path).paths}
        else:
            files = {role: path} if path.is_file() else {}
        if known.size not in (None, sum(one.stat().st_size for one in files.values())) or not files:
            return False
        identities = {key: identity(one) for key, one in files.items()}
        return content_of(identities, role).fingerprint == known.fingerprint
    except (OSError, LTX2Error, ValueError):
        return False


def _below(folder: Path, depth: int, role: str) -> Iterator[Path]:
    """The files in a folder, and in its subfolders to some depth; for a text encoder, the folders too."""
    yield from islice(_walk(folder, depth, role), MOST_LOOKED_AT)


def _walk(folder: Path, depth: int, role: str) -> Iterator[Path]:
    try:
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError:
        return
    if role == ENCODER and inside:
        yield folder
    for path in inside:
        if path.is_dir() and not path.name.startswith("."):
            if depth > 1:
                yield from _walk(path, depth - 1, role)
            elif role == ENCODER:
                yield path
        elif path.is_file():
            yield path
