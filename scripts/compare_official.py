"""Compare renders with renders of the official code: PSNR and SSIM of the frames, relative L2 of latents and audio.

    # with recorded runs of the official pipelines, in the format of tests/golden/e2e: stage by stage
    python scripts/compare_official.py recorded tests/golden/e2e/2.0 t2v hq

    # with the official package, if it is installed too: both programs render the request, and the files are compared
    python scripts/compare_official.py render "a kettle starts to whistle" --model FOLDER --preset two-stage --seed 7

The official commands write a file but no latents. For stage 1 of `two-stage`, compare a render with `one-stage` at half
the size. `render` has not been run on released weights yet.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import count, takewhile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import av
import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from ltx2_core.errors import RequestError
from ltx2_core.hub.find import ModelFiles
from ltx2_core.latents import Latents
from ltx2_core.pipeline.render.engine import Engine
from ltx2_core.pipeline.render.models import Models
from ltx2_core.pipeline.render.run import run
from ltx2_core.pipeline.request import Request
from ltx2_core.pipeline.resolve.resolve import resolve
from ltx2_core.pipeline.resolve.settings import COMMAND_LINE
from ltx2_core.tiles import TilePlan
from ltx2_core.tiling.video import decode_video
from ltx2_core.types import Streams
from scripts.benchmarks.section import table
from scripts.golden.packed import unpack
from scripts.golden.recorded_runs import RecordedRuns, case_and_precision
from scripts.likeness import psnr, relative_l2, ssim

SETTINGS = (
    "text_encoder",
    "upsampler",
    "distilled_lora",
    "res",
    "frames",
    "fps",
    "steps",
    "seed",
    "negative",
    "device",
)
OUT = Path("out") / "compare_official"
# The official command for each recipe. Neither these names nor the options below have been tried with released
# weights; the command stops at an option that it does not know.
OFFICIAL = {
    "one-stage": "ltx_pipelines.ti2vid_one_stage",
    "two-stage": "ltx_pipelines.ti2vid_two_stages",
    "hq": "ltx_pipelines.ti2vid_two_stages_hq",
    "distilled": "ltx_pipelines.distilled",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """The frames and the audio of a clip. frames: (F H W 3) uint8. waveform: (2 s). index: the numbers of these frames;
    None for all.
    """

    frames: Tensor | None = None
    waveform: Tensor | None = None
    index: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The results of a render: the latents after each stage, and the media in the file."""

    stages: Sequence[Latents]
    media: Media


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The difference between ours and theirs: PSNR in dB, SSIM, the others relative L2. None if there is nothing to
    compare.
    """

    what: str
    psnr: float | None = None
    ssim: float | None = None
    waveform: float | None = None
    video_latent: float | None = None
    audio_latent: float | None = None

    @property
    def cells(self) -> dict[str, str]:
        return {name: as_text(value) for name, value in asdict(self).items()}


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    for title, rows in options.compare(options):
        print(f"## {title}\n\n{table([row.cells for row in rows])}\n", flush=True)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(required=True)
    recorded = modes.add_parser("recorded", help="compare with recorded runs of the official pipelines")
    recorded.add_argument("folder", type=Path)
    recorded.add_argument("cases", nargs="+", metavar="CASE", help="names of cases; append .bf16 for a run in bfloat16")
    recorded.set_defaults(compare=lambda given: compare_recorded(given.folder, given.cases))
    render = modes.add_parser("render", help="compare with the official package")
    render.add_argument("prompt")
    render.add_argument("--model", required=True)
    render.add_argument("--preset", choices=OFFICIAL, required=True)
    for name in SETTINGS:
        render.add_argument("--" + name.replace("_", "-"))
    render.add_argument("--out", type=Path, default=OUT, help="folder for both clips")
    render.set_defaults(compare=lambda given: compare_rendered(given.prompt, settings_of(given), given.out))
    options = parser.parse_args(arguments)
    if "prompt" in options and find_spec("ltx_pipelines") is None:
        parser.error("the official package ltx-pipelines is not installed in this environment")
    return options


def settings_of(given: argparse.Namespace) -> dict[str, Any]:
    """The settings of a request. The official pipelines compute in bfloat16."""
    return {name: getattr(given, name) for name in ("model", "preset", *SETTINGS)} | {"precision": "bf16"}


# Recorded runs


def compare_recorded(folder: Path, cases: Sequence[str]) -> Iterator[tuple[str, list[Row]]]:
    """Render recorded cases again, and compare every stage: its latents, and the media that our decoders make of both
    latents.
    """
    with tempfile.TemporaryDirectory() as place:
        runs = RecordedRuns(unpack(folder, Path(place)))
        for name in cases:
            case, precision = case_and_precision(name)
            engine = runs.engine(runs.cases[case], precision)
            with tempfile.TemporaryDirectory() as job, torch.inference_mode():
                engine = replace(engine, job=replace(engine.job, folder=Path(job)))
                yield name, compare(our_run(engine), recorded_run(runs.folder / f"{name}.safetensors"), engine)


def our_run(engine: Engine) -> Run:
    """Render with an engine that writes a job folder, and decode in memory."""
    shipped = engine.denoise(torch.Generator(engine.models.device).manual_seed(engine.request.seed))
    stages = [engine.job.load(number + 1).latents for number in range(engine.job.finished_stages)]
    return Run(stages=stages, media=decode(engine, shipped))


def recorded_run(path: Path) -> Run:
    """A run from a file of golden/e2e, in which the audio may be stored as 16-bit integers."""
    tensors = load_file(path)
    stages = ([tensors.get(f"stage{number}.{stream}.latent") for stream in ("video", "audio")] for number in count(1))
    waveform = tensors["wave_i16"] / 32767 if "wave_i16" in tensors else tensors.get("wave")
    return Run(
        stages=[Streams(*latents) for latents in takewhile(lambda pair: pair != [None, None], stages)],
        media=Media(frames=tensors.get("frames_u8"), waveform=waveform, index=tensors.get("frames_index")),
    )


def compare(ours: Run, theirs: Run, engine: Engine) -> list[Row]:
    """One row per stage, and one for the final media."""
    rows = []
    for number, (a, b) in enumerate(zip(ours.stages, theirs.stages, strict=True), 1):
        video, audio = a.map(relative_l2, b)
        row = compare_media(f"stage {number}", decode(engine, a), decode(engine, b))
        rows.append(replace(row, video_latent=video, audio_latent=audio))
    return [*rows, compare_media("shipped", ours.media, theirs.media)]


def compare_media(what: str, ours: Media, theirs: Media) -> Row:
    """Compare frames and audio. Only the length of the shorter audio is compared, because some codecs pad their last
    frame.
    """
    row = Row(what=what)
    if ours.frames is not None and theirs.frames is not None:
        frames = ours.frames if theirs.index is None else ours.frames[theirs.index]
        row = replace(row, psnr=psnr(frames, theirs.frames), ssim=ssim(frames, theirs.frames))
    if ours.waveform is not None and theirs.waveform is not None:
        samples = min(ours.waveform.shape[-1], theirs.waveform.shape[-1])
        row = replace(row, waveform=relative_l2(ours.waveform[:, :samples], theirs.waveform[:, :samples]))
    return row


def decode(engine: Engine, latents: Latents) -> Media:
    """Decode latents with our decoders, without any codec."""
    video, audio = latents
    return Media(
        frames=None if video is None else decode_frames(engine.models, video),
        waveform=None if audio is None else engine.decode_audio(audio).samples,
    )


def decode_frames(models: Models, latent: Tensor) -> Tensor | None:
    """The frames (F H W 3) uint8; None if a first stage is too small to be decoded, as in tiny models."""
    tiles = TilePlan.auto(latent.shape[2:], models.shapes.video_vae.factors)
    with models.component("video_decoder") as decoder, suppress(RequestError):
        chunks = decode_video(latent.to(models.device, models.dtype), decoder, tiles)
        frames = torch.cat([(chunk * 255).round().byte().cpu() for chunk in chunks])
        return rearrange(frames, "F c H W -> F H W c")
    return None


# The official package


def compare_rendered(prompt: str, settings: Mapping[str, Any], out: Path) -> Iterator[tuple[str, list[Row]]]:
    """Render with the official package and with this one, and compare the files. Both encode with x264 at the same
    quality.
    """
    out.mkdir(parents=True, exist_ok=True)
    ours, theirs = out / "ours.mp4", out / "official.mp4"
    resolved = resolve("t2v", prompt, [(COMMAND_LINE, {**settings, "output": str(ours), "overwrite": True})])
    subprocess.run(official_command(resolved.request, resolved.task.files, theirs), check=True)
    run(resolved)
    yield resolved.request.preset, [compare_media("file", read_clip(ours), read_clip(theirs))]


def official_command(request: Request, files: ModelFiles, out: Path) -> list[str]:
    """The command of the official package that renders a request. Source: docs/reference/pipelines.md, "Kinds of
    run".
    """
    checkpoint = "distilled-checkpoint-path" if request.preset == "distilled" else "checkpoint-path"
    options: dict[str, Sequence[Any]] = {
        checkpoint: [files.require_file("checkpoint")],
        "gemma-root": [files.require_file("text_encoder")],
        "prompt": [request.prompt],
        "seed": [request.seed],
        "width": [request.width],
        "height": [request.height],
        "num-frames": [request.frames],
        "frame-rate": [float(request.fps)],
        "output-path": [out],
    }
    if request.recipe.is_guided:
        options |= {"negative-prompt": [request.negative], "num-inference-steps": [request.steps]}
    if "upsampler" in request.recipe.needs:
        options["spatial-upsampler-path"] = [files.require_file("upsampler")]
    if "distilled_lora" in request.recipe.needs:
        options["distilled-lora"] = [files.require_file("distilled_lora"), 1.0]
    flags = [part for name, values in options.items() for part in (f"--{name}", *map(str, values))]
    return [sys.executable, "-m", OFFICIAL[request.preset], *flags]


def read_clip(path: Path) -> Media:
    """Decode a file with video and audio."""
    with av.open(str(path)) as container:
        frames = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
        container.seek(0)
        sound = [torch.from_numpy(frame.to_ndarray()) for frame in container.decode(audio=0)]
    return Media(frames=torch.stack(frames), waveform=torch.cat(sound, dim=-1))


def as_text(value: str | float | None) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main())
