"""Facts about a folder: the files of a model in it and their roles.

Source: docs/reference/checkpoints.md, "Where models are looked for".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ...components import ROLES, WHOLE
from ...disk import show_bytes
from ...errors import CheckpointError, LTX2Error, StorageError
from ...folders import ModelPlaces, places_of
from ...headers import classify, generation, precision, read_header
from ...hub.find import SUFFIXES, ModelFiles, find_model
from ..parts import ModelHeaders
from .words import UNTOLD, Facts, numbered

MAIN = {*WHOLE, "transformer"}  # a model has at least one of these roles


def facts(path: Path) -> Facts:
    """Facts about a folder as a model. Raises: StorageError if it contains nothing of a model, or cannot be read."""
    places = places_of(path)
    files, problem = _found(path)
    rest = _Rest.of(places, path, files)
    if not (files.paths or problem or rest.readable or rest.broken):
        raise StorageError(
            f"{path} holds nothing of a model",
            "no weight file, text encoder or render lies in it",
            "name a file, the folder of a model, or OUTPUT.job; ltx2 presets lists models, ltx2 report shows a batch",
        )
    yield "kind", places.layout
    yield from _model(files, problem)
    yield from role_facts(files.paths, path)
    yield from numbered("also here", rest.readable)
    yield from numbered("passed over", rest.broken)


def role_facts(paths: Mapping[str, Path], folder: Path | None = None) -> Facts:
    """The files of a model by role, and their sizes. folder: paths inside it are shown relative to it."""
    for role in ROLES:
        if role in paths:
            path = paths[role]
            yield role.replace("_", " "), f"{_below(folder, path)}, {show_bytes(_size(path))}"


def _below(folder: Path | None, path: Path) -> Path:
    """A path relative to a folder, if it is inside."""
    if folder is None or path == folder or not path.is_relative_to(folder):
        return path
    return path.relative_to(folder)


def _found(path: Path) -> tuple[ModelFiles, str]:
    """The files of the model in a folder, and why it cannot be used if the choice is ambiguous."""
    try:
        return find_model(str(path), {}), ""
    except CheckpointError as error:
        hint = f"; {error.hint}" if error.hint else ""
        return ModelFiles(name=path.name, paths={}), error.sentence + hint


def _model(files: ModelFiles, problem: str) -> Facts:
    """The model of the files, or why there is none."""
    if not problem and not MAIN & files.paths.keys():
        problem = "no whole model and no transformer lies here"
    if problem:
        yield "problem", problem
        return
    try:
        main = ModelHeaders.of(files).header("transformer")
    except LTX2Error as error:
        yield "problem", error.sentence
        return
    yield "generation", generation(main) or UNTOLD
    yield "precision", precision(main)
    if "text_encoder" not in files.paths:
        yield "problem", "no text encoder lies here; --text-encoder FOLDER|FILE names one"


@dataclass(frozen=True, slots=True)
class _Rest:
    """The weight files of a folder without a role: what each is, or why it cannot be used, one sentence for each."""

    readable: list[str]
    broken: list[str]

    @classmethod
    def of(cls, places: ModelPlaces, folder: Path, files: ModelFiles) -> Self:
        rest = cls([], [])
        said = set()
        for path in _unused(places, files):
            below = _below(folder, path)
            try:
                rest.readable.append(f"{below} is {classify(read_header(path)).value}")
            except LTX2Error as error:
                sentence = error.sentence
                said.add(sentence)
                is_placed = below.parent == Path() or str(below) in sentence
                rest.broken.append(sentence if is_placed else f"{sentence}, in {below.parent}")
        rest.broken.extend(sentence for sentence in files.passed_over if sentence not in said)
        return rest


def _unused(places: ModelPlaces, files: ModelFiles) -> Iterator[Path]:
    """The weight files without a role that are not in a folder with one."""
    used = {path.resolve() for path in files.paths.values()}
    for folder in places.own:
        if folder.resolve() not in used:
            yield from (
                path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES and path.resolve() not in used
            )


def _size(path: Path) -> int:
    """The bytes of a file, or of all files of a folder; 0 if it cannot be read."""
    try:
        return sum(one.stat().st_size for one in path.iterdir()) if path.is_dir() else path.stat().st_size
    except OSError:
        return 0
