"""Texts about settings for the help of the command line: possible values and defaults."""

from __future__ import annotations

from ...media.clip import VIDEO_CODECS
from .edits import STRENGTH
from .presets import generation_defaults, names
from .settings import DEFAULTS, choices
from .target import DEFAULT_NAME

SPECIAL = {
    "crf": ", ".join(f"{codec.crf} ({name})" for name, codec in VIDEO_CODECS.items()),
    "strength": f"{STRENGTH:g}",
    "output": DEFAULT_NAME,
}


def choices_text(setting: str) -> str:
    """The values of a setting, as `a|b|c`; those of a stream depend on the mode, and are not listed here."""
    return "|".join(choices(setting))


def default_text(setting: str) -> str:
    """The default of a setting: a value, or where it comes from."""
    if setting in SPECIAL:
        return SPECIAL[setting]
    if setting in DEFAULTS and DEFAULTS[setting] is not None:
        return str(DEFAULTS[setting])
    values = {str(generation_defaults(name).get(setting, "")) for name in names("generations")}
    return values.pop() if len(values) == 1 else "the model's own"
