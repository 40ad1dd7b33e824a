"""The phases of a render that encode and rewrite its prompt, and their costs."""

from __future__ import annotations

from functools import cached_property

from ...config.text import ConnectorConfig, ProjectionConfig
from ...costs.text import (
    LanguageModel,
    connecting_bytes,
    connecting_flops,
    is_projected_from_file,
    layers_that_stay,
    most_tokens,
    projected_rows_bytes,
)
from ...costs.weights import BlockBytes, block_bytes, table_bytes
from ...headers import Header
from ...text.enhancers import MOST_TOKENS, EnhancerFiles
from ...text.files import find_encoder
from ..parts import CONNECTORS, DURATION_HEAD
from ..request import ENHANCER
from .counting import Counting, Load, Phase

INSTRUCTION_TOKENS = 400  # approximate length of the instruction for rewriting a prompt


class TextPhases(Counting):
    """Counts the costs of a request's text."""

    @cached_property
    def prompts(self) -> list[int]:
        """The maximum number of tokens of each prompt."""
        texts = self.request.prompts
        found = [most_tokens(text or "", self.request.text_rows) for text in texts]
        if self.request.enhances:
            found[0] = max(found[0], min(MOST_TOKENS, self.request.text_rows))
        return found

    @cached_property
    def encoder(self) -> Header:
        """The header of the text encoder."""
        assumed = self.files.assumed.get("text_encoder")
        return find_encoder(self.files.require_file("text_encoder")).header if assumed is None else assumed

    @cached_property
    def language_model(self) -> LanguageModel:
        return LanguageModel.of(self.encoder)

    @property
    def enhancing(self) -> Phase:
        """The prompt is rewritten with the maximum number of tokens, and streamed layers are loaded for each of
        them.
        """
        header = self.encoder if self.enhancer is None else self.enhancer.files.header
        model, sizes = LanguageModel.of(header), block_bytes(header, "language_model", self.itemsize)
        tokens = INSTRUCTION_TOKENS + most_tokens(self.request.prompt, self.request.text_rows) + MOST_TOKENS
        stay = layers_that_stay(sizes, self.machine)
        return Phase(
            kind="enhance",
            name="enhancing",
            loads=(self._writer(header, sizes),),
            active=model.writing_bytes(tokens, self.itemsize),
            flops=model.flops([tokens]),
            moved=sum(sizes.blocks[stay:]) * MOST_TOKENS * (self.is_streamed and not self._whole_writer),
            host=self._whole_writer * (not self._fits_on_device(self._whole_writer)),
        )

    def _writer(self, header: Header, sizes: BlockBytes) -> Load:
        """The model that rewrites the prompt; the text encoder stays loaded if it is resident, any other model is
        unloaded.
        """
        if nbytes := self._whole_writer:
            nbytes *= self._fits_on_device(nbytes)
            return Load(ENHANCER, nbytes, nbytes, stays=False)
        if self.is_streamed:
            stay = layers_that_stay(sizes, self.machine)
            return Load(ENHANCER, sizes.streamed(stay), sizes.outside + sum(sizes.blocks[:stay]), stays=False)
        nbytes = self.weights(header, "language_model", sizes.whole)
        if self.enhancer is None:
            return Load("text encoder", nbytes, sizes.whole)
        return Load(ENHANCER, nbytes, sizes.whole, stays=False)

    @property
    def _whole_writer(self) -> int:
        """The bytes of a model that transformers loads whole to rewrite the prompt; 0 if there is none."""
        apart = self.enhancer
        if apart is None or not apart.is_loaded_whole(with_image=self._shows_image(apart)):
            return 0
        return apart.whole_bytes(self.itemsize)

    def _fits_on_device(self, nbytes: int) -> bool:
        return self.machine.device == "cpu" or nbytes <= self.machine.kept_bytes

    def _shows_image(self, enhancer: EnhancerFiles) -> bool:
        return enhancer.sees_images and self.request.first_image is not None

    @property
    def reading(self) -> Phase:
        sizes = block_bytes(self.encoder, "language_model", self.itemsize)
        load = Load("text encoder", self.weights(self.encoder, "language_model", sizes.whole), sizes.whole)
        if self.is_streamed:
            on_device = sizes.streamed(0) - table_bytes(self.encoder, "language_model", self.itemsize)
            load = Load("text encoder", on_device, sizes.whole * len(self.prompts))
        return Phase(
            kind="text",
            name="text",
            loads=(load,),
            active=self.language_model.activation_bytes(self.prompts, self.itemsize),
            flops=self.language_model.flops(self.prompts),
        )

    @property
    def connecting(self) -> Phase:
        config = self.headers.config("video_connector")
        connectors = [ConnectorConfig.from_metadata(config, name.partition("_")[0]) for name in CONNECTORS]
        given = self.language_model, self.prompts, connectors, self.request.text_rows
        heads = (DURATION_HEAD,) * (self.request.auto_length is not None)
        projection, brought = self._projection
        is_shared = ProjectionConfig.from_metadata(config).is_shared
        return Phase(
            kind="text",
            name="text context",
            loads=(
                projection,
                *(self._connector(name) for name in CONNECTORS),
                *(self.component(name) for name in heads),
            ),
            active=connecting_bytes(*given, self.itemsize, is_shared=is_shared, brought=brought),
            flops=connecting_flops(*given),
        )

    @property
    def _projection(self) -> tuple[Load, int]:
        """The text projection, and the bytes of it that are copied to the device as they are used."""
        header, load = self.headers.header("text_projection"), self.component("text_projection")
        if not is_projected_from_file(header, self.machine):
            return load, 0
        brought = load.nbytes and projected_rows_bytes(header, self.itemsize)  # 0 if the weights are read in place
        return Load(load.key, 0, load.moved * len(self.prompts)), brought

    def _connector(self, name: str) -> Load:
        """A connector, whose blocks are read again for each prompt if they are streamed."""
        if not self.is_streamed:
            return self.component(name)
        sizes = block_bytes(self.headers.header(name), name, self.itemsize)
        return Load(name.replace("_", " "), sizes.streamed(0), sizes.whole * len(self.prompts))
