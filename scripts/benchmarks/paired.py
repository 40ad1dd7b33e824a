"""Time our denoiser against that of diffusers with the same weights: medians of several alternating runs in one
process.
"""

from __future__ import annotations

import operator
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from ltx2_core.compiling import told_compiler_failures
from ltx2_core.config.transformer import TransformerConfig
from ltx2_core.errors import RequestError
from ltx2_core.latents import Latents
from ltx2_core.pipeline.doctor.sample import random_transformer, scaled_settings
from ltx2_core.types import Streams

from .meta import flop_counter
from .section import Section
from .subjects import (
    TEXT_ROWS,
    Call,
    Ours,
    Size,
    Theirs,
    make_inputs,
    with_other_text,
)

# Dense bfloat16 with float32 accumulation, from the vendors. The first name that the GPU's name contains is used.
PEAK_TFLOPS = {
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "RTX 5090": 209.5,
    "RTX 4090": 165.2,
    "RTX 3090": 71,
}


PRODUCT = 1536  # rows and columns of the matrices with which the speed of a CPU is measured


class Limits(NamedTuple):
    """The largest accepted ratio of our time to theirs, and the largest accepted relative difference of the outputs."""

    ratio: float
    difference: float


GUIDED, COMPILED = "guided step", "compiled forward"
WORKS = ("forward", GUIDED, COMPILED)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The work to time: a forward at every size, and at the first size also a guided step and a forward with compiled
    blocks.

    runs: number of runs of each forward; the guided step, which takes longer, gets half as many. works: which of these
    to time. decoded: the size of the video that decoders are timed with. limits: the limits of each at the first size;
    with limits, diffusers has to be installed.
    """

    device: torch.device
    dtype: torch.dtype
    layers: int
    heads: int
    sizes: tuple[Size, ...]
    runs: int
    decoded: Size
    works: tuple[str, ...] = WORKS
    limits: Mapping[str, Limits] | None = None

    @property
    def device_name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type

    @cached_property
    def peak_flops(self) -> float | None:
        """The FLOPs per second of the GPU, None if unknown; for a CPU, those of a large matrix product, measured
        now.
        """
        if self.device.type == "cpu":
            return measured_flops(self.dtype)
        known = (peak * 1e12 for name, peak in PEAK_TFLOPS.items() if name in self.device_name)
        return next(known, None)


CPU = Setup(  # 317 million parameters, 1,000 video tokens
    device=torch.device("cpu"),
    dtype=torch.float32,
    layers=12,
    heads=8,
    sizes=((320, 320, 73),),
    runs=15,
    decoded=(192, 192, 17),
    limits={
        "forward": Limits(ratio=1.00, difference=1e-4),
        GUIDED: Limits(ratio=0.72, difference=1e-4),
        COMPILED: Limits(ratio=0.90, difference=1e-4),
    },
)
GPU = Setup(
    device=torch.device("cuda"),
    dtype=torch.bfloat16,
    layers=48,
    heads=32,
    sizes=((768, 512, 121), (1280, 704, 121), (1920, 1088, 121)),
    runs=13,
    decoded=(768, 512, 41),
)


@dataclass(frozen=True, slots=True)
class Pair:
    """The times of the same work in ours and, if it is installed, in theirs; each list has one entry per program.

    Args: flops: number of FLOPs of ours. seconds: of every run. peak_bytes: the most memory that was allocated on the
    GPU, including weights. difference: of the outputs, relative to the largest value.
    """

    flops: int
    seconds: list[list[float]]
    peak_bytes: list[int]
    difference: float | None

    @property
    def ratio(self) -> float:
        """The median of our time divided by the time of the neighbouring run of theirs."""
        return statistics.median(ours / theirs for ours, theirs in zip(*self.seconds, strict=True))


def measured_flops(dtype: torch.dtype) -> float:
    """The highest FLOPs per second of a few products of square matrices."""
    a, b = (torch.randn(PRODUCT, PRODUCT, dtype=dtype) for _ in range(2))
    seconds = [_seconds(lambda: Streams(a @ b, None), a.device) for _ in range(5)]
    return 2 * PRODUCT**3 / min(seconds)


def measure(setup: Setup) -> Iterator[tuple[dict[str, str], Pair]]:
    """Time all work of a setup. Yields the labels and the times of each."""
    settings = scaled_settings(setup.layers, setup.heads)
    config = TransformerConfig.from_metadata(settings)
    torch.manual_seed(0)
    ours = Ours(random_transformer(config, setup.dtype, setup.device))
    both = [ours, Theirs(ours.model, settings)] if find_spec("diffusers") else [ours]
    for i, size in enumerate(setup.sizes):
        inputs = make_inputs(config, size, setup.dtype, setup.device)
        forward = [one.forward(inputs) for one in both]
        tokens = " + ".join(f"{one.latent.shape[1]:,}" for one in inputs if one)
        for work in [one for one in WORKS if one in setup.works and (one == "forward" or i == 0)]:
            runs, calls = setup.runs, forward
            if work == GUIDED:
                negative = with_other_text(inputs)
                runs, calls = ceil(runs / 2), [one.guided_step(inputs, negative) for one in both]
            elif work == COMPILED:
                calls = [ours.compiled().forward(inputs), *forward[1:]]
            label = {"work": work, "size": "x".join(map(str, size)), "tokens": tokens}
            print(f"timing: {', '.join(label.values())}", file=sys.stderr, flush=True)
            try:
                with told_compiler_failures():
                    pair = in_turns(calls, setup.device, runs, forward[0] if work == COMPILED else None)
            except RequestError as error:
                if len(setup.works) == 1:  # there is no other work to time
                    raise
                print(f"left out, as {error.why}", file=sys.stderr, flush=True)
            else:
                yield label, pair


@torch.inference_mode()
def in_turns(calls: Sequence[Call], device: torch.device, runs: int, counted: Call | None = None) -> Pair:
    """Warm up, compare the outputs, then run the calls alternately; every second round is in reverse order.

    counted: a call with the same FLOPs as the first call, if those of the first call itself cannot be counted.
    """
    peaks = [_peak_bytes(call, device) for call in calls]
    with flop_counter() as flops:
        outputs = [calls[0]()] if counted is None else []
        if counted is not None:
            counted()
    outputs = [*outputs, *(call() for call in calls[len(outputs) :])]
    seconds: list[list[float]] = [[] for _ in calls]
    order = list(zip(calls, seconds, strict=True))
    for _ in range(runs):
        for call, times in order:
            times.append(_seconds(call, device))
        order.reverse()
    difference = _difference(*outputs) if len(outputs) == 2 else None
    return Pair(flops.get_total_flops(), seconds, peaks, difference)


def section(setup: Setup) -> Section:
    """Measure, describe the results, and compare them with the limits."""
    labels, pairs = zip(*measure(setup), strict=True)
    differences = [pair.difference for pair in pairs if pair.difference is not None]
    if differences:
        first = {}  # the result of each work at the first size
        for label, pair in zip(labels, pairs, strict=True):
            first.setdefault(label["work"], Limits(pair.ratio, pair.difference or 0.0))
        ratios = ", ".join(f"{work} {one.ratio:.3f}" for work, one in first.items())
        verdict = f"{ratios} (ours/theirs), outputs agree to {torch.tensor(differences).max().item():.1e}"
        missed = [
            work for work, most in (setup.limits or {}).items() if work in first and not _keeps(first[work], most)
        ]
        if missed:
            verdict += f"; beyond its limit: {', '.join(missed)}"
        is_good = not missed
    else:
        verdict = "diffusers is not installed; `make parity` brings it"
        is_good = setup.limits is None
    return Section(
        title=f"Time of the denoiser on {setup.device_name}",
        facts=[
            f"LTX-2 2.0, {setup.layers} blocks, {setup.heads} heads, the same random weights in both programs, "
            f"{str(setup.dtype).removeprefix('torch.')}, batch 1, {TEXT_ROWS:,} text rows",
            "a compiled forward is ours with compiled blocks, compared with diffusers without compilation; the time of "
            "compiling is not included",
            "medians of several runs of both programs, which alternate in one process after two warm-up runs; the "
            "ratio is the median over neighbouring runs",
            "a guided step is four passes: prompt, negative prompt, perturbed, isolated",
            "ours keeps the rotary tables and the keys and values of the text, as in a render, and starts the "
            "perturbed pass at the first block where it differs",
        ],
        rows=[label | figures(pair, setup) for label, pair in zip(labels, pairs, strict=True)],
        verdict=verdict,
        is_good=is_good,
        runs={f"{label['work']} {label['size']}": pair.seconds[0] for label, pair in zip(labels, pairs, strict=True)},
    )


def _keeps(reached: Limits, most: Limits) -> bool:
    return all(map(operator.le, reached, most))


def figures(pair: Pair, setup: Setup) -> dict[str, str]:
    """The cells of a row; FLOPs and floor are those of ours."""
    names = ("ours", "diffusers")[: len(pair.seconds)]
    cells = {"runs": str(len(pair.seconds[0]))}
    cells |= {f"{name}, s": f"{statistics.median(s):.3f}" for name, s in zip(names, pair.seconds, strict=True)}
    if pair.difference is not None:
        cells |= {"ratio": f"{pair.ratio:.3f}", "differ by": f"{pair.difference:.1e}"}
    cells["TFLOP"] = f"{pair.flops / 1e12:,.2f}"
    peak = setup.peak_flops
    cells["floor, s"] = f"{pair.flops / peak:.3f}" if peak else "unknown card"
    if setup.device.type == "cuda":
        cells |= {f"{name}, GB": f"{p / 1e9:.1f}" for name, p in zip(names, pair.peak_bytes, strict=True)}
    return cells


def _peak_bytes(call: Call, device: torch.device) -> int:
    """The most memory that is allocated on the GPU during a call; 0 for other devices."""
    if device.type != "cuda":
        call()
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    call()
    return torch.cuda.max_memory_allocated(device)


def _seconds(call: Call, device: torch.device) -> float:
    """The time of a call, measured with CUDA events on a GPU."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def _difference(ours: Latents, theirs: Latents) -> float:
    """max|ours − theirs| / max|theirs|, of the stream for which it is larger; NaN if any value is NaN."""

    def of(a: Tensor, b: Tensor) -> Tensor:
        return (a.float() - b.float()).abs().max() / b.float().abs().max()

    return torch.stack([one for one in ours.map(of, theirs) if one is not None]).max().item()
