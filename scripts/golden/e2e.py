"""Compare whole runs of the official pipelines on tiny complete models: every step between the prompt and the
frames.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import product
from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from ltx2_core.conditioning.conditions import Condition, GivenTokens, Keyframe, ReferenceVideo, WithAttention
from ltx2_core.latents import Latents, States
from ltx2_core.media.resize import to_clip
from ltx2_core.pipeline.render.stage_inputs import Given
from ltx2_core.pipeline.render.stages import StageRun
from ltx2_core.pipeline.request import AutoLength
from ltx2_core.pipeline.windows import runs_of
from ltx2_core.sampling.denoiser import GuidedDenoiser
from ltx2_core.sampling.guidance import Contexts, PassKind, plan_passes
from ltx2_core.sampling.noise import draw_noise
from ltx2_core.sampling.samplers import Denoiser
from ltx2_core.tiling.video import decode_video
from ltx2_core.types import Streams

from .recorded_runs import RecordedRuns, case_and_precision
from .report import GoldenFile, Report, relative_error

PASSES = {"cond": PassKind.COND, "uncond": PassKind.UNCOND, "ptb": PassKind.PERTURBED, "mod": PassKind.ISOLATED}
INPUTS = ("frames_index",)
PIXELS = 1e-6
EXACT, SIGMAS, STATES, FRAMES, ONE_LEVEL, WAVE = 0.0, 1e-6, 2e-5, 5e-5, 1.0, 3e-4
BF16_CONTEXTS = 3e-2  # the official bfloat16 run itself differs from float32 by about 1e-2


def run(folder: Path, where: str, report: Report) -> None:
    """Compare the contexts and every case of one generation; a file is a case, in float32 or in bfloat16."""
    runs = RecordedRuns(folder)
    for path in sorted(folder.glob("*.safetensors")):
        case, precision = case_and_precision(path.name)
        golden = GoldenFile(path, where, report, INPUTS)
        if precision == "fp32":  # the media of bfloat16 runs are not stored
            golden.tensors |= runs.stored_elsewhere(case)
        with golden.case(case), torch.inference_mode():  # a case that is not implemented yet runs as far as it can
            if case == "contexts":
                _compare_contexts(golden, runs)
            else:
                Case(golden, runs, case, precision).compare()
        golden.close(lambda name, case=case: case)


@dataclass(frozen=True)
class Followed:
    """A denoiser that records its inputs and its outputs."""

    denoise: Denoiser
    seen: list[States] = field(default_factory=list)
    estimates: list[Latents] = field(default_factory=list)

    def __call__(self, states: States, sigma: float, step: int) -> Latents:
        self.seen.append(states)
        self.estimates.append(self.denoise(states, sigma, step))
        return self.estimates[-1]


class Case:
    """One run, compared step by step. The tensors of a stage are named "stage1.video.states", "stage1.audio.states"
    …
    """

    def __init__(self, golden: GoldenFile, runs: RecordedRuns, name: str, precision: str) -> None:
        self.golden, self.name = golden, name
        self.settings = runs.cases[name]
        self.is_bf16 = precision == "bf16"
        self.float32_run = load_file(golden.path.with_name(f"{name}.safetensors")) if self.is_bf16 else {}
        self.engine = runs.engine(self.settings, precision)

    def compare(self) -> None:
        engine = self.engine
        contexts = engine.contexts()
        if "auto_duration" in self.settings:
            self._compare_length(contexts)
        generator = torch.Generator().manual_seed(engine.request.seed)
        results: list[Latents] = []
        for number, one in enumerate(runs_of(engine.request), 1):
            run = engine.stage_run(one, results, contexts, generator)
            results.append(self._compare_stage(f"stage{number}", run))
        self._compare_media()
        latents = engine.shipped(results)
        self._compare_streams("final.*_latent", latents)
        if latents.video is not None and "frames_u8" in self.golden:
            self._compare_frames(latents.video)
        self._compare_sound(latents.audio)

    def _compare_length(self, contexts: Streams[Contexts]) -> None:
        """Compare the number of frames that the model chooses, in runs that leave it to the model."""
        shortest_s, longest_s = map(Fraction, self.settings["auto_duration"])
        bounds, request = AutoLength(shortest_s=shortest_s, longest_s=longest_s), self.engine.request
        frames = bounds.frames(self.engine.wanted_seconds(contexts), request.fps, 8)
        self.golden.compare_value(self.name, "num_frames", frames, self.settings["stage1"]["frames"])

    def _compare_stage(self, stage: str, run: StageRun) -> Latents:
        """Run a stage; returns its latents."""
        if "quirk" in self.settings:  # the official code adds noise to a kept video; this is only done to compare
            run = replace(run, given=replace(run.given, noise=Streams(1.0, 1.0)))
        before = run.generator.get_state()
        states, sigmas = run.states(), run.sigmas()
        self.compare_tensor(f"{stage}.sigmas", sigmas, SIGMAS)
        self._compare_start(stage, run.given, states)
        self._compare_streams(f"{stage}.*.noise", _noise(states, before), EXACT)
        self._compare_step_noise(stage, run, states, len(sigmas) - 2)
        models = self.engine.models
        with models.transformer(models.loras(self.engine.task, run.stage)) as model:
            denoise = run.denoiser(model)
            self._compare_passes(stage, denoise, states, sigmas[0].item())
            followed = Followed(denoise)
            last = run.sample(followed, states, sigmas, lambda *_: None)
        self._compare_streams(f"{stage}.*.x0.step0", followed.estimates[0])
        self._compare_absent(stage, states)
        self._compare_path(stage, [*followed.seen, last])
        latents = run.finish(last)
        self._compare_streams(f"{stage}.*.latent", latents)
        if last.video is not None and f"{stage}.video.generated_keyframes" in self.golden:
            self.compare_tensor(f"{stage}.video.generated_keyframes", last.video.slots)
        return latents

    def _compare_start(self, stage: str, given: Given, states: States) -> None:
        """Compare the initial latents, the encoded conditions, and the state that results from them."""
        self._compare_streams(f"{stage}.*.initial_latent", given.start)
        if given.start.video is not None:
            self.compare_tensor("upsampled.latent", given.start.video)
        for stream, conditions in given.conditions._asdict().items():
            for i, condition in enumerate(conditions):
                name = f"{stage}.{stream}.condition{i}.latent"
                if name in self.golden:
                    self.compare_tensor(name, _latent_of(condition).reshape(self.golden[name].shape))
        self._compare_streams(f"{stage}.*.positions", states.map(lambda s: s.positions), EXACT)
        self._compare_streams(f"{stage}.*.mask", states.map(lambda s: s.mask.dense), EXACT)
        self._compare_streams(f"{stage}.*.clean", states.map(lambda s: s.clean))
        self._compare_streams(f"{stage}.*.attention_mask", states.map(lambda s: s.attention_mask))

    def _compare_step_noise(self, stage: str, run: StageRun, states: States, steps: int) -> None:
        """Compare the noise that the ancestral sampler draws after each step except the last: first for video, then for
        audio.
        """
        if run.stage.sampler != "ancestral":
            return
        generator = run.generators()["generator"]
        for step in range(steps):
            drawn = _draw(states, generator)
            for i, noise in enumerate(drawn):
                self.compare_tensor(f"{stage}.sde_noise.{2 * step + i}", noise, EXACT)

    def _compare_passes(self, stage: str, denoise: GuidedDenoiser, states: States, sigma: float) -> None:
        """Compare the passes of the first step, if they are recorded."""
        if f"{stage}.video.x0.step0.cond" not in self.golden:
            return
        plan = plan_passes(denoise.scales, 0)
        estimates = dict(zip((one.kind for one in plan), denoise.estimates(plan, states, sigma), strict=True))
        for name, kind in PASSES.items():
            self._compare_streams(f"{stage}.*.x0.step0.{name}", estimates[kind])

    def _compare_path(self, stage: str, seen: Sequence[States]) -> None:
        """Compare the latents at each evaluation, and the final latents."""
        for stream, name in [(stream, f"{stage}.{stream}.states") for stream in ("video", "audio")]:
            if name in self.golden:
                self.compare_tensor(name, torch.cat([getattr(states, stream).latent for states in seen]))

    def _compare_absent(self, stage: str, states: States) -> None:
        """Compare an absent stream, for which the official code's estimate is the number 0."""
        for stream, state in states._asdict().items():
            if state is None:
                self.compare_tensor(f"{stage}.{stream}.x0.step0", torch.zeros(()), EXACT)

    def _compare_media(self) -> None:
        """Compare images, clips and audio after preparation."""
        request, factors = self.engine.request, self.engine.models.shapes.video_vae.factors
        stages = request.recipe.stages
        grids = [request.grid(factors, stage) for stage in stages]
        for i, (grid, image) in enumerate(product(grids, request.images)):
            pixels = self.engine.inputs.image_pixels(image, grid)
            self.compare_tensor(f"image{i}.pixels", pixels, PIXELS)
            self.compare_tensor(f"image{i}.pixels_every2nd", pixels[..., ::2, ::2], PIXELS)
            self.compare_tensor(f"image{i}.pixels_u8", in_levels(pixels), PIXELS)
        for i, reference in enumerate(request.references):
            self.compare_tensor(
                f"clip{i}.pixels", self.engine.inputs.reference_pixels(self.engine.request, reference, grids[0]), PIXELS
            )
        if request.source is not None:
            frames = self.engine.inputs.frames(request.source, grids[0].frames, request.fps * stages[0].rate)
            pixels = to_clip(frames, grids[0].height, grids[0].width)
            self.compare_tensor("clip0.pixels_u8", in_levels(pixels), PIXELS)
        if request.audio_source is not None:
            self.compare_tensor("sound0.wave_i16", self.engine.inputs.given_audio().samples * 32768, EXACT)

    def _compare_frames(self, latent: Tensor) -> None:
        with self.engine.models.component("video_decoder") as decoder:
            frames = rearrange(torch.cat(list(decode_video(latent, decoder))), "f c h w -> f h w c")
        ours = (frames[self.golden["frames_index"]] * 255).round()
        levels = (ours - self.golden["frames_u8"]).abs().max().item()
        allowed = ONE_LEVEL
        if self.is_bf16:  # the tolerance uses all frames, not only those that are stored
            allowed = 2 * 255 * self.settings["bf16_vs_f32"]["frames"]
        self.golden.compare("frames_u8", ours, allowed, self.name, error=levels, note="levels")
        self.compare_tensor("frames_f32", frames[[0, -1], ::2, ::2], FRAMES)

    def _compare_sound(self, latent: Tensor | None) -> None:
        """Compare the waveform, decoded or given."""
        if self.engine.request.audio == "keep":
            sound, unit = self.engine.inputs.given_audio(), 32768
        else:
            assert latent is not None
            sound, unit = self.engine.decode_audio(latent), 32767
        self.golden.compare_value(self.name, "sample_rate", sound.sample_rate_hz, self.settings["sample_rate"])
        self.compare_tensor("wave", sound.samples, WAVE)
        if "wave_i16" in self.golden:
            error = relative_error(sound.samples, self.golden["wave_i16"] / unit)
            tolerance = self.tolerance("wave_i16", WAVE) + 1 / 32767
            self.golden.compare("wave_i16", sound.samples, tolerance, self.name, error=error)

    def _compare_streams(self, pattern: str, ours: Latents, float32: float = STATES) -> None:
        """Compare both streams, whose names replace the star."""
        for stream, tensor in ours._asdict().items():
            if tensor is not None:
                self.compare_tensor(pattern.replace("*", stream), tensor, float32)

    def compare_tensor(self, name: str, ours: Tensor, float32: float = STATES) -> None:
        """Compare a tensor if it is recorded. float32: the tolerance in a float32 run."""
        if name in self.golden:
            self.golden.compare(name, ours, self.tolerance(name, float32), self.name)

    def tolerance(self, name: str, float32: float = STATES) -> float:
        """The tolerance of a tensor. In bfloat16 it is twice the difference of the official runs in both precisions.

        That difference varies between stages: in the first of two stages it may be three times as large as in the
        decoded one.
        """
        if not self.is_bf16:
            return float32
        return max(float32, 2 * relative_error(self.golden[name], self.float32_run[name]))


def _latent_of(condition: Condition) -> Tensor:
    """The latent of a condition, before anything is applied to it."""
    if isinstance(condition, WithAttention):
        return _latent_of(condition.condition)
    if isinstance(condition, GivenTokens):
        return rearrange(condition.tokens, "b n c -> b c n")
    assert isinstance(condition, Keyframe | ReferenceVideo)
    return condition.latent


def _noise(states: States, before: Tensor) -> Latents:
    """The noise that a generator in this state draws for both streams, first for video."""
    generator = torch.Generator()
    generator.set_state(before)
    return _draw(states, generator)


def _draw(states: States, generator: torch.Generator) -> Latents:
    """Draw new noise for both streams, first for video."""
    return states.map(lambda s: draw_noise(s.latent.shape, generator, torch.bfloat16))


def _compare_contexts(golden: GoldenFile, runs: RecordedRuns) -> None:
    """Compare the contexts of all prompts, in both precisions; if not all rows are stored, the stored rows."""
    prompts = json.loads(golden.metadata["prompts"])
    case = {
        "prompt": prompts[0],
        "negative_prompt": prompts[0],
        "pipeline": "one_stage",
        "seed": 0,
        "stage1": {"width": 64, "height": 64, "frames": 9, "fps": 24},
    }
    for precision, stored_as, tolerance in (("fp32", "f32", STATES), ("bf16", "bf16", BF16_CONTEXTS)):
        engine = runs.engine(case, precision)
        for (i, context), stream in product(enumerate(engine.encode(prompts)), ("video", "audio")):
            name = f"prompt{i}.{stream}.{stored_as}"
            ours: Tensor = getattr(context, stream)
            if golden[name].shape != ours.shape:
                ours = ours[:, runs.settings["context_rows"]]
            golden.compare(name, ours, tolerance, "contexts")


def in_levels(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1] converted to numbers from 0 to 255."""
    return (pixels + 1) * 127.5
