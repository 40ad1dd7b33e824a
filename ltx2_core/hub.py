"""Find the files of a model on this machine. Nothing here opens more than headers.

Source: spec checkpoints, sections 5 and 10.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from .errors import CheckpointError, LTX2Error, RequestError, StorageError
from .headers import FileKind, Header, classify, read_header
from .home import ltx2_home

ROLES = ("checkpoint", "text_encoder", "upsampler", "distilled_lora")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """The files of one model, by role. name: as registered, or the name of the file or folder that was given."""

    name: str
    paths: Mapping[str, Path]

    def need(self, role: str, hint: str = "") -> Path:
        """The file of a role. Raises: StorageError if the model has none."""
        if role not in self.paths:
            raise StorageError(f"model {self.name} has no {role.replace('_', ' ')}", hint=hint)
        return self.paths[role]


def find_model(
    spec: str, registered: Mapping[str, Mapping[str, str]], given: Mapping[str, Path] | None = None
) -> ModelFiles:
    """Find a model: a registered name, a checkpoint file, or a folder with its files.

    Args: registered: name to its files, role to file name. given: files that stand in for the model's own.
    Raises: RequestError for a name that nobody knows; StorageError if files are missing, with where it looked.
    """
    given = given or {}
    path = Path(spec).expanduser()
    if path.is_dir():
        return ModelFiles(name=path.resolve().name, paths={**_scan(path), **given})
    if path.is_file():
        return ModelFiles(name=path.name, paths={**_scan(path.parent, checkpoint=path), **given})
    if spec.lower() in registered:
        return _registered(spec.lower(), registered[spec.lower()], given)
    if len(path.parts) > 1 or path.suffix:
        raise StorageError(f"--model {spec} is not there", "it takes a name, a file or a folder", "ltx2 presets")
    raise RequestError(f"unknown model {spec}", "--model takes a name, a file or a folder", _known(spec, registered))


def search_folders(name: str) -> list[Path]:
    """Where the files of a registered model may lie."""
    models = ltx2_home() / "models"
    return [models / name, models]


def _registered(name: str, files: Mapping[str, str], given: Mapping[str, Path]) -> ModelFiles:
    folders = search_folders(name)
    paths = dict(given)
    for role, file in files.items():
        found = next((folder / file for folder in folders if (folder / file).exists()), None)
        if role not in given and found is not None:
            paths[role] = found
    missing = [files[role] for role in ("checkpoint", "text_encoder") if role in files and role not in paths]
    if missing:
        raise StorageError(
            f"model {name} is not installed: {' and '.join(missing)} not found",
            f"looked in {' and '.join(map(str, folders))}",
            f"put the files into {folders[0]}, or say --model FILE|FOLDER where they lie elsewhere",
        )
    return ModelFiles(name=name, paths=paths)


def _known(spec: str, registered: Mapping[str, Mapping[str, str]]) -> str:
    close = get_close_matches(spec.lower(), registered, n=1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(registered))}"


def _scan(folder: Path, checkpoint: Path | None = None) -> dict[str, Path]:
    """What lies in a folder, by role.

    Raises: CheckpointError if it holds more than one checkpoint and none is given.
    """
    kinds = list(_kinds(sorted(folder.glob("*.safetensors"))))

    def of(kind: FileKind) -> list[Header]:
        return [header for header, its_kind in kinds if its_kind is kind]

    checkpoints = [header.path for header in of(FileKind.MONOLITH)]
    if checkpoint is None and len(checkpoints) > 1:
        listed = ", ".join(path.name for path in checkpoints)
        raise CheckpointError(f"{folder} holds more than one checkpoint", listed, "--model FILE chooses one of them")
    found = {
        "checkpoint": checkpoints if checkpoint is None else [checkpoint],
        "text_encoder": [
            path.parent for path in (folder / "config.json", *sorted(folder.glob("*/config.json"))) if _is_encoder(path)
        ],
        "upsampler": [header.path for header in of(FileKind.UPSAMPLER) if _doubles_the_size(header)],
        "distilled_lora": [header.path for header in of(FileKind.LORA) if "distilled" in header.path.name],
    }
    return {role: paths[0] for role, paths in found.items() if paths}


def _kinds(paths: Iterable[Path]) -> Iterable[tuple[Header, FileKind]]:
    """What the files are that can be read; one that is nothing of ours may well lie beside them."""
    for path in paths:
        with suppress(LTX2Error):
            header = read_header(path)
            yield header, classify(header)


def _doubles_the_size(upsampler: Header) -> bool:
    return bool(upsampler.config.get("spatial_upsample")) and upsampler.config.get("spatial_scale", 2.0) == 2.0


def _is_encoder(config: Path) -> bool:
    try:
        return json.loads(config.read_text(encoding="utf-8")).get("model_type", "").startswith("gemma")
    except (OSError, ValueError, AttributeError):
        return False
