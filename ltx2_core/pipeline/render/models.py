"""The models of a run: their files, their dtypes, and how long they stay loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ...checkpoint import assign, assign_streamed, build_component
from ...compiling import compile_blocks, told_compiler_failures
from ...components import COMPONENTS, UPSAMPLERS
from ...costs.text import is_projected_from_file, layers_that_stay
from ...costs.weights import NOTHING, BlockBytes, block_bytes, component_bytes, table_bytes
from ...headers import Header, read_header
from ...hub.find import ModelFiles
from ...lora import Addends, WeightedLora, fuse_addends, take_out
from ...lora_costs import branch_bytes
from ...lora_file import match, read_lora
from ...machine import Machine, Precision
from ...memory import Residency
from ...models.chunks import Chunks
from ...models.diffusion_layers import fuse_neighbourhoods
from ...models.transformer import Transformer
from ...quantize.linear import multiply_as_stored
from ...read_ahead import parts_of, reading_ahead
from ...streaming import StreamedBlocks
from ...text.encode import ContextModels
from ...text.enhance import Conversation, Writer, load_network
from ...text.enhancers import EnhancerFiles
from ...text.files import EncoderFiles, find_encoder
from ...text.gemma import COMPONENT, Gemma, load_gemma, stream_gemma
from ...weights import map_tensors, require_finite
from ..parts import CONNECTORS, DURATION_HEAD, TEXT, LatentShapes, ModelHeaders, components_of
from ..recipe import Stage
from ..request import ENHANCER, RenderTask, Request

M = TypeVar("M", bound=nn.Module)
DECODING = ("audio_decoder", "vocoder", "video_decoder")  # in the order in which they are used
DTYPES: Mapping[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}


@contextmanager
def computing(threads: int) -> Iterator[None]:
    """The torch settings while models compute. threads: of the CPU."""
    torch.set_num_threads(threads)
    # On CUDA, float32 is float32 and the same input gives the same bits, also in convolutions.
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.inference_mode(), exact:
        yield


class Models:
    """The models of one set of files on one machine. They outlive stages and jobs, so that a model can stay loaded.

    Each method yields a model for the length of a `with` block.
    """

    def __init__(self, files: ModelFiles, machine: Machine) -> None:
        self.files, self.machine = files, machine
        self.device = torch.device(machine.device)
        self.dtype = DTYPES[machine.precision]
        self._residency = Residency(self.device, machine.kept_bytes)
        self._fused: list[WeightedLora] = []  # LoRAs that are fused into the loaded denoiser
        self._checked: set[tuple[str, Path]] = set()
        self._built: dict[tuple[str, Path], nn.Module] = {}  # checked against their files, still without weights

    @cached_property
    def headers(self) -> ModelHeaders:
        return ModelHeaders.of(self.files)

    @property
    def shapes(self) -> LatentShapes:
        return self.headers.shapes

    def are_of(self, task: RenderTask) -> bool:
        """Whether they can render a task: its files, on its device, in its precision and memory mode."""

        def what(files: ModelFiles, machine: Machine) -> object:
            chosen = machine.device, machine.precision, machine.memory, machine.resident_blocks, machine.chunk_tokens
            paths = {role: path.absolute() for role, path in files.paths.items()}
            return paths, chosen, machine.products, machine.neighbours, machine.compiles

        return what(self.files, self.machine) == what(task.files, task.machine)

    def check(self, request: Request) -> None:
        """Compare the files of every component that a render uses with its module, before a weight is read.

        The language model is compared when it is loaded, which is the first step of a render that needs it.
        Raises: CheckpointError for missing, unexpected and misshapen tensors, and for forms that are not implemented.
        """
        for name, header in self._read_by(request):
            if (name, header.path) not in self._checked:
                self._built[name, header.path] = self._build(name, header)
                self._checked.add((name, header.path))

    def require_finite(self, request: Request) -> None:
        """Read every weight of a render, the smallest components first, and search for NaN and infinity.

        This reads whole files, so it is done only after a model has produced NaN or infinite values. LoRAs were checked
        when they were fused. Raises: CheckpointError with the file and the tensor.
        """
        encoder = find_encoder(self.files.require_file("text_encoder"))
        files = [*self._read_by(request), *(("language_model", header) for header in encoder.weights)]
        parts = [(header, COMPONENTS[name].names_in(header)) for name, header in files]
        for header, names in sorted(parts, key=lambda part: sum(part[0].tensors[name].nbytes for name in part[1])):
            for tensor_name, tensor in map_tensors(header, names).items():
                require_finite(header.path, tensor_name, tensor)

    def _read_by(self, request: Request) -> list[tuple[str, Header]]:
        """The components of a render, each with its file, without the language model."""
        upsamplers = [role for role in request.recipe.needs if role in UPSAMPLERS.values()]
        files = [(name, self.headers.header(name)) for name in components_of(request)]
        return files + [("upsampler", self._upsampler_header(role)) for role in upsamplers]

    def loras(self, task: RenderTask, stage: Stage) -> list[WeightedLora]:
        """The LoRAs of a stage, in their order: the user's, then the distilled one."""
        chosen = [(task.inputs[lora.role], lora.strength) for lora in task.request.loras if stage.user_loras]
        if stage.distilled_lora is not None:
            chosen.append((task.files.require_file("distilled_lora"), stage.distilled_lora))
        transformer = self.headers.header("transformer")
        return [(match(read_lora(path), transformer, allow_partial=True), strength) for path, strength in chosen]

    def component(self, name: str, dtype: torch.dtype | None = None) -> AbstractContextManager[Any]:
        """A component of the model, in the dtype of the run unless another is requested."""
        dtype = dtype or self.dtype
        return self._use(name, self.headers.header(name), dtype)

    def has_room_for(self, name: str) -> bool:
        """Whether a component that is not streamed fits beside the models in use."""
        header = self.headers.header(name)
        nbytes = component_bytes(header, name, self.dtype.itemsize)
        return self._residency.has_room_for((name, header.path, self.dtype), nbytes)

    @contextmanager
    def transformer(self, loras: Sequence[WeightedLora]) -> Iterator[Transformer]:
        """The denoiser with LoRAs fused into it; those of an earlier use are removed first.

        Its tables, float32 in the files, are rounded here once instead of at every use: the bits are the same.
        """
        header = self.headers.header("transformer")
        branches = branch_bytes((lora for lora, _ in loras), header, self.dtype.itemsize)
        with self._use("transformer", header, self.dtype, on_load=self._fused.clear, branches=branches) as model:
            is_streamed = isinstance(model.blocks, StreamedBlocks)
            stays = _outside_blocks if is_streamed else _anywhere
            if list(loras) != self._fused:
                addends = Addends(loras)
                take_out(model, self._fused, header, only=stays)
                fuse_addends(model, addends, only=stays)
                if is_streamed:
                    model.blocks.let_go()
                    model.blocks.arrived = partial(_fuse_block, model, addends)
                self._fused[:] = loras
            model.work_in(Chunks(self.machine.chunk_tokens, keeps_tables=self.machine.memory != "lean"))
            with told_compiler_failures():
                yield model

    @contextmanager
    def upsampler(self, role: str) -> Iterator[tuple[Any, Any]]:
        """A latent upsampler, and the latent statistics for its input and output."""
        header = self._upsampler_header(role)
        with self._use("upsampler", header, self.dtype) as upsampler, self.component("video_statistics") as statistics:
            yield upsampler, statistics

    @contextmanager
    def text_encoder(self) -> Iterator[Gemma]:
        """The language model that reads prompts."""
        files = find_encoder(self.files.require_file("text_encoder"))
        with self._language_model("text_encoder", files) as gemma:
            yield gemma
            gemma.let_go()  # the denoiser is next, and needs the memory

    @contextmanager
    def writer(self, enhancer: EnhancerFiles, *, is_encoder: bool, with_image: bool) -> Iterator[Writer]:
        """The language model that rewrites prompts; it is unloaded afterwards, unless it is the resident text encoder.

        With images, and if it is not Gemma 3, transformers loads it whole, on the CPU if it is larger than the memory
        in which models may stay.
        """
        if enhancer.is_loaded_whole(with_image=with_image):
            nbytes = enhancer.whole_bytes(self.dtype.itemsize)
            device = self.device if nbytes <= self.machine.kept_bytes else torch.device("cpu")

            def load() -> nn.Module:
                return load_network(enhancer, device=device, dtype=self.dtype)

            with self._residency.use((ENHANCER, self.dtype), nbytes, load) as network:
                yield Writer(Conversation(enhancer), network)
        else:
            stays = is_encoder and self.machine.memory == "resident"
            key = "text_encoder" if stays else ENHANCER
            with self._language_model(key, enhancer.files, writes=True) as gemma:
                yield Writer.of_gemma(enhancer, gemma)
        self._residency.drop((ENHANCER, self.dtype), if_there=True)

    @contextmanager
    def _language_model(self, key: str, files: EncoderFiles, *, writes: bool = False) -> Iterator[Gemma]:
        """A language model. writes: whether it generates text, which runs all layers for each token, so that as many as
        possible stay loaded.
        """
        nbytes = component_bytes(files.header, COMPONENT, self.dtype.itemsize)
        load_from, on = load_gemma, {"device": self.device, "dtype": self.dtype}
        if self.machine.memory != "resident":
            sizes = block_bytes(files.header, COMPONENT, self.dtype.itemsize)
            resident = layers_that_stay(sizes, self.machine) if writes else 0
            nbytes = sizes.streamed(resident)
            if not writes:
                nbytes -= table_bytes(files.header, COMPONENT, self.dtype.itemsize)
            load_from = partial(stream_gemma, resident=resident)
        with self._residency.use((key, self.dtype), nbytes, lambda: self._multiplying(load_from(files, **on))) as gemma:
            yield gemma

    @contextmanager
    def connectors(self) -> Iterator[ContextModels]:
        """The models that turn hidden states of the language model into the two contexts."""
        projection, video, audio = (self.component(name) for name in TEXT)
        with projection as first, video as second, audio as third:
            yield ContextModels(first, second, third)
            for connector in (second, third):
                if isinstance(connector.blocks, StreamedBlocks):
                    connector.blocks.let_go()

    def ahead_of_denoiser(self) -> AbstractContextManager[None]:
        """For the length of a `with` block in which text is encoded, read the denoiser's file into the page cache."""
        encoder = find_encoder(self.files.require_file("text_encoder"))
        return self._reading_ahead(("transformer",), encoder.weights)

    def ahead_of_decoders(self, request: Request | None) -> AbstractContextManager[None]:
        """The same for the decoders of a request, while it is denoised; nothing if there are none."""
        names = [] if request is None else [name for name in DECODING if name in components_of(request)]
        return self._reading_ahead(names, [self.headers.header("transformer")])

    def _reading_ahead(self, names: Sequence[str], during: Sequence[Header]) -> AbstractContextManager[None]:
        """during: the files of the models that compute meanwhile."""
        loaded = {key[0] for key in self._residency.keys if isinstance(key, tuple)}
        headers = {name: self.headers.header(name) for name in names if name not in loaded}
        found = ((header, COMPONENTS[name].names_in(header)) for name, header in headers.items())
        parts = [part for header, inside in found for part in parts_of(header, inside)]
        return reading_ahead(parts, sum(info.nbytes for header in during for info in header.tensors.values()))

    def clear(self) -> None:
        """Unload all models."""
        self._residency.clear()

    def _upsampler_header(self, role: str) -> Header:
        return read_header(self.files.require_file(role, "--upsampler FILE"))

    def _build(self, name: str, header: Header) -> nn.Module:
        """The module of a component, without weights."""
        return build_component(name, header, self.headers.config(name) if name in (*TEXT, DURATION_HEAD) else None)

    def _multiplying(self, module: M) -> M:
        """The same module, with quantised layers and neighbourhood attention set to the machine's choices."""
        multiply_as_stored(module, self.machine.products)
        if self.machine.neighbours == "fused":
            fuse_neighbourhoods(module)
        return module

    def _use(
        self,
        name: str,
        header: Header,
        dtype: torch.dtype,
        on_load: Callable[[], None] = lambda: None,
        branches: BlockBytes = NOTHING,
    ) -> AbstractContextManager[Any]:
        """A component. branches: LoRA branches that are added after it is loaded."""

        def load() -> Any:
            on_load()
            built = self._built.pop((name, header.path), None)
            module = self._build(name, header) if built is None else built
            if is_streamed:
                assign_streamed(module, name, [header], device=self.device, dtype=dtype, resident=resident)
            elif is_mapped:
                assign(module, name, [header])
            else:
                assign(module, name, [header], device=self.device, dtype=dtype)
            if name == "transformer" and self.machine.compiles:
                compile_blocks(module)
            return self._multiplying(module)

        is_streamed = name in ("transformer", *CONNECTORS) and self.machine.memory != "resident"
        resident = self.machine.resident_blocks if name == "transformer" else 0
        is_mapped = name == "text_projection" and is_projected_from_file(header, self.machine)
        nbytes = 0 if is_mapped else component_bytes(header, name, dtype.itemsize) + branches.whole
        if is_streamed:
            nbytes = block_bytes(header, name, dtype.itemsize).streamed(resident) + branches.staying(resident)
        return self._residency.use((name, header.path, dtype), nbytes, load)


def _anywhere(_: str) -> bool:
    return True


def _outside_blocks(name: str) -> bool:
    """Whether a weight of the denoiser stays loaded while its blocks are streamed."""
    return not name.startswith("blocks.")


def _fuse_block(model: Transformer, addends: Addends, number: int) -> None:
    """Fuse LoRAs into a block that has just been loaded."""
    fuse_addends(model, addends, only=lambda name: name.startswith(f"blocks.{number}."), in_place=True)
