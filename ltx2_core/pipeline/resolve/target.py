"""Where a result goes: its name, from a template and the request, and whether that is free.

Source: docs/cli.md, "Output names" and "Existing files".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...media.partial import require_free
from ..request import (
    Request,
    sheet_of,
)
from .settings import Settings

if TYPE_CHECKING:
    from ..request import Request

DEFAULT_NAME = "{mode}-{slug}-{seed}.mp4"
SLUG_LENGTH = 40


def target_of(settings: Settings, request: Request, suffix: str | None = None) -> Path:
    """Where the result goes, with the fields of the name filled in.

    Args: suffix: that of a container which is settled already.
    Raises: RequestError, also if it already exists.
    """
    template, suffixes = settings.output or DEFAULT_NAME, (".mp4",)
    if suffix is not None:
        suffixes = (suffix,)
    elif request.video == "off":
        suffixes = (".wav", ".flac")
    if template.endswith(("/", "\\")) or Path(template).expanduser().is_dir():
        template = str(Path(template) / DEFAULT_NAME)
    if settings.output is None or template.endswith(DEFAULT_NAME):
        template = template.removesuffix(".mp4") + suffixes[0]
    fields = {
        "mode": request.mode,
        "slug": slug(request.prompt.strip() or _named_by(request)),
        "seed": str(request.seed),
        "preset": request.preset,
    }
    try:
        target = Path(template.format(**fields)).expanduser()
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        raise RequestError(
            f"-o {template} cannot be used", f"known fields are {', '.join(map('{{{}}}'.format, fields))}"
        ) from error
    if target.suffix.lower() not in suffixes:
        what = {"generate": "a video", "keep": "this video", "off": "audio alone"}[request.video]
        why = f"{what} goes into a file that ends in {' or '.join(suffixes)}"
        raise RequestError(f"-o {target.name} cannot be used", why, f"-o {target.with_suffix(suffixes[0]).name}")
    if not target.parent.is_dir():
        raise RequestError(f"-o {target} cannot be used", f"there is no folder {target.parent}")
    if not (settings.overwrite or settings.skip_existing):
        require_free(target)
        if settings.sheet:
            require_free(sheet_of(target))
    return target


def _named_by(request: Request) -> str:
    """What a file is called after when there is no prompt."""
    given = (*request.references, request.source, request.audio_source, *request.images)
    return next((Path(one.name).stem for one in given if one is not None), "")


def require_apart(target: Path, inputs: Iterable[Path]) -> None:
    """Raises: RequestError if the result would replace what it is made from."""
    if target.exists() and any(path.exists() and target.samefile(path) for path in inputs):
        raise RequestError(f"-o {target} cannot be used", "it is what the render starts from", "-o gives another name")


def slug(text: str) -> str:
    """A text as part of a file name: lower-case words of letters and digits, joined by hyphens."""
    words = re.sub(r"[^\w]+|_+", "-", text.lower()).strip("-")
    if len(words) > SLUG_LENGTH:
        words = words[:SLUG_LENGTH].rsplit("-", 1)[0]
    return words or "clip"
