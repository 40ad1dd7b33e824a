"""Read one object of a checkpoint's config by type, and refuse by name a value of another type or one that is not
implemented.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from ..errors import CheckpointError, shown

LARGEST_WHOLE = 1_000_000
LARGEST_NUMBER = 1e9
LONGEST_LIST = 1_000
WHOLE = f"it must be a whole number from 1 to {LARGEST_WHOLE:,}"
NUMBER = f"it must be a number above 0 and at most {LARGEST_NUMBER:g}"


class Section:
    """One JSON object of a checkpoint's `config`, with its dotted name for messages ("transformer", "vae.encoder").

    Each reader takes the official code's default for a key that is absent; without a default the key must be there.
    They raise CheckpointError, which names the key.
    """

    def __init__(self, config: Mapping[str, Any], *path: str) -> None:
        self.name = ".".join(path) or "config"
        values: Any = config
        for key in path:
            values = values.get(key) if isinstance(values, Mapping) else None
        if not isinstance(values, Mapping):
            raise CheckpointError(f"the checkpoint has no {self.name} section in its config")
        self.values: Mapping[str, Any] = values

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number, 1 or more."""
        return self._checked(key, default, is_whole, WHOLE)

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number above 0."""
        return self._checked(key, default, is_number, NUMBER)

    def switch(self, key: str, default: bool) -> bool:
        """True or false."""
        return self._checked(key, default, lambda value: isinstance(value, bool), "it must be true or false")

    def wholes(self, key: str, default: Sequence[int] | None = None) -> tuple[int, ...]:
        """Whole numbers, at least one."""
        return tuple(self._checked(key, default, _list_of(is_whole), f"{WHOLE}, in a list"))

    def numbers(self, key: str, default: Sequence[float] | None = None) -> tuple[float, ...]:
        """Finite numbers above 0, at least one."""
        return tuple(self._checked(key, default, _list_of(is_number), f"{NUMBER}, in a list"))

    def lists_of_wholes(self, key: str, default: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
        """Lists of whole numbers, at least one in each."""
        lists = self._checked(key, default, _list_of(_list_of(is_whole)), f"{WHOLE}, in lists in a list")
        return tuple(map(tuple, lists))

    def pairs(self, key: str) -> list[tuple[str, Any]]:
        """Names, each with its settings."""

        def is_pair(value: Any) -> bool:
            return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)

        return [
            (name, rest) for name, rest in self._checked(key, None, _list_of(is_pair), "it must be a list of pairs")
        ]

    def require(self, key: str) -> Any:
        """The value of a key, of any type."""
        if key not in self.values:
            raise CheckpointError(f"the checkpoint's config lacks {self.name}.{key}")
        return self.values[key]

    def expect(self, key: str, *allowed: Any, default: Any = None) -> Any:
        """The value, which must be one of the implemented ones."""
        value = self.values.get(key, default)
        if value not in allowed:
            only = " or ".join(repr(item) for item in allowed)
            raise CheckpointError(
                f"the checkpoint has an unknown architecture: {self.name}.{key} is {shown(value)}",
                f"only {only} is implemented",
            )
        return value

    def refuse(self, key: str, why: str) -> NoReturn:
        """Raises: CheckpointError about the value of a key."""
        what = f"the checkpoint's config cannot be used: {self.name}.{key} is {shown(self.values.get(key))}"
        raise CheckpointError(what, why)

    def _checked(self, key: str, default: Any, is_right: Callable[[Any], bool], why: str) -> Any:
        if key not in self.values and default is not None:
            return default
        value = self.require(key)
        if not is_right(value):
            self.refuse(key, why)
        return value


def is_whole(value: Any) -> bool:
    """Whether a value of a config is a whole number that can be a size."""
    return type(value) is int and 1 <= value <= LARGEST_WHOLE


def is_number(value: Any) -> bool:
    """Whether a value of a config is a finite number above 0."""
    return type(value) in (int, float) and 0 < value <= LARGEST_NUMBER


def _list_of(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether something is a non-empty list of such values, of limited length."""
    return lambda value: isinstance(value, list) and 0 < len(value) <= LONGEST_LIST and all(map(is_right, value))
