"""Rewriting a prompt: a language model gets instructions for good prompts, and answers with a better one.

Source: docs/reference/text.md, "Rewriting prompts".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from ..errors import CheckpointError
from .enhancers import EnhancerFiles
from .gemma import Gemma, TableInFile
from .tokens import tokenizer_of

BLOCK_TOKENS = 8  # the reference pads conversations to a multiple of this number
Inputs = Mapping[str, Tensor]  # inputs of the language model, by name


class Answer(NamedTuple):
    """The answer of a model. has_ended: whether it ended by itself, and was not cut off."""

    text: str
    has_ended: bool


@dataclass(frozen=True)
class Conversation:
    """The conversation with a language model that rewrites prompts, in its own format."""

    model: EnhancerFiles

    def render(self, prompt: str, instructions: str | None = None, *, with_image: bool = False) -> str:
        """The text of a conversation for the model to continue. instructions: instead of its own."""
        told = self.model.instructions(with_image=with_image) if instructions is None else instructions
        said: Any = f"user prompt: {prompt}"
        if with_image:
            said = [{"type": "image"}, {"type": "text", "text": f"User Raw Input Prompt: {prompt}."}]
        messages = [{"role": "system", "content": told}, {"role": "user", "content": said}]
        return self.tokenizer.apply_chat_template(
            messages, chat_template=self.model.template, add_generation_prompt=True, tokenize=False
        )

    def encode(self, text: str) -> Inputs:
        """The ids (1 l) of a conversation and their mask, padded on the left.

        The tokenizer of Gemma 3 adds a second `<bos>` to that of the chat template, which the reference keeps.
        """
        return dict(
            self.tokenizer(
                text, padding=True, padding_side="left", pad_to_multiple_of=BLOCK_TOKENS, return_tensors="pt"
            )
        )

    def encode_with_image(self, text: str, image: Tensor) -> Inputs:
        """The same with an image (3 H W) uint8: also its pixels, and which ids represent it."""
        from transformers import AutoProcessor

        config_file = self.model.files.config_file
        assert config_file is not None  # without it the model could not read images
        try:
            processor = AutoProcessor.from_pretrained(config_file.parent, local_files_only=True)
        except Exception as error:  # transformers raises many kinds
            raise _unusable(self.model, error) from error
        settings = {"padding": True, "padding_side": "left", "pad_to_multiple_of": BLOCK_TOKENS}
        return dict(processor(text=text, images=image.numpy(), return_tensors="pt", **settings))

    def decode(self, ids: Tensor) -> Answer:
        """The answer in new ids (l)."""
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return Answer(str(text), bool(set(ids.tolist()) & set(self.stops)))

    @cached_property
    def stops(self) -> list[int]:
        """The ids that end an answer: those of the two configs, and the end of a turn."""
        config, generation = self.model.files.config, self.model.files.asset("generation_config.json")
        found: set[int] = set()
        for said in (config, config.get("text_config", {}), _object(generation)):
            ids = said.get("eos_token_id")
            found |= {one for one in (ids if isinstance(ids, list) else [ids]) if isinstance(one, int)}
        turn = self._tokens.token_to_id(self.model.enhancer.turn_end)
        return sorted(found if turn is None else found | {turn})

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of transformers, with its special tokens."""
        from transformers import PreTrainedTokenizerFast

        settings = self.model.files.token_settings()
        names = {role: _name(settings.get(role)) for role in ("bos_token", "eos_token", "pad_token", "unk_token")}
        given = {role: name for role, name in names.items() if name is not None}
        given.setdefault("pad_token", given.get("eos_token", ""))
        return PreTrainedTokenizerFast(tokenizer_object=self._tokens, **given)

    @cached_property
    def _tokens(self) -> Tokenizer:
        return tokenizer_of(self.model.files)


@dataclass(frozen=True)
class Writer:
    """A language model that rewrites prompts. network: of transformers, which can generate."""

    conversation: Conversation
    network: Any

    @classmethod
    def of_gemma(cls, files: EnhancerFiles, gemma: Gemma) -> Self:
        """A Gemma 3 that is loaded as a text encoder; its embedding table is also its output layer."""
        import transformers

        model: Any = gemma.model
        with torch.device("meta"):
            network = transformers.Gemma3ForCausalLM(model.config)
        network.model = model
        network.lm_head.weight = nn.Parameter(_table(model), requires_grad=False)
        return cls(Conversation(files), network.eval())

    @torch.no_grad()
    def write(
        self, prompt: str, seed: int, image: Tensor | None = None, on_token: Callable[[int], None] = lambda _: None
    ) -> Answer:
        """Rewrite a prompt. The same seed gives the same answer, and no other random generator is affected.

        Args: image: (3 H W) uint8, the first frame of the video. on_token: called with the number of generated tokens;
        may raise.
        """
        text = self.conversation.render(prompt, with_image=image is not None)
        given = self.conversation.encode(text)
        if image is not None:
            given = self.conversation.encode_with_image(text, image)
        device = self.device
        given = {name: tensor.to(device) for name, tensor in given.items()}
        start = given["input_ids"].shape[1]
        self.network.generation_config = settings = (
            self._settings()
        )  # otherwise some defaults of the folder would be used
        with torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            ids = self.network.generate(
                **given, generation_config=settings, stopping_criteria=_told(lambda length: on_token(length - start))
            )
        return self.conversation.decode(ids[0, start:].cpu())

    @property
    def device(self) -> torch.device:
        """Its device."""
        return self.network.get_output_embeddings().weight.device

    def _settings(self) -> Any:
        from transformers import GenerationConfig

        enhancer, conversation = self.conversation.model.enhancer, self.conversation
        return GenerationConfig(
            **enhancer.decoding,
            max_new_tokens=enhancer.most_tokens,
            eos_token_id=conversation.stops,
            pad_token_id=conversation.tokenizer.pad_token_id,
        )


def load_network(files: EnhancerFiles, *, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The whole model in a folder, loaded by transformers: including the vision part, which `Writer` does not always
    need.

    Raises: CheckpointError if transformers cannot load it, or if tensors are missing.
    """
    import transformers

    config_file = files.files.config_file
    assert config_file is not None  # it is a folder
    transformers.utils.logging.disable_progress_bar()
    try:
        loaded: Any = transformers.AutoModelForImageTextToText.from_pretrained(
            config_file.parent, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # transformers raises many kinds
        raise _unusable(files, error) from error
    network, report = loaded
    if report["missing_keys"]:
        raise _unusable(files, ValueError(f"it has no {', '.join(sorted(report['missing_keys'])[:3])}"))
    return network.to(device).eval()


def _told(on_length: Callable[[int], None]) -> Any:
    """A stopping criterion for transformers that never stops, and reports the number of tokens."""
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Told(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            on_length(input_ids.shape[1])
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    return StoppingCriteriaList([Told()])


def _table(model: Any) -> Tensor:
    """The embedding table (n d) of a language model, on its device and in the dtype of its computation."""
    norm, table = model.norm.weight, model.embed_tokens
    weight = table.table.weight if isinstance(table, TableInFile) else table.weight
    return weight.to(norm.device, norm.dtype)


def _object(text: str | None) -> Mapping[str, Any]:
    """A JSON object; empty if there is none."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _name(token: Any) -> str | None:
    found = token.get("content") if isinstance(token, Mapping) else token
    return found if isinstance(found, str) else None


def _unusable(files: EnhancerFiles, error: Exception) -> CheckpointError:
    place = files.files.config_file.parent if files.files.config_file else files.files.tokenizer
    why = " ".join(str(error).split())[:300]
    return CheckpointError(f"{files.enhancer.title} in {place} cannot be loaded", why)
