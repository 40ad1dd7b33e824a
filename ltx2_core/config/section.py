"""Read one object of a checkpoint's config and refuse, by name, what this program does not implement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError


class Section:
    """One JSON object of a checkpoint's `config`, with its dotted name for messages ("transformer", "vae.encoder")."""

    def __init__(self, config: Mapping[str, Any], *path: str) -> None:
        self.name = ".".join(path) or "config"
        values: Any = config
        for key in path:
            values = values.get(key) if isinstance(values, Mapping) else None
        if not isinstance(values, Mapping):
            raise CheckpointError(f"the checkpoint has no {self.name} section in its config")
        self.values: Mapping[str, Any] = values

    def get(self, key: str, default: Any) -> Any:
        """The value, or the official code's default where the key is absent."""
        return self.values.get(key, default)

    def require(self, key: str) -> Any:
        """The value of a key without a default. Raises: CheckpointError if it is absent."""
        if key not in self.values:
            raise CheckpointError(f"the checkpoint's config lacks {self.name}.{key}")
        return self.values[key]

    def expect(self, key: str, *allowed: Any, default: Any = None) -> Any:
        """The value, which must be one of those that are implemented.

        Raises: CheckpointError that names the setting.
        """
        value = self.values.get(key, default)
        if value not in allowed:
            only = " or ".join(repr(item) for item in allowed)
            raise CheckpointError(
                f"the checkpoint has an unknown architecture: {self.name}.{key} is {value!r}",
                f"only {only} is implemented",
            )
        return value
