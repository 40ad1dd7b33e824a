"""What the user gave, encoded for one stage: where its streams start, what holds in them, how noisy they are made.

Source: spec pipelines, sections 2.1 to 2.8 and 2.15; spec sampling, sections 4.5 and 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor
from torch.nn import functional as F

from ..conditioning.conditions import Condition, GivenTokens, Keyframe, ReferenceVideo, TimeWindow, WithAttention
from ..grids import VideoGrid, audio_latent_count
from ..latents import Latents
from ..media.audio import at_workable_rate, read_sound
from ..media.image import prepare_image
from ..media.inputs import ImageSource, SoundSource, VideoSource, check_input
from ..media.resize import to_clip
from ..media.sound import Sound
from ..media.video import frames_by_index, frames_by_time
from ..models.mel import mel_from_waveform
from ..models.upsampler import upsample_latent
from ..tiles import Cut, TilePlan
from ..tiling import encode_tiled
from ..types import Streams
from .events import Watch
from .inputs import ImageInput, ReferenceInput
from .job import Job
from .models import Models
from .recipe import Recipe, Stage

SOURCE_TILES = (Cut(80, 24), Cut(768, 64))  # in frames, and in pixels on both sides


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a stage starts from.

    Args: start: latents (1 c f h w) and (1 c t m); a stream without one starts from nothing. noise: how much goes on
    each stream, from 1 to 0. conditions: in the order in which they apply.
    """

    start: Latents
    noise: Streams[float]
    conditions: Streams[Sequence[Condition]]


@dataclass(frozen=True)
class Giver:
    """Reads and encodes the inputs of a job."""

    job: Job
    models: Models
    watch: Watch

    def given(self, stage: Stage, before: Latents | None, first_sigma: float) -> Given:
        """Everything for one stage. before: the latents of the stage before it."""
        request, recipe = self.job.request, self.job.request.recipe
        start = self.upsampled(before, stage) if stage.start == "upsampled" and before is not None else Streams()
        video, audio = start
        grid = self.models.shapes.grid(request, stage)
        if request.source is not None and (stage.start == "source" or request.video == "keep"):
            video = self.clip(grid)
        if request.sound_source is not None and (stage.start == "source" or request.sound == "keep"):
            audio = self.sound()
        noise = first_sigma if stage.noise is None and stage.start != "noise" else stage.noise or 1.0
        return Given(
            start=Streams(video, audio),
            noise=Streams(*(0.0 if mode == "keep" else noise for mode in request.modes)),
            conditions=self.conditions(stage, recipe, grid),
        )

    def conditions(self, stage: Stage, recipe: Recipe, grid: VideoGrid) -> Streams[Sequence[Condition]]:
        """What holds in each stream: a window of time, images, references."""
        request = self.job.request
        window: list[Condition] = []
        if request.window is not None:
            window.append(TimeWindow(start_s=float(request.window.start_s), end_s=float(request.window.end_s)))
        video = list(window)
        if stage.conditions != "none" and request.images:
            video += self.images(request.images, stage, grid, appends_all=recipe.images == "append")
        if stage.conditions == "all" and request.references:
            video += self.references(request.references, grid)
        return Streams(video, window)

    def images(
        self, images: Sequence[ImageInput], stage: Stage, grid: VideoGrid, *, appends_all: bool
    ) -> list[Condition]:
        """Stills: the one at frame 0 replaces the first latent frame, others are appended at their frames."""
        fps, factors = self.job.request.fps * stage.rate, grid.factors

        def condition(image: ImageInput, latent: Tensor) -> Condition:
            if image.frame == 0 and not appends_all:
                return GivenTokens.frames(latent, 0, image.strength)
            frame = round(image.frame * stage.rate)
            return Keyframe(latent=latent, frame=frame, fps=fps, factors=factors, strength=image.strength)

        latents = self.encode("reading the images", (self.image_pixels(image, grid) for image in images))
        return [condition(image, latent) for image, latent in zip(images, latents, strict=True)]

    def references(self, references: Sequence[ReferenceInput], grid: VideoGrid) -> list[Condition]:
        """Clips to look at, as an in-context LoRA was trained with: smaller, and with fewer frames."""
        request = self.job.request

        def condition(reference: ReferenceInput, latent: Tensor) -> Condition:
            shown = ReferenceVideo(
                latent=latent,
                fps=request.fps,
                factors=grid.factors,
                spatial_scale=reference.spatial_scale,
                temporal_scale=reference.temporal_scale,
                strength=reference.strength,
            )
            return shown if reference.attention == 1 else WithAttention(shown, reference.attention)

        latents = self.encode(
            "reading the reference", (self.reference_pixels(reference, grid) for reference in references)
        )
        return [condition(reference, latent) for reference, latent in zip(references, latents, strict=True)]

    def clip(self, grid: VideoGrid) -> Tensor:
        """The source clip (1 c f h w) at the size of a stage, with as many frames as are rendered."""
        (latent,) = self.encode("reading the clip", [self.clip_pixels(grid)], source_tiles(grid))
        return latent

    def sound(self) -> Tensor:
        """The source sound (1 c t m), cut or lengthened with silence to the length of the clip."""
        request, models = self.job.request, self.models
        mel_config = models.shapes.audio_vae.mel
        given = at_workable_rate(self.given_sound(), mel_config.sample_rate_hz)
        with self.watch.phase("inputs", "reading the sound"), models.component("audio_encoder") as encoder:
            wave = given.samples.unsqueeze(0).to(models.device)
            mel = mel_from_waveform(wave, given.sample_rate_hz, mel_config)
            latent = encoder(mel.to(models.dtype))
        steps = audio_latent_count(request.frames, request.fps)
        latent = latent[:, :, :steps]
        return F.pad(latent, (0, 0, 0, steps - latent.shape[2]))  # zeros are the mean latent

    def image_pixels(self, image: ImageInput, grid: VideoGrid) -> Tensor:
        """A still as the encoder takes it (1 3 1 H W), in [-1, 1] as all pixels here."""
        source = check_input(self.job.inputs[image.role], ImageSource)
        return prepare_image(source, grid.height, grid.width, image.crf)

    def reference_pixels(self, reference: ReferenceInput, grid: VideoGrid) -> Tensor:
        """The first frames of a reference (1 3 F H W), smaller and fewer as its LoRA wants them."""
        source = check_input(self.job.inputs[reference.role], VideoSource)
        frames = frames_by_index(source, self.job.request.frames)
        chosen = (frame for i, frame in enumerate(frames) if i == 0 or (i - 1) % reference.temporal_scale == 0)
        height, width = (side // reference.spatial_scale for side in (grid.height, grid.width))
        return to_clip(chosen, height, width)

    def clip_pixels(self, grid: VideoGrid) -> Tensor:
        """The frames of the source clip that are rendered (1 3 F H W), at the rate of the request."""
        request, given = self.job.request, self.job.request.source
        assert given is not None
        source = check_input(self.job.inputs[given.role], VideoSource)
        return to_clip(frames_by_time(source, request.frames, request.fps, given.start_s), grid.height, grid.width)

    def given_sound(self) -> Sound:
        """The part of the source sound that is used, at its own rate, with its own channels."""
        given = self.job.request.sound_source
        assert given is not None
        source = check_input(self.job.inputs[given.role], SoundSource)
        return read_sound(source, given.start_s, given.duration_s)

    def encode(self, name: str, clips: Iterable[Tensor], tiles: TilePlan | None = None) -> list[Tensor]:
        """Encode clips (1 3 F H W) in [-1, 1], one after another, with one load of the encoder."""
        models = self.models
        with self.watch.phase("inputs", name), models.component("video_encoder") as encoder:
            run: Callable[[Tensor], Tensor] = encoder if tiles is None else lambda x: encode_tiled(x, encoder, tiles)
            return [run(clip.to(models.device, models.dtype)) for clip in clips]

    def upsampled(self, latents: Latents, stage: Stage) -> Latents:
        """Latents for a larger stage, or one of more frames: the picture enlarged, the sound as it is."""
        if latents.video is None:
            return latents
        models = self.models
        load = partial(models.load_upsampler, self.job.request.recipe.upsampler(stage))
        with self.watch.phase("upsample", "enlarging"), models.resident(load) as (upsampler, statistics):
            video = upsample_latent(latents.video[:1].to(models.device, models.dtype), upsampler, statistics)
        return Streams(video, latents.audio)


def source_tiles(grid: VideoGrid) -> TilePlan:
    """How a source clip is cut for encoding: by the official sizes, and only where it is larger than one tile."""
    frames, side = SOURCE_TILES
    return TilePlan(
        frames=frames if grid.frames > frames.tile else None,
        height=side if grid.height > side.tile else None,
        width=side if grid.width > side.tile else None,
    )
