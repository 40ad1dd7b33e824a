"""Compare the video VAE with both decoders, its tiles and the latent upsamplers with their golden tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from einops import rearrange
from safetensors import safe_open
from torch import Tensor, nn

from ltx2_core import diffusion_tiles
from ltx2_core.checkpoint import load_component
from ltx2_core.config.diffusion_decoder import AttentionStage, DiffusionDecoderConfig, Growth
from ltx2_core.config.video_vae import VideoVAEConfig
from ltx2_core.grids import Factors, VideoGrid
from ltx2_core.headers import Header, read_header
from ltx2_core.keymap import own_names
from ltx2_core.models.diffusion_decoder import DiffusionDecoder
from ltx2_core.models.upsampler import LatentUpsampler, upsample_latent
from ltx2_core.models.video_vae import ChannelStatistics, VideoDecoder, VideoEncoder
from ltx2_core.tiles import Axes, Cut, Interval, TilePlan, lead_in, pixels, split
from ltx2_core.tiling.blending import trapezoid
from ltx2_core.tiling.diffusion import decode_diffused
from ltx2_core.tiling.video import decode_tiled, encode_tiled
from ltx2_core.weights import map_tensors
from scripts.golden.report import GoldenFile, Report

TOLERANCE, TILED_TOLERANCE = 1e-5, 2e-5
VAE_INPUTS = ("*encode*_u8", "*decode*.latent", "*decode.noise", "stats.x")
DIFFUSION_INPUTS = ("encode.video_u8", "latent", "first.latent", "small.latent", "*noise")
UPSAMPLER_INPUTS = ("latent", "stats.*")
FACTORS = Factors(8, 32, 32)  # compression factors of the models in tile_plans.json


def run(folder: Path, where: str, report: Report) -> None:
    """Check a folder of a VAE or of an upsampler, depending on the config of its checkpoint."""
    header = read_header(folder / "checkpoint.safetensors")
    for path in sorted(folder.glob("cases*.safetensors")):
        with torch.inference_mode():
            if is_diffusion(header):
                has_latent = "decoder.conv_in.weight" in header.tensors  # otherwise the first stages were left out
                inputs = DIFFUSION_INPUTS if has_latent else (*DIFFUSION_INPUTS, "stage4_input")
                DiffusionCases(GoldenFile(path, where, report, inputs), header).run()
            elif "vae" in header.config:
                VAECases(GoldenFile(path, where, report, VAE_INPUTS), header).run()
            else:
                run_upsampler(GoldenFile(path, where, report, UPSAMPLER_INPUTS), header)


def is_diffusion(header: Header) -> bool:
    """Whether a checkpoint is a VAE with the diffusion decoder."""
    if "vae" not in header.config:
        return False
    return isinstance(VideoVAEConfig.from_metadata(header.config).decoder, DiffusionDecoderConfig)


class VAECases:
    """The cases of one file: the name of a case is the prefix of its tensors."""

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


class DiffusionCases:
    """The cases of a file for the diffusion decoder, which share a latent and its noise."""

    def __init__(self, golden: GoldenFile, header: Header) -> None:
        self.golden, self.header = golden, header
        self.info = golden.json("info")

    @cached_property
    def decoder(self) -> DiffusionDecoder:
        """The decoder, or the part of it that the checkpoint contains."""
        if "decoder.conv_in.weight" in self.header.tensors:
            return cast(DiffusionDecoder, load_component("video_decoder", self.header, dtype=torch.float32))
        with torch.device("meta"):
            decoder = DiffusionDecoder(VideoVAEConfig.from_metadata(self.header.config)).requires_grad_(False)
        names = own_names("video_decoder", self.header)
        tensors = {names[name]: tensor for name, tensor in map_tensors(self.header, names).items()}
        unknown = decoder.load_state_dict(tensors, strict=False, assign=True).unexpected_keys  # others stay empty
        if unknown:
            raise ValueError(f"{self.header.path.name} has tensors that no decoder has: {unknown}")
        return decoder

    def run(self) -> None:
        cases = {"video": self.whole, "context": self.context, "edge_replicated": self.edges, "encode": self.encode}
        if "latent" in self.golden:
            cases["stage4_input"] = self.features
        for name in [name for name in self.golden.tensors if name.split(".")[0] in ("small", "tiled")]:
            if name.rpartition("_")[-1] in ("1step", "2steps", "1steps", "3steps"):
                cases[name] = self.small if name.startswith("small") else self.tiles
        for name, check in cases.items():
            if any(own.split(".")[0] == name or own == name for own in self.golden.tensors):
                with self.golden.case(name):
                    check(name)
        self.golden.close(case_of)

    def encode(self, case: str) -> None:
        encoder = cast(VideoEncoder, load_component("video_encoder", self.header, dtype=torch.float32))
        video = (self.golden["encode.video_u8"].float() / 127.5 - 1).unsqueeze(0)
        self.golden.compare("encode.latent", encoder(video), TOLERANCE, case)

    def whole(self, case: str) -> None:
        """One step, with windows that are shifted inwards."""
        video = self._decode("latent", "noise", repeats_edges=False)
        self.golden.compare(case, video, TILED_TOLERANCE, case)

    def features(self, case: str) -> None:
        """The output of the first three stages for the latent."""
        volume = self.decoder.features(self.golden["latent"]).volume
        self.golden.compare(case, volume, TILED_TOLERANCE, case)

    def context(self, case: str) -> None:
        """The output of the fourth stage."""
        volume = self.golden["stage4_input"]
        context = self.decoder.context(volume, is_start=True, ghosts=self.decoder.ghost_cells)
        self.golden.compare(f"{case}.first5", context[:, :5], TILED_TOLERANCE, case)

    def edges(self, case: str) -> None:
        """The latent and noise of the first file, padded with copies of the edges."""
        self.golden.tensors |= {f"first.{name}": tensor for name, tensor in self._first().items()}
        video = self._decode("first.latent", "first.noise", repeats_edges=True)
        self.golden.compare(f"{case}.video", video, TILED_TOLERANCE, case)

    def _first(self) -> dict[str, Tensor]:
        with safe_open(self.golden.path.with_name("cases.safetensors"), "pt") as file:
            return {name: file.get_tensor(name) for name in ("latent", "noise")}

    def small(self, case: str) -> None:
        """`small.BORDER.TYPE_Nsteps`: a latent that is smaller than the windows."""
        _, border, kind = case.split(".")
        predicts, steps = kind.removesuffix("steps").split("_")
        given = replace(self.decoder.decoder, predicts=predicts, steps=int(steps))
        video = self._decode("small.latent", "small.noise", repeats_edges=border != "shifted", config=given)
        self.golden.compare(case, video, TILED_TOLERANCE, case)

    def tiles(self, case: str) -> None:
        """`tiled.x0_Nsteps`: with shared noise, or with noise that each tile draws."""
        given = replace(self.decoder.decoder, steps=self.info["steps"])
        noise = "noise" if "noise" in self.golden else None
        plan = plan_of(self.info["tiling"])
        video = self._decode("latent", noise, repeats_edges=self.info["border"] != "shift", config=given, plan=plan)
        self.golden.compare(case, video, TILED_TOLERANCE, case)

    def _decode(
        self,
        latent: str,
        noise: str | None,
        *,
        repeats_edges: bool,
        config: DiffusionDecoderConfig | None = None,
        plan: TilePlan | None = None,
    ) -> Tensor:
        decoder, released = self.decoder, self.decoder.decoder
        decoder.repeats_edges, decoder.decoder = repeats_edges, config or released
        generator = torch.Generator().manual_seed(self.info.get("noise_seed", 0))
        given = None if noise is None else self.golden[noise].float()
        chunks = decode_diffused(self.golden[latent], decoder, plan or TilePlan(), generator, given)
        try:
            return torch.cat(list(chunks), dim=2)
        finally:
            decoder.decoder = released


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
    """Compare the outputs of the submodules whose names begin with a prefix, while the body runs."""

    def compare(name: str) -> Callable[..., None]:
        def hook(submodule: nn.Module, inputs: Any, output: Tensor) -> None:
            if output.ndim < golden[name].ndim:  # the frames are folded into the batch
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
    """A plan from [tile, overlap] for frames, rows and columns; null leaves an axis uncut."""
    frames, height, width = (None if cut is None else Cut(*cut) for cut in tiling)
    return TilePlan(frames=frames, height=height, width=width)


def run_tile_plans(path: Path, where: str, report: Report) -> None:
    """Check the plans for real sizes, which consist only of numbers: exact or wrong."""
    checks = {"split": check_split, "mask": check_mask, "conv": check_conv, "auto_conv": check_auto}
    checks |= {"diffusion": check_diffusion, "auto_diffusion": check_auto_diffusion}
    for key, entries in json.loads(path.read_text()).items():
        for i, entry in enumerate(entries):
            here, tensor = f"{where}/{key}", f"{key}.{i}"
            if key not in checks:
                report.add_uncompared(here, tensor, "nothing was compared with this entry")
                continue
            wrong = [name for name, (ours, expected) in checks[key](entry).items() if ours != expected]
            report.add_compared(here, tensor, float(len(wrong)), 0.0, ", ".join(wrong))


Pairs = Mapping[str, tuple[Any, Any]]  # our result and the expected one


def check_split(entry: Mapping[str, Any]) -> Pairs:
    plain = split(entry["length"], entry["size"], entry["overlap"])
    least = min(entry.get("min_size") or 0, entry["length"])
    ours = {"plain": diffusion_tiles.grown(plain, least), "causal": lead_in(plain)}
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


# The sizes of the released diffusion decoder on which tile plans depend.
RELEASED = DiffusionDecoderConfig(
    patch_size=4,
    head_dim=64,
    stages=(AttentionStage(channels=512, depth=2, kernel=Factors(3, 5, 5)),),
    growths=(Growth(stride=Factors(2, 2, 2), reduction=2),),
    denoiser=AttentionStage(channels=256, depth=8, kernel=Factors(11, 11, 11)),
    embedding_width=384,
    timestep_scale=1000,
    predicts="x0",
    steps=1,
)
GIB = 2**30


def clip_of(entry: Mapping[str, Any]) -> VideoGrid:
    return VideoGrid(frames=entry["frames"], height=entry["height"], width=entry["width"], factors=FACTORS)


def check_diffusion(entry: Mapping[str, Any]) -> Pairs:
    plan = plan_of([list(one) for one in zip(entry["tile"], entry["overlap"], strict=True)])
    grid = clip_of(entry)
    cells = diffusion_tiles.cut(plan, grid, RELEASED)
    axes = [
        [[a.start, a.stop, b.start, b.stop, b.left, b.right] for a, b in zip(ins, outs, strict=True)]
        for ins, outs in zip(cells, diffusion_tiles.pixels(cells, RELEASED), strict=True)
    ]
    return {
        "axes": (axes, entry["axes"]),
        "stage4_grid": (list(diffusion_tiles.cells_of(grid, RELEASED)), entry["stage4_grid"]),
    }


def check_auto_diffusion(entry: Mapping[str, Any]) -> Pairs:
    """Check the plans with the official estimate of a tile's memory, which differs from the estimate of this
    program.
    """
    frames, height, width = entry["frames"], entry["height"], entry["width"]
    features = (4 * ((frames - 1) // FACTORS.time + 3) - 3) * (height // 8) * (width // 8) * 512 * 2
    usable = entry["free_bytes"] - max(entry["weight_bytes"], GIB) - GIB - features

    def fits(plan: TilePlan) -> bool:
        tile = [cut.tile for cut in plan.cuts if cut is not None]
        sums = 2 * tile[0] * height * width * 3 * 2
        return sums < usable and sums + tile[0] * (tile[1] // 4) * (tile[2] // 4) * 256 * 2 * 5 <= usable

    plan = diffusion_tiles.auto(clip_of(entry), RELEASED, fits)
    found = None if plan is None else [cut.tile for cut in plan.cuts if cut is not None]
    return {"tile": (found, entry["tile"])}


def rows(intervals: list[Interval]) -> list[list[int]]:
    return [list(astuple(piece)) for piece in intervals]


def bounds(source: Axes, target: Axes) -> list[list[list[int]]]:
    """For each axis and tile: start and stop in the input, start and stop in the output."""
    return [
        [[a.start, a.stop, b.start, b.stop] for a, b in zip(ins, outs, strict=True)]
        for ins, outs in zip(source, target, strict=True)
    ]
