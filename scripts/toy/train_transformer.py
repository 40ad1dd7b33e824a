"""Train the denoiser of the toy model, with its text path: `scripts/toy/train_transformer.py CACHE --state DIR`.

CACHE is the folder of the shards of `cache_latents.py`; new shards are noticed while it runs. The training continues
from the state in DIR. Without a state it starts from the weights in `--out`, or with `--fresh` from random weights. The
averaged weights are written to `--out` with every probe, which samples a few clips and checks them with the detectors.

The denoiser learns to predict the velocity of rectified flow for both streams at once. Samples leave out what guidance
and the modes leave out: the text, the attention between the streams, or the noise of one stream, which is then given.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that it runs from anywhere

import numpy as np
import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from ltx2_core.grids import AUDIO_LATENTS_PER_SECOND
from ltx2_core.latents import audio_positions, patchify_audio, patchify_video, video_positions
from ltx2_core.models.attention import KeysValues
from ltx2_core.models.passes import BlockInputs, PassMask, StreamInput
from ltx2_core.models.segments import Run as TextRun
from ltx2_core.models.segments import TextShares, TextTimes
from ltx2_core.models.transformer import AVBlock, Stream, Transformer
from ltx2_core.types import Streams
from scripts.toy.codec import Codec
from scripts.toy.model import AUDIO_STEPS, FPS, FRAMES, VIDEO_GRID, fresh, save, save_gemma, trained
from scripts.toy.probe import CODEC, FACTORS, probe
from scripts.toy.prompts import prompt
from scripts.toy.shards import Cache, Examples, Grid
from scripts.toy.text_path import TextPath
from scripts.toy.tokenizer import save_tokenizer
from scripts.toy.training import Average, Muon, Run, options_of
from scripts.toy.world import Kind, Scene

FILE = "transformer.safetensors"

# Shares of the samples (or batches) with each treatment.
VIDEO_CLEAN, AUDIO_CLEAN = 1 / 6, 1 / 6
ISOLATED = 0.12  # of the samples with noise in both streams: no attention between the streams
NO_TEXT, MISSPELLED = 0.1, 0.05
PARTLY_GIVEN = 0.2  # of the batches: the first frame, all but a window of time, or all up to a point in time is given
LOW_SIGMA, LOW = 0.2, (0.02, 0.3)  # low noise levels, at which positions and phases are refined
LARGE_SIGMA = 0.92  # highest noise level for clips of twice the size, which are only refined

SAME_KIND = 0.5  # of the batches of two spans: most clips have two scenes of one kind

ON_OBJECT = 4.0  # additional weight of a cell that an object touches
SIGMA_BINS = (0.3, 0.6, 0.85, 1.01)
WARM_UP, DECAY_FROM, LOWEST = 100, 0.7, 0.03  # steps, share of all steps, share of the highest rate
AVERAGE = 0.999
DRAWS = 2  # noise levels for each clip and prompt of a batch, which share the text's keys and values
RATES = {"muon": 1.0, "adam": 0.1}  # relative learning rates
REPORT_EVERY = 50
PROBED = 16  # number of clips in a probe
LARGE_GRID = (VIDEO_GRID[0], 2 * VIDEO_GRID[1], 2 * VIDEO_GRID[2])
LARGE_COST = 4  # one sample of twice the size takes as long as four samples of the usual size


T = TypeVar("T", StreamInput, PassMask)


class Denoised(nn.Module):
    """The trained modules: the denoiser and the text path."""

    denoiser: Transformer
    text: TextPath

    def __init__(self, denoiser: nn.Module, text: TextPath) -> None:
        super().__init__()
        self.denoiser, self.text = denoiser, text
        self.advance = advance

    def forward(self, batch: Batch) -> Streams[Tensor]:
        """The velocities (b n c) of a batch."""
        contexts = self.text([*batch.prompts, *batch.later]).map(
            lambda rows: torch.cat(rows.split(len(batch.prompts)), dim=1)
        )
        inputs = batch.inputs.map(lambda given, context: replace(given, context=context), contexts)
        hidden, prepared = self.denoiser.prepare(inputs)
        prepared = prepared.map(with_fast_rope)
        for block in self.denoiser.blocks:
            hidden = self.advance(block, hidden, prepared, batch.keep)
        return self.denoiser.finish(hidden, prepared)


@dataclass(frozen=True, slots=True)
class FastRope:
    """Rotary tables in the split layout of the core, in a form that compiles to fewer and narrower passes."""

    cos: Tensor
    sin: Tensor

    def of_tokens(self, tokens: slice) -> FastRope:
        """The tables of some of the tokens."""
        return FastRope(self.cos[:, :, tokens], self.sin[:, :, tokens])

    def rotate(self, x: Tensor) -> Tensor:
        """Rotate queries or keys (b h n d)."""
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * self.cos - b * self.sin, b * self.cos + a * self.sin], dim=-1)


def with_fast_rope(one: BlockInputs) -> BlockInputs:
    """The same inputs, with rotary tables in the dtype of the hidden states."""
    fast = {
        name: FastRope(rope.cos.bfloat16(), rope.sin.bfloat16())
        for name, rope in (("own", one.rope.own), ("exchange", one.rope.exchange))
    }
    return replace(one, rope=replace(one.rope, **fast))


def advance(block: AVBlock, hidden: Streams[Tensor], prepared: Streams[BlockInputs], keep: PassMask) -> Streams[Tensor]:
    """Run one block. The keys and values of the text are computed once for the draws that share them."""

    def with_memory(one: BlockInputs, stream: Stream) -> BlockInputs:
        memory = stream.text_memory(one.text)
        return replace(one, text=KeysValues(*(x.repeat_interleave(DRAWS, dim=0) for x in memory)))

    return block(hidden, prepared.map(with_memory, Streams(block.video, block.audio)), keep)


class Batch(NamedTuple):
    """Training samples.

    Args: inputs: without their contexts. targets: the velocities (b n c). weights: of the tokens (b n), 0 for tokens
    that are not trained. prompts: one for every two samples. later: the prompts of the second span, if there are two.
    """

    prompts: list[str]
    inputs: Streams[StreamInput]
    keep: PassMask
    targets: Streams[Tensor]
    weights: Streams[Tensor]
    later: Sequence[str] = ()

    def to(self, device: torch.device) -> Self:
        """The same batch on a device."""

        def moved(record: T) -> T:
            values = {one.name: getattr(record, one.name) for one in fields(record)}
            tensors = {k: v.to(device) for k, v in values.items() if isinstance(v, Tensor)}
            shares = values.get("text_shares")
            if shares is not None:
                tensors["text_shares"] = replace(shares, weights=shares.weights.to(device))
            return replace(record, **tensors)

        tensors = (streams.map(lambda x: x.to(device)) for streams in (self.targets, self.weights))
        return type(self)(self.prompts, self.inputs.map(moved), moved(self.keep), *tensors, self.later)


class Spans(NamedTuple):
    """Clips of two spans. joined: their latents, and the scenes of the first span. later: the scenes of the second
    span.
    """

    joined: Examples
    later: Sequence[Scene]
    border_s: float

    @classmethod
    def draw(cls, examples: Examples, rng: np.random.Generator) -> Self:
        """Cut clips at a latent frame, and continue each with another clip of the batch from the same time on."""
        order = [*range(len(examples.scenes))]
        if rng.random() < SAME_KIND:
            order.sort(key=lambda row: examples.scenes[row].kind)
        frame = int(rng.integers(2, examples.grid[0] - 1))
        border_s = (8 * frame - 7) / FPS
        step = round(border_s * AUDIO_LATENTS_PER_SECOND)
        first, second = order, order[1:] + order[:1]
        video, audio = (
            torch.cat([x[first, :, :at], x[second, :, at:]], dim=2)
            for x, at in ((examples.video, frame), (examples.audio, step))
        )
        mask = torch.cat([examples.mask[first, :frame], examples.mask[second, frame:]], dim=1)
        scenes, later = ([examples.scenes[row] for row in rows] for rows in (first, second))
        return cls(Examples(video, audio, mask, scenes), later, border_s)


def make_batch(examples: Examples, rng: np.random.Generator, *, is_large: bool, has_spans: bool = False) -> Batch:
    """Draw prompts, noise levels, noise, and what each sample leaves out. has_spans: whether the clips have two
    spans.
    """
    spans = Spans.draw(examples, rng) if has_spans else None
    if spans is not None:
        examples = spans.joined
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
    clean = Streams(
        *(x.repeat_interleave(DRAWS, 0) for x in (patchify_video(examples.video), patchify_audio(examples.audio)))
    )
    count = len(clean.video)
    sigma = draw_sigmas(rng, count) * (LARGE_SIGMA if is_large else 1.0)
    role = rng.random(count)
    frozen = Streams(role < VIDEO_CLEAN, (role >= VIDEO_CLEAN) & (role < VIDEO_CLEAN + AUDIO_CLEAN))
    isolated = (role >= VIDEO_CLEAN + AUDIO_CLEAN) & (rng.random(count) < ISOLATED)
    kept = torch.from_numpy(~isolated).bfloat16()[:, None, None]
    positions = Streams(video_positions(examples.grid, Fraction(FPS), FACTORS), audio_positions(AUDIO_STEPS))
    times = None if spans is None else TextTimes(texts=(0, 1), borders=(spans.border_s,), ramp_s=8 / FPS)
    masks = draw_masks(rng, positions, examples.grid, count) if rng.random() < PARTLY_GIVEN else Streams(None, None)
    touched = Streams(rearrange(examples.mask, "b f h w -> b (f h w)").repeat_interleave(DRAWS, 0), 0)

    def noised(x: Tensor, frozen: np.ndarray, position: Tensor, mask: list[Tensor | None], touched: Any) -> Any:
        level = sigma * torch.from_numpy(~frozen)
        noise = torch.randn(x.shape, generator=generator)
        is_free = torch.ones(x.shape[:2]) if mask[0] is None else mask[0]
        timesteps = (level[:, None] * is_free)[..., None]
        given = StreamInput(
            latent=torch.lerp(x, noise, timesteps),
            sigma=level,
            unique_timesteps=level[:, None] if mask[0] is None else torch.stack([torch.zeros_like(level), level], 1),
            timestep_index=None if mask[0] is None else mask[0].long(),
            positions=position,
            context=(),
            text_shares=None if times is None else shares_of(times.weights(position)),
        )
        return given, noise - x, is_free * (level > 0)[:, None] * (1 + ON_OBJECT * touched)

    parts = clean.map(noised, frozen, positions, Streams([masks.video], [masks.audio]), touched)
    inputs, targets, weights = (Streams(*which) for which in zip(*parts, strict=True))
    prompts = [draw_prompt(scene, rng) for scene in examples.scenes]
    later = [] if spans is None else [draw_prompt(scene, rng) for scene in spans.later]
    return Batch(prompts, inputs, PassMask(audio_to_video=kept, video_to_audio=kept), targets, weights, later)


def shares_of(weights: Tensor) -> TextShares:
    """The shares for weights (texts n). Every token reads all texts, so one compiled block works for all borders."""
    count, tokens = weights.shape
    return TextShares(weights, (TextRun(0, tokens, (*range(count),)),))


def draw_sigmas(rng: np.random.Generator, count: int) -> Tensor:
    """Noise levels (count), stratified over their distribution: most where scenes take shape, some near the end of
    sampling.
    """
    even = rng.permutation((np.arange(count) + rng.random(count)) / count)
    usual = torch.sigmoid(1.1 + 1.5 * torch.special.ndtri(torch.from_numpy(even)))
    low = torch.from_numpy(rng.uniform(*LOW, count))
    return torch.where(torch.from_numpy(rng.random(count) < LOW_SIGMA), low, usual).float()


def draw_masks(rng: np.random.Generator, positions: Streams[Tensor], grid: Grid, count: int) -> Streams[Tensor]:
    """The tokens (b n) to generate: all but the first frame, those that overlap a window, or all after a point in
    time.
    """
    duration_s = FRAMES / FPS
    starts_s, lengths_s = rng.uniform(0, duration_s - 0.3, count), rng.uniform(0.3, duration_s, count)
    after, choice = duration_s + 1, rng.integers(3, size=count)
    is_window, is_prefix = choice == 0, choice == 1  # otherwise the first frame is given
    starts_s, ends_s = (
        torch.from_numpy(times_s)[:, None].float()
        for times_s in (
            np.where(is_window | is_prefix, starts_s, -1.0),
            np.where(is_window, starts_s + lengths_s, after),
        )
    )

    def inside(position: Tensor) -> Tensor:
        start, end = position[:, 0].unbind(-1)
        return ((end > starts_s) & (start < ends_s)).float()

    masks = positions.map(inside)
    cells = grid[1] * grid[2]
    masks.video[:, :cells] *= torch.from_numpy(is_window)[:, None]  # a window may begin at the start of the clip
    return masks


def draw_prompt(scene: Scene, rng: np.random.Generator) -> str:
    """A sentence about a scene, sometimes with a misspelt word, sometimes empty."""
    sentence = prompt(scene, rng)
    if rng.random() < NO_TEXT:
        return ""
    if rng.random() < MISSPELLED:
        at = int(rng.integers(len(sentence) - 1))
        return sentence[:at] + sentence[at + 1 :] if rng.random() < 0.5 else sentence[: at + 1] + sentence[at:]
    return sentence


class Bins:
    """Mean errors of each stream by noise level, since the last reading."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, stream: str, sigma: Tensor, errors: Tensor, counts: Tensor) -> None:
        """Add the errors (b n) of samples with noise levels (b); counts: the tokens that count (b n)."""
        which = torch.bucketize(sigma, torch.tensor(SIGMA_BINS, device=sigma.device))
        sums = self.sums.setdefault(stream, torch.zeros(len(SIGMA_BINS), 2, device=sigma.device))
        sums.index_add_(0, which, torch.stack([(errors * counts).sum(-1), counts.sum(-1)], dim=-1))

    def read(self) -> str:
        """The means as text. Starts a new measurement."""
        means = {stream: (sums[:, 0] / sums[:, 1]).tolist() for stream, sums in self.sums.items()}
        self.sums.clear()
        return "; ".join(f"{stream} " + " ".join(f"{mean:.3f}" for mean in row) for stream, row in means.items())


def loss_of(velocities: Streams[Tensor], batch: Batch, bins: Bins) -> Tensor:
    """The weighted mean squared error of both streams. bins: records the errors."""
    losses = []
    for name, velocity, target, weight, given in zip(
        Streams._fields, velocities, batch.targets, batch.weights, batch.inputs, strict=True
    ):
        errors = reduce((velocity.float() - target).square(), "b n c -> b n", "mean")
        losses.append((errors * weight).sum() / weight.sum().clamp(min=1))
        bins.add(name, given.sigma, errors.detach(), weight > 0)
    return torch.stack(losses).sum()


def pace(step: int, count: int, first: int) -> float:
    """The learning rate relative to its highest value: a warm-up, a long constant part, and a decay at the end."""
    up = min(1.0, (step + 1 - first) / WARM_UP)
    down = min(1.0, max(LOWEST, (count - step) / (count * (1 - DECAY_FROM))))
    return min(up, down)


def optimisers(model: Denoised, rate: float) -> dict[str, torch.optim.Optimizer]:
    """Muon for the matrices of the denoiser's blocks, AdamW for everything else."""
    matrices = [part.weight for part in model.denoiser.blocks.modules() if isinstance(part, nn.Linear)]
    chosen = set(map(id, matrices))
    others = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    adam = torch.optim.AdamW(others, rate * RATES["adam"], (0.9, 0.98), weight_decay=0.0, fused=True)
    return {"muon": Muon(matrices, rate * RATES["muon"]), "adam": adam}


def ship(model: Denoised, out: Path, steps: int) -> None:
    """Write the present weights in the official layout."""
    text = model.text
    parts = {
        "transformer": model.denoiser,
        "text_projection": text.projection,
        "video_connector": text.video_connector,
        "audio_connector": text.audio_connector,
    }
    save(FILE, parts, out, transformer_steps=steps)
    save_gemma(text.gemma, out)
    save_tokenizer(out)


def train(options: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.fresh:
        model = Denoised(fresh("transformer", options.seed), TextPath.fresh(options.seed))
    else:
        model = Denoised(trained("transformer", options.out), TextPath.trained(options.out))
    model.to(device)
    model.advance = torch.compile(advance, fullgraph=True, dynamic=False)
    optimiser = optimisers(model, options.rate)
    average = Average(model.parameters(), AVERAGE)
    run = Run(options.state, {"model": model, "average": average, **optimiser})
    cache, codec, bins = Cache(options.cache, options.kinds), Codec.load(*CODEC, folder=options.out), Bins()
    first, began, probed = run.step, time.monotonic(), time.monotonic()
    for step in run.steps(options.steps):
        rng = np.random.default_rng((options.seed, step))
        is_large = rng.random() < options.large
        count = options.batch // (LARGE_COST if is_large else 1)
        examples = cache.draw(rng, count // DRAWS, LARGE_GRID if is_large else VIDEO_GRID)
        has_spans = not is_large and rng.random() < options.spans
        batch = make_batch(examples, rng, is_large=is_large, has_spans=has_spans).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            loss = loss_of(model(batch), batch, bins)
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for name, one in optimiser.items():
            for group in one.param_groups:
                group["lr"] = options.rate * RATES[name] * pace(step, options.steps, first)
            one.step()
            one.zero_grad()
        average.update()
        if (step + 1) % REPORT_EVERY == 0:
            speed = options.batch * (step + 1 - first) / (time.monotonic() - began)
            print(f"step {step + 1} {bins.read()}; {len(cache)} clips, {speed:.1f} samples/s", flush=True)
            cache.refresh()
        if time.monotonic() - probed > 60 * options.probe_minutes or step + 1 == options.steps:
            with average.applied():
                ship(model, options.out, step + 1)
                print(probe(model.denoiser, model.text, codec, options.kinds, PROBED), flush=True)
            probed = time.monotonic()


def main() -> None:
    parser = options_of(__doc__, steps=20000, rate=0.01)
    parser.add_argument("cache", type=Path, metavar="CACHE", help="folder of the shards")
    parser.add_argument("--kinds", type=Kind, nargs="+", default=list(Kind), choices=list(Kind), help="kinds of scenes")
    parser.add_argument("--batch", type=int, default=32, help="samples per step")
    parser.add_argument("--large", type=float, default=0.0, help="share of the steps with clips of twice the size")
    parser.add_argument(
        "--spans", type=float, default=0.0, help="share of the steps with clips of two spans and prompts"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--probe-minutes", type=float, default=15)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
