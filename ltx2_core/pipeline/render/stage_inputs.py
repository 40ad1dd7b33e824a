"""The user's input, encoded for one stage: starting latents, conditions, and noise levels of its streams.

Source: docs/reference/pipelines.md, "Kinds of run"; docs/reference/sampling.md, "Conditions" and
"Preparing given media".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from ...conditioning.conditions import (
    Condition,
    GivenTokens,
    Keyframe,
    KeyframeSlots,
    ReferenceAudio,
    ReferenceVideo,
    TimeWindow,
    WithAttention,
    before_start,
)
from ...config.video_vae import IMAGE_CHANNELS
from ...grids import VideoGrid
from ...latents import Latents, audio_positions, patchify_audio
from ...media.accept import check_input
from ...media.audio import at_workable_rate, read_audio
from ...media.image import prepare_image, read_image
from ...media.inputs import AudioSource, ImageSource, VideoSource
from ...media.reference_sheet import reference_sheet
from ...media.resize import clip_pieces, filled_up, resized, to_clip
from ...media.video import frames_by_time
from ...media.waveform import Waveform, fit_waveform
from ...models.mel import mel_from_waveform
from ...models.upsampler import upsample_latent
from ...tiling.audio import encode_audio
from ...tiling.streamed_clip import StreamedClip
from ...tiling.video import encode_tiled
from ...types import Streams
from ..events import Watch
from ..recipe import Edit, Stage
from ..request import ClipInput, Extension, ImageInput, ReferenceInput, RenderTask, Request
from .models import Models
from .seams import carried_audio, carried_video


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The start of a stage.

    Args: start: latents (1 c f h w) and (1 c t m); a stream without one starts from zeros. noise: the noise level of
    each stream, from 1 to 0. conditions: in the order in which they apply.
    """

    start: Latents
    noise: Streams[float]
    conditions: Streams[Sequence[Condition]]


@dataclass(frozen=True)
class InputEncoder:
    """Reads and encodes the inputs of a task, stage by stage; what all stages share is encoded once."""

    task: RenderTask
    models: Models
    watch: Watch
    _clips: dict[VideoGrid, Tensor] = field(default_factory=dict)

    def given(
        self, request: Request, stage: Stage, before: Latents | None, carried: Latents | None, first_sigma: float
    ) -> Given:
        """The start of one stage of a request, or of a window of it.

        Args: before: the latents of the stage before it. carried: those of the same stage of the previous window.
        """
        start = self.upsampled(before, stage) if stage.start == "upsampled" and before is not None else Streams()
        video, audio = start
        grid = request.grid(self.models.shapes.video_vae.factors, stage)
        if request.source is not None and (stage.start == "source" or request.video == "keep"):
            video = self.clip(request.source_grid(grid.factors, stage), stage)
            if stage.enlarges:
                video = self.enlarged(video, stage)
        if request.audio_source is not None and (stage.start == "source" or request.audio == "keep"):
            audio = self.source_audio(request)
        noise = stage.noise or 1.0
        if stage.noise is None and stage.start != "noise":
            noise = first_sigma
        return Given(
            start=Streams(video, audio),
            noise=Streams(*(0.0 if mode == "keep" else noise for mode in request.streams)),
            conditions=self.conditions(request, stage, grid, carried),
        )

    def conditions(
        self, request: Request, stage: Stage, grid: VideoGrid, carried: Latents | None = None
    ) -> Streams[Sequence[Condition]]:
        """The conditions of each stream: a window of time, the extended clip, images, references, keyframes to
        generate, and the latents that a window takes over from the previous one.
        """
        video: list[Condition] = []
        audio: list[Condition] = []
        if request.window is not None:
            window = TimeWindow(start_s=float(request.window.start_s), end_s=float(request.window.end_s))
            video.append(window)
            if request.audio_source is not None:
                audio.append(window)
        if request.extension is not None:
            video += self.kept_video(request, request.extension, stage, grid)
            if request.audio_source is not None:
                audio += self.kept_audio(request, request.extension)
        if stage.conditions != "none" and request.images:
            video += self.images(request.images, stage, grid, appends_all=request.recipe.images == "append")
        if stage.conditions == "all" and request.references:
            video += self.references(request, grid)
        if stage.conditions == "all" and request.voice is not None:
            tokens = patchify_audio(self._encoded_voice)
            audio.append(ReferenceAudio(tokens=tokens, positions=before_start(audio_positions(tokens.shape[1]))))
        if frames := request.keyframes_of(stage):
            video.append(KeyframeSlots(frames=frames, fps=request.fps * stage.rate, factors=grid.factors))
        if carried is not None:
            video += carried_video(request, stage, carried, grid.factors.time)
            audio += carried_audio(request, carried)
        return Streams(video, audio)

    def images(
        self, images: Sequence[ImageInput], stage: Stage, grid: VideoGrid, *, appends_all: bool
    ) -> list[Condition]:
        """Images: the one at frame 0 replaces the first latent frame, others are appended at their frames."""
        fps, factors = self.task.request.fps * stage.rate, grid.factors

        def condition(image: ImageInput, latent: Tensor) -> Condition:
            if image.frame == 0 and not appends_all:
                return GivenTokens.frames(latent, 0, image.strength)
            frame = round(image.frame * stage.rate)
            return Keyframe(latent=latent, frame=frame, fps=fps, factors=factors, strength=image.strength)

        latents = self.encode("encoding the images", (self.image_pixels(image, grid) for image in images))
        return [condition(image, latent) for image, latent in zip(images, latents, strict=True)]

    def references(self, request: Request, grid: VideoGrid) -> list[Condition]:
        """Reference clips, at the scale that an in-context LoRA was trained with: smaller, and with fewer frames."""

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

        references = request.shown_references
        clips = (self.reference_pixels(request, reference, grid) for reference in references)
        latents = self.encode("encoding the reference", clips)
        return [condition(reference, latent) for reference, latent in zip(references, latents, strict=True)]

    def kept_video(self, request: Request, extension: Extension, stage: Stage, grid: VideoGrid) -> list[Condition]:
        """The source clip at its place in a longer one, or its part inside a window of that.

        Its first latent frame represents a single pixel frame, which fits only at the very beginning; elsewhere it is
        left out, and generated.
        """
        kept = self.task.request.frames - extension.before - extension.after
        latent = self.clip(replace(grid, frames=stage.frames(kept)), stage)
        begin, origin = (
            int(frames * stage.rate) // grid.factors.time for frames in (extension.before, request.place.begin)
        )
        there = range(begin + bool(extension.before), begin + latent.shape[2])
        shared = _overlap(there, range(origin, origin + grid.latent[0]), is_window=request.place.number > 0)
        return [GivenTokens.frames(latent[:, :, i.start - begin : i.stop - begin], i.start - origin) for i in shared]

    def kept_audio(self, request: Request, extension: Extension) -> list[Condition]:
        """The source audio at its place in a longer one, without its first step if something comes before it."""
        steps, own = extension.audio_steps(self.task.request.frames, request.fps), request.audio_steps
        tokens = patchify_audio(self._encoded_audio[:, :, : len(steps)])
        there = range(steps.start + bool(extension.before), steps.start + tokens.shape[1])
        return [
            GivenTokens(tokens=tokens[:, i.start - steps.start : i.stop - steps.start], start=i.start - own.start)
            for i in _overlap(there, own, is_window=request.place.number > 0)
        ]

    def clip(self, grid: VideoGrid, stage: Stage) -> Tensor:
        """The source clip (1 c f h w) at the size and rate of a stage, with the requested number of frames.

        It is encoded once for all windows of a chain.
        """
        if grid not in self._clips:
            self._clips.clear()
            (self._clips[grid],) = self.encode("encoding the video", [self.clip_pixels(grid, stage)])
        return self._clips[grid]

    def source_audio(self, request: Request) -> Tensor:
        """The source audio (1 c t m) of a request or a window of it, padded with silence if it is shorter than the
        clip.
        """
        steps = request.audio_steps
        latent = self._encoded_audio[:, :, steps.start : steps.stop]
        return F.pad(latent, (0, 0, 0, len(steps) - latent.shape[2]))  # zeros are the mean latent

    @cached_property
    def _encoded_audio(self) -> Tensor:
        """The used part of the source audio (1 c t m), with its own length."""
        return self.encode_audio(self.given_audio())

    @cached_property
    def _encoded_voice(self) -> Tensor:
        """The reference voice (1 c t m)."""
        voice = self.task.request.voice
        assert voice is not None
        source = check_input(self.task.inputs[voice.role], AudioSource)
        return self.encode_audio(read_audio(source, voice.start_s, voice.duration_s))

    def encode_audio(self, audio: Waveform) -> Tensor:
        """The latent (1 c t m) of audio of any rate."""
        models = self.models
        mel_config = models.shapes.audio_vae.mel
        given = at_workable_rate(audio, mel_config.sample_rate_hz)
        with self.watch.phase("inputs", "encoding the audio"), models.component("audio_encoder") as encoder:
            wave = given.samples.unsqueeze(0).to(models.device)
            mel = mel_from_waveform(wave, given.sample_rate_hz, mel_config)
            return encode_audio(mel.to(models.dtype), encoder, self.task.request.audio_piece)

    def image_pixels(self, image: ImageInput, grid: VideoGrid) -> Tensor:
        """An image for the encoder (1 3 1 H W), in [-1, 1] like all pixels here."""
        source = check_input(self.task.inputs[image.role], ImageSource)
        return prepare_image(source, grid.height, grid.width, image.crf)

    def reference_pixels(self, request: Request, reference: ReferenceInput, grid: VideoGrid) -> Tensor | StreamedClip:
        """The frames of a reference for the rendered ones (1 3 F H W), at the scales of its LoRA. For a clip that is
        enlarged, all its frames are used, whatever its length.
        """
        height, width = (side // reference.spatial_scale for side in (grid.height, grid.width))
        if reference.is_still:
            return self.sheet_pixels(height, width).expand(-1, -1, reference.frames_beside(request.frames), -1, -1)
        frames = self.frames(reference, request.frames, request.fps)
        chosen = (frame for i, frame in enumerate(frames) if i == 0 or (i - 1) % reference.temporal_scale == 0)
        if request.recipe.edit != Edit.UPSCALE:
            return to_clip(chosen, height, width)
        count = reference.frames_beside(request.frames)
        return self.streamed(chosen, replace(grid, frames=count, height=height, width=width))

    def sheet_pixels(self, height: int, width: int) -> Tensor:
        """All reference images, on one sheet (1 3 1 height width)."""
        stills = [one for one in self.task.request.references if one.is_still]
        sources = (check_input(self.task.inputs[one.role], ImageSource) for one in stills)
        return to_clip([reference_sheet([*map(read_image, sources)], height, width)], height, width)

    def clip_pixels(self, grid: VideoGrid, stage: Stage) -> StreamedClip:
        """The frames of the source clip (1 3 F H W) for a grid, at the rate of a stage."""
        request, given = self.task.request, self.task.request.source
        assert given is not None
        return self.streamed(self.frames(given, grid.frames, request.fps * stage.rate), grid)

    def streamed(self, frames: Iterable[Tensor], grid: VideoGrid) -> StreamedClip:
        """Frames (1 3 H W) of any size as a clip of a grid, which is encoded while it is read."""
        shape = torch.Size((1, IMAGE_CHANNELS, grid.frames, grid.height, grid.width))
        pieces = clip_pieces(frames, grid.height, grid.width)
        return StreamedClip(pieces, shape, self.models.device, self.models.dtype)

    def frames(self, given: ClipInput | ReferenceInput, count: int, fps: Fraction) -> Iterable[Tensor]:
        """So many frames of a clip (1 3 H W) uint8; for a clip that is enlarged, padded to a valid size."""
        source, request = check_input(self.task.inputs[given.role], VideoSource), self.task.request
        frames = frames_by_time(source, count, fps, given.start_s)
        if request.recipe.edit != Edit.UPSCALE:
            return frames
        grid = request.source_grid(self.models.shapes.video_vae.factors, request.recipe.stages[0])
        shown = source.height, source.width
        return (filled_up(resized(frame, *shown), grid.height, grid.width) for frame in frames)

    def given_audio(self) -> Waveform:
        """The used part of the source audio, at its own rate, with its own channels.

        If the audio is kept, it is padded with silence up to the end of the video.
        """
        request, given = self.task.request, self.task.request.audio_source
        assert given is not None
        audio = read_audio(self.audio_source_file(), given.start_s, given.duration_s)
        is_short = request.audio == "keep" and audio.duration_s < request.duration_s
        return fit_waveform(audio, request.duration_s) if is_short else audio

    def audio_source_file(self) -> AudioSource:
        """The file with the audio."""
        given = self.task.request.audio_source
        assert given is not None
        return check_input(self.task.inputs[given.role], AudioSource)

    def encode(self, name: str, clips: Iterable[Tensor | StreamedClip]) -> list[Tensor]:
        """Encode clips (1 3 F H W) in [-1, 1], one after another, with the encoder loaded once; streamed clips in
        tiles, and others whole.
        """
        models, tiles = self.models, self.task.machine.encode_tiles
        with self.watch.phase("inputs", name), models.component("video_encoder") as encoder:

            def encoded(clip: Tensor | StreamedClip) -> Tensor:
                if isinstance(clip, StreamedClip):
                    return encode_tiled(clip, encoder, tiles)
                return encoder(clip.to(models.device, models.dtype))

            return [*map(encoded, clips)]

    def upsampled(self, latents: Latents, stage: Stage) -> Latents:
        """Latents for a larger stage, or one with more frames: the video enlarged, the audio unchanged."""
        if latents.video is None:
            return latents
        return Streams(self.enlarged(latents.video, stage), latents.audio)

    def enlarged(self, video: Tensor, stage: Stage) -> Tensor:
        """A video latent (1 c f h w) enlarged to the size of a stage."""
        models, role = self.models, self.task.request.recipe.upsampler(stage)
        with self.watch.phase("upsample", "upsampling"), models.upsampler(role) as (upsampler, statistics):
            return upsample_latent(video[:1].to(models.device, models.dtype), upsampler, statistics)


def _overlap(there: range, own: range, *, is_window: bool) -> list[range]:
    """The cells of a source inside a clip, without its first one in a later window of a longer clip."""
    shared = range(max(there.start, own.start + is_window), min(there.stop, own.stop))
    return [shared] if shared else []
