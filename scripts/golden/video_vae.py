"""The convolutional video VAE, its tiles and the latent upsamplers against their golden tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from ltx2_core.checkpoint import load_component
from ltx2_core.grids import Factors
from ltx2_core.headers import Header, read_header
from ltx2_core.models.upsampler import LatentUpsampler, upsample_latent
from ltx2_core.models.video_vae import ChannelStatistics, VideoDecoder, VideoEncoder
from ltx2_core.tiles import Axes, Cut, Interval, TilePlan, lead_in, pixels, split
from ltx2_core.tiling import decode_tiled, encode_tiled, trapezoid
from scripts.golden.report import GoldenFile, Report

TOLERANCE, TILED_TOLERANCE = 1e-5, 2e-5
VAE_INPUTS = ("*encode*_u8", "*decode*.latent", "*decode.noise", "stats.x")
UPSAMPLER_INPUTS = ("latent", "stats.*")
FACTORS = Factors(8, 32, 32)  # of the models that tile_plans.json is about


def run(folder: Path, where: str, report: Report) -> None:
    """Check a folder of a VAE or of an upsampler; the config of its checkpoint tells them apart."""
    header = read_header(folder / "checkpoint.safetensors")
    for path in sorted(folder.glob("cases*.safetensors")):
        with torch.inference_mode():
            if "vae" in header.config:
                VAECases(GoldenFile(path, where, report, VAE_INPUTS), header).run()
            else:
                run_upsampler(GoldenFile(path, where, report, UPSAMPLER_INPUTS), header)


class VAECases:
    """The cases of one file: a case is what its tensors' names begin with."""

    def __init__(self, golden: GoldenFile, header: Header) -> None:
        self.golden, self.header = golden, header
        self.info = golden.json("info")

    @cached_property
    def encoder(self) -> VideoEncoder:
        return cast(VideoEncoder, load_component("video_encoder", self.header, dtype=torch.float32))

    @cached_property
    def decoder(self) -> VideoDecoder:
        return cast(VideoDecoder, load_component("video_decoder", self.header, dtype=torch.float32))

    def run(self) -> None:
        cases = {"stats": self.statistics, "encode": self.encode, "decode": self.decode}
        cases |= {"tiled_encode": self.encode_tiles, "tiled_decode": self.decode_tiles}
        for case in sorted({case_of(name) for name in self.golden.tensors}):
            check = cases.get(case) or cases.get(case.split("_")[0])
            if check is None or self.golden.waits(case):
                continue
            with self.golden.case(case):
                check(case)
        self.golden.close(case_of)

    def statistics(self, case: str) -> None:
        statistics = self.decoder.per_channel_statistics
        for name, compute in (("normalized", statistics.normalize), ("unnormalized", statistics.unnormalize)):
            if f"{case}.{name}" in self.golden:
                self.golden.compare(f"{case}.{name}", compute(self.golden[f"{case}.x"]), TOLERANCE, case)

    def video(self, case: str) -> Tensor:
        name = next(name for name in (f"{case}.video_u8", f"{case}.image_u8") if name in self.golden)
        return (self.golden[name].float() / 127.5 - 1).unsqueeze(0)

    def encode(self, case: str) -> None:
        video = self.video(case)
        with compared_taps(self.golden, f"{case}.tap.", self.encoder, case):
            latent = self.encoder(video)
        self.golden.compare(f"{case}.latent", latent, TOLERANCE, case)
        if f"{case}.patchified" in self.golden:
            self.golden.compare(f"{case}.patchified", self.encoder.patchify(video[:, :, :1]), TOLERANCE, case)

    def decode(self, case: str) -> None:
        if f"{case}.latent" not in self.golden:  # `decode_t02`: the latent and noise of `decode` with timestep 0.2
            digits = case.rpartition("_t")[-1]
            noisy = self.decoder.add_noise(self.golden["decode.latent"], self.golden["decode.noise"])
            video = self.decoder.decode(noisy, timestep=float(f"{digits[0]}.{digits[1:]}"))
        else:
            generator = torch.Generator().manual_seed(self.info.get("noise_seed", 0))
            with compared_taps(self.golden, f"{case}.tap.", self.decoder, case):
                video = self.decoder(self.golden[f"{case}.latent"], generator)
        self.golden.compare(f"{case}.video", video, TOLERANCE, case)

    def encode_tiles(self, case: str) -> None:
        latent = encode_tiled(self.video(case), self.encoder, plan_of(self.info["tiling"]))
        self.golden.compare(f"{case}.latent", latent, TILED_TOLERANCE, case)

    def decode_tiles(self, case: str) -> None:
        chunks = decode_tiled(self.golden[f"{case}.latent"], self.decoder, plan_of(self.info["tiling"]))
        self.golden.compare(f"{case}.video", torch.cat(list(chunks), dim=2), TILED_TOLERANCE, case)


def run_upsampler(golden: GoldenFile, header: Header) -> None:
    with golden.case("upsampler"):
        upsampler = cast(LatentUpsampler, load_component("upsampler", header, dtype=torch.float32))
        latent = golden["latent"]
        statistics = ChannelStatistics(latent.shape[1])
        statistics.load_state_dict({"mean-of-means": golden["stats.mean"], "std-of-means": golden["stats.std"]})
        unnormalized = statistics.unnormalize(latent)
        with compared_taps(golden, "tap.", upsampler, "tap"):
            upsampled = upsampler(unnormalized)
        results = {"unnormalized": unnormalized, "upsampled": upsampled, "raw_forward": upsampler(latent)}
        results["renormalized"] = upsample_latent(latent, upsampler, statistics)
        for name, ours in results.items():
            if name in golden:
                golden.compare(name, ours, TOLERANCE)
    golden.close(case_of)


@contextmanager
def compared_taps(golden: GoldenFile, prefix: str, module: nn.Module, case: str) -> Iterator[None]:
    """Compare what the submodules that are named after a prefix return while the body runs."""

    def compare(name: str) -> Callable[..., None]:
        def hook(submodule: nn.Module, inputs: Any, output: Tensor) -> None:
            if output.ndim < golden[name].ndim:  # frames folded into the batch
                output = rearrange(output, "(b f) c h w -> b c f h w", b=len(golden[name]))
            golden.compare(name, output, TOLERANCE, case)

        return hook

    names = [name for name in golden.tensors if name.startswith(prefix)]
    hooks = [module.get_submodule(name.removeprefix(prefix)).register_forward_hook(compare(name)) for name in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def case_of(name: str) -> str:
    return name.split(".")[0]


def plan_of(tiling: list[list[int] | None]) -> TilePlan:
    """A plan from [tile, overlap] for frames, rows and columns; null leaves an axis whole."""
    frames, height, width = (None if cut is None else Cut(*cut) for cut in tiling)
    return TilePlan(frames=frames, height=height, width=width)


def run_tile_plans(path: Path, where: str, report: Report) -> None:
    """Check the plans for real sizes, which are numbers only: exact or wrong."""
    checks = {"split": check_split, "mask": check_mask, "conv": check_conv, "auto_conv": check_auto}
    for key, entries in json.loads(path.read_text()).items():
        for i, entry in enumerate(entries):
            owner = "diffusion" if key == "split" and is_grown(entry) else key
            here, tensor = f"{where}/{owner}", f"{key}.{i}"
            if owner not in checks:
                report.add_uncompared(here, tensor, "nothing was compared with this entry")
                continue
            wrong = [name for name, (ours, expected) in checks[owner](entry).items() if ours != expected]
            report.add_compared(here, tensor, float(len(wrong)), 0.0, ", ".join(wrong))


def is_grown(entry: Mapping[str, Any]) -> bool:
    """Whether the last interval would be too short: only the diffusion decoder has a rule for that."""
    plain = split(entry["length"], entry["size"], entry["overlap"])
    return plain[-1].length < min(entry.get("min_size") or 0, entry["length"])


Pairs = Mapping[str, tuple[Any, Any]]  # what we get and what is expected


def check_split(entry: Mapping[str, Any]) -> Pairs:
    plain = split(entry["length"], entry["size"], entry["overlap"])
    ours = {"plain": plain, "causal": lead_in(plain)}
    return {name: (rows(ours[name]), entry[name]) for name in ours if name in entry}


def check_mask(entry: Mapping[str, Any]) -> Pairs:
    mask = trapezoid(entry["length"], entry["left"], entry["right"], from_zero=entry["from_zero"])
    return {"mask": (mask.tolist(), entry["mask"])}


def check_conv(entry: Mapping[str, Any]) -> Pairs:
    cells = plan_of(entry["tiling"]).cells(entry["latent_grid"], FACTORS)
    clip = pixels(cells, FACTORS)
    return {"decode": (bounds(cells, clip), entry["decode"]), "encode": (bounds(clip, cells), entry["encode"])}


def check_auto(entry: Mapping[str, Any]) -> Pairs:
    plan = TilePlan.auto((1, entry["height"] // FACTORS.height, entry["width"] // FACTORS.width), FACTORS)
    rows, columns = entry["tile"]
    expected = plan_of([entry["frames"], [rows, entry["overlap"]], [columns, entry["overlap"]]])
    return {"tile": (plan, expected)}


def rows(intervals: list[Interval]) -> list[list[int]]:
    return [list(astuple(piece)) for piece in intervals]


def bounds(source: Axes, target: Axes) -> list[list[list[int]]]:
    """Per axis and tile: start and stop in the input, start and stop in the output."""
    return [
        [[a.start, a.stop, b.start, b.stop] for a, b in zip(ins, outs, strict=True)]
        for ins, outs in zip(source, target, strict=True)
    ]
