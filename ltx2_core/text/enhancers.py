"""The language models that can rewrite prompts: how each is recognised, its settings, and its files on disk.

Source: docs/reference/text.md, "Rewriting prompts".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from ..disk import disk_reason
from ..errors import CheckpointError, LTX2Error, StorageError
from ..folders import snapshot_of
from ..headers import read_json
from .encoders import GEMMA_4
from .files import EncoderFiles, find_encoder, in_folder

Style = Literal["gemma3", "gemma3_image", "gemma4"]
INSTRUCTIONS = Path(__file__).parent / "instructions"
HINT = "--enhancer FOLDER names an instruct model: a Gemma 3, such as the text encoder of LTX-2, or a small Gemma 4"
READS_ONLY = "the text encoder of LTX-2.5 (gemma4_unified), which was trained to read prompts and cannot write them"
NO_TEMPLATE = "has no chat template, so it is not a model that follows instructions"
VISION = "multi_modal_projector."  # prefix of tensors in a Gemma 3 that accepts images
IMAGE_SETTINGS = "preprocessor_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Enhancer:
    """A family of instruction-following language models.

    Args: title: in messages. model_type: in its config. style: of its instructions, and with an image. image_style:
    None if images are not supported. most_tokens: the maximum length of its answer. decoding: further arguments for
    transformers. turn_end: the token that ends an answer, beside those in the config.
    """

    title: str
    model_type: str
    style: Style
    image_style: Style | None
    most_tokens: int
    decoding: Mapping[str, Any]
    turn_end: str


INSTRUCT_3 = Enhancer(
    title="Gemma 3",
    model_type="gemma3",
    style="gemma3",
    image_style="gemma3_image",
    most_tokens=512,
    decoding={"do_sample": True, "temperature": 0.7, "top_k": 50, "top_p": 1.0},
    turn_end="<end_of_turn>",
)
INSTRUCT_4 = Enhancer(
    title="Gemma 4",
    model_type="gemma4",
    style="gemma4",
    image_style=None,
    most_tokens=600,
    decoding={"do_sample": False, "no_repeat_ngram_size": 5},
    turn_end="<turn|>",
)
ENHANCERS = (INSTRUCT_3, INSTRUCT_4)
MOST_TOKENS = max(one.most_tokens for one in ENHANCERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnhancerFiles:
    """A language model on disk that can rewrite prompts. template: its chat template."""

    enhancer: Enhancer
    files: EncoderFiles
    template: str

    @property
    def sees_images(self) -> bool:
        """Whether its vision part is installed."""
        folder = self.files.config_file and self.files.config_file.parent
        if self.enhancer.image_style is None or folder is None or not (folder / IMAGE_SETTINGS).is_file():
            return False
        is_whole = all(shard.path.parent == folder for shard in self.files.weights)
        return is_whole and any(VISION in name for shard in self.files.weights for name in shard.tensors)

    def is_loaded_whole(self, *, with_image: bool) -> bool:
        """Whether transformers loads all of it, rather than this program only its language model."""
        return with_image or self.enhancer.model_type != INSTRUCT_3.model_type

    def whole_bytes(self, itemsize: int) -> int:
        """All of its weights if a plain value has so many bytes."""
        return sum(shard.loaded_bytes(shard.tensors, itemsize) for shard in self.files.weights)

    def instructions(self, *, with_image: bool) -> str:
        """Its instructions, in one paragraph."""
        style = self.enhancer.image_style if with_image else self.enhancer.style
        return " ".join((INSTRUCTIONS / f"{style}.txt").read_text(encoding="utf-8").split())


def enhancer_of_encoder(files: EncoderFiles) -> EnhancerFiles:
    """The text encoder of a model, for rewriting prompts.

    Raises: CheckpointError if it can only encode prompts.
    """
    what = "the text encoder cannot rewrite prompts"
    if files.encoder is GEMMA_4:
        raise CheckpointError(what, f"the model's own is {READS_ONLY}", HINT)
    template = _template(files)
    if template is None:
        raise CheckpointError(what, f"the model's own text encoder {NO_TEMPLATE}", HINT)
    return EnhancerFiles(enhancer=INSTRUCT_3, files=files, template=template)


def find_enhancer(path: Path) -> EnhancerFiles:
    """Find a language model that can rewrite prompts in a folder.

    Raises: StorageError if something is missing; CheckpointError if it is another model.
    """
    if not path.is_dir():
        raise StorageError(
            f"--enhancer {path} is not a folder", "a language model is a folder with several files", HINT
        )
    folder = snapshot_of(path)
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise StorageError(f"--enhancer {path} cannot be used", "it has no config.json", HINT)
    config = read_json(config_file)
    model_type = config.get("model_type")
    if model_type in GEMMA_4.model_types:
        _refuse(path, f"it is {READS_ONLY}")
    enhancer = next((one for one in ENHANCERS if one.model_type == model_type), None)
    if enhancer is None:
        known = " and ".join(repr(one.model_type) for one in ENHANCERS)
        _refuse(path, f"its config.json says model_type {model_type!r}, and {known} can be used")
    files = find_encoder(folder) if enhancer is INSTRUCT_3 else in_folder(folder, config_file, config)
    template = _template(files)
    if template is None:
        _refuse(path, f"it {NO_TEMPLATE}")
    return EnhancerFiles(enhancer=enhancer, files=files, template=template)


def _refuse(path: Path, why: str) -> NoReturn:
    raise CheckpointError(f"--enhancer {path} cannot be used", why, HINT)


def _template(files: EncoderFiles) -> str | None:
    """The chat template of a model; None if it has none. Raises: StorageError, CheckpointError."""
    try:
        plain = files.asset("chat_template.jinja")
        if plain is not None:
            return plain
        wrapped = files.asset("chat_template.json")
        found = files.token_settings() if wrapped is None else json.loads(wrapped)
    except LTX2Error:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"the chat template of {files.tokenizer.parent.name} cannot be read", disk_reason(error)
        ) from error
    template = found.get("chat_template") if isinstance(found, Mapping) else None
    return template if isinstance(template, str) else None
