"""Errors about settings use the name and location that the user wrote, whatever place they come from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ...errors import LTX2Error
from ..values import option_name
from .presets import with_presets
from .settings import Layer, Origin, set_in

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
LEFT_OUT = re.compile(r"(?<=leave )--[a-z][a-z-]*(?= out)")  # in hints; other options in hints are meant to be typed
ELSEWHERE = (Origin.ENVIRONMENT, Origin.FILE, Origin.PRESET)  # if no option was typed


@contextmanager
def named_as_written(layers: Sequence[Layer], own_presets: Mapping[str, Any]) -> Iterator[None]:
    """In a `with` block errors may name every setting by its option.

    An error says `LTX2_RES 9p cannot be used` if it is set in the environment; if a file or a preset sets it, the error
    uses its name there, and the reason ends with the location.
    Args: layers, own_presets: as in `Asked`.
    """
    try:
        yield
    except LTX2Error as error:
        if OPTION.search(error.what) or LEFT_OUT.search(error.hint):
            with suppress(LTX2Error):  # of the layers themselves, which is this very error
                layers, _ = with_presets(layers, own_presets)
            _rename(error, layers)
        raise


def _rename(error: LTX2Error, layers: Sequence[Layer]) -> None:
    places = {
        option_name(name): (place, layer, name)
        for place, layer in reversed(layers)  # the first that sets a value wins
        for name, value in layer.items()
        if value is not None
    }
    written = {
        option: (place.spelled(name), set_in(place, layer, name))
        for option, (place, layer, name) in places.items()
        if place.origin in ELSEWHERE
    }

    def named(option: re.Match[str]) -> str:
        spelled, _ = written.get(option[0], (option[0], ""))
        return spelled

    told = "".join(dict.fromkeys(written[option][1] for option in OPTION.findall(error.what) if option in written))
    error.why = error.why + told if error.why else told.strip(" ()")
    error.what, error.hint = OPTION.sub(named, error.what), LEFT_OUT.sub(named, error.hint)
