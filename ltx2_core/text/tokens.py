"""From a prompt to the tokens of a language model, without torch.

Source: docs/reference/text.md, "Tokens of a prompt".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from tokenizers import Tokenizer

from ..disk import disk_errors
from ..errors import CheckpointError, LTX2Error
from .files import EncoderFiles


def tokenizer_of(files: EncoderFiles) -> Tokenizer:
    """The tokenizer of a text encoder. Raises: CheckpointError or StorageError if it cannot be used."""
    with disk_errors(files.tokenizer, "cannot be read"):
        try:
            return Tokenizer.from_str(files.read_tokenizer())
        except (OSError, LTX2Error):
            raise
        except Exception as error:  # the library tokenizers raises no narrower class
            raise CheckpointError(f"{files.tokenizer} is damaged", str(error)) from error


@dataclass(frozen=True, slots=True)
class PromptTokenizer:
    """Turns a prompt into ids: `bos` first, no end token, no chat template. pad: the padding id of shorter prompts."""

    tokenizer: Tokenizer
    bos: int
    pad: int

    @classmethod
    def load(cls, files: EncoderFiles) -> Self:
        """Read the tokenizer of a text encoder. Raises: CheckpointError or StorageError if it cannot be used."""
        tokenizer = tokenizer_of(files)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        settings, place = files.token_settings(), files.tokenizer_config or files.tokenizer

        def token_id(role: str) -> int:
            token = settings.get(role)
            name = token.get("content") if isinstance(token, Mapping) else token
            found = tokenizer.token_to_id(name) if isinstance(name, str) else None
            if found is None:
                raise CheckpointError(f"{place} names no usable {role}", f"it says {token!r}")
            return found

        return cls(
            tokenizer, token_id("bos_token"), token_id("pad_token" if settings.get("pad_token") else "eos_token")
        )

    def encode(self, prompt: str, rows: int) -> list[int]:
        """The ids of a prompt, at most `rows` of them; further tokens are dropped at its end."""
        return self._ids(prompt)[:rows]

    def count_dropped(self, prompt: str, rows: int) -> int:
        """How many tokens of a prompt do not fit into so many rows."""
        return max(0, len(self._ids(prompt)) - rows)

    def _ids(self, prompt: str) -> list[int]:
        ids = self.tokenizer.encode(prompt.strip()).ids
        return ids if ids[:1] == [self.bos] else [self.bos, *ids]
