"""Train the distilled LoRA of the toy model: `scripts/toy/train_distilled.py PATHS --state DIR`.

The guided denoiser is the teacher. PATHS stores the states of its sampling paths at the noise levels of the distilled
schedule, for prompts of the world; missing paths are sampled first. The student has the same weights plus low-rank
changes. It learns to go from each level to the next in one step without guidance. The training continues from the state
in DIR.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that it runs from anywhere

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from ltx2_core import keymap
from ltx2_core.latents import audio_positions, video_positions
from ltx2_core.models.passes import PassMask, StreamInput
from ltx2_core.models.transformer import Transformer
from ltx2_core.sampling.distilled import DISTILLED_SIGMAS
from ltx2_core.sampling.guidance import GuidanceScales
from ltx2_core.sampling.samplers import sample_euler
from ltx2_core.types import Streams
from scripts.toy import world
from scripts.toy.model import (
    AUDIO_CHANNELS,
    AUDIO_STEPS,
    FPS,
    HOME,
    LORA_RANK,
    VIDEO_CHANNELS,
    VIDEO_GRID,
    trained,
    write,
)
from scripts.toy.probe import FACTORS, TEXT_SCALE, guided, noisy_states
from scripts.toy.prompts import prompt
from scripts.toy.text_path import TextPath
from scripts.toy.train_transformer import DRAWS, Batch, Bins, Denoised, advance, loss_of, pace
from scripts.toy.training import Average, Run

FILE = "distilled_lora.safetensors"
SIGMAS = DISTILLED_SIGMAS["distilled-8"]
FINE_STEPS = 3  # steps of the teacher between two levels
SHARD = 16  # clips per shard
SHARES = np.array([1, 0.5, 0.5, 0.5, 1.5, 2, 2, 2])  # relative frequency of each level in the training
REPORT_EVERY = 50


@torch.inference_mode()
def make_paths(folder: Path, count: int, denoiser: Transformer, text: TextPath, scale: float) -> None:
    """Sample clips with the teacher; store their prompts, and the states (b level n c) of both streams at the
    levels.
    """
    shape = Streams(
        torch.zeros(SHARD, VIDEO_CHANNELS, *VIDEO_GRID), torch.zeros(SHARD, AUDIO_CHANNELS, AUDIO_STEPS, 16)
    )
    scales = Streams(GuidanceScales(st=scale), GuidanceScales(st=scale))
    for first in range(0, count, SHARD):
        path = folder / f"{first:06}.safetensors"
        if path.is_file():
            continue
        started = time.monotonic()
        rng = np.random.default_rng((1, first))
        prompts = [prompt(world.draw(rng), rng) for _ in range(SHARD)]
        denoise = guided(denoiser, text([*prompts, ""]), scales)
        states = noisy_states(shape, Streams(None, None), torch.Generator().manual_seed(first))
        passed = [states]
        for start, end in pairwise(SIGMAS):
            with torch.autocast("cpu", torch.bfloat16):
                states = sample_euler(denoise, states, torch.linspace(start, end, FINE_STEPS + 1), lambda *_: None)
            passed.append(states)
        kept = {
            stream: torch.stack([getattr(states, stream).latent for states in passed], 1).half()
            for stream in Streams._fields
        }
        write(path, kept, {"prompts": json.dumps(prompts)})
        print(f"{path.name}: {(time.monotonic() - started) / SHARD:.2f} s per clip", flush=True)


class Paths:
    """The paths of the teacher on disk."""

    def __init__(self, folder: Path) -> None:
        self.shards: list[tuple[list[str], Streams[Tensor]]] = []
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                states = Streams(*(file.get_tensor(stream) for stream in Streams._fields))
                self.shards.append((json.loads(file.metadata()["prompts"]), states))

    def batch(self, rng: np.random.Generator, count: int) -> Batch:
        """States on paths at random levels, and the velocities that lead to the next level in a single step."""
        prompts: list[str] = []
        starts, ends, sigma, length = Streams([], []), Streams([], []), [], []
        for _ in range(count // DRAWS):
            texts, states = self.shards[rng.integers(len(self.shards))]
            row = rng.integers(len(texts))
            prompts.append(texts[row])
            for level in rng.choice(len(SHARES), DRAWS, p=SHARES / SHARES.sum()):
                sigma.append(SIGMAS[level])
                length.append(SIGMAS[level] - SIGMAS[level + 1])
                for kept, start, end in zip(states, starts, ends, strict=True):
                    start.append(kept[row, level].float())
                    end.append(kept[row, level + 1].float())
        levels, lengths = torch.tensor(sigma), torch.tensor(length)[:, None, None]
        positions = Streams(video_positions(VIDEO_GRID, Fraction(FPS), FACTORS), audio_positions(AUDIO_STEPS))
        latents, targets = (streams.map(torch.stack) for streams in (starts, ends))
        inputs = latents.map(
            lambda x, position: StreamInput(
                latent=x, sigma=levels, unique_timesteps=levels[:, None], positions=position, context=()
            ),
            positions,
        )
        targets = latents.map(lambda start, end: (start - end) / lengths, targets)
        keep = torch.ones(len(levels), 1, 1, dtype=torch.bfloat16)
        weights = latents.map(lambda x: torch.ones(x.shape[:2]))
        return Batch(prompts, inputs, PassMask(audio_to_video=keep, video_to_audio=keep), targets, weights)


class Adapted(nn.Module):
    """A linear layer with a trainable low-rank change of its weight; the weight itself is fixed."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, linear.in_features) * linear.in_features**-0.5)
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.linear.weight + self.up @ self.down, self.linear.bias)


def adapt(denoiser: Transformer, rank: int) -> dict[str, Adapted]:
    """Give every linear layer of the blocks a low-rank change. Returns: the changes by the name of the layer."""
    adapted = {}
    for name, linear in list(denoiser.blocks.named_modules(prefix="blocks")):
        if isinstance(linear, nn.Linear):
            owner, _, leaf = name.rpartition(".")
            adapted[name] = Adapted(linear, rank)
            setattr(denoiser.get_submodule(owner), leaf, adapted[name])
    return adapted


def lora_tensors(adapted: dict[str, Adapted]) -> dict[str, Tensor]:
    """The changes with the names of a LoRA file."""
    tensors = {}
    for name, layer in adapted.items():
        key = f"diffusion_model.{keymap.to_official(name, keymap.TRANSFORMER)}"
        tensors[f"{key}.lora_A.weight"] = layer.down.detach().bfloat16().contiguous()
        tensors[f"{key}.lora_B.weight"] = layer.up.detach().bfloat16().contiguous()
    return tensors


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    denoiser, text = trained("transformer", options.out), TextPath.trained(options.out)
    make_paths(options.paths, options.clips, denoiser, text, options.scale)
    model = Denoised(denoiser.requires_grad_(False), text.requires_grad_(False))
    adapted = adapt(denoiser, LORA_RANK)
    model.advance = torch.compile(advance, fullgraph=True, dynamic=False)
    changes = nn.ModuleDict({name.replace(".", "-"): layer for name, layer in adapted.items()})
    learned = [parameter for parameter in changes.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learned, options.rate, (0.9, 0.98), weight_decay=0.0, fused=True)
    average = Average(learned, 0.998)
    run = Run(options.state, {"changes": changes, "average": average, "optimiser": optimiser})
    paths, bins, first = Paths(options.paths), Bins(), run.step
    for step in run.steps(options.steps):
        batch = paths.batch(np.random.default_rng((options.seed, step)), options.batch)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model(batch), batch, bins)
            loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.param_groups[0]["lr"] = options.rate * pace(step, options.steps, first)
        optimiser.step()
        optimiser.zero_grad()
        average.update()
        if (step + 1) % REPORT_EVERY == 0:
            print(f"step {step + 1} {bins.read()}; minutes {run.seconds / 60:.1f}", flush=True)
    with average.applied():
        write(options.out / FILE, lora_tensors(adapted), {"rank": str(LORA_RANK), "distilled_steps": str(run.step)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, metavar="PATHS", help="folder of the teacher's paths")
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="folder for the state of the training")
    parser.add_argument("--out", type=Path, default=HOME, metavar="DIR", help="folder of the model and the LoRA")
    parser.add_argument("--clips", type=int, default=1024, help="number of paths of the teacher")
    parser.add_argument("--scale", type=float, default=TEXT_SCALE, help="text guidance of the teacher")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32, help="samples per step")
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
