"""Time our video decoder and vocoder against those of diffusers with the same random weights, like `paired`."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ltx2_core import keymap
from ltx2_core.checkpoint import BUILDERS
from ltx2_core.config.released import released_configs
from ltx2_core.types import Streams
from scripts.diffusers_names import REFERENCES

from .paired import Limits, Pair, Setup, figures, in_turns
from .section import Section
from .subjects import FACTORS, Call, Size

LIMITS = {"video decoder": Limits(ratio=0.95, difference=1e-4), "vocoder": Limits(ratio=1.0, difference=1e-4)}
SPECTROGRAM = (2, 64)  # channels and mel bands
STEPS_PER_S = 100
GAIN = 2**0.5  # keeps the size of activations constant through many layers


def section(setup: Setup) -> Section:
    """Measure both, describe the results, and compare them with the limits if the setup has any."""
    works = {"video decoder": _video(setup), "vocoder": _vocoder(setup)}
    pairs: dict[str, Pair] = {}
    for name, (what, calls) in works.items():
        print(f"timing: {name}, {what}", file=sys.stderr, flush=True)
        pairs[name] = in_turns(calls, setup.device, setup.runs)
    if any(pair.difference is None for pair in pairs.values()):
        verdict, is_good = "diffusers is not installed; `make parity` brings it", setup.limits is None
    else:
        reached = {name: Limits(pair.ratio, pair.difference or 0.0) for name, pair in pairs.items()}
        ratios = (f"{name} {one.ratio:.3f} (ours/theirs)" for name, one in reached.items())
        verdict = ", ".join([*ratios, f"agree to {max(one.difference for one in reached.values()):.1e}"])
        is_good = setup.limits is None or all(
            all(map(operator.le, reached[name], limits)) for name, limits in LIMITS.items()
        )
    return Section(
        title=f"Time of the decoders on {setup.device_name}",
        facts=[
            f"LTX-2 2.0, the same random weights in both programs, {str(setup.dtype).removeprefix('torch.')}, the "
            "vocoder in float32, no tiles, nothing compiled",
            "medians of several runs of both programs, which alternate in one process after two warm-up runs; the "
            "ratio is the median over neighbouring runs",
        ],
        rows=[{"work": name, "size": what} | figures(pairs[name], setup) for name, (what, _) in works.items()],
        verdict=verdict,
        is_good=is_good,
        runs={f"{name} {what}": pairs[name].seconds[0] for name, (what, _) in works.items()},
    )


def _video(setup: Setup) -> tuple[str, list[Call]]:
    """Decode a whole latent to pixels."""
    width, height, frames = setup.decoded
    ours, state = random_module("video_decoder", setup)
    shape = ((frames - 1) // FACTORS.time + 1, height // FACTORS.height, width // FACTORS.width)
    latent = torch.randn(1, ours.config.latent_channels, *shape, dtype=setup.dtype, device=setup.device)

    def reference(vae: Any) -> Call:
        mean, deviation = (rearrange(one, "c -> c 1 1 1") for one in (vae.latents_mean, vae.latents_std))
        return _call(lambda: vae.decode(latent * deviation + mean, return_dict=False)[0])

    return _sized(setup.decoded), [_call(lambda: ours(latent)), *_theirs("video_vae", state, reference)]


def _vocoder(setup: Setup) -> tuple[str, list[Call]]:
    """Make a waveform as long as the clip from a spectrogram."""
    steps = round(setup.decoded[2] / 24 * STEPS_PER_S)
    ours, state = random_module("vocoder", setup, torch.float32)
    channels, bands = SPECTROGRAM
    spectrogram = torch.randn(1, channels, steps, bands, device=setup.device)
    calls = [_call(lambda: ours(spectrogram))]
    return f"{steps} steps", calls + _theirs("vocoder", state, lambda model: _call(lambda: model(spectrogram)))


def random_module(name: str, setup: Setup, dtype: torch.dtype | None = None) -> tuple[Any, dict[str, Tensor]]:
    """A module of the released size with random weights, and these weights by their official names."""
    with torch.device("meta"):
        module = BUILDERS[name](released_configs()["2.0"])
    module = module.to(dtype or setup.dtype).to_empty(device=setup.device).requires_grad_(False).eval()
    torch.manual_seed(0)
    for own, tensor in module.state_dict().items():
        if own.endswith("std-of-means"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.ndim > 1:
            nn.init.normal_(tensor, std=GAIN / tensor[0].numel() ** 0.5)
        else:
            nn.init.normal_(tensor, std=0.02)
    return module, {keymap.official_name(name, own): tensor for own, tensor in module.state_dict().items()}


def _theirs(name: str, state: Mapping[str, Tensor], call: Callable[[Any], Call]) -> list[Call]:
    """The same call in diffusers, if it is installed. Raises: ValueError if the diffusers module lacks one of the
    tensors.
    """
    if not find_spec("diffusers"):
        return []
    reference = REFERENCES[name]
    with torch.device("meta"):
        model = resolve_name(reference.path)(**reference.settings(released_configs()["2.0"]))
    missing, unexpected = model.load_state_dict(reference.state(state), strict=False, assign=True)
    if unexpected or any(not one.startswith("encoder.") for one in missing):
        raise ValueError(f"{name} of diffusers: missing {missing[:3]}, unexpected {unexpected[:3]}")
    return [call(model.requires_grad_(False).eval())]


def _call(compute: Callable[[], Tensor]) -> Call:
    return lambda: Streams(compute(), None)


def _sized(size: Size) -> str:
    return "x".join(map(str, size))
