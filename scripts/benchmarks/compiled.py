"""Count the kernel launches of one block of the full-size denoiser, eager and compiled, and the bytes of its
element-wise kernels.

The compiler plans a block without weights and is stopped before it generates a kernel. It plans for the CPU, which
fuses loops that a GPU may launch separately. The bytes of a compiled launch are taken from its plan; an eager launch
reads its inputs and writes its outputs. Source: docs/reference/transformer.md, "Compiled blocks".
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._inductor.exc import InductorError
from torch._subclasses.fake_tensor import FakeTensorMode

from ltx2_core.compiling import compile_blocks
from ltx2_core.config.transformer import TransformerConfig
from ltx2_core.models.chunks import WHOLE
from ltx2_core.models.transformer import Transformer
from ltx2_core.pipeline.doctor.sample import random_transformer, scaled_settings

from .meta import Launches, tensors_of
from .section import Section
from .subjects import TEXT_ROWS, Size, make_inputs

SIZE: Size = (768, 512, 121)
MOST_KERNELS, MOST_BYTES_PER_TOKEN = 50, 500_000  # limits for a compiled block, without matrix products and attention
PRODUCTS = ("mm", "addmm", "bmm", "linear")


@dataclass(slots=True)
class Count:
    """Launches of a block. own: those that are neither matrix products nor attention. nbytes: bytes that these read and
    write.
    """

    own: int = 0
    others: int = 0
    nbytes: int = 0


class EagerBlock(Launches):
    """Count the launches in the given block while this mode is active."""

    def __init__(self, block: torch.nn.Module) -> None:
        super().__init__()
        self.found, self.is_inside = Count(), False
        self.hooks = [
            block.register_forward_pre_hook(lambda *_: setattr(self, "is_inside", True)),
            block.register_forward_hook(lambda *_: setattr(self, "is_inside", False)),
        ]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = self.count
        result = super().__torch_dispatch__(func, types, args, kwargs)
        name = func._schema.name.rpartition("::")[-1]
        if self.count > before and self.is_inside:
            if name in PRODUCTS or "scaled_dot_product" in name:
                self.found.others += 1
            else:
                self.found.own += 1
                self.found.nbytes += sum(map(_nbytes, tensors_of((args, kwargs)))) + sum(
                    map(_nbytes, tensors_of(result))
                )
        return result


class _PlannedError(Exception):
    """Raised to stop the compiler when its plan is complete."""


def section(size: Size = SIZE, heads: int = 32) -> Section:
    """Count a block of a bfloat16 forward with cached text keys and values, and compare the compiled one with its
    limits.
    """
    config = TransformerConfig.from_metadata(scaled_settings(1, heads))
    with FakeTensorMode(), torch.inference_mode():
        model = random_transformer(config, torch.bfloat16, torch.device("cpu"))
        model.work_in(WHOLE)
        inputs = make_inputs(config, size, torch.bfloat16, torch.device("cpu"))
        memory = model.text_memory(inputs.map(lambda one: one.context))
        inputs = inputs.map(lambda one, kept: replace(one, context=kept), memory)
        with EagerBlock(model.blocks[0]) as eager:
            model(inputs)
        for hook in eager.hooks:
            hook.remove()
        compiled = planned(model, inputs)
    assert inputs.video is not None
    tokens = inputs.video.latent.shape[1]
    is_good = compiled.own <= MOST_KERNELS and compiled.nbytes / tokens <= MOST_BYTES_PER_TOKEN
    return Section(
        title="Launches of one block, eager and compiled",
        facts=[
            f"LTX-2 2.0, {heads} heads, bfloat16, {'x'.join(map(str, size))}, {TEXT_ROWS:,} text rows, text kept",
            "compiled: as the compiler plans it for the CPU; bytes are those that all launches but products and "
            "attention read and write, over the tokens of the video",
        ],
        rows=[_row("eager", eager.found, tokens), _row("compiled", compiled, tokens)],
        verdict="within budget" if is_good else "over budget",
        is_good=is_good,
    )


def planned(model: Transformer, inputs: Any) -> Count:
    """The compiler's plan for the first block of a model, on tensors without data."""
    found = Count()

    def note(nodes: Sequence[Any]) -> None:
        from torch._inductor import ir
        from torch._inductor.scheduler import NopKernelSchedulerNode

        for node in nodes:
            if node.is_extern():
                found.others += not isinstance(node.node, ir.MultiOutput)  # this selects a part of a result
            elif not isinstance(node, NopKernelSchedulerNode):
                found.own += 1
                found.nbytes += node.get_read_write_buffers_sizes()
        raise _PlannedError

    compile_blocks(model)
    with _after_fusion(note), suppress(InductorError):
        model(inputs)
    torch.compiler.reset()
    return found


@contextmanager
def _after_fusion(note: Any) -> Iterator[None]:
    """Call a function with the compiler's plan once its operations are fused. The compiler does not log errors
    meanwhile.
    """
    from torch._inductor import config

    logging.disable(logging.ERROR)
    try:
        with config.patch(_post_fusion_custom_pass=note, fx_graph_cache=False):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _row(name: str, found: Count, tokens: int) -> dict[str, str]:
    is_eager = name == "eager"
    return {
        "block": name,
        "launches": str(found.own + found.others),
        "products and attention": str(found.others),
        "others": str(found.own),
        "no more than": "-" if is_eager else str(MOST_KERNELS),
        "KB of these per video token": f"{found.nbytes / tokens / 1000:,.0f}",
        "at most": "-" if is_eager else f"{MOST_BYTES_PER_TOKEN / 1000:.0f}",
    }


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.itemsize
