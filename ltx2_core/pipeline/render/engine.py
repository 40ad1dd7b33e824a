"""The one path of every mode: prompt → text context → latents → frames and waveform → file.

Source: docs/reference/pipelines.md, "Order of one run".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ...latents import Latents
from ...media.accept import check_input
from ...media.audio import at_rate_of
from ...media.clip import ClipShape, Output
from ...media.copy import container_for, copyable_span
from ...media.dub import write_dubbed
from ...media.image import write_still
from ...media.inputs import AudioSource, VideoSource
from ...media.loudness import at_loudness
from ...media.stereo import storable
from ...media.waveform import Waveform, fit_waveform
from ...media.writer import Report, write_audio, write_clip
from ...models.capture import ALL, AttentionCapture
from ...parallel import Ranks
from ...sampling.guidance import Contexts
from ...text.cache import ContextCache
from ...text.encode import TextContext, encode_prompts
from ...tiling.audio import decode_audio, vocode
from ...tiling.video import Decoder, can_be_dealt, decode_video
from ...types import Streams
from ..events import LengthChosen, Watch
from ..job import Job, Saved
from ..made import Made, MadeModel, versions
from ..parts import DURATION_HEAD
from ..request import AROUND, COPY, EncodingSettings, RenderTask, Request
from ..resolve.machine import hardware
from ..values import OFF
from ..windows import StageOfWindow, runs_of, windows_of
from .enhancement import rewrite_prompt
from .follow import DecodeTask, StageTask
from .looping import AUDIO_AROUND, audio_around, cut_loop, stillest, turned, video_around
from .models import Models, computing
from .preview import Preview
from .seams import first_new_latent, first_new_step, joined
from .stage_inputs import InputEncoder
from .stages import StageRun, schedule


@dataclass(frozen=True)
class Engine:
    """Runs one job with the models that it needs.

    Args: text: the text contexts, if they are known. ranks: those that denoise and decode together, of which this is
    the first; None for one process.
    """

    job: Job
    models: Models
    watch: Watch
    text: Streams[Contexts] | None = None
    ranks: Ranks | None = None

    def with_prompt(self) -> Engine:
        """The same with the prompt rewritten by a language model, if that is requested."""
        if not self.request.enhances:
            return self
        rewritten = rewrite_prompt(self.task, self.models, self.watch)
        self.watch.on_event(rewritten)
        return replace(self, job=self.job.with_prompt(rewritten.prompt))

    def with_length(self) -> Engine:
        """The same with the length that the model chooses from the prompt, if that is requested."""
        bounds, request = self.request.auto_length, self.request
        if bounds is None:
            return self
        with computing(self.task.machine.threads):
            contexts = self.contexts()
            seconds = self.wanted_seconds(contexts)
        factor = request.recipe.frame_multiple(self.models.shapes.video_vae.factors.time)
        frames = bounds.frames(seconds, request.fps, factor)
        self.watch.on_event(LengthChosen(frames=frames, fps=request.fps, seconds=seconds))
        return replace(self, job=self.job.with_length(frames), text=contexts)

    def wanted_seconds(self, contexts: Streams[Contexts]) -> float:
        """The duration that the model estimates for the prompt."""
        with self.models.component(DURATION_HEAD) as head:
            return head(*(context and context.positive for context in contexts)).item()

    def render(self) -> Report:
        """Run the stages that are not finished yet, then decode and write the file."""
        with computing(self.task.machine.threads):
            generator = torch.Generator(self.models.device).manual_seed(self.request.seed)
            return self.write(self.denoise(generator), generator)

    def denoise(self, generator: torch.Generator) -> Latents:
        """The latents for the file, those of each stage saved before the next one starts."""
        job, runs = self.job, runs_of(self.request)
        finished = [job.load(number) for number in range(1, job.finished_stages + 1)]
        results = [saved.latents for saved in finished]
        if finished:
            generator.set_state(finished[-1].generator)
        contexts = self.contexts() if len(results) < len(runs) else Streams()
        for number, one in list(enumerate(runs, 1))[len(results) :]:
            run = self.stage_run(one, results, contexts, generator, job.load_stopped(number))
            self.share(StageTask.of(self.task, run))
            show = None if self.preview is None else self.preview.show
            run = replace(run, capture=self.capture(number), on_estimate=show)
            with (
                self.models.ahead_of_decoders(self.request if number == len(runs) else None),
                self.models.transformer(self.models.loras(self.task, one.stage)) as model,
            ):
                done = run.run(model, self.watch, f"denoising, {one.name}")
            results.append(done.latents)
            job.save(number, done.latents, generator, done.keyframes, done.attention)
        return self.shipped(results)

    def shipped(self, results: Sequence[Latents]) -> Latents:
        """The latents for the file, from those of all stages of all windows (`runs_of` gives their order)."""
        windows, recipe = windows_of(self.request), self.request.recipe

        def of(stage: int) -> Sequence[Latents]:
            return results[(stage - 1) * len(windows) : stage * len(windows)]

        last, factor = self.request.last_stage, self.models.shapes.video_vae.factors.time
        frames = [first_new_latent(window, last, factor) for window in windows]
        steps = [first_new_step(window) for window in windows]
        return Streams(
            joined([latents.video for latents in of(len(recipe.stages))], frames),
            joined([latents.audio for latents in of(recipe.audio_stage)], steps),
        )

    def capture(self, number: int) -> AttentionCapture | None:
        """Sums the attention of the audio, in the stage whose audio goes into the file, if that is requested."""
        output = self.task.output
        if output.attention is None or number != self.request.recipe.audio_stage:
            return None
        blocks, steps = output.attention_blocks, output.attention_steps
        return AttentionCapture(
            blocks=ALL if blocks is None else frozenset(blocks),
            steps=ALL if steps is None else frozenset(steps),
        )

    def stage_run(
        self,
        one: StageOfWindow,
        results: Sequence[Latents],
        contexts: Streams[Contexts],
        generator: torch.Generator,
        saved: Saved | None = None,
    ) -> StageRun:
        """A stage of a window, with its encoded inputs and the results that it needs.

        Args: results: the latents of the runs before it.
        """
        models, stage, request = self.models, one.stage, one.request
        first_sigma = schedule(stage, request, request.grid(models.shapes.video_vae.factors, stage))[0].item()
        before = results[-one.windows] if one.number > 1 else None
        carried = results[-1] if request.place.number else None
        return StageRun(
            stage=stage,
            request=request,
            shapes=models.shapes,
            given=self.inputs.given(request, stage, before, carried, first_sigma),
            contexts=contexts,
            device=models.device,
            dtype=models.dtype,
            machine=self.task.machine,
            generator=generator,
            saved=saved,
            ranks=self.ranks,
        )

    def share(self, task: StageTask | DecodeTask) -> None:
        """Send the next task to the other ranks, if there are any."""
        if self.ranks is not None:
            self.ranks.from_first(task)

    def contexts(self) -> Streams[Contexts]:
        """The text contexts of the streams that are present; from the cache if they are there."""
        if self.text is not None:
            return self.text
        request, prompts = self.request, self.request.prompts
        found = self.read(prompts)
        for what, context in zip([*request.texts.values(), "the negative prompt"][: len(prompts)], found, strict=True):
            if context.dropped:
                total = request.text_rows + context.dropped
                lost = f"its last {context.dropped} of {total} tokens are dropped"
                self.watch.tell(f"{what} is too long: {lost}", is_warning=True)

        def of(stream: str, mode: str) -> Contexts | None:
            if mode == "off":
                return None
            features = [getattr(one, stream).to(self.models.device) for one in found]
            texts, negative = features[: len(request.texts)], features[len(request.texts) :]
            positive = texts[0] if len(texts) == 1 else torch.cat(texts, dim=1)
            if mode == "keep":  # not guided: passes with the negative prompt use the prompt for it
                return Contexts(positive)
            return Contexts(positive, *negative)

        return Streams(of("video", request.video), of("audio", request.audio))

    def read(self, prompts: list[str]) -> list[TextContext]:
        """The contexts of prompts: from the cache if they are there, and stored in it if not."""
        unknown: list[str] = []

        def encode(texts: list[str]) -> list[TextContext]:
            unknown.extend(texts)
            return self.encode(texts)

        with self.watch.phase("text", "reading the prompt") as on_prompt:
            found = self.cache().recall(prompts, encode) if self.task.uses_cache else encode(prompts)
            on_prompt(len(unknown))
        return found

    def cache(self) -> ContextCache:
        """The prompt cache for this text encoder and these connectors."""
        roles = self.models.headers.text_roles
        return ContextCache(
            encoder=self.job.fingerprint("text_encoder"),
            weights="".join(self.job.fingerprint(role) for role in roles),
            rows=self.request.text_rows,
            dtype=self.models.dtype,
            device=self.models.device.type,
        )

    def encode(self, prompts: list[str]) -> list[TextContext]:
        """Run the text encoder, then projection and connectors."""
        with self.models.ahead_of_denoiser():
            return encode_prompts(prompts, self.models.text_encoder, self.models.connectors, self.request.text_rows)

    def write(self, latents: Latents, generator: torch.Generator) -> Report:
        """Decode the latents and write the file: the audio first, since it is short, then frame after frame."""
        task, request = self.task, self.request
        width, height = request.file_size
        shape = ClipShape(width=width, height=height, frames=request.file_frames, fps=request.file_fps)
        comment = self.made().dump() if task.output.metadata else None
        output = Output(
            path=task.target,
            comment=comment,
            overwrite=task.output.overwrite,
            strict=task.output.strict,
            before_rename=self.job.note_result,
        )
        if request.video == "keep":
            return self.dub(output, latents)
        audio = self.audio(latents)
        if isinstance(audio, Waveform):
            audio = self.levelled(fit_waveform(audio, shape.duration_s))
        if latents.video is None:
            assert isinstance(audio, Waveform)
            return write_audio(output, audio)
        with (
            self.models.component("video_decoder") as decoder,
            self.watch.phase("video", "decoding and encoding", request.file_frames) as on_frames,
        ):
            begin, frames = self.frames(latents.video, decoder, generator)
            if begin and isinstance(audio, Waveform):
                audio = turned(audio, begin / request.file_fps)
            report = write_clip(output, shape, frames, audio, task.output.encoding, on_frames)
            if task.stills:
                self.write_stills(decoder, generator)
            return report

    def frames(self, latent: Tensor, decoder: Decoder, generator: torch.Generator) -> tuple[int, Iterator[Tensor]]:
        """The index of the first frame of the file, and its frames (F 3 H W) in [0, 1], chunk by chunk.

        The index is 0, except for a loop that may start anywhere: it starts with that one of its first frames, as many
        as a latent frame represents, that differs least from the frame before it, so that the seam lies where little
        moves. Other ranks decode some of the tiles, if there are several ranks and tiles. latent: (1 c f h w).
        """
        request, tiles, ranks = self.request, self.task.machine.decode_tiles, None
        if request.loops:
            latent = video_around(latent)
        latent = latent.to(self.models.device, self.models.dtype)
        if self.ranks is not None and can_be_dealt(latent, decoder, tiles):
            ranks = self.ranks
            self.share(DecodeTask(self.task, latent))
        frames = decode_video(latent, decoder, tiles, generator, ranks)
        if self.preview is not None:
            frames = self.preview.fitting(frames, latent)
        step, count, turn = self.models.shapes.video_vae.factors.time, request.file_frames, 0
        begin = (AROUND - 1) * step if request.loops else 0
        if request.begins_anywhere:
            turn, frames = stillest(part_of(frames, begin - 1, count + step), step)
            begin = 1 + turn
        return turn, cropped(part_of(frames, begin, count), request.file_size)

    def write_stills(self, decoder: Decoder, generator: torch.Generator) -> None:
        """Decode the generated keyframes of the first stage, each as a clip of a single frame, and write them as
        stills.
        """
        keyframes, task = self.job.load(1).keyframes, self.task
        assert keyframes is not None
        latents = keyframes.to(self.models.device, self.models.dtype).split(1, dim=2)
        for path, latent in zip(task.stills, latents, strict=True):
            (frame,) = torch.cat(list(decode_video(latent, decoder, task.machine.decode_tiles, generator)))
            write_still(path, frame.cpu(), overwrite=task.output.overwrite)

    def dub(self, output: Output, latents: Latents) -> Report:
        """Add the audio to the kept video."""
        given, settings = self.request.source, self.task.output
        assert given is not None
        assert latents.audio is not None
        source = check_input(self.task.inputs[given.role], VideoSource)
        span = None
        if given.duration_s is not None:
            span = copyable_span(source, given.start_s, given.start_s + given.duration_s)
        keeps_audio = settings.old_sound == "second-track"
        container = container_for(source, settings.audio_codec, keeps_audio=keeps_audio)
        duration_s = source.duration_s if span is None else span.duration_s
        audio = self.levelled(fit_waveform(self.decode_audio(latents.audio), duration_s))
        with self.watch.phase("video", "copying the video"):
            return write_dubbed(output, source, span, container, audio, settings.audio_codec, keeps_audio=keeps_audio)

    def audio(self, latents: Latents) -> Waveform | AudioSource | None:
        """The audio for a video: generated or input audio, as samples for an encoder or as packets."""
        if latents.audio is None:
            return None
        if self.request.audio != "keep":
            if self.request.loops:
                return self.looped_audio(latents.audio)
            return self.decode_audio(latents.audio, self.request.audio_piece)
        codec = self.task.output.audio_codec
        if codec == COPY:
            return self.inputs.audio_source_file()
        return at_rate_of(codec, storable(self.inputs.given_audio(), self.inputs.audio_source_file().speakers))

    def looped_audio(self, latent: Tensor) -> Waveform:
        """The waveform of an audio latent whose end connects to its beginning, as long as its video."""
        period_s = self.request.file_frames / self.request.file_fps
        around = audio_around(latent, period_s)
        return cut_loop(self.decode_audio(around), around.shape[2] - 2 * AUDIO_AROUND, period_s)

    def decode_audio(self, latent: Tensor, piece: int | None = None) -> Waveform:
        """The waveform of an audio latent, decoded in pieces of so many steps; None decodes the whole.

        The vocoder computes in float32: lower precision degrades its output.
        """
        models = self.models
        with self.watch.phase("sound", "decoding the audio"):
            with models.component("audio_decoder") as decoder:
                mel = decode_audio(latent.to(models.device, models.dtype), decoder, piece).float()
            with models.component("vocoder", torch.float32) as vocoder:
                samples = [wave[0].cpu() for wave in vocode(mel, vocoder, piece)]
                return Waveform(torch.cat(samples, dim=-1), vocoder.config.sample_rate_hz)

    def levelled(self, audio: Waveform) -> Waveform:
        """Audio of its final length, at the requested loudness."""
        wanted = self.task.output.loudness
        if wanted == OFF:
            return audio
        made = at_loudness(audio, wanted)
        self.watch.tell(made.problem or made.summary, is_warning=bool(made.problem))
        return made.audio

    def made(self) -> Made:
        """The recipe of the file."""
        output = self.task.output.model_dump(include=set(EncodingSettings.model_fields))
        return Made(
            made_with=versions(),
            hardware=hardware(self.task.machine.device),
            model=MadeModel(name=self.task.files.name, files=self.job.made_files()),
            request=self.request,
            machine=self.task.machine,
            output=EncodingSettings(**output),
        )

    @cached_property
    def preview(self) -> Preview | None:
        """Shows the progress of the video, if that is requested."""
        return None if self.task.output.preview == OFF else Preview(self.job, self.models, self.watch)

    @cached_property
    def inputs(self) -> InputEncoder:
        """Reads and encodes the user's input; what is the same for all stages only once."""
        return InputEncoder(self.task, self.models, self.watch)

    @property
    def task(self) -> RenderTask:
        return self.job.task

    @property
    def request(self) -> Request:
        return self.task.request


def part_of(chunks: Iterator[Tensor], begin: int, count: int) -> Iterator[Tensor]:
    """Yield `count` frames of chunks (F 3 H W), starting at `begin`.

    Chunks are read to the end, because other ranks decode together with this one.
    """
    for chunk in chunks:
        kept = chunk[begin:][:count]
        begin, count = max(0, begin - len(chunk)), count - len(kept)
        if len(kept):
            yield kept


def cropped(chunks: Iterator[Tensor], size: tuple[int, int]) -> Iterator[Tensor]:
    """Crop frames (F 3 H W) to a width and height, equally on both sides."""
    width, height = size
    for chunk in chunks:
        top, left = (chunk.shape[-2] - height) // 2, (chunk.shape[-1] - width) // 2
        yield chunk[..., top : top + height, left : left + width]
