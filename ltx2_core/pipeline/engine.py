"""The one way through: prompt → text context → latents → frames and waveform → file. Every mode takes it.

Source: spec pipelines, section 1.3.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
import transformers
from torch import Tensor

from ..checkpoint import load_component
from ..conditioning.conditions import Condition
from ..config.audio import AudioVAEConfig
from ..config.released import effective_config
from ..config.transformer import TransformerConfig
from ..config.video_vae import VideoVAEConfig
from ..errors import RequestError
from ..headers import Header, read_header
from ..latents import Latents
from ..lora import Applied, fuse
from ..lora_file import match, read_lora
from ..media.clip import ClipShape, Output
from ..media.sound import Sound, fit_sound
from ..media.writer import Report, write_clip, write_sound
from ..memory import resident
from ..models.upsampler import upsample_latent
from ..sampling.guidance import Contexts
from ..text.cache import ContextCache
from ..text.encode import ContextModels, TextContext, encode_prompts
from ..text.files import find_encoder
from ..text.gemma import load_gemma
from ..tiles import TilePlan
from ..tiling import decode_video
from ..types import Streams
from ..version import __version__
from .events import Watch
from .job import Job, Saved
from .recipe import Stage
from .request import Request
from .stages import NO_CONDITIONS, LatentShapes, StageRun

M = TypeVar("M")
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
RECIPE_SCHEMA = 1


@dataclass(frozen=True)
class Engine:
    """Runs one job on one device, with one model on it at a time."""

    job: Job
    watch: Watch

    def render(self) -> Report:
        """Go through the stages that are not finished yet, then decode and write the file."""
        with torch.inference_mode():
            latents = self.denoise()
            return self.write(latents)

    def denoise(self) -> Latents:
        """The latents that go into the file, each stage's saved before the next begins."""
        job, stages = self.job, self.request.recipe.stages
        generator = torch.Generator(self.device).manual_seed(self.request.seed)
        finished = [job.load(number) for number in range(1, job.finished_stages + 1)]
        results = [saved.latents for saved in finished]
        if finished:
            generator.set_state(finished[-1].generator)
        contexts = self.contexts() if len(results) < len(stages) else Streams()
        for number, stage in list(enumerate(stages, 1))[len(results) :]:
            run = self.stage_run(stage, results, contexts, generator, saved=job.load_stopped())
            with self.resident(partial(self.load_transformer, stage)) as model:
                results.append(run.run(model, self.watch, f"stage {number} of {len(stages)}"))
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
        conditions: Streams[Sequence[Condition]] = NO_CONDITIONS,
        saved: Saved | None = None,
    ) -> StageRun:
        """A stage ready to run, with what it needs of the stages before it."""
        return StageRun(
            stage=stage,
            request=self.request,
            shapes=self.shapes,
            start=Streams() if stage.start == "noise" else self.upsampled(results[-1]),
            contexts=contexts,
            device=self.device,
            dtype=self.dtype,
            generator=generator,
            conditions=conditions,
            saved=saved,
        )

    def upsampled(self, latents: Latents) -> Latents:
        """Latents for a stage of twice the size: the picture enlarged, the sound as it is."""
        if latents.video is None:
            return latents
        with self.watch.phase("upsample", "enlarging"), self.resident(self.load_upsampler) as (upsampler, statistics):
            video = upsample_latent(latents.video[:1].to(self.device, self.dtype), upsampler, statistics)
        return Streams(video, latents.audio)

    def contexts(self) -> Streams[Contexts]:
        """The text as the denoiser reads it, for the streams that are present; from the cache where it is known."""
        request = self.request
        prompts = [request.prompt] if request.negative is None else [request.prompt, request.negative]
        with self.watch.phase("text", "reading the prompt"):
            if self.job.uses_cache:
                cache = ContextCache(
                    encoder=self.job.identities["text_encoder"],
                    checkpoint=self.job.identities["checkpoint"],
                    rows=request.text_rows,
                    dtype=self.dtype,
                )
                found = cache.recall(prompts, self.encode)
            else:
                found = self.encode(prompts)

        def of(stream: str, mode: str) -> Contexts | None:
            features = [getattr(one, stream).to(self.device) for one in found]
            # A stream that is kept is not guided: where the negative prompt is read, it goes on reading the prompt.
            return None if mode == "off" else Contexts(*features[:1] if mode == "keep" else features)

        return Streams(of("video", request.video), of("audio", request.sound))

    def encode(self, prompts: list[str]) -> list[TextContext]:
        """Run the text encoder, then projection and connectors."""
        files = find_encoder(self.job.files.need("text_encoder"))
        gemma = partial(load_gemma, files, device=self.device, dtype=self.dtype)

        def connectors() -> ContextModels:
            return ContextModels(
                *(self.load(name) for name in ("text_projection", "video_connector", "audio_connector"))
            )

        rows = self.request.text_rows
        return encode_prompts(prompts, lambda: self.resident(gemma), lambda: self.resident(connectors), rows)

    def write(self, latents: Latents) -> Report:
        """Decode the latents and write the file: the sound first, since it is short, then frame after frame."""
        job, request = self.job, self.request
        width, height = request.file_size
        shape = ClipShape(width=width, height=height, frames=request.frames, fps=request.fps)
        sound = None if latents.audio is None else self.decode_sound(latents.audio)
        comment = json.dumps(self.recipe(), ensure_ascii=False) if job.output.metadata else None
        output = Output(path=job.target, comment=comment, overwrite=job.overwrite, strict=job.output.strict)
        if latents.video is None:
            assert sound is not None
            return write_sound(output, fit_sound(sound, shape))
        with (
            self.resident(partial(self.load, "video_decoder")) as decoder,
            self.watch.phase("video", "decoding and encoding", request.frames) as on_frames,
        ):
            latent = latents.video.to(self.device, self.dtype)
            tiles = TilePlan.auto(latent.shape[2:], self.shapes.video_vae.factors)
            chunks = cropped(decode_video(latent, decoder, tiles), request.file_size)

            def on_frame(done: int) -> None:
                on_frames(done)
                self.watch.check()

            return write_clip(output, shape, chunks, sound, job.output.encoding, on_frame)

    def decode_sound(self, latent: Tensor) -> Sound:
        """The waveform of an audio latent. The vocoder computes in float32: its sound suffers below."""
        with self.watch.phase("sound", "making the sound"):
            with self.resident(partial(self.load, "audio_decoder")) as decoder:
                mel = decoder(latent.to(self.device, self.dtype)).float()
            with self.resident(partial(self.load, "vocoder", dtype=torch.float32)) as vocoder:
                return Sound(samples=vocoder(mel)[0].cpu(), sample_rate_hz=vocoder.config.sample_rate_hz)

    def recipe(self) -> dict[str, Any]:
        """What the file says about itself:

        enough to make it again, and nothing about this machine's folders or the time.
        """
        files = {
            role: {"name": path.name, "identity": self.job.identities[role]}
            for role, path in self.job.files.paths.items()
            if role in self.job.identities
        }
        return {
            "schema": RECIPE_SCHEMA,
            "made_with": {"ltx2": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
            "model": {"name": self.job.files.name, "files": files},
            "request": self.request.model_dump(mode="json"),
        }

    def load(self, component: str, dtype: torch.dtype | None = None) -> Any:
        """A component of the checkpoint, in the dtype of the run unless another is asked for."""
        return load_component(component, self.header, device=self.device, dtype=dtype or self.dtype)

    def load_transformer(self, stage: Stage) -> Any:
        """The denoiser with the LoRAs of a stage.

        In a bfloat16 run its float32 tables stay as they are in the file, as in the official code.
        """
        dtype = None if self.dtype == torch.bfloat16 else self.dtype
        model = load_component("transformer", self.header, device=self.device, dtype=dtype)
        fuse(model, self.loras(stage))
        return model

    def loras(self, stage: Stage) -> list[Applied]:
        """The LoRAs that act in a stage, in their order: the user's, then the distilled one."""
        chosen = [(self.job.inputs[lora.role], lora.strength) for lora in self.request.loras if stage.user_loras]
        if stage.distilled_lora is not None:
            chosen.append((self.job.files.need("distilled_lora"), stage.distilled_lora))
        return [(match(read_lora(path), self.header, allow_partial=True), strength) for path, strength in chosen]

    def load_upsampler(self) -> tuple[Any, Any]:
        """The latent upsampler, and the statistics of the latents that it works between."""
        path = self.job.files.need("upsampler", "--upsampler FILE")
        upsampler = load_component("upsampler", path, device=self.device, dtype=self.dtype)
        return upsampler, self.load("video_statistics")

    def resident(self, load: Callable[[], M]) -> AbstractContextManager[M]:
        return resident(load, self.device)

    @property
    def request(self) -> Request:
        return self.job.request

    @cached_property
    def device(self) -> torch.device:
        return torch.device(self.request.device)

    @cached_property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.request.precision]

    @cached_property
    def header(self) -> Header:
        return read_header(self.job.files.need("checkpoint"))

    @cached_property
    def shapes(self) -> LatentShapes:
        config = effective_config(self.header)
        return LatentShapes(
            transformer=TransformerConfig.from_metadata(config),
            video_vae=VideoVAEConfig.from_metadata(config),
            audio_vae=AudioVAEConfig.from_metadata(config),
        )


def cropped(chunks: Iterator[Tensor], size: tuple[int, int]) -> Iterator[Tensor]:
    """Cut frames (F 3 H W) to a width and height, the same amount on both sides."""
    width, height = size
    for chunk in chunks:
        top, left = (chunk.shape[-2] - height) // 2, (chunk.shape[-1] - width) // 2
        yield chunk[..., top : top + height, left : left + width]


def settle(request: Request) -> Request:
    """Choose device and precision where the request leaves it to the machine.

    Raises: RequestError if there is none such.
    """
    name = request.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    is_there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}.get(
        device.type, lambda: True
    )()
    if not is_there or (device.index or 0) >= max(torch.cuda.device_count(), 1):
        raise RequestError(
            f"--device {request.device} cannot be used", "this machine has no such device", "--device cpu"
        )
    precision = request.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    return request.model_copy(update={"device": str(device), "precision": precision})
