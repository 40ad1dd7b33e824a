"""Find the files of a model on this machine.

Source: docs/reference/checkpoints.md, "Where models are looked for".
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field

from ..components import CONV_VAE, NOT_ALWAYS_NEEDED, SPLIT, UPSAMPLERS, WHOLE, Role, components_in
from ..config.released import effective_config
from ..config.upsampler import UpsamplerConfig
from ..config.video_vae import DecoderName, VideoVAEConfig
from ..disk import disk_errors, free_bytes, show_bytes
from ..errors import CheckpointError, LTX2Error, RequestError, StorageError, shown
from ..folders import ModelPlaces, places_of, refuse_diffusers
from ..headers import FileKind, Header, classify, read_header, read_json
from ..paths import in_shell, input_path
from .library import Library, hub_cache, models_home
from .published import published_header
from .registry import Reference, RegisteredModel, read_catalogue

PACKAGE = Path(__file__).parent.parent


# The suffixes of weight files. The kind of a file follows from its content.
SUFFIXES = (".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".bin")
SHOWN = 4
ENCODER_SIZE = "12b"  # in the name of the right text encoder, if there are several


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """The files of one model, by role.

    Args: name: as registered, or that of the given file or folder. passed_over: files in the folder that cannot be
    used, and notes: choices between several possible files, one sentence for each file; assumed: the headers of files
    that do not exist, for a model that is only planned with. None of these is stored with a job.
    """

    name: str
    paths: Mapping[str, Path]
    passed_over: Annotated[tuple[str, ...], Field(exclude=True)] = ()
    notes: Annotated[tuple[str, ...], Field(exclude=True)] = ()
    assumed: Annotated[Mapping[str, Any], Field(exclude=True)] = field(default_factory=dict)

    def header(self, role: str) -> Header:
        """The header of the file of a role, read or assumed. Raises: StorageError if the model has none."""
        return self.assumed.get(role) or read_header(self.require_file(role))

    def require_file(self, role: str, hint: str = "") -> Path:
        """The file of a role. Raises: StorageError if the model has none."""
        if role not in self.paths:
            first = [*self.passed_over[:SHOWN]]
            if len(self.passed_over) > SHOWN:
                first.append("and more")
            why = f"passed over: {'; '.join(first)}" if first else ""
            raise StorageError(f"model {self.name} has no {role.replace('_', ' ')}", why, hint)
        return self.paths[role]


def find_model(
    spec: str,
    registered: Mapping[str, RegisteredModel],
    given: Mapping[str, Path] | None = None,
    library: Library | None = None,
    *,
    is_planned: bool = False,
    decoder: DecoderName | None = None,
) -> ModelFiles:
    """Find a model: a registered name, the file of a whole model or of a transformer, or a folder with its files.

    A registered name wins over a file or folder of that name; write a path with a separator for the latter.

    Args: registered: by name. given: files that replace the model's own, by role. library: where the files of
    registered models are; None for the places that are always searched. is_planned: the files of a registered model may
    be missing, if their headers are known. decoder: the wanted one if there are several video VAEs; None for the
    diffusion decoder.
    Raises: RequestError for an unknown name; StorageError if files are missing, with the places that were searched;
    CheckpointError if the choice is ambiguous.
    """
    given = given or {}
    if spec.lower() in registered:
        library = library or Library(read_catalogue())
        return _registered(spec.lower(), registered, given, library, is_planned=is_planned, decoder=decoder)
    path = input_path(spec, "--model", StorageError)
    if path.is_dir():
        return _scan(path.resolve().name, path, given, decoder=decoder)
    if os.path.lexists(path):  # whatever else it is, its reader says so
        is_split = classify(read_header(path)) is FileKind.TRANSFORMER
        main = {"transformer" if is_split else "checkpoint": path}
        return _scan(path.name, path.parent, {**main, **given}, decoder=decoder, is_file=True)
    if is_path(spec):
        raise StorageError(f"--model {spec} is not there", "it takes a name, a file or a folder", "ltx2 models")
    raise RequestError(
        f"unknown model {shown(spec)}", "--model takes a name, a file or a folder", _known(spec, registered)
    )


def is_path(text: str) -> bool:
    """Whether a text that is not a known name means a file: it has a separator, or a suffix that is not a version."""
    suffix = Path(text).suffix
    return "/" in text or os.sep in text or bool(suffix and not suffix[1:].isdigit())


def upsampler_role(header: Header) -> Role:
    """The role of an upsampler. Raises: CheckpointError if the file is not one, or has a factor that no recipe uses."""
    kind = classify(header)
    if kind is not FileKind.UPSAMPLER:
        raise CheckpointError(f"{header.path.name} is not an upsampler", f"it is {kind.value}")
    config = UpsamplerConfig.from_metadata(effective_config(header))
    if config.enlarges not in UPSAMPLERS:
        rate, sides = config.enlarges
        raise CheckpointError(f"{header.path.name} cannot be used", f"it makes {rate}x the frames, {sides}x as large")
    return UPSAMPLERS[config.enlarges]


def _registered(
    name: str,
    registered: Mapping[str, RegisteredModel],
    given: Mapping[str, Path],
    library: Library,
    *,
    is_planned: bool,
    decoder: DecoderName | None,
) -> ModelFiles:
    model = registered[name]
    paths = own_files(name, model, library)
    published = _assumed(name, registered, paths.keys() | given.keys()) if is_planned else {}
    paths |= {role: header.path for role, header in published.items()}
    conv = paths.pop(CONV_VAE, None)
    if conv is not None and (decoder == "conv" or "video_vae" not in paths):
        paths["video_vae"] = conv
    paths |= given
    headers = {header.path: header for header in published.values()}
    assumed = {role: headers[path] for role, path in paths.items() if path in headers}
    optional = NOT_ALWAYS_NEEDED | (WHOLE.keys() if SPLIT.keys() <= given.keys() else set())
    missing = [place for role, place in model.files.items() if role not in optional and role not in paths]
    if missing:
        raise _not_installed(name, missing, registered, library)
    return ModelFiles(name=name, paths=paths, assumed=assumed)


def _assumed(name: str, registered: Mapping[str, RegisteredModel], found: Collection[str]) -> dict[str, Header]:
    """The known headers of the files of a model that are missing on this machine.

    A file that several models share is counted for the first of them.
    """
    model = registered[name]
    lacking: dict[str, Path] = {}
    for role, place in model.files.items():
        if role not in found:
            first = next(other for other, its in registered.items() if its.files.get(role) == place)
            lacking[role] = models_home() / first / Path(place).name
    headers = {role: published_header(model, role, path) for role, path in lacking.items()}
    return {role: header for role, header in headers.items() if header is not None}


def own_files(name: str, model: RegisteredModel, library: Library) -> dict[str, Path]:
    """The files of a registered model that are on this machine, by role."""
    if model.folder is not None:
        return {role: PACKAGE / model.folder / file for role, file in model.files.items()}
    folder = models_home() / name  # the model's own folder, which takes precedence
    found: dict[str, Path] = {}
    for role, place in model.files.items():
        reference = Reference.parse(place)
        name_there = Path(reference.last if reference else place).expanduser()
        is_folder = reference is None or not reference.path  # a folder is used regardless of the origin of its files
        by_hand = [folder / name_there]
        if is_folder:
            by_hand.append(models_home() / name_there)
        path = next((one for one in by_hand if one.exists()), None)
        if path is None and reference is not None:
            path = library.find_all(reference)
        if path is not None:
            found[role] = path
    return found


def _not_installed(
    name: str, missing: Sequence[str], registered: Mapping[str, RegisteredModel], library: Library
) -> StorageError:
    """The error for missing files of a model: their names, their size, and the command that downloads them."""
    files = [file for place in missing for file in library.catalogue.files_of(place)]
    sizes = [library.catalogue.published(file).size for file in files]
    names = [reference.last if (reference := Reference.parse(place)) else place for place in missing]
    where = ", ".join(map(str, (models_home(), *library.folders, hub_cache())))
    why = f"looked in {where}"
    hint = f"put the files into {models_home() / name}, or name them with --model FILE|FOLDER"
    if files:
        least = "at least " * (None in sizes)
        total = show_bytes(sum(size or 0 for size in sizes))
        why += f"; to fetch {least}{total}, with {show_bytes(free_bytes(models_home()))} free"
        hint = f"ltx2 download {name}, or name the files that you have with --model FILE|FOLDER"
    at_hand = [f"--model {other} comes with this program" for other, its in registered.items() if its.folder]
    return StorageError(
        f"model {name} is not installed: {' and '.join(names)} not found", why, "; ".join((hint, *at_hand))
    )


def _known(spec: str, registered: Iterable[str]) -> str:
    close = get_close_matches(spec.lower(), registered, n=1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(registered))}"


def _scan(
    name: str, folder: Path, given: Mapping[str, Path], *, decoder: DecoderName | None, is_file: bool = False
) -> ModelFiles:
    """The files in a folder, by role, with the given files replacing its own.

    If there is a whole model, parts are not searched for. is_file: the model is a file in the folder; if that is a
    transformer, whole models are not searched for.
    Raises: CheckpointError if there is more than one file for a role and none is given.
    """
    places = places_of(folder)
    content = _Content.of(places.own)
    is_split = is_file and "checkpoint" not in given
    has_whole = not is_split and ("checkpoint" in given or content.paths(FileKind.MONOLITH))
    weights = {role: content.paths(kind) for role, kind in (WHOLE if has_whole else SPLIT).items()}
    if "video_vae" in weights:
        weights["video_vae"] = _with_decoder(weights["video_vae"], decoder or "diffusion")
    _require_one_each(folder, {role: paths for role, paths in weights.items() if role not in given})
    mains = {**{role: paths[0] for role, paths in weights.items() if paths}, **given}
    has_own_encoder = any(_has_own_encoder(mains[role]) for role in ("checkpoint", "transformer") if role in mains)
    extras = content.extras(has_own_encoder=has_own_encoder)
    paths = {**{role: paths[0] for role, paths in {**weights, **extras}.items() if paths}, **given}
    if not {"checkpoint", "transformer"} & paths.keys():
        refuse_diffusers(places.own[0])
    beside = _from_beside(places, paths.keys(), () if has_whole else SPLIT, has_own_encoder=has_own_encoder)
    for role, path in beside.items():
        paths.setdefault(role, path)
    notes: tuple[str, ...] = ()
    if "transformer" in paths and not {"checkpoint", "connectors"} & paths.keys():
        apart = _connectors(folder, paths["transformer"], content, places, is_given=not is_file)
        if apart is not None:
            paths["connectors"] = apart
            notes = (f"the text connectors are those of {_below(folder, apart)}; --connectors FILE names others",)
    others = [] if {"checkpoint", "transformer"} & paths.keys() else content.others(paths.values())
    return ModelFiles(name=name, paths=paths, passed_over=(*content.broken, *others), notes=notes)


def _require_one_each(folder: Path, weights: Mapping[str, Sequence[Path]]) -> None:
    """Raises: CheckpointError if a folder has several files for a role."""
    for role, paths in weights.items():
        if len(paths) > 1:
            option = "--model" if role == "checkpoint" else f"--{role.replace('_', '-')}"
            listed = ", ".join(_below(folder, path) for path in paths)
            what = f"{folder} holds more than one {role.replace('_', ' ')}"
            raise CheckpointError(what, listed, f"{option} FILE chooses one of them")


def _with_decoder(paths: Sequence[Path], decoder: DecoderName) -> list[Path]:
    """Of several video VAEs those that have a decoder; all of them if none has it."""
    if len(paths) < 2:
        return [*paths]
    return [path for path in paths if decoder_of(path) == decoder] or [*paths]


def decoder_of(path: Path) -> DecoderName | None:
    """The decoder that the file of a video VAE holds; None for a file whose config cannot be read."""
    try:
        return VideoVAEConfig.from_metadata(effective_config(read_header(path))).decoder_name
    except LTX2Error:
        return None


def video_vaes_in(folder: Path, decoder: DecoderName) -> list[Path]:
    """The files of a folder that contain only a video VAE with this decoder. Raises: StorageError."""
    return [path for path in _Content.of([folder]).paths(FileKind.VIDEO_VAE) if decoder_of(path) == decoder]


def _connectors(
    folder: Path, transformer: Path, content: _Content, places: ModelPlaces, *, is_given: bool
) -> Path | None:
    """The file of the connectors if the transformer has none: the only one in a folder that the user named.

    Connectors of different models have the same shapes, so no other file is used unless it is named.
    Raises: CheckpointError with the possible files. Returns None if there is none.
    """
    header = read_header(transformer)
    is_another_kind = classify(header) is not FileKind.TRANSFORMER  # it is refused when it is used
    if is_another_kind or {"video_connector", "audio_connector"} <= {*components_in(header)}:
        return None
    found = content.connectors()
    if is_given and len(found) == 1:
        return found[0]
    if is_given and len(found) > 1:
        listed = ", ".join(_below(folder, path) for path in found)
        why = f"{transformer.name} has none, and here are {listed}"
        raise CheckpointError(
            f"{folder} holds more than one file of text connectors", why, "--connectors FILE chooses one of them"
        )
    found = found or _Content.of(places.beside).connectors()
    if found:
        raise CheckpointError(
            f"{transformer.name} has no text connectors",
            "those of different models look the same, so a file beside it is not taken unless it is named",
            " or ".join(f"--connectors {in_shell(path)}" for path in found[:SHOWN]),
        )
    return None


def _has_own_encoder(path: Path) -> bool:
    """Whether a file says that its model was trained with its own version of a text encoder."""
    return "gemma_source_checkpoint" in read_header(path).metadata


def _from_beside(
    places: ModelPlaces, found: Collection[str], parts: Collection[Role], *, has_own_encoder: bool
) -> dict[Role, Path]:
    """The files in folders beside that of a model, by role: the first of several. parts: of a model with several
    files.
    """
    several: dict[Role, list[Path]] = {}
    if places.encoders and "text_encoder" not in found:
        several["text_encoder"] = _Content.of(places.encoders).extras(has_own_encoder=has_own_encoder)["text_encoder"]
    if places.beside and {"text_encoder", *parts, *NOT_ALWAYS_NEEDED} - {*found}:
        content = _Content.of(places.beside)
        several |= content.extras(has_own_encoder=has_own_encoder)
        several |= {role: content.paths(SPLIT[role]) for role in parts if role != "transformer"}
    return {role: paths[0] for role, paths in several.items() if paths}


def _below(folder: Path, path: Path) -> str:
    """A path relative to a folder, if it is inside."""
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


@dataclass(frozen=True, slots=True)
class _Content:
    """The files in some folders. broken: why a file cannot be used, one sentence for each."""

    headers: list[tuple[Header, FileKind]]
    encoders: list[Path]
    broken: list[str]

    @classmethod
    def of(cls, folders: Iterable[Path]) -> Self:
        """Read the headers of all weight files, and look for text encoders in the folders and in those in them."""
        content = cls([], [], [])
        configs: dict[Path, None] = {}
        for folder in folders:
            with disk_errors(folder, "cannot be read"):
                inside = sorted(folder.iterdir())
            for path in (one for one in inside if one.suffix in SUFFIXES):
                with content.passing_over():
                    header = read_header(path)
                    content.headers.append((header, classify(header)))
            configs |= dict.fromkeys(one / "config.json" for one in (folder, *inside))
        for config in configs:
            with content.passing_over(), disk_errors(config.parent, "cannot be read"):
                if config.is_symlink() or config.is_file():
                    content.encoders.extend(_encoder(config))
        return content

    @contextmanager
    def passing_over(self) -> Iterator[None]:
        """Note the reason why a file cannot be used, and continue: it may not belong to these models."""
        try:
            yield
        except LTX2Error as error:
            self.broken.append(error.sentence)

    def paths(self, kind: FileKind) -> list[Path]:
        return [header.path for header, its_kind in self.headers if its_kind is kind]

    def connectors(self) -> list[Path]:
        """The files that contain the text connectors and no transformer."""
        apart = [header for header, kind in self.headers if kind is FileKind.CONNECTORS]
        return [header.path for header in apart if "video_connector" in components_in(header)]

    def extras(self, *, has_own_encoder: bool) -> dict[Role, list[Path]]:
        """The files that a model may need beside its own weights, by role.

        has_own_encoder: whether the model was trained with its own version of a text encoder, whose file is preferred.
        """
        loras = [path for path in self.paths(FileKind.LORA) if "distilled" in path.name]
        alone = [path for path in self.paths(FileKind.GEMMA) if path.parent not in self.encoders]  # no shards
        stock = [
            *sorted(self.encoders, key=lambda path: ENCODER_SIZE not in str(path)),
            *sorted(alone, key=lambda path: ENCODER_SIZE not in path.name.lower()),
        ]
        own = self.paths(FileKind.TEXT_ENCODER)
        encoders = [*own, *stock] if has_own_encoder else [*stock, *own]
        heads = self.paths(FileKind.DURATION_HEAD)
        return {**self.upsamplers(), "text_encoder": encoders, "distilled_lora": loras, "duration_head": heads}

    def upsamplers(self) -> dict[Role, list[Path]]:
        """The latent upsamplers by their role."""
        found: dict[Role, list[Path]] = {role: [] for role in UPSAMPLERS.values()}
        for header, kind in self.headers:
            if kind is FileKind.UPSAMPLER:
                with self.passing_over():
                    found[upsampler_role(header)].append(header.path)
        return found

    def others(self, used: Iterable[Path]) -> list[str]:
        """The kind of each file that can be read and is not used, one sentence for each."""
        used = set(used)
        return [f"{header.path.name} is {kind.value}" for header, kind in self.headers if header.path not in used]


def _encoder(config: Path) -> list[Path]:
    """The folder of a config if it is that of a text encoder."""
    model_type = read_json(config).get("model_type")
    return [config.parent] if str(model_type).startswith("gemma") else []
