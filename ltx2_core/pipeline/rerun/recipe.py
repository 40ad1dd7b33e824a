"""The recipe inside a finished file, read as untrusted text.

Source: docs/cli.md, "Rendering again" and "Recipe inside".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ...errors import MediaError, RequestError, shown
from ...hub.ledger import is_made_here
from ...identity import identity
from ...records import presets_folder
from ..describe.words import recipe_facts, require_content
from ..made import Made
from ..resolve.modes import MODES

SCHEMAS = (2, 3)
LONGEST_REASON = 200


@dataclass(frozen=True, kw_only=True)
class FoundRecipe:
    """A file with its recipe. is_own: whether this machine has made exactly this file."""

    path: Path
    made: Made
    is_own: bool

    @property
    def facts(self) -> Mapping[str, str]:
        """Its content, for a user who has to decide whether to render it."""
        return dict(recipe_facts(self.made))


def read_recipe(path: Path) -> FoundRecipe:
    """The recipe in a file.

    Raises: MediaError if there is none, or one that cannot be used.
    """
    from ...media.kinds import cannot_be_opened
    from ...media.probe import list_tracks  # PyAV, only if a file is read

    require_content(path)
    try:
        comment = list_tracks(path).comment
    except MediaError as error:
        refused = cannot_be_opened(path)
        hint = refused.hint or "give a file that ltx2 wrote"
        raise MediaError(refused.what, refused.why, hint) from error
    if not (comment or "").lstrip().startswith("{"):
        why = "it was written with --no-metadata, edited since, or made by another program"
        raise MediaError(f"{path} holds no recipe", why, "ltx2 inspect FILE shows what it holds")
    try:
        made = Made.parse(comment or "")
    except (ValueError, RecursionError) as error:
        why = _why_not(comment or "", error)
        raise MediaError(f"{path} holds no recipe that can be rendered again", why, "ltx2 inspect FILE") from error
    _require_known(path, made)
    return FoundRecipe(path=path, made=made, is_own=is_made_here(identity(path).content))


def _require_known(path: Path, made: Made) -> None:
    """Raises: RequestError for a recipe whose mode or preset this version does not have."""
    request = made.request
    has_preset = request.preset in {file.stem for file in (presets_folder() / "recipes").glob("*.yaml")}
    for what, name, is_known in (("mode", request.mode, request.mode in MODES), ("preset", request.preset, has_preset)):
        if not is_known:
            made_with = made.made_with.get("ltx2", "of an unknown version")
            why = f"its recipe names the {what} {shown(name)}, which this version does not have"
            raise RequestError(f"{path} cannot be rendered again", why, f"it was made with ltx2 {shown(made_with)}")


def _why_not(comment: str, error: Exception) -> str:
    """Why a text is not a recipe of this program, in one line."""
    try:
        schema = json.loads(comment).get("schema")
    except (ValueError, RecursionError, AttributeError):
        return "its comment is not a JSON object"
    if schema not in SCHEMAS:
        return f"its schema is {shown(schema)}, and this version reads {SCHEMAS[0]} and {SCHEMAS[1]}"
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:LONGEST_REASON]
    return str(error)[:LONGEST_REASON]
