"""FLOPs, live bytes and launches of the full-size denoiser, counted on tensors that have shapes and no data."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ltx2_core.config.transformer import TransformerConfig
from ltx2_core.machine import CHUNK_TOKENS, LEAN_CHUNK_TOKENS
from ltx2_core.models.chunks import WHOLE, Chunks
from ltx2_core.models.passes import StreamInput
from ltx2_core.models.transformer import StreamIO
from ltx2_core.pipeline.doctor.sample import random_transformer, scaled_settings

from .section import Section
from .subjects import TEXT_ROWS, Size, make_inputs

FLASH_FOR_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
FLOPS_WITHIN = 0.02


DEFAULT, LEAN = Chunks(CHUNK_TOKENS), Chunks(LEAN_CHUNK_TOKENS, keeps_tables=False)


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits for the cost of one forward of the full-size 2.0 model.

    Args: memory: name of the memory mode. chunks: the chunks of this mode. bytes_per_token: bytes per video token at
    the peak. launches_per_block: all launches, including those before and after the blocks, divided by the number of
    blocks. keeps_text: whether the keys and values of the text and the rotary tables are cached, as from the second
    step on.
    """

    size: Size
    teraflops: float
    bytes_per_token: int
    launches_per_block: int
    memory: str = "resident"
    chunks: Chunks = DEFAULT
    keeps_text: bool = False


BUDGETS = (
    Budget((768, 512, 121), 194.7, 100_000, 114, chunks=WHOLE, keeps_text=True),
    Budget((768, 512, 121), 198.9, 60_000, 400),
    Budget((1920, 1088, 121), 1714.9, 60_000, 1400),
    Budget((768, 512, 121), 198.9, 35_000, 1200, "lean", LEAN),
    Budget((1920, 1088, 121), 1714.9, 35_000, 6000, "lean", LEAN),
)


class Launches(TorchDispatchMode):
    """Count the operations that compute something while this mode is active: those in place, and those whose result is
    not a view.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made, given = ({id(leaf.untyped_storage()) for leaf in tensors_of(tree)} for tree in (result, (args, kwargs)))
        self.count += func._schema.is_mutable or not made <= given
        return result


class LiveBytes(TorchDispatchMode):
    """Follow every allocation while this mode is active.

    `peak` is the largest number of bytes that were alive at one time, without weights and inputs.
    """

    def __init__(self, known: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known = {id(tensor.untyped_storage()) for tensor in known}
        self.keep = [tensor.untyped_storage() for tensor in known]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tensors_of(result):
            self._follow(leaf.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self.known:
            return
        key, nbytes = id(storage), storage.nbytes()
        self.known.add(key)
        self.live += nbytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, nbytes)

    def _forget(self, key: int, nbytes: int) -> None:
        self.known.discard(key)
        self.live -= nbytes


def tensors_of(tree: object) -> list[torch.Tensor]:
    """The tensors in nested values of any kind."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def flop_counter() -> FlopCounterMode:
    """A counter of the FLOPs that run while it is active, including attention on the CPU."""

    def attention(query, key, value, *args, out_shape=None, **kwargs) -> int:
        return sdpa_flop_count(query, key, value)

    return FlopCounterMode(display=False, custom_mapping={FLASH_FOR_CPU: attention})


def _held(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in a record, including those in nested records and lists."""
    if is_dataclass(value):
        for field in fields(value):
            yield from _held(getattr(value, field.name))
    else:
        yield from tensors_of(value)


def _as_later(given: StreamInput, memory: Any, io: StreamIO) -> StreamInput:
    """The inputs of a stream for the second step and later ones."""
    assert isinstance(given.positions, torch.Tensor)
    return replace(given, context=memory, positions=io.rotary_tables(given.positions))


def section(budgets: Sequence[Budget] = BUDGETS, layers: int = 48, heads: int = 32) -> Section:
    """Count one bfloat16 forward at each size, and compare it with its limits."""
    config = TransformerConfig.from_metadata(scaled_settings(layers, heads))
    rows: list[dict[str, str]] = []
    failures: list[str] = []
    with FakeTensorMode(), torch.inference_mode():
        model = random_transformer(config, torch.bfloat16, torch.device("cpu"))
        for budget in budgets:
            model.work_in(budget.chunks)
            inputs = make_inputs(config, budget.size, torch.bfloat16, torch.device("cpu"))
            if budget.keeps_text:
                text = model.text_memory(inputs.map(lambda one: one.context))
                inputs = inputs.map(_as_later, text, model.streams)
            assert inputs.video is not None
            known = [*model.parameters(), *(tensor for one in inputs for tensor in _held(one))]
            with flop_counter() as flops, LiveBytes(known) as memory, Launches() as launches:
                model(inputs)
            name, tokens = "x".join(map(str, budget.size)), inputs.video.latent.shape[1]
            teraflops, per_token = flops.get_total_flops() / 1e12, memory.peak / tokens
            per_block = launches.count / layers
            is_off = abs(teraflops / budget.teraflops - 1) > FLOPS_WITHIN
            if is_off or per_token > budget.bytes_per_token or per_block > budget.launches_per_block:
                failures.append(name)
            rows.append(
                {
                    "size": name,
                    "memory": budget.memory + ", a later step, one chunk" * budget.keeps_text,
                    "video tokens": f"{tokens:,}",
                    "TFLOP": f"{teraflops:,.1f}",
                    "expected": f"{budget.teraflops:,.1f}",
                    "KB per video token at the peak": f"{per_token / 1000:.1f}",
                    "at most": f"{budget.bytes_per_token / 1000:.0f}",
                    "launches per block": f"{per_block:.1f}",
                    "no more than": f"{budget.launches_per_block}",
                }
            )
    return Section(
        title="Cost of one forward, without weights",
        facts=[f"LTX-2 2.0, {layers} blocks, {heads} heads, bfloat16, batch 1, {TEXT_ROWS:,} text rows"],
        rows=rows,
        verdict=f"over budget: {', '.join(failures)}" if failures else "within budget, FLOPs within 2 %",
        is_good=not failures,
    )
