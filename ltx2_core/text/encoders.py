"""The language models that encode prompts, in one table: how each is recognised, and its classes in transformers.

Source: docs/reference/text.md, "Files of the text encoder" and "The language model".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """A family of text encoders.

    Args: title: in messages. model_type: in its config. text_type: in the config of the language model only.
    model_class, config_class: of transformers. repository: of its folder on the Hub, whose tokenizer may be used; None
    if each file of the encoder contains its own tokenizer.
    """

    title: str
    model_type: str
    text_type: str
    model_class: str
    config_class: str
    repository: str | None

    @property
    def model_types(self) -> tuple[str, str]:
        """The possible values in a config: that of the whole model, and that of the language model only."""
        return self.model_type, self.text_type


GEMMA_3 = Encoder(
    title="Gemma 3",
    model_type="gemma3",
    text_type="gemma3_text",
    model_class="Gemma3TextModel",
    config_class="Gemma3TextConfig",
    repository="Lightricks/gemma-3-12b-it-qat-q4_0-unquantized",
)
GEMMA_4 = Encoder(
    title="Gemma 4",
    model_type="gemma4_unified",
    text_type="gemma4_unified_text",
    model_class="Gemma4UnifiedTextModel",
    config_class="Gemma4UnifiedTextConfig",
    repository=None,
)
ENCODERS = (GEMMA_3, GEMMA_4)


def encoder_of(config: Mapping[str, Any]) -> Encoder | None:
    """The encoder that a config describes; None if it is another model."""
    return next((one for one in ENCODERS if config.get("model_type") in one.model_types), None)


def described() -> str:
    """The supported model types, for a message."""
    return " and ".join(repr(one.model_type) for one in ENCODERS)
