"""Whole runs of the official pipelines on tiny complete models: every step between the prompt and the frames."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from ltx2_core.conditioning.conditions import Condition, GivenTokens, Keyframe, ReferenceVideo, WithAttention
from ltx2_core.latents import Latents, States
from ltx2_core.pipeline.render.models import DTYPES
from ltx2_core.pipeline.render.stage_inputs import Given, InputEncoder
from ltx2_core.sampling.guidance import PassKind, plan_passes
from ltx2_core.sampling.noise import draw_noise
from ltx2_core.sampling.samplers import Denoiser
from ltx2_core.tiling import decode_video
from ltx2_core.types import Streams

from .recorded_runs import World
from .report import GoldenFile, Report, relative_error

PASSES = {"cond": PassKind.COND, "uncond": PassKind.UNCOND, "ptb": PassKind.PERTURBED, "mod": PassKind.ISOLATED}
INPUTS = ("frames_index",)
PIXELS = 1e-6
BF16_MASKS = 4e-3  # levels of appended tokens pass through bfloat16
EXACT, SIGMAS, STATES, FRAMES, ONE_LEVEL, WAVE = 0.0, 1e-6, 2e-5, 5e-5, 1.0, 3e-4
BF16_CONTEXTS = 3e-2  # the official bfloat16 run is about 1e-2 away from float32 itself


def run(folder: Path, where: str, report: Report) -> None:
    """Compare the contexts and every case of one generation; a file is a case, in float32 or in bfloat16."""
    with tempfile.TemporaryDirectory() as unpacked:
        world = World(folder, Path(unpacked))
        for path in sorted(folder.glob("*.safetensors")):
            case, _, precision = path.name.removesuffix(".safetensors").partition(".")
            golden = GoldenFile(path, where, report, INPUTS)
            with golden.case(case), torch.inference_mode():  # a run that waits goes as far as it can
                if case == "contexts":
                    _compare_contexts(golden, world)
                else:
                    Case(golden, world, case, precision or "fp32").compare()
            golden.close(lambda name, case=case: case)


@dataclass(frozen=True)
class Followed:
    """A denoiser that remembers what it was given and what it said."""

    denoise: Denoiser
    seen: list[States] = field(default_factory=list)
    estimates: list[Latents] = field(default_factory=list)

    def __call__(self, states: States, sigma: float, step: int) -> Latents:
        self.seen.append(states)
        self.estimates.append(self.denoise(states, sigma, step))
        return self.estimates[-1]


class Case:
    """One run, followed step by step."""

    def __init__(self, golden: GoldenFile, world: World, name: str, precision: str) -> None:
        self.golden, self.name = golden, name
        self.settings = world.settings["cases"][name]
        self.is_bf16 = precision == "bf16"
        self.float32_run = load_file(golden.path.with_name(f"{name}.safetensors")) if self.is_bf16 else {}
        self.engine = world.engine(world.request(self.settings, precision))

    def compare(self) -> None:
        engine = self.engine
        contexts = engine.contexts()
        generator = torch.Generator().manual_seed(engine.request.seed)
        results: list[Latents] = []
        for number, stage in enumerate(engine.request.recipe.stages, 1):
            run = engine.stage_run(stage, results, contexts, generator)
            before = generator.get_state()
            if self.name == "v2a_retake":  # the official code noises a picture that is kept; here only to compare
                run = replace(run, given=replace(run.given, noise=Streams(1.0, 1.0)))
            states = run.states()
            sigmas = run.sigmas()
            self.compare_tensor(f"stage{number}.sigmas", sigmas, SIGMAS)
            denoise = run.denoiser(engine.models.load_transformer(stage))
            denoise.is_batched = self.is_bf16  # as the official run was: in bfloat16 the split of a batch shows
            followed = Followed(denoise)
            if f"stage{number}.video.x0.step0.cond" in self.golden:
                plan = plan_passes(denoise.scales, 0)
                by_kind = dict(
                    zip((p.kind for p in plan), denoise.estimates(plan, states, sigmas[0].item()), strict=True)
                )
                for name, kind in PASSES.items():
                    self._compare_streams(f"stage{number}.{{}}.x0.step0.{name}", by_kind[kind])
            last = run.sample(followed, states, sigmas, lambda *_: None)
            seen = [*followed.seen, last]
            self._compare_streams(f"stage{number}.{{}}.noise", _noise(states, before), EXACT)
            self._compare_given(number, run.given, states)
            self._compare_streams(f"stage{number}.{{}}.positions", states.map(lambda s: s.positions), EXACT)
            self._compare_streams(f"stage{number}.{{}}.x0.step0", followed.estimates[0])
            self._compare_absent(number, states)
            for stream in ("video", "audio"):
                if f"stage{number}.{stream}.states" in self.golden:
                    stacked = torch.cat([getattr(states, stream).latent for states in seen])
                    self.compare_tensor(f"stage{number}.{stream}.states", stacked)
            results.append(run.finish(last))
            self._compare_streams(f"stage{number}.{{}}.latent", results[-1])
        self._compare_media()
        latents = engine.shipped(results)
        self._compare_streams("final.{}_latent", latents)
        self._compare_outputs(latents)

    def _compare_outputs(self, latents: Latents) -> None:
        """Frames and waveform: decoded, or given."""
        if latents.video is not None and "frames_u8" in self.golden:
            self._compare_frames(latents.video)
        if self.engine.request.sound == "keep":
            engine = self.engine
            wave = InputEncoder(engine.job, engine.models, engine.watch).given_sound().samples
        else:
            assert latents.audio is not None
            wave = self.engine.decode_sound(latents.audio).samples
        if "wave" in self.golden:
            self.compare_tensor("wave", wave, self.tolerance("wave", WAVE))
        if "wave_i16" in self.golden:
            unit = 32768 if self.engine.request.sound == "keep" else 32767
            error = relative_error(wave, self.golden["wave_i16"] / unit)
            tolerance = self.tolerance("wave_i16", WAVE) + 1 / 32767
            self.golden.compare("wave_i16", wave, tolerance, self.name, error=error)

    def _compare_frames(self, latent: Tensor) -> None:
        chunks = decode_video(latent, self.engine.models.load("video_decoder"))
        frames = rearrange(torch.cat(list(chunks)), "f c h w -> f h w c")
        ours = (frames[self.golden["frames_index"]] * 255).round()
        levels = (ours - self.golden["frames_u8"]).abs().max().item()
        allowed = 255 * 2 * self.settings["bf16_vs_f32"]["frames"] if self.is_bf16 else ONE_LEVEL
        self.golden.compare("frames_u8", ours, allowed, self.name, error=levels, note="levels")
        if "frames_f32" in self.golden:
            self.compare_tensor("frames_f32", frames[[0, -1], ::2, ::2], self.tolerance("frames_f32", FRAMES))

    def _compare_streams(self, name: str, ours: Latents, tolerance: float | None = None) -> None:
        for stream, tensor in ours._asdict().items():
            if tensor is not None:
                self.compare_tensor(name.format(stream), tensor, tolerance)

    def tolerance(self, name: str, float32: float = STATES) -> float:
        """How far a tensor may be off: in bfloat16 twice what the official runs in both precisions differ by in it.

        Stages differ much in that: the first of two may be three times as noisy as what is decoded.
        """
        if not self.is_bf16:
            return float32
        return 2 * relative_error(self.golden[name], self.float32_run[name])

    def _compare_given(self, number: int, given: Given, states: States) -> None:
        """What was given: latents to start from, encoded conditions, and the state that they make."""
        self._compare_streams(f"stage{number}.{{}}.initial_latent", given.start)
        if given.start.video is not None:
            self.compare_tensor("upsampled.latent", given.start.video)
        for stream, conditions in given.conditions._asdict().items():
            for i, condition in enumerate(conditions):
                name = f"stage{number}.{stream}.condition{i}.latent"
                if name in self.golden:
                    expected = self.golden[name]
                    ours = _latent_of(condition).reshape(expected.shape)
                    self.compare_tensor(name, ours)
        masks = states.map(lambda s: s.mask.dense)
        self._compare_streams(f"stage{number}.{{}}.mask", masks, BF16_MASKS if self.is_bf16 else EXACT)
        self._compare_streams(f"stage{number}.{{}}.clean", states.map(lambda s: s.clean))
        attention = states.map(lambda s: s.attention_mask)
        self._compare_streams(f"stage{number}.{{}}.attention_mask", attention)

    def _compare_media(self) -> None:
        """Pictures and sounds as they are prepared."""
        engine = self.engine
        giver = InputEncoder(engine.job, engine.models, engine.watch)
        request, shapes = engine.request, engine.models.shapes
        grids = [request.grid(shapes.video_vae.factors, stage) for stage in request.recipe.stages]
        for i, (grid, image) in enumerate(product(grids, request.images)):
            pixels = giver.image_pixels(image, grid)
            self.compare_tensor(f"image{i}.pixels", pixels, PIXELS)
            self.compare_tensor(f"image{i}.pixels_every2nd", pixels[..., ::2, ::2], PIXELS)
            self.compare_tensor(f"image{i}.pixels_u8", (pixels + 1) * 127.5, PIXELS)
        for i, reference in enumerate(request.references):
            self.compare_tensor(f"clip{i}.pixels", giver.reference_pixels(reference, grids[0]), PIXELS)
        if request.source is not None:
            self.compare_tensor(
                "clip0.pixels_u8", (giver.clip_pixels(grids[0], request.recipe.stages[0]) + 1) * 127.5, PIXELS
            )
        if request.sound_source is not None:
            self.compare_tensor("sound0.wave_i16", giver.given_sound().samples * 32768, EXACT)

    def _compare_absent(self, number: int, states: States) -> None:
        """The official code's estimate for a stream that is absent is the number 0."""
        for stream, state in states._asdict().items():
            name = f"stage{number}.{stream}.x0.step0"
            if state is None and name in self.golden:
                self.compare_tensor(name, torch.zeros(()), EXACT)

    def compare_tensor(self, name: str, ours: Tensor, tolerance: float | None = None) -> None:
        """Compare a tensor if it is recorded, with the tolerance of latents unless told another."""
        if name in self.golden:
            tolerance = self.tolerance(name) if tolerance is None else tolerance
            self.golden.compare(name, ours, tolerance, self.name)


def _latent_of(condition: Condition) -> Tensor:
    """What a condition holds, as the encoder made it."""
    if isinstance(condition, WithAttention):
        return _latent_of(condition.condition)
    if isinstance(condition, GivenTokens):
        return rearrange(condition.tokens, "b n c -> b c n")
    assert isinstance(condition, Keyframe | ReferenceVideo)
    return condition.latent


def _noise(states: States, before: Tensor) -> Latents:
    """The noise that a generator in this state draws for both streams, video's first."""
    generator = torch.Generator()
    generator.set_state(before)
    return states.map(lambda s: draw_noise(s.latent.shape, generator, torch.bfloat16))


def _compare_contexts(golden: GoldenFile, world: World) -> None:
    """The contexts of all prompts, in both precisions; where not all rows are stored, the rows that are."""
    prompts = json.loads(golden.metadata["prompts"])
    case = {
        "prompt": prompts[0],
        "negative_prompt": prompts[0],
        "pipeline": "one_stage",
        "seed": 0,
        "stage1": {"width": 64, "height": 64, "frames": 9, "fps": 24},
    }
    for precision, name in (("fp32", "f32"), ("bf16", "bf16")):
        engine = world.engine(world.request(case, precision))
        for i, context in enumerate(engine.encode(prompts)):
            for stream in ("video", "audio"):
                expected = golden[f"prompt{i}.{stream}.{name}"]
                ours: Tensor = getattr(context, stream)
                rows = slice(None) if expected.shape[1] == ours.shape[1] else world.settings["context_rows"]
                tolerance = BF16_CONTEXTS if DTYPES[precision] == torch.bfloat16 else STATES
                golden.compare(f"prompt{i}.{stream}.{name}", ours[:, rows], tolerance, "contexts")
