"""The language model that encodes prompts: Gemma from transformers, without its vision tower, and its tokenizer.

Source: docs/reference/text.md, "Tokens of a prompt", "The language model" and "Hidden states".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoint import adapt, assign, assign_streamed, without_data
from ..errors import CheckpointError
from ..quantize.embedding import QuantisedEmbedding
from ..streaming import StreamedBlocks
from .encoders import encoder_of
from .files import EncoderFiles
from .tokens import PromptTokenizer

# Batches are padded to whole blocks of rows: kernels round the rows of a partial block differently, so a prompt would
# give different bits alone, in a batch and fully padded.
BLOCK_TOKENS = 16
COMPONENT, LAYERS, TABLE = "language_model", "layers", "embed_tokens"


def pad_left(prompts: Sequence[Sequence[int]], length: int, pad: int) -> tuple[Tensor, Tensor]:
    """Ids of several prompts in one tensor (b length), and a mask of the same shape with 1 for real tokens."""
    missing = [length - len(ids) for ids in prompts]
    padded = [[pad] * count + list(ids) for count, ids in zip(missing, prompts, strict=True)]
    mask = [[0] * count + [1] * len(ids) for count, ids in zip(missing, prompts, strict=True)]
    return torch.tensor(padded), torch.tensor(mask)


class Gemma(nn.Module):
    """A language model of transformers with its tokenizer: prompts in, hidden states out."""

    def __init__(self, model: nn.Module, tokenizer: PromptTokenizer) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer

    @torch.no_grad()
    def forward(self, prompts: Sequence[str], rows: int) -> list[Tensor]:
        """Encode prompts, each separately, so that a result does not depend on the other prompts.

        Little more than the real tokens are run, at the positions that they have when padded to `rows` on the left:
        this gives the same bits at a fraction of the work, whereas positions counted from 0 round differently in
        bfloat16.

        Returns: for each prompt the hidden states of its real tokens (1 l d k); k counts the embeddings and all layers.
        """
        return [self._read(self.tokenizer.encode(prompt, rows), rows) for prompt in prompts]

    def let_go(self) -> None:
        """Free the loaded layers, if they are streamed; they are loaded again on demand."""
        layers = self.model.get_submodule(LAYERS)
        if isinstance(layers, StreamedBlocks):
            layers.let_go()

    def _read(self, ids: list[int], rows: int) -> Tensor:
        """The hidden states (1 l d k) of one prompt's tokens."""
        length = min(rows, ceil(len(ids) / BLOCK_TOKENS) * BLOCK_TOKENS)
        tokens, mask = pad_left([ids], length, self.tokenizer.pad)
        device = self.model.get_parameter("norm.weight").device
        result = self.model(
            input_ids=tokens.to(device),
            attention_mask=mask.to(device),
            position_ids=torch.arange(rows - length, rows, device=device)[None],
            use_cache=False,
            output_hidden_states=True,
        )
        return torch.stack(result.hidden_states, dim=-1)[:, -len(ids) :]


class TableInFile(nn.Module):
    """An embedding table that stays in its mapped file, ids (…) -> rows (… d) times their scale, on a device."""

    def __init__(self, table: Any, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.table, self.device, self.dtype = table, device, dtype

    def forward(self, ids: Tensor) -> Tensor:
        """Look rows up on the CPU, and copy only those."""
        if isinstance(self.table, QuantisedEmbedding):
            return self.table(ids.cpu()).to(self.device)
        rows = F.embedding(ids.cpu(), self.table.weight).to(self.device, self.dtype)
        return rows * self.table.embed_scale.to(self.device, self.dtype)


def load_gemma(files: EncoderFiles, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Gemma:
    """Load the language model and the tokenizer. dtype: None keeps that of the files, which are then mapped on the CPU.

    Raises: CheckpointError if tensors are missing, unexpected, misshapen, or quantised in an unsupported way.
    """
    model, tokenizer = _unloaded(files)
    assign(model, COMPONENT, files.weights, device=device, dtype=dtype)
    restore_buffers(model)
    return Gemma(model.to(device), tokenizer).eval()


def stream_gemma(files: EncoderFiles, *, device: torch.device, dtype: torch.dtype, resident: int = 0) -> Gemma:
    """The same model, whose layers are loaded one after another while it runs, and whose embedding table stays in its
    file.

    Args: resident: how many layers stay once they are loaded. Raises: as `load_gemma`.
    """
    model, tokenizer = _unloaded(files)
    assign_streamed(
        model, COMPONENT, files.weights, device=device, dtype=dtype, blocks=LAYERS, table=TABLE, resident=resident
    )
    restore_buffers(model, later=LAYERS)
    model.rotary_emb.to(device)
    model.embed_tokens = TableInFile(model.embed_tokens, device, dtype)
    return Gemma(model, tokenizer).eval()


def _unloaded(files: EncoderFiles) -> tuple[Any, PromptTokenizer]:
    """The language model on the meta device, in the form of its files, and the tokenizer."""
    tokenizer = PromptTokenizer.load(files)
    with without_data():
        model = build_language_model(files.config)
    return adapt(model, COMPONENT, files.header), tokenizer


def build_language_model(config: Mapping[str, Any]) -> nn.Module:
    """Create the module of the language model for the config of a text encoder.

    Raises: CheckpointError if transformers has no such model, or cannot use the config.
    """
    import transformers

    encoder = encoder_of(config)
    assert encoder is not None  # this was checked when the files were found
    try:
        model_class, config_class = (getattr(transformers, one) for one in (encoder.model_class, encoder.config_class))
    except AttributeError as error:
        raise _unusable(encoder.title, f"version {transformers.__version__} has no {encoder.model_class}") from error
    try:
        return model_class(config_class.from_dict(config["text_config"]))
    except Exception as error:  # transformers checks configs in many ways
        raise CheckpointError("the text encoder's config cannot be used", str(error)) from error


def _unusable(model: str, why: str) -> CheckpointError:
    what = f"{model} cannot be loaded with this version of transformers"
    return CheckpointError(what, why, "pip install --upgrade transformers")


def restore_buffers(model: Any, later: str | None = None) -> None:
    """Compute the buffers that are not in the files and are empty on the meta device: the embedding scale and rotary
    frequencies.

    Args: later: a submodule whose weights are loaded while the model runs.
    Raises: CheckpointError if something else is empty.
    """
    config = model.config
    model.embed_tokens.embed_scale = torch.tensor(config.hidden_size**0.5)  # float32 for any dtype of the weights
    model.rotary_emb = type(model.rotary_emb)(config)
    tensors = chain(model.named_parameters(), model.named_buffers())
    empty = [name for name, tensor in tensors if tensor.is_meta and name.partition(".")[0] != later]
    if empty:
        raise _unusable(type(model).__name__, f"the file has no values for {', '.join(empty)}")
