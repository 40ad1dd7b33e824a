"""The entry point for rendering a finished file again: from its recipe and the user's changes to a resolved request.

Source: docs/cli.md, "Rendering again".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...components import ROLES, UPSAMPLERS
from ...errors import LTX2Error, MediaError, RequestError, shown
from ...hub.library import Library
from ...hub.registry import read_catalogue
from ...paths import input_path, require_existing
from ..parts import DURATION_HEAD
from ..request import ENHANCER, Request
from ..resolve.edits import EDITS, STREAMS_REFUSED
from ..resolve.library import model_folders
from ..resolve.machine import choose_device
from ..resolve.prompt import read_prompt
from ..resolve.resolve import fits, require_fit
from ..resolve.setting_sources import gather
from ..resolve.settings import COMMAND_LINE, Origin, Place, Settings, merge
from ..resolve.settle import Asked, Settled
from ..resolved import Resolved
from ..values import did_you_mean
from .differences import differences
from .files import Search, find_files, model_of, with_names
from .machine import ranks_here, same_backend, same_machine
from .recipe import FoundRecipe
from .settings import MAIN, settings_of

PROMPT, INPUT = "prompt", "input"  # keys of --set that are not settings
OF_MACHINE = ("device", "precision", "memory", "compile", "ranks", "gpus", "attention_backend", "force")
OF_LENGTH = ("duration", "frames")


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """A render from a recipe. differences: from that of the file, by name."""

    resolved: Resolved
    differences: Mapping[str, str]


def parse_changes(texts: Iterable[str]) -> dict[str, Any]:
    """The values of `--set KEY=VALUE` by key; for a setting that is given several times, all of them.

    Raises: RequestError for a text without `=`, and for a key that is not a setting.
    """
    found: dict[str, list[str]] = {}
    known = [*Settings.model_fields, PROMPT, INPUT]
    for text in texts:
        key, sign, value = text.partition("=")
        name = key.strip().lower().replace("-", "_")
        if not sign:
            raise RequestError(
                f"--set {shown(text)} cannot be used", "it takes a setting and its value", "--set seed=8"
            )
        if name not in known:
            raise RequestError(f"--set {shown(key)} is not a setting", hint=did_you_mean(name, known))
        if name in found and name in (PROMPT, INPUT):
            raise RequestError(f"--set {name} is given twice", hint="leave one of them out")
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else tuple(values) for name, values in found.items()}


def resolve_again(
    found: FoundRecipe, changes: Mapping[str, Any], flags: Mapping[str, Any], given: Sequence[Path] = ()
) -> Rerun:
    """Resolve the request of a file again, with some values changed.

    Args: changes: as returned by `parse_changes`. flags: of the output. given: files and folders to search first.
    Raises: RequestError, StorageError, CheckpointError, MediaError, DoesNotFitError.
    """
    for path in given:
        require_existing(path, f"--input {path}", "check the path", MediaError)
    made, request = found.made, found.made.request
    gathered = gather({})
    folders = merge(gathered.layers).settings.model_folders
    library = Library(read_catalogue(), model_folders(Settings(model_folders=folders)))
    search = Search(library=library, clip=found.path, given=given, model=made.model.name)
    paths = find_files(search, made, _replaced(request, changes))
    stored = _without_other_edit(settings_of(request, made.output, paths), changes)
    stored |= {"model_folders": folders, "device": _device(made.machine.device), "compile": made.machine.compiles}
    stored |= ranks_here(made.machine)
    if not {"device", "precision"} & changes.keys():
        stored["attention_backend"] = same_backend(made.machine)
    own = {name: value for name, value in changes.items() if name not in (PROMPT, INPUT)}
    own = {"output": _default_name(found.path), **own, **flags}
    asked = Asked(
        mode=request.mode,
        prompt=_prompt(request, changes),
        layers=[(COMMAND_LINE, own), (Place(Origin.FILE, found.path.name), stored)],
        own_presets=gathered.own_presets,
        main=_main(request, changes, paths),
        found=None if "model" in changes else model_of(made, paths, library),
    )
    settled = _as_it_was(found, asked.settle(), changes, paths)
    resolved = require_fit(asked, settled)
    _require_other(found.path, resolved)
    return Rerun(resolved=resolved, differences=differences(made, resolved.task))


def _replaced(request: Request, changes: Mapping[str, Any]) -> set[str]:
    """The roles of files that are replaced by other ones, and need not be found."""
    replaced = {role for role in ROLES if role in changes or "model" in changes}
    main = MAIN.get(request.mode)
    if "upsampler" in changes:
        replaced |= {*UPSAMPLERS.values()}
    if {"lora", "control"} & changes.keys():
        replaced |= {lora.role for lora in request.loras}
    if "image" in changes:
        replaced |= {image.role for image in request.images if image.role != main}
    if "ref" in changes:
        replaced |= {one.role for one in request.references if one.is_still}
    if request.voice and "voice_ref" in changes:
        replaced.add(request.voice.role)
    if main and INPUT in changes:
        replaced.add(main)
    return replaced


def _without_other_edit(stored: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a recipe without its edit and preset, and without streams that the new edit cannot have, if
    another edit is requested.
    """
    edits = {EDITS[name] for name in stored if name in EDITS}
    asked = {EDITS[name] for name in changes if name in EDITS}
    if not asked or edits & asked:
        return stored
    refused = {pair for edit in asked for pair in STREAMS_REFUSED[edit].items()}
    dropped = {*EDITS, "preset", *(name for name, value in refused if stored.get(name) == value)}
    return {name: value for name, value in stored.items() if name not in dropped}


def _main(request: Request, changes: Mapping[str, Any], paths: Mapping[str, Path]) -> Path | None:
    """The file that the mode starts from.

    Raises: RequestError if it is changed, and the mode starts from a text; MediaError if the recipe lacks it.
    """
    role = MAIN.get(request.mode)
    if role is not None and INPUT not in changes:
        if role not in paths:
            raise MediaError(f"{request.mode} cannot be rendered again", "its recipe does not say what it starts from")
        return paths[role]
    if INPUT not in changes:
        return None
    if role is None:
        raise RequestError(
            f"--set {INPUT} cannot be used", f"{request.mode} starts from a text", f"--set {PROMPT}=TEXT"
        )
    return input_path(str(changes[INPUT]), f"--set {INPUT}", MediaError)


def _prompt(request: Request, changes: Mapping[str, Any]) -> str:
    """The prompt to render.

    It is that of `--set prompt`; if `enhance` is changed, the original one, which is then rewritten again; else the one
    that the file was rendered from.
    """
    if PROMPT in changes:
        return read_prompt(str(changes[PROMPT]))
    if "enhance" in changes and request.given_prompt is not None:
        return request.given_prompt
    return request.prompt


def _device(stored: str) -> str:
    """The device in a recipe, or the default one if this machine does not have it."""
    try:
        return choose_device(stored).name
    except (LTX2Error, ValueError):
        return "auto"


def _default_name(clip: Path) -> str:
    """The name of the result after the original's, in the current folder."""
    name = f"{clip.stem}-rerun{clip.suffix}"
    return name.replace("{", "{{").replace("}", "}}")


def _as_it_was(found: FoundRecipe, settled: Settled, changes: Mapping[str, Any], paths: Mapping[str, Path]) -> Settled:
    """The resolved task, with the values that are not settings: names, the rewritten prompt, the machine."""
    made, stored, task = found.made, found.made.request, settled.resolved.task
    recorded = {role: file for role, file in made.model.files.items() if role in {*paths, *_still_true(changes)}}
    request = with_names(task.request, {role: recorded[role].name for role in paths})
    if (request.width, request.height) == (stored.width, stored.height) and not {"res", "crop"} & changes.keys():
        request = request.model_copy(update={"crop": _crop(stored)})
    if ENHANCER in _still_true(changes):
        request = request.model_copy(update={"given_prompt": stored.given_prompt})
    task = task.model_copy(update={"request": request, "recorded": recorded})
    settled = replace(settled, resolved=replace(settled.resolved, task=task))
    if not _is_same_work(request, stored) or {*OF_MACHINE, "model"} & changes.keys():
        return settled
    shapes = settled.costs.headers.shapes
    again = settled.on(same_machine(made.machine, task.machine, shapes.transformer.layers, shapes.video_vae))
    return again if settled.is_forced or fits(again) else settled


def _still_true(changes: Mapping[str, Any]) -> list[str]:
    """The roles of files that have determined a value earlier, which is used again."""
    asked = {ENHANCER: (PROMPT, "enhance"), DURATION_HEAD: OF_LENGTH}
    return [role for role, names in asked.items() if not {*names} & changes.keys()]


def _crop(request: Request) -> tuple[int, int] | None:
    """The size of the file, if it is valid. Raises: RequestError."""
    if request.crop is None:
        return None
    for cut, side in zip(request.crop, (request.width, request.height), strict=True):
        if not 0 < cut <= side or cut % 2:
            size = "x".join(map(str, request.crop))
            raise RequestError(f"a file of {size} cannot be made", "it must be even, and no larger than the render")
    return request.crop


def _is_same_work(request: Request, stored: Request) -> bool:
    """Whether tiles for one request also suit the other."""
    names = ("width", "height", "frames", "video", "audio", "decoder", "recipe")
    return all(getattr(request, name) == getattr(stored, name) for name in names)


def _require_other(clip: Path, resolved: Resolved) -> None:
    """Raises: RequestError if the result would replace the file with the recipe."""
    for path in resolved.task.results:
        if path.exists() and path.samefile(clip):
            raise RequestError(
                f"-o {path} cannot be used", "it is the file that is rendered again", "-o gives another name"
            )
