"""Measure the denoiser:

`python scripts/bench.py --meta` counts FLOPs and live bytes of the full-size model without its weights.
"""

from __future__ import annotations

import argparse
import platform
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ltx2_core.config.released import released_configs
from ltx2_core.config.transformer import TransformerConfig
from ltx2_core.grids import Factors, VideoGrid, audio_latent_count
from ltx2_core.latents import audio_positions, video_positions
from ltx2_core.models.transformer import StreamInput, Transformer
from ltx2_core.types import Streams

FPS = Fraction(24)
FLASH_FOR_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass(frozen=True)
class Budget:
    """What one forward of the full-size 2.0 model may cost. FLOPs within 2 %; bytes per video token at its peak."""

    size: tuple[int, int, int]
    teraflops: float
    bytes_per_token: int = 115_000


BUDGETS = (Budget((768, 512, 121), 198.9), Budget((1920, 1088, 121), 1714.9))


class LiveBytes(TorchDispatchMode):
    """Follow every allocation while it is active:

    `peak` is the most that was alive at one time, weights and inputs left out.
    """

    def __init__(self, known: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known = {id(tensor.untyped_storage()) for tensor in known}
        self.keep = [tensor.untyped_storage() for tensor in known]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
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


def attention_flops(query_shape, key_shape, value_shape, *args, out_shape=None, **kwargs) -> int:
    """Two matrix products; the counter knows the other kernels, not this one."""
    return sdpa_flop_count(query_shape, key_shape, value_shape)


def make_inputs(
    config: TransformerConfig, size: tuple[int, int, int], rows: int, dtype: torch.dtype
) -> Streams[StreamInput]:
    """Random inputs of one text-to-video step: batch 1, one noise level, `rows` text rows."""
    assert config.video is not None
    assert config.audio is not None
    width, height, frames = size
    grid = VideoGrid(frames=frames, height=height, width=width, factors=Factors(8, 32, 32))
    steps = audio_latent_count(frames, FPS)

    def stream(tokens: int, channels: int, text_width: int, positions: torch.Tensor) -> StreamInput:
        return StreamInput(
            latent=torch.randn(1, tokens, channels, dtype=dtype),
            sigma=torch.full((1,), 0.7),
            levels=torch.full((1, 1), 0.7),
            positions=positions,
            context=torch.randn(1, rows, config.caption_channels or text_width, dtype=dtype),
        )

    return Streams(
        stream(
            grid.tokens, config.video.in_channels, config.video.width, video_positions(grid.latent, FPS, grid.factors)
        ),
        stream(steps, config.audio.in_channels, config.audio.width, audio_positions(steps)),
    )


def meta() -> int:
    """Count FLOPs and live bytes of one bf16 forward at both sizes; 1 if a budget is exceeded."""
    config = TransformerConfig.from_metadata(released_configs()["2.0"])
    failures = 0
    print(
        f"torch {torch.__version__}, {platform.machine()}, LTX-2 19B in bfloat16, batch 1, 1,024 text rows, no weights"
    )
    with FakeTensorMode(), torch.inference_mode():
        torch.set_default_dtype(torch.bfloat16)
        model = Transformer(config)
        torch.set_default_dtype(torch.float32)
        for budget in BUDGETS:
            inputs = make_inputs(config, budget.size, 1024, torch.bfloat16)
            given = [
                t for one in inputs if one for t in (one.latent, one.sigma, one.levels, one.positions, one.context)
            ]
            assert inputs.video is not None
            tokens = inputs.video.latent.shape[1]
            counter = FlopCounterMode(display=False, custom_mapping={FLASH_FOR_CPU: attention_flops})
            with counter as flops, LiveBytes([*model.parameters(), *given]) as memory:
                model(inputs)
            teraflops, per_token = flops.get_total_flops() / 1e12, memory.peak / tokens
            is_good = abs(teraflops / budget.teraflops - 1) <= 0.02 and per_token <= budget.bytes_per_token
            failures += not is_good
            print(
                f"{'ok  ' if is_good else 'FAIL'} {'x'.join(map(str, budget.size))}: {tokens:,} video tokens, "
                f"{teraflops:,.1f} TFLOP (expected {budget.teraflops:,.1f} within 2 %), "
                f"{per_token / 1000:.1f} KB live per video token at the peak "
                f"(at most {budget.bytes_per_token / 1000:.0f})"
            )
    return int(failures > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--meta", action="store_true", help="FLOPs and live bytes of the full-size model, without weights"
    )
    options = parser.parse_args()
    if not options.meta:
        parser.error("choose what to measure: --meta")
    return meta()


if __name__ == "__main__":
    sys.exit(main())
