"""Find the files of a model on this machine.

Source: spec checkpoints, sections 5 and 10.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from ..components import NOT_ALWAYS_NEEDED, SPLIT, UPSAMPLERS, WHOLE, Role
from ..config.released import effective_config
from ..config.upsampler import UpsamplerConfig
from ..errors import CheckpointError, LTX2Error, RequestError, StorageError
from ..headers import FileKind, Header, classify, read_header
from ..home import ltx2_home
from .registry import RegisteredModel

PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """The files of one model, by role. name: as registered, or the name of the file or folder that was given."""

    name: str
    paths: Mapping[str, Path]

    def require_file(self, role: str, hint: str = "") -> Path:
        """The file of a role. Raises: StorageError if the model has none."""
        if role not in self.paths:
            raise StorageError(f"model {self.name} has no {role.replace('_', ' ')}", hint=hint)
        return self.paths[role]


def find_model(
    spec: str, registered: Mapping[str, RegisteredModel], given: Mapping[str, Path] | None = None
) -> ModelFiles:
    """Find a model: a registered name, the file of a whole model or of a transformer, or a folder with its files.

    Args: registered: by name. given: files that stand in for the model's own, by role.
    Raises: RequestError for a name that nobody knows; StorageError if files are missing, with where it looked;
    CheckpointError if several could be meant.
    """
    given = given or {}
    path = Path(spec).expanduser()
    if path.is_dir():
        return ModelFiles(name=path.resolve().name, paths=_scan(path, given))
    if path.is_file():
        is_split = classify(read_header(path)) is FileKind.TRANSFORMER
        main = {"transformer" if is_split else "checkpoint": path}
        return ModelFiles(name=path.name, paths=_scan(path.parent, {**main, **given}, is_split=is_split))
    if spec.lower() in registered:
        return _registered(spec.lower(), registered, given)
    if len(path.parts) > 1 or path.suffix:
        raise StorageError(f"--model {spec} is not there", "it takes a name, a file or a folder", "ltx2 presets")
    raise RequestError(f"unknown model {spec}", "--model takes a name, a file or a folder", _known(spec, registered))


def search_folders(name: str, folder: str | None = None) -> list[Path]:
    """Where the files of a registered model may lie. folder: inside this package."""
    models = ltx2_home() / "models"
    return [models / name, models] if folder is None else [PACKAGE / folder]


def upsampler_role(header: Header) -> Role:
    """What an upsampler is there for. Raises: CheckpointError if the file holds none, or one that no recipe knows."""
    kind = classify(header)
    if kind is not FileKind.UPSAMPLER:
        raise CheckpointError(f"{header.path.name} is no upsampler", f"it is {kind.value}")
    config = UpsamplerConfig.from_metadata(effective_config(header))
    if config.enlarges not in UPSAMPLERS:
        rate, sides = config.enlarges
        raise CheckpointError(f"{header.path.name} cannot be used", f"it makes {rate}x the frames, {sides}x as large")
    return UPSAMPLERS[config.enlarges]


def _registered(name: str, registered: Mapping[str, RegisteredModel], given: Mapping[str, Path]) -> ModelFiles:
    model = registered[name]
    folders = search_folders(name, model.folder)
    paths = dict(given)
    for role, file in model.files.items():
        found = next((folder / file for folder in folders if (folder / file).exists()), None)
        if role not in given and found is not None:
            paths[role] = found
    optional = NOT_ALWAYS_NEEDED | (WHOLE.keys() if SPLIT.keys() <= given.keys() else set())
    missing = [file for role, file in model.files.items() if role not in optional and role not in paths]
    if missing:
        at_hand = [f"--model {other} comes with this program" for other, its in registered.items() if its.folder]
        hints = [f"put the files into {folders[0]}, or say --model FILE|FOLDER where they lie elsewhere", *at_hand]
        raise StorageError(
            f"model {name} is not installed: {' and '.join(missing)} not found",
            f"looked in {' and '.join(map(str, folders))}",
            "; ".join(hints),
        )
    return ModelFiles(name=name, paths=paths)


def _known(spec: str, registered: Iterable[str]) -> str:
    close = get_close_matches(spec.lower(), registered, n=1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(registered))}"


def _scan(folder: Path, given: Mapping[str, Path], *, is_split: bool = False) -> dict[str, Path]:
    """What lies in a folder, by role, with the given files in place of its own.

    Where there is a whole model, parts are not looked for. is_split: whole models are not looked for.
    Raises: CheckpointError if it holds more than one file for a role and none is given.
    """
    kinds = list(_kinds(sorted(folder.glob("*.safetensors"))))

    def of(kind: FileKind) -> list[Header]:
        return [header for header, its_kind in kinds if its_kind is kind]

    has_whole = not is_split and ("checkpoint" in given or of(FileKind.MONOLITH))
    weights = {role: [header.path for header in of(kind)] for role, kind in (WHOLE if has_whole else SPLIT).items()}
    for role, paths in weights.items():
        if role not in given and len(paths) > 1:
            what, choice = role.replace("_", " "), "model" if role == "checkpoint" else role.replace("_", "-")
            listed = ", ".join(path.name for path in paths)
            raise CheckpointError(
                f"{folder} holds more than one {what}", listed, f"--{choice} FILE chooses one of them"
            )
    upsamplers: dict[Role, list[Path]] = {role: [] for role in UPSAMPLERS.values()}
    for header in of(FileKind.UPSAMPLER):
        with suppress(CheckpointError):
            upsamplers[upsampler_role(header)].append(header.path)
    found = {
        **weights,
        **upsamplers,
        "text_encoder": [
            path.parent for path in (folder / "config.json", *sorted(folder.glob("*/config.json"))) if _is_encoder(path)
        ],
        "distilled_lora": [header.path for header in of(FileKind.LORA) if "distilled" in header.path.name],
    }
    return {**{role: paths[0] for role, paths in found.items() if paths}, **given}


def _kinds(paths: Iterable[Path]) -> Iterable[tuple[Header, FileKind]]:
    """What the files are that can be read; one that is nothing of ours may well lie beside them."""
    for path in paths:
        with suppress(LTX2Error):
            header = read_header(path)
            yield header, classify(header)


def _is_encoder(config: Path) -> bool:
    try:
        return json.loads(config.read_text(encoding="utf-8")).get("model_type", "").startswith("gemma")
    except (OSError, ValueError, AttributeError):
        return False
