"""The cost of reading a prompt beside the weights: language model, projection of its hidden states, connectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from ..components import COMPONENTS
from ..config.text import PROJECTED_ROWS, ConnectorConfig
from ..headers import Header
from ..machine import Machine
from .weights import BLOCK, BlockBytes

BLOCK_TOKENS = 16  # prompts are padded to a multiple of this number
FEEDING_COPIES = 3  # wide hidden states in a feed-forward: gate, up, and their product
# Copies of all hidden states of a prompt during normalisation and during projection, with one matrix for both streams
# and with one matrix per stream.
SHARED_COPIES, OWN_COPIES = (4, 1), (2, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModel:
    """The shape of a language model.

    Args: parameters: of its layers, without the embedding table. kept: values of all keys and values of a token, which
    are kept during generation.
    """

    width: int
    feed_forward: int
    layers: int
    parameters: int
    kept: int

    @classmethod
    def of(cls, header: Header) -> Self:
        """Read it from the shapes of its tensors."""
        return header.once(cls, lambda: cls._read(header))

    @classmethod
    def _read(cls, header: Header) -> Self:
        shapes = {own: header.matrix_shape(name) for name, own in COMPONENTS["language_model"].names_in(header).items()}
        layers = {int(found[1]) for own in shapes if (found := BLOCK.search("." + own))}
        matrices = [shape for own, shape in shapes.items() if BLOCK.search("." + own) and own.endswith("weight")]
        return cls(
            width=shapes["norm.weight"][0],
            feed_forward=max(
                (shape[0] for own, shape in shapes.items() if own.endswith("gate_proj.weight")), default=0
            ),
            layers=len(layers),
            kept=2 * sum(shape[0] for own, shape in shapes.items() if own.endswith("k_proj.weight")),
            parameters=sum(shape[0] * shape[1] for shape in matrices if len(shape) == 2),
        )

    def hidden_bytes(self, tokens: int, itemsize: int) -> int:
        """All hidden states of a prompt: the embeddings and the output of every layer."""
        return (self.layers + 1) * tokens * self.width * itemsize

    def activation_bytes(self, prompts: Sequence[int], itemsize: int) -> int:
        """Peak memory while prompts of so many tokens are read, one after another."""
        longest = max(prompts)
        inside = FEEDING_COPIES * longest * self.feed_forward * itemsize
        return sum(self.hidden_bytes(one, itemsize) for one in prompts) + self.hidden_bytes(longest, itemsize) + inside

    def writing_bytes(self, tokens: int, itemsize: int) -> int:
        """Peak memory while it generates text, up to so many tokens."""
        inside = FEEDING_COPIES * tokens * (self.feed_forward + self.width) * itemsize
        return self.kept * tokens * itemsize + inside

    def flops(self, prompts: Sequence[int]) -> float:
        """Two FLOPs for each multiply-add in linear layers."""
        return 2.0 * self.parameters * sum(prompts)


def layers_that_stay(sizes: BlockBytes, machine: Machine) -> int:
    """How many layers of a streamed language model stay loaded during generation, which runs all of them for each
    token.

    On the CPU none: the file is mapped, and nothing has to be copied.
    """
    return 0 if machine.device == "cpu" else sizes.most_resident(machine.kept_bytes)


def most_tokens(prompt: str, rows: int) -> int:
    """The maximum number of tokens of a prompt, after padding: a token represents at least one byte."""
    tokens = min(rows, len(prompt.encode(errors="replace")) + 1)
    return min(rows, -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS)


def is_projected_from_file(header: Header, machine: Machine) -> bool:
    """Whether the text projection stays in its mapped file, from which rows are copied to the device as they are used:
    whenever models are not loaded completely, unless it is stored quantised.
    """
    return machine.memory != "resident" and not _projection_names(header).keys() & header.stored.layers.keys()


def projected_rows_bytes(header: Header, itemsize: int) -> int:
    """The rows of a matrix of the text projection that are used at a time, at most."""
    shapes = [header.tensors[name].shape for name in _projection_names(header)]
    return max(min(PROJECTED_ROWS, shape[0]) * shape[1] * itemsize for shape in shapes if len(shape) == 2)


def _projection_names(header: Header) -> Mapping[str, str]:
    return COMPONENTS["text_projection"].names_in(header)


def connecting_bytes(
    model: LanguageModel,
    prompts: Sequence[int],
    connectors: Sequence[ConnectorConfig],
    rows: int,
    itemsize: int,
    *,
    is_shared: bool,
    brought: int = 0,
) -> int:
    """Peak memory while hidden states become contexts, including the hidden states of all prompts.

    Args: is_shared: whether one matrix projects them for both streams. brought: bytes of that matrix, or of the larger
    one, that are copied in addition to what is loaded.
    """
    longest = model.hidden_bytes(max(prompts), itemsize)
    normalised, projected = SHARED_COPIES if is_shared else OWN_COPIES
    projecting = max(normalised * longest, projected * longest + brought)
    refining = max((12 * rows * one.width * itemsize for one in connectors), default=0)
    contexts = len(prompts) * sum(rows * one.width * itemsize for one in connectors)
    return sum(model.hidden_bytes(one, itemsize) for one in prompts) + max(projecting, refining) + contexts


def connecting_flops(
    model: LanguageModel, prompts: Sequence[int], connectors: Sequence[ConnectorConfig], rows: int
) -> float:
    """Two FLOPs for each multiply-add in linear layers and attention."""
    features = (model.layers + 1) * model.width
    projected = sum(2.0 * features * one.width * sum(prompts) for one in connectors[:1])
    refined = sum(one.layers * (24.0 * rows * one.width**2 + 4.0 * rows**2 * one.width) for one in connectors)
    return projected + len(prompts) * refined
