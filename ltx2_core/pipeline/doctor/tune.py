"""Measure which of the machine's choices is fastest: `ltx2 doctor --tune`.

A guided step of the real denoiser code is timed, with random weights in two blocks of the released width, or, on a CPU,
of about that of the built-in model. Only ratios matter. Source: docs/cli.md, "The doctor".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from statistics import median
from typing import get_args

import torch
from torch.nn import functional as F

from ...compiling import compile_blocks, told_compiler_failures
from ...config.transformer import TransformerConfig
from ...costs.denoiser import Evaluation, Walk
from ...errors import RequestError
from ...grids import Factors, VideoGrid, audio_latent_count
from ...home import ltx2_home
from ...latents import LatentState, States
from ...machine import CHUNK_TOKENS, Backend, Precision, cpu_threads
from ...models.attention import INT8, attending
from ...models.transformer import Transformer
from ...paths import require_writable
from ...quantize.decode import decode_matrix
from ...quantize.products import multiply
from ...sampling.denoiser import GuidedDenoiser
from ...sampling.guidance import UNGUIDED, Contexts
from ...stored.encoding import GROUPS
from ...stored.layer import StoredLayer
from ...types import Streams
from ..render.models import DTYPES
from ..resolve.machine import (
    PRECISIONS,
    Device,
    backends_on,
    choose_device,
    lacking_compiler,
    measured_on,
    must_measure_int8,
)
from ..resolve.phases import stage_flops
from ..resolve.tuning import LEAST_RUNS, AttentionChoice, PrecisionChoice, ShapeClass, Switch, Tuning, tuning_file
from .sample import guidance, random_transformer, scaled_settings

LAYERS, HEAD = 2, 128  # blocks, and the width of a head
RUNS, MOST_S = 5, 5.0  # runs per choice, alternating, after a warm-up; fewer if they take longer
LEAST_GAIN = 1.15  # speed-up that a choice other than the default must reach
LINK_BYTES = 2**28  # bytes per copy to a GPU, to measure its speed
BATCH_SHARE = 0.1  # share of GPU memory for a batch of passes; weights and the rest need memory too
SIGMA, FPS, FACTORS = 0.7, Fraction(24), Factors(8, 32, 32)
LATENT_CHANNELS, AUDIO_CHANNELS, AUDIO_BINS = 128, 8, 16
Seconds = Mapping[str, list[float]]  # seconds of each run, by choice
TOO_LARGE = (torch.OutOfMemoryError, MemoryError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A clip that represents a class of sizes. needs_gb: the GPU memory class for a step of it."""

    name: str
    width: int
    height: int
    frames: int
    needs_gb: int = 0

    @property
    def grid(self) -> VideoGrid:
        return VideoGrid(frames=self.frames, height=self.height, width=self.width, factors=FACTORS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The measurements on a kind of device.

    Args: heads: of each stream; the released models have 32. text_rows: of a prompt; they have 1,024. shapes: small
    ones first.
    """

    heads: int
    text_rows: int
    shapes: tuple[Shape, ...]


SMALL_PLAN = Plan(
    heads=2,
    text_rows=128,
    shapes=(
        Shape(name="built-in model", width=192, height=128, frames=49),
        Shape(name="short clip", width=256, height=192, frames=49),
    ),
)
CARD_PLAN = Plan(
    heads=32,
    text_rows=1024,
    shapes=(
        Shape(name="480p, 5 s", width=832, height=480, frames=121),
        Shape(name="1080p, 5 s", width=1920, height=1088, frames=121, needs_gb=24),
    ),
)
PLANS: Mapping[str, Plan] = {"cuda": CARD_PLAN, "mps": SMALL_PLAN, "cpu": SMALL_PLAN}


def tune(device: Device | None = None, tell: Callable[[str], None] = lambda line: None) -> Tuning:
    """Measure the choices of `Machine` that may affect the speed of the engine.

    Args: device: the default device of a render if None. tell: called with a line about each measurement.
    Raises: RequestError if torch cannot compute on the device. StorageError if the result could not be stored.
    """
    require_writable(ltx2_home(), str(tuning_file()))
    if device is None:
        device = choose_device("auto")
    _require_device(device)
    plan = PLANS[device.kind]
    torch.set_num_threads(cpu_threads())
    shapes = [one for one in plan.shapes if device.card is None or device.card.gb >= one.needs_gb]
    with torch.inference_mode():
        tell(f"measuring on {device.name}: precision")
        precision = _precision(device, plan)
        chosen = PRECISIONS[device.kind] if precision is None else precision.chosen
        int8 = None
        if must_measure_int8(device.card):
            tell(f"measuring on {device.name}: products of int8")
            int8 = choose_int8(device, plan.heads * HEAD, shapes[0].grid.tokens)
        sample = _Sample(device, plan, chosen)
        measured = []
        for shape in shapes:
            tell(f"measuring on {device.name}: a guided step, {shape.name}")
            found = sample.measure(shape)
            if not lacking_compiler(device):
                tell(f"measuring on {device.name}: compiled blocks, {shape.name}; the compiler may run for minutes")
                found = found.model_copy(update={"compiles": sample.compiled(shape, tell)})
            measured.append(found)
        return Tuning(
            measured_on=measured_on(device),
            precision=precision,
            int8=int8,
            shapes=tuple(measured),
            width=sample.model.config.width,
            link_bytes_per_s=link_speed(device),
        )


def _require_device(device: Device) -> None:
    try:
        torch.zeros(1, device=device.name)
    except (RuntimeError, AssertionError) as error:
        why = str(error).partition("\n")[0]
        raise RequestError(f"torch cannot compute on {device.name}", why, "ltx2 doctor shows what is wrong") from error


def _precision(device: Device, plan: Plan) -> PrecisionChoice | None:
    """The faster precision; None on a GPU, whose memory is too small for a released model in float32."""
    if device.kind == "cuda":
        return None
    calls = {name: _Sample(device, plan, name).step(plan.shapes[0], is_guided=False) for name in DTYPES}
    calls["fp32"]()
    try:
        calls["bf16"]()
    except (RuntimeError, TypeError):  # the device does not support bfloat16
        del calls["bf16"]
    return choose_precision(timed(calls, device), PRECISIONS[device.kind])


def choose_precision(seconds: Seconds, usual: Precision) -> PrecisionChoice:
    """bfloat16 if it is clearly faster than the default."""
    fp32_s, bf16_s, runs = median(seconds["fp32"]), None, len(seconds["fp32"])
    if "bf16" in seconds:
        bf16_s = median(seconds["bf16"])
    is_faster = bf16_s is not None and bf16_s * LEAST_GAIN <= fp32_s and runs >= LEAST_RUNS
    return PrecisionChoice(fp32_s=fp32_s, bf16_s=bf16_s, runs=runs, chosen="bf16" if is_faster else usual)


def choose_attention(seconds: Mapping[str, list[float]]) -> AttentionChoice:
    """The fastest kernel if it is clearly faster than torch's own choice. seconds: of each run, with that choice as
    "sdpa".
    """
    sdpa_s, runs = median(seconds["sdpa"]), len(seconds["sdpa"])
    fixed: dict[Backend, float] = {name: median(seconds[name]) for name in get_args(Backend) if name in seconds}
    best = min(fixed, key=lambda name: fixed[name], default=None)
    is_faster = best is not None and fixed[best] * LEAST_GAIN <= sdpa_s and runs >= LEAST_RUNS
    chosen = best if is_faster and best is not None else "sdpa"
    return AttentionChoice(sdpa_s=sdpa_s, fixed_s=fixed, runs=runs, chosen=chosen)


def choose_int8(device: Device, width: int, rows: int) -> Switch:
    """Whether a square int8 matrix is clearly faster multiplied as it is stored than decoded.

    Args: width: of the matrix, a multiple of 16. rows: of the inputs.
    """
    group = next(one for one in GROUPS if width % one == 0)
    layer = StoredLayer(name="sample", format="int8", tensors={}, shape=(width, width), rotation=group)
    weight = torch.randint(-127, 128, (width, width), dtype=torch.int8, device=device.name)
    stored = {"weight": weight, "weight_scale": torch.full((width, 1), 1e-3, device=device.name)}
    x = torch.randn(rows, width, dtype=torch.bfloat16, device=device.name)
    calls = {
        "decoded": lambda: F.linear(x, decode_matrix(layer, stored, (width, width), x.dtype)),
        "as stored": lambda: multiply(layer, stored, x),
    }
    calls["decoded"]()
    try:
        calls["as stored"]()
    except RequestError:  # the GPU does not support this product
        del calls["as stored"]
    seconds = timed(calls, device)
    return choose_switch(seconds["decoded"], seconds.get("as stored", []), usual=False)


def link_speed(device: Device) -> float | None:
    """Bytes per second for copying weights to a GPU from pinned memory; None on other devices."""
    if device.kind != "cuda":
        return None
    source = torch.empty(LINK_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(LINK_BYTES, dtype=torch.uint8, device=device.name)
    calls = {"copied": partial(target.copy_, source, non_blocking=True)}
    calls["copied"]()
    return LINK_BYTES / median(timed(calls, device)["copied"])


def choose_switch(off: list[float], on: list[float], *, usual: bool, is_possible: bool = True) -> Switch:
    """On or off: the default, unless the other is clearly faster in the median of enough runs.

    Args: off, on: the seconds of each run; on is empty if it does not fit into memory. is_possible: whether on may be
    chosen at all.
    """
    off_s, runs = median(off), len(off)
    if not on:
        return Switch(off_s=off_s, on_s=None, runs=runs, chosen=False)
    on_s, chosen = median(on), usual
    if runs >= LEAST_RUNS:
        most_s = off_s * LEAST_GAIN if usual else off_s / LEAST_GAIN
        chosen = on_s < most_s
    return Switch(off_s=off_s, on_s=on_s, runs=runs, chosen=chosen and is_possible)


def timed(calls: Mapping[str, Callable[[], object]], device: Device) -> Seconds:
    """The seconds of some calls, run in turns, so that other load affects all of them. Each has run once before."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    begin = time.perf_counter()
    for number in range(RUNS):
        if number and time.perf_counter() - begin > MOST_S:
            break
        for name, call in calls.items():
            _wait(device)
            start = time.perf_counter()
            call()
            _wait(device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _wait(device: Device) -> None:
    """Synchronise with a device."""
    if device.kind != "cpu":
        torch.accelerator.synchronize(device.name)


class _Sample:
    """A denoiser with random weights on a device, and guided steps with it."""

    def __init__(self, device: Device, plan: Plan, precision: Precision) -> None:
        self.device, self.plan, self.dtype = device, plan, DTYPES[precision]
        self.precision: Precision = precision
        config = TransformerConfig.from_metadata(scaled_settings(LAYERS, plan.heads))
        self.model = random_transformer(config, self.dtype, torch.device(device.name))

    def measure(self, shape: Shape) -> ShapeClass:
        """The choices for clips up to this one."""
        calls = {"usual": self.step(shape), "without text": self.step(shape, keeps_text=False)}
        for call in calls.values():
            call()
        batched = self.step(shape, is_batched=True)
        peak = self._peak(batched)
        attention = self.attention(shape)
        if peak is not None:
            calls["batched"] = batched
        seconds = timed(calls, self.device)
        card = self.device.card
        fits = card is None or (peak is not None and peak <= BATCH_SHARE * card.nbytes)
        return ShapeClass(
            name=shape.name,
            tokens=shape.grid.tokens,
            batches_passes=choose_switch(seconds["usual"], seconds.get("batched", []), usual=False, is_possible=fits),
            keeps_text=choose_switch(seconds["without text"], seconds["usual"], usual=True),
            attention=attention,
            flops_per_s=self.flops(shape) / median(seconds["usual"]),
        )

    def attention(self, shape: Shape) -> AttentionChoice:
        """The attention kernel for clips up to this one."""
        step = self.step(shape)

        def attend(name: Backend) -> None:
            with attending(name):
                step()

        calls: dict[str, Callable[[], object]] = {"sdpa": step}
        for name in backends_on(self.device, self.precision):
            if name == INT8:  # it changes more than the last bits, so only the user can choose it
                continue
            call = partial(attend, name)
            if self._peak(call) is not None:
                calls[name] = call
        return choose_attention(timed(calls, self.device))

    def compiled(self, shape: Shape, tell: Callable[[str], None]) -> Switch | None:
        """Whether compiled blocks are faster for clips up to this one; None with a message if the compiler fails."""
        config = self.model.config
        with torch.device("meta"):
            model = Transformer(config)
        model.load_state_dict(self.model.state_dict(), assign=True)
        compile_blocks(model.requires_grad_(False).eval())
        steps = self.step(shape, is_guided=False), self.step(shape, is_guided=False, model=model)
        steps[0]()
        try:
            with told_compiler_failures():
                peak = self._peak(steps[1])
        except RequestError as error:
            tell(f"the blocks cannot be compiled: {error.why}")
            return None
        calls: dict[str, Callable[[], object]] = {"plain": steps[0]}
        if peak is not None:
            calls["compiled"] = steps[1]
        seconds = timed(calls, self.device)
        return choose_switch(seconds["plain"], seconds.get("compiled", []), usual=False)

    def flops(self, shape: Shape) -> float:
        """The FLOPs of a default guided step, with precomputed keys and values of the text."""
        config = self.model.config
        audio = audio_latent_count(shape.frames, FPS)
        given = Evaluation(video=shape.grid.tokens, audio=audio, text=self.plan.text_rows)
        walk = Walk(
            itemsize=self.dtype.itemsize,
            chunk_tokens=CHUNK_TOKENS,
            keeps_tables=True,
            keeps_text=config.has_static_text,
        )
        first, both = (stage_flops(config, given, guidance(LAYERS), range(steps), walk) for steps in (1, 2))
        return both - first

    def step(
        self,
        shape: Shape,
        *,
        is_guided: bool = True,
        is_batched: bool = False,
        keeps_text: bool = True,
        model: Transformer | None = None,
    ) -> Callable[[], object]:
        """A step in the middle of a render: four passes, or one without guidance. model: instead of its own."""
        channels = self.model.config.caption_channels or 1
        text = partial(torch.randn, 1, self.plan.text_rows, channels, dtype=self.dtype, device=self.device.name)
        denoise = GuidedDenoiser(
            model=model or self.model,
            contexts=Streams(Contexts(text(), text()), Contexts(text(), text())),
            scales=guidance(LAYERS) if is_guided else UNGUIDED,
            is_batched=is_batched,
            keeps_text=keeps_text,
        )
        return partial(denoise, self._states(shape), SIGMA, 0)

    def _states(self, shape: Shape) -> States:
        noise = partial(torch.randn, dtype=self.dtype, device=self.device.name)
        steps = audio_latent_count(shape.frames, FPS)
        return Streams(
            LatentState.video(noise(1, LATENT_CHANNELS, *shape.grid.latent), FPS, FACTORS),
            LatentState.audio(noise(1, AUDIO_CHANNELS, steps, AUDIO_BINS)),
        )

    def _peak(self, call: Callable[[], object]) -> int | None:
        """The additional bytes of a call on a GPU; 0 elsewhere, None if it does not fit."""
        if self.device.kind != "cuda":
            call()
            return 0
        before = torch.cuda.memory_allocated(self.device.name)
        torch.cuda.reset_peak_memory_stats(self.device.name)
        try:
            call()
        except TOO_LARGE:
            torch.cuda.empty_cache()
            return None
        return torch.cuda.max_memory_allocated(self.device.name) - before
