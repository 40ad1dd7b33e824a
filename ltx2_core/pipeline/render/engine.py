"""The one way through: prompt → text context → latents → frames and waveform → file. Every mode takes it.

Source: spec pipelines, section 1.3.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
import transformers
from torch import Tensor

from ...latents import Latents
from ...media.audio import at_rate_of
from ...media.clip import ClipShape, Output
from ...media.copy import LAYOUTS, container_for, copyable_span
from ...media.dub import write_dubbed
from ...media.inputs import SoundSource, VideoSource, check_input
from ...media.sound import Sound, fit_sound
from ...media.writer import Report, write_clip, write_sound
from ...models.mel import to_stereo
from ...sampling.guidance import Contexts
from ...text.cache import ContextCache, identity
from ...text.encode import TextContext, encode_prompts
from ...tiles import TilePlan
from ...tiling import decode_video
from ...types import Streams
from ...version import __version__
from ..events import Watch
from ..job import Job, Saved
from ..recipe import Stage
from ..request import COPY, Request
from .models import Models
from .stage_inputs import InputEncoder
from .stages import StageRun, schedule

RECIPE_SCHEMA = 1


@dataclass(frozen=True)
class Engine:
    """Runs one job on one device, with one model on it at a time."""

    job: Job
    watch: Watch

    def render(self) -> Report:
        """Go through the stages that are not finished yet, then decode and write the file."""
        # On CUDA, float32 is float32 and the same input gives the same bits, also in convolutions.
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            generator = torch.Generator(self.models.device).manual_seed(self.request.seed)
            return self.write(self.denoise(generator), generator)

    def denoise(self, generator: torch.Generator) -> Latents:
        """The latents that go into the file, each stage's saved before the next begins."""
        job, stages = self.job, self.request.recipe.stages
        finished = [job.load(number) for number in range(1, job.finished_stages + 1)]
        results = [saved.latents for saved in finished]
        if finished:
            generator.set_state(finished[-1].generator)
        contexts = self.contexts() if len(results) < len(stages) else Streams()
        for number, stage in list(enumerate(stages, 1))[len(results) :]:
            run = self.stage_run(stage, results, contexts, generator, job.load_stopped(number))
            with self.models.resident(partial(self.models.load_transformer, stage)) as model:
                results.append(run.run(model, self.watch, f"denoising, stage {number} of {len(stages)}"))
            job.save(number, results[-1], generator)
        return self.shipped(results)

    def shipped(self, results: Sequence[Latents]) -> Latents:
        """What goes into the file, of the latents of all stages."""
        sound = results[0] if self.request.recipe.sound_from == "first" else results[-1]
        return Streams(results[-1].video, sound.audio)

    def stage_run(
        self,
        stage: Stage,
        results: Sequence[Latents],
        contexts: Streams[Contexts],
        generator: torch.Generator,
        saved: Saved | None = None,
    ) -> StageRun:
        """A stage ready to run, with what it needs of the user and of the stages before it."""
        models = self.models
        first_sigma = schedule(stage, self.request, self.request.grid(models.shapes.video_vae.factors, stage))[0].item()
        encoder = InputEncoder(self.job, models, self.watch)
        return StageRun(
            stage=stage,
            request=self.request,
            shapes=models.shapes,
            given=encoder.given(stage, results[-1] if results else None, first_sigma),
            contexts=contexts,
            device=models.device,
            dtype=models.dtype,
            generator=generator,
            saved=saved,
        )

    def contexts(self) -> Streams[Contexts]:
        """The text as the denoiser reads it, for the streams that are present; from the cache where it is known."""
        request = self.request
        prompts = [request.prompt] if request.negative is None else [request.prompt, request.negative]
        with self.watch.phase("text", "reading the prompt"):
            found = self.cache().recall(prompts, self.encode) if self.job.uses_cache else self.encode(prompts)

        def of(stream: str, mode: str) -> Contexts | None:
            features = [getattr(one, stream).to(self.models.device) for one in found]
            # A stream that is kept is not guided: where the negative prompt is read, it goes on reading the prompt.
            return None if mode == "off" else Contexts(*features[:1] if mode == "keep" else features)

        return Streams(of("video", request.video), of("audio", request.sound))

    def cache(self) -> ContextCache:
        """What was encoded before with the same text encoder and connectors."""
        return ContextCache(
            encoder=identity(self.job.files.need("text_encoder")),
            weights="".join(identity(header.path) for header in self.models.parts.text_headers),
            rows=self.request.text_rows,
            dtype=self.models.dtype,
            device=self.models.device.type,
        )

    def encode(self, prompts: list[str]) -> list[TextContext]:
        """Run the text encoder, then projection and connectors."""
        models = self.models
        return encode_prompts(
            prompts,
            lambda: models.resident(models.load_text_encoder),
            lambda: models.resident(models.load_connectors),
            self.request.text_rows,
        )

    def write(self, latents: Latents, generator: torch.Generator) -> Report:
        """Decode the latents and write the file: the sound first, since it is short, then frame after frame."""
        job, request = self.job, self.request
        width, height = request.file_size
        shape = ClipShape(width=width, height=height, frames=request.frames, fps=request.fps)
        comment = json.dumps(self.recipe(), ensure_ascii=False) if job.output.metadata else None
        output = Output(path=job.target, comment=comment, overwrite=job.overwrite, strict=job.output.strict)
        if request.video == "keep":
            return self.dub(output, latents)
        sound = self.sound(latents)
        if latents.video is None:
            assert isinstance(sound, Sound)
            return write_sound(output, fit_sound(sound, shape.duration_s))
        with (
            self.models.component("video_decoder") as decoder,
            self.watch.phase("video", "decoding and encoding", request.frames) as on_frames,
        ):
            latent = latents.video.to(self.models.device, self.models.dtype)
            chunks = cropped(decode_video(latent, decoder, self.tiles(), generator), request.file_size)
            return write_clip(output, shape, chunks, sound, job.output.encoding, on_frames)

    def dub(self, output: Output, latents: Latents) -> Report:
        """Give the picture that is kept its sound."""
        given, settings = self.request.source, self.job.output
        assert given is not None
        assert latents.audio is not None
        source = check_input(self.job.inputs[given.role], VideoSource)
        span = None
        if given.duration_s is not None:
            span = copyable_span(source, given.start_s, given.start_s + given.duration_s)
        keeps_sound = settings.old_sound == "second-track"
        container = container_for(source, settings.audio_codec, keeps_sound=keeps_sound)
        sound = self.decode_sound(latents.audio)
        with self.watch.phase("video", "copying the picture"):
            return write_dubbed(output, source, span, container, sound, settings.audio_codec, keeps_sound=keeps_sound)

    def sound(self, latents: Latents) -> Sound | SoundSource | None:
        """What is heard with a picture: made, or given; then its samples as an encoder takes them, or its packets."""
        if latents.audio is None:
            return None
        if self.request.sound != "keep":
            return self.decode_sound(latents.audio)
        codec, encoder = self.job.output.audio_codec, InputEncoder(self.job, self.models, self.watch)
        if codec == COPY:
            return encoder.sound_source()
        given = encoder.given_sound()
        if len(given.samples) not in LAYOUTS:
            given = replace(given, samples=to_stereo(given.samples.unsqueeze(0)).squeeze(0))
        return at_rate_of(codec, given)

    def tiles(self) -> TilePlan:
        """How the picture is cut for decoding. It depends on nothing but the request."""
        shapes = self.models.shapes
        return TilePlan.auto(self.request.grid(shapes.video_vae.factors).latent, shapes.video_vae.factors)

    def decode_sound(self, latent: Tensor) -> Sound:
        """The waveform of an audio latent. The vocoder computes in float32: its sound suffers below."""
        models = self.models
        with self.watch.phase("sound", "making the sound"):
            with models.component("audio_decoder") as decoder:
                mel = decoder(latent.to(models.device, models.dtype)).float()
            with models.component("vocoder", torch.float32) as vocoder:
                return Sound(vocoder(mel)[0].cpu(), vocoder.config.sample_rate_hz)

    def recipe(self) -> dict[str, Any]:
        """What the file says about itself: enough to make it again, without this machine's folders and the time."""
        files = {
            role: {"name": path.name, "fingerprint": self.job.identities[role]}
            for role, path in {**self.job.files.paths, **self.job.inputs}.items()
            if role in self.job.identities
        }
        return {
            "schema": RECIPE_SCHEMA,
            "made_with": {"ltx2": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
            "model": {"name": self.job.files.name, "files": files},
            "request": self.request.model_dump(mode="json"),
            "tiles": asdict(self.tiles()),
        }

    @cached_property
    def models(self) -> Models:
        return Models(self.job)

    @property
    def request(self) -> Request:
        return self.job.request


def cropped(chunks: Iterator[Tensor], size: tuple[int, int]) -> Iterator[Tensor]:
    """Cut frames (F 3 H W) to a width and height, the same amount on both sides."""
    width, height = size
    for chunk in chunks:
        top, left = (chunk.shape[-2] - height) // 2, (chunk.shape[-1] - width) // 2
        yield chunk[..., top : top + height, left : left + width]
