"""The target of a result: its name, from a template and the request, and whether it is free.

Source: docs/cli.md, "Output names" and "Existing files".
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING

from ...disk import MOST_NAME_BYTES, require_free
from ...errors import RequestError, shown
from ...media.clip import AUDIO_FILES, COPIED_FILES
from ...paths import given_path, in_shell, require_replaceable, require_writable, with_name, wrong_suffix
from ..outputs import beside_of, stills_of
from .settings import Settings

if TYPE_CHECKING:
    from ..request import RenderTask, Request

DEFAULT_NAME, DEFAULT_DRAFT_NAME = "{mode}-{slug}-{seed}.mp4", "{mode}-{slug}-{seed}-draft.mp4"
FIELDS = ("mode", "slug", "seed", "preset", "ext")  # fields in a template of a file name
STDOUT = "-"  # means standard output in other programs
SLUG_LENGTH = 40
TAKEN_HINT = "--overwrite replaces it, --skip-existing leaves it, -o gives another name"


def target_of(settings: Settings, request: Request, suffix: str | None = None) -> Path:
    """The target of a result, with the fields of the name filled in.

    Args: suffix: that of a container, if it is determined already.
    Raises: RequestError, also if it already exists.
    """
    usual = DEFAULT_NAME if request.full_recipe is None else DEFAULT_DRAFT_NAME
    template = settings.output or usual
    if template == STDOUT:
        why = "a result is a file, which is checked when it is complete"
        raise RequestError(f"-o {STDOUT} cannot be used", why, "-o FILE; its path goes to standard output")
    suffixes = suffixes_of(request) if suffix is None else (suffix,)
    if template.endswith(("/", "\\")) or given_path(template, "-o").is_dir():
        template = str(Path(template) / usual)
    if settings.output is None or template.endswith(usual):
        template = template.removesuffix(".mp4") + suffixes[0]
    target = given_path(_filled(template, _fields(request, suffixes[0])), "-o")
    if target.suffix.lower() not in suffixes:
        what = {"generate": "a video", "keep": "this video", "off": "audio alone"}[request.video]
        raise wrong_suffix(target, "-o", suffixes, f"{what} goes")
    stills = stills_of(target, request.keyframe_count) if settings.keyframe_stills else []
    beside = beside_of(target, sheet=settings.sheet, report=settings.report)
    for path in (target, *beside, *stills):
        check_place(path)
        if not (settings.overwrite or settings.skip_existing):
            require_free(path, hint=TAKEN_HINT)
    return target


def job_dir_of(settings: Settings, target: Path) -> Path:
    """The job folder of a result: beside it, unless another place is set. Raises: RequestError."""
    if settings.job_dir:
        return with_name(given_path(settings.job_dir, "--job-dir"))
    return target.with_name(target.name + ".job")


def attention_of(settings: Settings, request: Request, target: Path) -> Path | None:
    """The target of the attention clip, with the fields of the name filled in, if it is requested.

    Raises: RequestError, also if it already exists.
    """
    if settings.attention is None:
        return None
    given_path(settings.attention, "--attention")
    name = _filled(settings.attention, _fields(request, ".mp4"), "--attention")
    path = given_path(name, "--attention")
    what = f"--attention {shown(name)} cannot be used"
    if path.suffix.lower() != ".mp4":
        raise wrong_suffix(path, "--attention", [".mp4"], "it goes")
    path = path.absolute()
    if _place(path) == _place(target):
        raise RequestError(what, "it is the result itself", "give it another name")
    check_place(path, "--attention")
    if not (settings.overwrite or settings.skip_existing):
        require_free(path, hint="--overwrite replaces it, or give it another name")
    return path


def early_steps(request: Request) -> tuple[int, ...]:
    """The default steps, from 1, for an attention map: the first third of the steps of the stage whose audio goes into
    the file, in which the layout of the frames forms. Source: docs/toy.md, "Attention".
    """
    steps = request.steps_of_stages[request.recipe.audio_stage - 1]
    return tuple(range(1, max(1, steps // 3) + 1))


def _fields(request: Request, suffix: str) -> dict[str, str]:
    """The values of the fields of a name."""
    named_by = slug(request.prompt.strip() or _named_by(request))
    values = (request.mode, named_by, str(request.seed), request.preset, suffix.removeprefix("."))
    return dict(zip(FIELDS, values, strict=True))


def suffixes_of(request: Request) -> tuple[str, ...]:
    """The possible suffixes of a result; the default comes first."""
    return {"generate": (".mp4",), "keep": COPIED_FILES, "off": tuple(AUDIO_FILES)}[request.video]


def check_place(target: Path, option: str = "-o") -> None:
    """Raises: RequestError if no file of this name can be written there, including hidden names beside it."""
    length = len(os.fsencode(target.name))
    if length > MOST_NAME_BYTES:
        why = f"its name has {length} bytes, and {MOST_NAME_BYTES} is the most"
        raise RequestError(f"{option} {target.name[:40]}… cannot be used", why, f"{option} gives a shorter name")
    what, folder = f"{option} {target} cannot be used", target.parent
    nearest = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not os.path.isdir(nearest):  # noqa: PTH112 (what may not be looked at is not a folder)
        raise RequestError(what, f"{nearest} is not a folder", f"{option} names another place")
    if nearest != folder:
        raise RequestError(what, f"there is no folder {folder}", f"mkdir -p {in_shell(folder)} creates it")


def _filled(template: str, fields: Mapping[str, str], option: str = "-o") -> str:
    """A name with its fields filled in: `{seed}`, without format specifications.

    Raises: RequestError.
    """
    what = f"{option} {shown(template)} cannot be used"
    known = ", ".join(f"{{{name}}}" for name in fields)
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as error:
        why = "it has an unmatched brace"
        raise RequestError(what, why, f"known fields are {known}; {{{{ is a literal brace") from error
    for _, name, form, conversion in pieces:
        if name is not None and (name not in fields or form or conversion):
            raise RequestError(what, f"known fields are {known}", "a field is a name in braces, without a format")
    return template.format(**fields)


def _named_by(request: Request) -> str:
    """The base of a file name without a prompt."""
    given = (*request.references, request.source, request.audio_source, *request.images)
    return next((Path(one.name).stem for one in given if one is not None), "")


def _place(path: Path) -> Path:
    """The location of a file, with the links in its folder's path resolved."""
    return path.parent.resolve() / path.name


def require_apart(task: RenderTask, job_dir: Path | None = None) -> None:
    """Raises: RequestError if the result, or a file beside it, would replace its own input, or if the job folder
    has the path of a result.
    """
    if job_dir is not None:
        if not job_dir.name:
            raise RequestError(f"--job-dir {job_dir} cannot be used", "it is the root of a disk", "name a folder in it")
        place = _place(job_dir)
        if any(_place(path) in (place, *place.parents) for path in task.results):
            raise RequestError(
                f"--job-dir {job_dir} cannot be used", "it is the name of a result", "give it another name"
            )
    there = [path for path in task.results if path.exists()]
    for path in task.inputs.values():
        for taken in there:
            if path.exists() and taken.samefile(path):
                what, why = f"-o {task.target} cannot be used", "it is what the render starts from"
                if taken != task.target:
                    why = f"the render starts from {taken}, which it would replace"
                raise RequestError(what, why, "-o gives another name")


def require_places(task: RenderTask, job_dir: Path, *, skip_existing: bool) -> None:
    """Raises: StorageError if a result or the job folder cannot be written; TargetTakenError if a result is to be kept
    but would be replaced, as the render is not complete without it.
    """
    for path in task.results:
        require_writable(path.parent, str(path))
        require_replaceable(path)
        if skip_existing and path not in task.stills:  # a killed process may have written the stills
            why = f"{task.target.name} does not, and would be rendered"
            if path == task.target:
                why = "it is a link to something that does not exist"
            require_free(path, why, "--overwrite replaces it")
    require_writable(job_dir, str(job_dir))


def slug(text: str) -> str:
    """A text as part of a file name: lower-case words of letters and digits, joined by hyphens."""
    words = re.sub(r"[^\w]+|_+", "-", text.lower()).strip("-")
    if len(words) > SLUG_LENGTH:
        words = words[:SLUG_LENGTH].rsplit("-", 1)[0]
    return words or "clip"
