"""The request: what to render, with every value resolved from flags, files and presets. Opens only headers.

Source: docs/cli.md, "Commands"; docs/reference/pipelines.md, "Sizes and lengths".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ..config.video_vae import DecoderName
from ..grids import Factors, VideoGrid, audio_latent_count, audio_latents_within, evenly_spaced, frames_lasting
from ..hub.find import ModelFiles
from ..machine import MOST_RANKS, Machine
from ..media.clip import VIDEO_CODECS, Encoding
from ..media.reading import FrameReading
from ..records import Record
from ..sampling.guidance import UNGUIDED, GuidanceScales
from ..types import Streams
from .chain import Chain, WindowPlace
from .outputs import beside_of, stills_of
from .recipe import Recipe, Stage
from .segments import Segments, TextSpan, names_of_texts, text_spans
from .values import OFF, Choice, FrameRate, Interval, Loudness, Seconds

VideoCodecName = Annotated[str, BeforeValidator(Choice.of(VIDEO_CODECS))]
COPY = "copy"  # instead of a codec: copy the packets of the given audio
AUDIO_CODECS = ("aac", "alac", "flac", COPY)  # in MP4, each by the encoder of the same name
AudioCodecName = Annotated[str, BeforeValidator(Choice(AUDIO_CODECS))]
OldTrackName = Annotated[str, BeforeValidator(Choice(("drop", "second-track")))]

ENHANCER = "enhancer"  # role of the language model that rewrites the prompt

AROUND = 5  # latent frames that are decoded before and after a loop
RECORD = "job.json"  # the file in a job folder that holds the task

Share = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(allow_inf_nan=False)]
StreamMode = Literal["generate", "keep", "off"]
PixelFrame = Annotated[int, Field(ge=0)]


class LoraInput(Record):
    """A LoRA and its strength. role: its key in the job. name: of its file."""

    role: str
    name: str
    strength: Strength


class ImageInput(Record):
    """An image and its pixel frame. crf: the strength of its compression before it is encoded."""

    role: str
    name: str
    frame: PixelFrame
    strength: Share
    crf: Annotated[int, Field(ge=0, le=51)]


class ClipInput(Record):
    """A clip that a render starts from, from a time on.

    Args: duration_s: of a part that is cut out; None for all of it. reading: how its frames are converted.
    """

    role: str
    name: str
    start_s: Seconds = Fraction(0)
    duration_s: Seconds | None = None
    reading: FrameReading | None = None


class AudioInput(Record):
    """An audio file or the audio track of a clip, or a part of it."""

    role: str
    name: str
    start_s: Seconds = Fraction(0)
    duration_s: Seconds | None = None


class ReferenceInput(Record):
    """A reference clip, from a time on.

    Args: attention: how much it and the result attend to each other. reading: how its frames are converted. is_still:
    whether it is an image, which is on one sheet with all others for the whole duration.
    """

    role: str
    name: str
    start_s: Seconds = Fraction(0)
    strength: Share = 1.0
    attention: Share = 1.0
    spatial_scale: Annotated[int, Field(ge=1)] = 1
    temporal_scale: Annotated[int, Field(ge=1)] = 1
    reading: FrameReading | None = None
    is_still: bool = False

    def frames_beside(self, frames: int) -> int:
        """The number of its frames for a clip of so many frames."""
        return 1 + -(-(frames - 1) // self.temporal_scale)


class Window(Record):
    """The span of time that is regenerated."""

    start_s: Seconds
    end_s: Seconds


class Extension(Record):
    """How many pixel frames are generated before and after those of the source. Whole latent frames."""

    before: Annotated[int, Field(ge=0)] = 0
    after: Annotated[int, Field(ge=0)] = 0

    def audio_steps(self, frames: int, fps: Fraction) -> range:
        """The audio latent steps of the source, in a clip of so many frames; no step that it covers only in part."""
        within = audio_latents_within(self.before, frames - self.after, fps)
        return within if self.after else range(within.start, audio_latent_count(frames, fps))


class AutoLength(Record):
    """The minimum and maximum length if the model chooses the length from the prompt."""

    shortest_s: Seconds
    longest_s: Seconds

    def frames(self, seconds: float, fps: Fraction, multiple: int) -> int:
        """The frames of a clip of about so many seconds, one more than a multiple."""
        return frames_lasting(seconds, float(fps), float(self.shortest_s), float(self.longest_s), multiple)


class Request(Record):
    """Everything that determines the result, down to the bit.

    Args:
        crop: width and height of the file, if they are smaller than those of the render.
        kept_frames: how many frames of the last stage go into the file, from the first on; None for all of them.
        full_recipe: for a draft, the recipe of the full render; all fields except `recipe` are the same for both.
        cache_steps: the relative change of the first block's work up to which an evaluation of a guided stage skips the
        other blocks; 0 skips none.
        voice: reference audio before the clip, for a LoRA that was trained to use a voice.
        chain: the windows of a clip that is longer than one; None if it is made in one piece.
        enhances: whether a language model has yet to rewrite the prompt.
        given_prompt: the original prompt, if a language model has rewritten it.
        segments: spans with their own prompts.
        auto_length: the model has yet to choose the length; until then `frames` is the maximum.
        generated_keyframes: how many single frames the model generates with the clip, evenly spaced, or at which frames
        of the clip.
        loops: whether the end of the clip connects to its beginning; the first frame is dropped, as the last one
        replaces it.
    """

    mode: str
    prompt: str
    negative: str | None
    seed: int
    width: int
    height: int
    crop: tuple[int, int] | None
    frames: int
    kept_frames: Annotated[int, Field(ge=1)] | None = None
    fps: FrameRate
    video: StreamMode
    audio: StreamMode
    preset: str
    recipe: Recipe
    full_recipe: Recipe | None = None
    steps: int
    guidance: Streams[GuidanceScales]
    cache_steps: Share = 0.0
    loras: tuple[LoraInput, ...] = ()
    images: tuple[ImageInput, ...] = ()
    source: ClipInput | None = None
    audio_source: AudioInput | None = None
    references: tuple[ReferenceInput, ...] = ()
    voice: AudioInput | None = None
    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    window: Window | None = None
    extension: Extension | None = None
    chain: Chain | None = None
    enhances: bool = False
    given_prompt: str | None = None
    segments: Segments = ()
    auto_length: AutoLength | None = None
    generated_keyframes: PixelFrame | tuple[PixelFrame, ...] = 0
    loops: bool = False
    schedule_tokens: int
    text_rows: int
    decoder: DecoderName = "conv"

    @property
    def streams(self) -> Streams[StreamMode]:
        """The mode of each stream."""
        return Streams(self.video, self.audio)

    @property
    def duration_s(self) -> Fraction:
        """From the beginning of the first frame to the end of the last."""
        return self.frames / self.fps

    @property
    def place(self) -> WindowPlace:
        """Its place in the whole result, which it fills unless it is a window of a chain."""
        return WindowPlace()

    @property
    def begin_s(self) -> Fraction:
        """Its start in the whole result."""
        return self.place.begin / self.fps

    @property
    def audio_steps(self) -> range:
        """The latent steps of its audio, counted from the beginning of the whole result."""
        return self.place.audio_steps(self.frames, self.fps)

    @property
    def audio_piece(self) -> int | None:
        """How many latent steps of audio are encoded and decoded at a time: those of a window; None for all."""
        return None if self.chain is None else WindowPlace().audio_steps(self.chain.frames, self.fps).stop

    def grid(self, factors: Factors, stage: Stage | None = None) -> VideoGrid:
        """The video grid of a stage; without one, that of the result. factors: of the model's video VAE."""
        stage = stage or self.last_stage
        width, height = int(self.width * stage.scale), int(self.height * stage.scale)
        return VideoGrid(frames=stage.frames(self.frames), height=height, width=width, factors=factors)

    def source_grid(self, factors: Factors, stage: Stage) -> VideoGrid:
        """The grid at which a stage reads the source clip: its own, or the one before the clip is enlarged."""
        grid = self.grid(factors, stage)
        height, width = (int(side * stage.source_scale) for side in (grid.height, grid.width))
        return replace(grid, height=height, width=width)

    def decoded_grid(self, factors: Factors) -> VideoGrid:
        """The grid that is decoded: that of the result, and for a loop some more latent frames on both sides."""
        grid = self.grid(factors)
        return replace(grid, frames=grid.frames + factors.time * (2 * AROUND - 1)) if self.loops else grid

    @property
    def last_stage(self) -> Stage:
        """The stage whose video goes into the file; for a draft it can be smaller than the full render."""
        return self.recipe.stages[-1]

    def keyframes_of(self, stage: Stage) -> list[int]:
        """The frames of a stage at which keyframes are generated; none if it refines an earlier stage."""
        if stage.start == "upsampled":
            return []
        given = self.generated_keyframes
        if isinstance(given, int):
            return evenly_spaced(given, stage.frames(self.frames))
        return [round(frame * stage.rate) for frame in given]

    @property
    def shown_references(self) -> list[ReferenceInput]:
        """The references beside the clip: every reference clip, and for all images the first one, since they share a
        sheet.
        """
        stills = [one for one in self.references if one.is_still]
        return [*(one for one in self.references if not one.is_still), *stills[:1]]

    @property
    def voice_steps(self) -> int:
        """The approximate number of audio latent steps of a reference voice."""
        return 0 if self.voice is None else audio_latent_count(1, 1 / (self.voice.duration_s or Fraction(1)))

    @property
    def begins_anywhere(self) -> bool:
        """Whether it is a loop without inputs at fixed times, so that any of its frames may be the first."""
        return self.loops and self.source is None and not self.images

    @property
    def keyframe_count(self) -> int:
        """The number of generated keyframes."""
        return sum(len(self.keyframes_of(stage)) for stage in self.recipe.stages)

    @property
    def text_spans(self) -> list[TextSpan]:
        """Which text applies when."""
        return text_spans(self.prompt, self.segments, self.duration_s)

    @property
    def texts(self) -> dict[str, str]:
        """The positive texts, each once, with its name in messages: the prompt, and those of segments."""
        return names_of_texts(self.text_spans)

    @property
    def prompts(self) -> list[str]:
        """All texts: the positive ones, and the negative prompt if the render is guided."""
        return [*self.texts, *([] if self.negative is None else [self.negative])]

    @property
    def first_image(self) -> ImageInput | None:
        """The image at the first frame, if there is one; a retake has none."""
        if self.video != "generate" or self.window is not None:
            return None
        return next((image for image in self.images if image.frame == 0), None)

    @property
    def file_size(self) -> tuple[int, int]:
        """Width and height of the frames in the file."""
        scale = self.last_stage.scale
        if self.crop is None or scale == 1:
            width, height = self.crop or (self.width, self.height)
            return int(width * scale), int(height * scale)
        width, height = (2 * int(side * scale / 2) for side in self.crop)
        return width, height

    @property
    def file_frames(self) -> int:
        """How many frames the file has."""
        return self.kept_frames or self.last_stage.frames(self.frames)

    @property
    def file_fps(self) -> Fraction:
        """The frame rate of the file."""
        return self.fps * self.last_stage.rate

    @property
    def has_new_audio(self) -> bool:
        """Whether audio is generated from noise only."""
        return self.audio == "generate" and self.audio_source is None

    def guidance_in(self, stage: Stage) -> Streams[GuidanceScales]:
        """The guidance of a stage: none if the stage is not guided."""
        return self.guidance if stage.guided else UNGUIDED

    def caches_blocks_in(self, stage: Stage) -> bool:
        """Whether a stage has a block cache: if it is guided and this is requested. Tiled stages have none, because
        each tile would need its own.
        """
        return stage.guided and stage.is_whole and self.cache_steps > 0

    @property
    def steps_of_stages(self) -> list[int]:
        """The number of steps of each stage; for a schedule that starts at a strength, the steps of the whole
        schedule.
        """

        def steps(stage: Stage) -> int:
            sigmas = stage.listed_sigmas()
            if sigmas is None:
                return min(self.steps, stage.steps or self.steps)
            if self.strength is None or stage.start != "source":
                return len(sigmas) - 1
            levels = {*sigmas, min(self.strength, sigmas[0])}
            return sum(self.has_new_audio or level <= self.strength for level in levels) - 1

        return [steps(stage) for stage in self.recipe.stages]

    @model_validator(mode="after")
    def _is_a_chain(self) -> Self:
        if self.chain is not None:
            self.chain.count(self.frames)
        return self


class EncodingSettings(Record):
    """The settings that determine the bytes of a file, apart from its latents. The defaults are those of the settings
    of these names.

    audio_codec: "copy" means the packets of an input audio track. loudness: in LUFS, of audio that is encoded; "off"
    does not change it.
    """

    codec: VideoCodecName = "h264"
    audio_codec: AudioCodecName = "aac"
    crf: int | None = None
    loudness: Loudness = OFF
    old_sound: OldTrackName = "drop"


class OutputSettings(EncodingSettings):
    """How the result is written; none of it changes a latent. The defaults are those of the settings of these names.

    keyframe_stills: whether generated keyframes are also written as stills. attention: the path of the attention clip;
    None for none. attention_blocks: of the denoiser, from 0, that it averages. attention_steps: from 1; None means all.
    preview: the number of steps between two preview images.
    """

    metadata: bool = True
    sheet: bool = False
    report: bool = False
    attention: Path | None = None
    attention_blocks: tuple[int, ...] | None = None
    attention_steps: tuple[int, ...] | None = None
    preview: Interval = OFF
    keyframe_stills: bool = False
    strict: bool = False
    keep_latents: bool = False
    overwrite: bool = False

    @property
    def encoding(self) -> Encoding:
        """Codecs and quality, checked against each other. Raises: RequestError."""
        return Encoding(video=self.codec, audio=self.audio_codec, crf=self.crf)


def _usable(machine: Machine) -> Machine:
    if not re.fullmatch(r"cpu|mps|cuda:\d{1,3}", machine.device):
        raise ValueError("its device is not cpu, mps or cuda:N")
    cards = machine.ranks if machine.ranks > 1 and machine.device != "cpu" else 0
    if not 1 <= machine.ranks <= MOST_RANKS or len({*machine.gpus}) != len(machine.gpus) or len(machine.gpus) != cards:
        raise ValueError("its ranks do not have a card each")
    return machine


class MadeFile(Record):
    """A file that a render read. fingerprint: the hash of its content. size: in bytes; None in older recipes."""

    name: str
    fingerprint: str
    size: Annotated[int, Field(ge=0, lt=2**63)] | None = None


class RenderTask(Record):
    """Everything that a render needs: the content of a job folder's record.

    Args: inputs: files that the request names, by role. uses_cache: whether the prompt cache is read and written.
    recorded: by role, the facts about files in the recipe that is rendered again. The new recipe repeats them for files
    that need not be read again, such as the model that rewrote the prompt, and for files that have another name now.
    """

    request: Request
    machine: Annotated[Machine, AfterValidator(_usable)]
    output: OutputSettings
    files: ModelFiles
    inputs: Mapping[str, Path]
    target: Path
    uses_cache: bool = True
    recorded: Mapping[str, MadeFile] = Field(default_factory=dict)

    @property
    def results(self) -> list[Path]:
        """Every file that the render writes: the result, and the requested files beside it."""
        beside = beside_of(self.target, sheet=self.output.sheet, report=self.output.report)
        overlays = [self.output.attention] if self.output.attention else []
        return [self.target, *beside, *overlays, *self.stills]

    @property
    def stills(self) -> list[Path]:
        """The paths of the stills of generated keyframes, if they are requested."""
        return stills_of(self.target, self.request.keyframe_count) if self.output.keyframe_stills else []
