"""The phases of a render and their costs, from headers and configs: with the same functions as the engine.

Source: docs/architecture.md, "From a command to a file".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import product
from math import ceil, prod

from ...config.audio import AudioVAEConfig, VocoderConfig
from ...config.released import effective_config
from ...config.transformer import TransformerConfig
from ...config.upsampler import UpsamplerConfig
from ...costs import audio, decoding, video_vae
from ...costs.denoiser import (
    NO_ROWS,
    Evaluation,
    RowFlops,
    Walk,
    activation_bytes,
    attention_bytes,
    context_bytes,
    forward_flops,
    held_bytes,
    text_memory_bytes,
)
from ...costs.host import clip_bytes, reading_bytes, written_bytes
from ...costs.upsampler import upsample_bytes, upsample_flops, upsample_workspace_bytes
from ...costs.weights import (
    NOTHING,
    SUMMED_AT_ONCE,
    BlockBytes,
    block_bytes,
    component_bytes,
    largest_plain,
    pinned_bytes,
)
from ...grids import AUDIO_LATENTS_PER_SECOND, VideoGrid
from ...headers import Header
from ...lora_costs import LoraFlops, branch_bytes, lora_flops
from ...lora_file import MatchedLora, match, read_lora
from ...lora_forms import is_product
from ...machine import RankLayout
from ...sampling.guidance import GuidancePass, GuidanceScales, PassKind, plan_passes, share_passes
from ...sampling.table import SAMPLERS
from ...tiles import AUDIO_CONTEXT, STAGE_OVERLAP, Interval, TilePlan, split_evenly
from ...types import Streams
from ..recipe import Edit, Stage
from ..request import Extension, ReferenceInput
from ..windows import StageOfWindow, runs_of
from .counting import Load, Phase
from .text_phases import TextPhases

FLOAT32 = 4
TRANSFORMER = "transformer"  # the key of the transformer's weights
JOINED = 2  # copies in system memory while pieces are concatenated
CACHED = 3  # hidden states per pass in a block cache
# Latents in memory while a stage is denoised: the start, the conditions, before and after a step,
# and two estimates; more for a loop, which is rotated; and for each tile its conditions, and its noisy latent.
HELD, TURNED, CUT = 6, 3, 2
FILE_BITS = 0.2  # approximate bits per pixel of the output file


class Costs(TextPhases):
    """Counts the costs of a request on a machine, from its text to its file."""

    @cached_property
    def phases(self) -> list[Phase]:
        """All phases, in the order in which they run."""
        found = [self.enhancing] * self.request.enhances + [self.reading, self.connecting, *self.encoding()]
        for run in runs_of(self.request):
            found += self._of_window(run)
        if self.request.audio == "generate":
            found += self.sounding()
        if self.request.video == "generate":
            found.append(self.decoding)
        return found

    @property
    def pinned_bytes(self) -> int:
        """Memory of the computer for copying weights to a GPU."""
        if not self.is_streamed or self._is_cpu:
            return 0
        return pinned_bytes(max(self.blocks.blocks))

    def ranks_in(self, phase: Phase) -> int:
        """The number of ranks that share a phase. The first one does all other phases alone."""
        return self.machine.ranks if phase.kind == "denoise" else 1

    # Inputs

    def encoding(self) -> Iterator[Phase]:
        """Encoding the user's input, once per stage at its size; the audio once."""
        request, vae = self.request, self.headers.shapes.video_vae
        if given := [*self._given_clips()]:
            yield Phase(
                kind="inputs",
                name="inputs",
                loads=(self.component("video_encoder"),),
                active=max(video_vae.encode_bytes(vae, grid, plan, self.itemsize) for grid, plan in given),
                flops=sum(video_vae.encode_flops(vae, grid, plan) for grid, plan in given),
                host=max(self._host_bytes(grid, plan) for grid, plan in given),
                workspace=max(
                    video_vae.encode_workspace_bytes(vae, grid, plan, self.itemsize, on_cpu=self._is_cpu)
                    for grid, plan in given
                ),
            )
        if (request.audio_source is not None and request.audio != "off") or request.voice is not None:
            config, steps = self.headers.shapes.audio_vae, max(self._steps, request.voice_steps)
            at_once = max(self._steps_at_once, request.voice_steps)
            seconds = steps / Fraction(AUDIO_LATENTS_PER_SECOND)
            yield Phase(
                kind="inputs",
                name="audio input",
                loads=(self.component("audio_encoder"),),
                active=audio.reading_bytes(config, steps, at_once, seconds, self.itemsize, on_cpu=self._is_cpu),
                flops=audio.encode_flops(config, steps),
                host=0 if self._is_cpu else JOINED * audio.wave_bytes(seconds),
            )

    def _given_clips(self) -> Iterator[tuple[VideoGrid, TilePlan]]:
        """Clips and images to encode, and their tiles. Tiled ones are read while they are encoded."""
        request, tiles = self.request, self.machine.encode_tiles
        for stage in request.recipe.stages:
            grid = self._grid(stage)
            if request.source is not None:
                extension = request.extension or Extension()
                kept = request.frames - extension.before - extension.after
                yield replace(request.source_grid(grid.factors, stage), frames=stage.frames(kept)), tiles
            if stage.conditions != "none":
                yield from [(replace(grid, frames=1), TilePlan())] * len(request.images)
            for one in request.shown_references if stage.conditions == "all" else ():
                height, width = (side // one.spatial_scale for side in (grid.height, grid.width))
                frames = one.frames_beside(request.frames)
                shown = replace(grid, frames=frames, height=height, width=width)
                yield shown, tiles if request.recipe.edit == Edit.UPSCALE else TilePlan()

    def _host_bytes(self, grid: VideoGrid, plan: TilePlan) -> int:
        """The computer's memory for a clip until it is on the device: one without tiles is joined there."""
        if plan != TilePlan():
            vae = self.headers.shapes.video_vae
            return reading_bytes(grid) + video_vae.held_bytes(vae, grid, plan, self.itemsize)
        return reading_bytes(grid) + (1 if self._is_cpu else JOINED) * clip_bytes(grid)

    # Stages

    def _of_window(self, run: StageOfWindow) -> list[Phase]:
        """The costs of a stage in a window of a chain, or in the whole clip; equal windows are counted once."""
        key = run.number, len(run.request.audio_steps), len(run.request.images), run.is_given
        if key not in self._counted:
            costs = replace(self, request=run.request)
            phases: list[Phase] = []
            if run.stage.enlarges and self.request.video != "off":
                phases.append(costs.upsampling(run.stage))
            if not run.is_given:
                phases.append(costs.denoising(run.stage, run.number))
            self._counted[key] = phases
        return self._counted[key]

    @cached_property
    def _counted(self) -> dict[tuple[int, ...], list[Phase]]:
        return {}

    def upsampling(self, stage: Stage) -> Phase:
        """Enlarging the latents of the stage before."""
        stages = self.request.recipe.stages
        header = self.files.header(self.request.recipe.upsampler(stage))
        config = UpsamplerConfig.from_metadata(effective_config(header))
        smaller = self.request.source_grid(self.headers.shapes.video_vae.factors, stage)
        if stage.start == "upsampled":
            smaller = self._grid(stages[stages.index(stage) - 1])
        before, after = smaller.tokens, self._grid(stage).tokens
        nbytes = component_bytes(header, "upsampler", self.itemsize)
        return Phase(
            kind="upsample",
            name="upsampling",
            loads=(Load("upsampler", self.weights(header, "upsampler", nbytes), nbytes),),
            active=upsample_bytes(config, after, self.itemsize),
            flops=upsample_flops(config, before, after),
            workspace=upsample_workspace_bytes(config, after, self.itemsize, on_cpu=self._is_cpu),
        )

    def denoising(self, stage: Stage, number: int) -> Phase:
        """One stage: every step runs all blocks."""
        config, steps = self.headers.shapes.transformer, self._evaluations(stage, number)
        scales = self.request.guidance_in(stage)
        whole, given = self._evaluation(stage, scales, 1), self._evaluation(stage, scales, self.machine.ranks)
        tiles, walk = self._tiles(stage), self._walk(given.video < whole.video, number)
        active = activation_bytes(config, given, walk)
        if walk.captures:
            active += attention_bytes(given)
        if walk.keeps_text:
            active += text_memory_bytes(config, given, self.itemsize)
        active += self._decoded(given) + self._state_bytes(stage)
        active += context_bytes(config, replace(given, contexts=len(self.request.prompts)), self.itemsize)
        sizes, loras = self.blocks, self._loras_of(stage)
        branches, fusing = self._lora_bytes(loras)
        computed = lora_flops(loras, self._transformer) if loras else LoraFlops()
        nbytes = self.weights(self._transformer, "transformer", sizes.whole) + branches.whole
        load, moved, resident = Load(TRANSFORMER, nbytes, sizes.whole), 0, len(sizes.blocks)
        if self.is_streamed:
            resident = self.machine.resident_blocks
            nbytes = sizes.streamed(resident) + branches.staying(resident)
            load = Load(TRANSFORMER, nbytes, sizes.staying(resident))
            moved = len(steps) * sum(sizes.blocks[resident:])
            active += max((fusing, *branches.blocks))
        return Phase(
            kind="denoise",
            name=f"stage {number}" if len(self.request.recipe.stages) > 1 else "denoising",
            loads=(load,),
            active=active,
            flops=len(tiles) * stage_flops(config, whole, scales, steps, walk, computed.beside)
            + computed.fusing(resident, len(steps) * len(tiles)),
            moved=moved * len(tiles),
            disk=self._latent_bytes(stage),
        )

    @cached_property
    def blocks(self) -> BlockBytes:
        return block_bytes(self._transformer, "transformer", self.itemsize)

    @cached_property
    def _transformer(self) -> Header:
        return self.headers.header("transformer")

    def _walk(self, exchanges_rows: bool, number: int) -> Walk:
        can_keep = self.headers.shapes.transformer.has_static_text and not self.machine.batches_passes
        return Walk(
            itemsize=self.itemsize,
            chunk_tokens=self.machine.chunk_tokens,
            keeps_tables=self.machine.memory != "lean",
            keeps_text=self.machine.keeps_text and can_keep,
            exchanges_rows=exchanges_rows,
            captures=self.captures and number == self.request.recipe.audio_stage,
        )

    def _evaluations(self, stage: Stage, number: int) -> range:
        """The evaluations of a stage; a sampler may need several per step."""
        return range(self.request.steps_of_stages[number - 1] * SAMPLERS[stage.sampler].evaluations)

    def _evaluation(self, stage: Stage, scales: Streams[GuidanceScales], ranks: int) -> Evaluation:
        """The largest share of the work of one rank, among so many."""
        request, plan = self.request, plan_passes(scales, 0)
        layout = RankLayout.of(ranks, len(plan))
        shares = [[plan[place].kind for place in share] for share in share_passes(plan, layout.parts)]
        passes, is_batched, texts = max(map(len, shares)), self.machine.batches_passes, len(request.texts)
        return Evaluation(
            video=0 if request.video == "off" else ceil(max(self._tiles(stage)) / layout.width),
            audio=0 if request.audio == "off" else self._heard(stage) + request.voice_steps,
            text=request.text_rows,
            copies=1 if is_batched else passes,
            contexts=max(sum(1 if is_negative else texts for is_negative in _read_in(kinds)) for kinds in shares),
            texts=texts,
            batch=passes if is_batched else 1,
            blends=is_batched and any(len(kinds) > 1 and PassKind.PERTURBED in kinds for kinds in shares),
            cached=self._cached(stage, plan),
        )

    def _cached(self, stage: Stage, plan: Sequence[GuidancePass]) -> int:
        """Hidden states in a block cache for each sample while the first block runs: for each pass its input, that
        block's addition and the addition of the others. A pass that starts later than another needs no more at that
        time.
        """
        if not self.request.caches_blocks_in(stage):
            return 0
        if self.machine.batches_passes:
            return CACHED
        starts = [min((block for blocks in one.perturbed for block in blocks or ()), default=0) for one in plan]
        return CACHED * starts.count(0)

    def _heard(self, stage: Stage) -> int:
        """The maximum number of audio latent steps for a window of a stage: those of its time."""
        if stage.windows == 1:
            return self._steps
        grid = self._grid(stage)
        longest = max(piece.length for piece in split_evenly(grid.latent[0], stage.windows, STAGE_OVERLAP))
        seconds = longest * grid.factors.time / (self.request.fps * stage.rate)
        return min(self._steps, ceil(seconds * AUDIO_LATENTS_PER_SECOND) + 1)

    def _tiles(self, stage: Stage) -> list[int]:
        """The tokens of each tile and window of a stage, with those that conditions append."""
        frames, rows, columns = self._grid(stage).latent
        if self.request.loops and not any(image.frame == 0 for image in self.request.images):
            frames -= 1  # the last frame is repeated
        appended = len(self.request.keyframes_of(stage)) * rows * columns
        if stage.conditions != "none":
            at_start = 0 if self.request.recipe.images == "append" else 1
            stills = max(0, len(self.request.images) - at_start)
            appended += stills * rows * columns
        references = self.request.shown_references if stage.conditions == "all" else ()
        across, down = stage.tiles or (1, 1)
        cuts = ((frames, stage.windows), (rows, down), (columns, across))
        pieces = [split_evenly(length, count, STAGE_OVERLAP) for length, count in cuts]
        return [
            prod(piece.length for piece in tile) + appended + sum(_shown_in(tile, one) for one in references)
            for tile in product(*pieces)
        ]

    def _decoded(self, given: Evaluation) -> int:
        """The maximum of quantised weights that are decoded at a time."""
        layers = self._transformer.stored.layers
        if all(layer.format in self.machine.products for layer in layers.values()):
            return 0
        whole = held_bytes(self.headers.shapes.transformer, self.itemsize)
        return whole if max(given.video, given.audio) > self.machine.chunk_tokens else whole // 2

    def _loras_of(self, stage: Stage) -> list[MatchedLora]:
        """The LoRAs that act in a stage."""
        loras = list(self.loras) if stage.user_loras else []
        if stage.distilled_lora is not None:
            loras.append(self._distilled_lora)
        return loras

    def _lora_bytes(self, loras: Sequence[MatchedLora]) -> tuple[BlockBytes, int]:
        """Memory of LoRAs: of branches beside quantised layers, and while one is fused into a plain layer."""
        if not loras:
            return NOTHING, 0
        summed = largest_plain(self._transformer, "transformer", self.itemsize)
        if all(is_product(change.operands) for lora in loras for change in lora.changes.values()):
            summed = min(summed, SUMMED_AT_ONCE)
        return branch_bytes(loras, self._transformer, self.itemsize), FLOAT32 * summed

    @property
    def _distilled_lora(self) -> MatchedLora:
        header = self.files.header("distilled_lora")

        def find() -> MatchedLora:
            return match(read_lora(header), self._transformer, allow_partial=True)

        return header.once(("beside", self._transformer.path), find)

    # Results

    def sounding(self) -> Iterator[Phase]:
        """Decoding the audio, to a spectrogram and then to a waveform."""
        config = AudioVAEConfig.from_metadata(self.headers.config("audio_decoder"))
        vocoder = VocoderConfig.from_metadata(self.headers.config("vocoder"))
        yield Phase(
            kind="sound",
            name="audio",
            loads=(self.component("audio_decoder"),),
            active=audio.decode_bytes(config, self._steps_at_once, self.itemsize),
            workspace=self._is_cpu * audio.decode_workspace_bytes(config, self._steps_at_once, self.itemsize),
            flops=audio.decode_flops(config, self._steps),
        )
        yield Phase(
            kind="sound",
            name="vocoder",
            loads=(self.component("vocoder", FLOAT32),),
            active=audio.vocode_bytes(vocoder, self._steps_at_once),
            workspace=self._is_cpu * audio.vocode_workspace_bytes(vocoder, self._steps_at_once),
            host=JOINED * audio.wave_bytes(self.request.duration_s),
            flops=audio.vocode_flops(vocoder, self._steps),
        )

    @property
    def decoding(self) -> Phase:
        """Decoding the video and encoding the file."""
        vae, grid, plan = self.headers.shapes.video_vae, self._decoded_grid, self.machine.decode_tiles
        return Phase(
            kind="video",
            name="video",
            loads=(self.component("video_decoder"),),
            active=decoding.decode_bytes(vae, grid, plan, self.itemsize),
            flops=decoding.decode_flops(vae, grid, plan),
            disk=int(prod(self.request.file_size) * self.request.file_frames * FILE_BITS / 8),
            host=written_bytes(grid),
            workspace=decoding.decode_workspace_bytes(vae, grid, plan, self.itemsize, on_cpu=self._is_cpu),
        )

    # Shared functions

    @property
    def _is_cpu(self) -> bool:
        return self.machine.device == "cpu"

    def _grid(self, stage: Stage | None) -> VideoGrid:
        return self.request.grid(self.headers.shapes.video_vae.factors, stage)

    @property
    def _decoded_grid(self) -> VideoGrid:
        return self.request.decoded_grid(self.headers.shapes.video_vae.factors)

    @property
    def _steps(self) -> int:
        """Latent steps of the audio."""
        return len(self.request.audio_steps)

    @property
    def _steps_at_once(self) -> int:
        """The maximum number of audio latent steps that its VAE or the vocoder processes at a time."""
        piece = self.request.audio_piece
        return self._steps if piece is None else min(self._steps, piece + 2 * AUDIO_CONTEXT)

    def _state_bytes(self, stage: Stage) -> int:
        """The latents of a whole stage while it is denoised, and of each of its tiles."""
        tiles = self._tiles(stage)
        if len(tiles) == 1:
            return (HELD + TURNED * self.request.loops) * self._latent_bytes(stage)
        channels = self.headers.shapes.video_vae.latent_channels
        summed = self._grid(stage).tokens * channels * FLOAT32
        return HELD * self._latent_bytes(stage) + summed + CUT * sum(tiles) * channels * self.itemsize

    def _latent_bytes(self, stage: Stage) -> int:
        shapes = self.headers.shapes
        video = self._grid(stage).tokens * shapes.video_vae.latent_channels
        return (video + self._steps * shapes.audio_vae.latent_channels * shapes.audio_vae.latent_bins) * self.itemsize


def _shown_in(tile: Sequence[Interval], reference: ReferenceInput) -> int:
    """The tokens of a reference for a part of a tile."""
    frames, *sides = tile
    scale = reference.spatial_scale
    cells = (ceil(side.stop / scale) - side.start // scale for side in sides)
    return ceil(frames.length / reference.temporal_scale) * prod(cells)


def _read_in(kinds: Iterable[PassKind]) -> set[bool]:
    """The texts of passes: the negative prompt, True, or the positive texts, False."""
    return {kind is PassKind.UNCOND for kind in kinds}


@lru_cache(maxsize=256)
def stage_flops(
    config: TransformerConfig,
    given: Evaluation,
    scales: Streams[GuidanceScales],
    steps: range,
    walk: Walk,
    beside: RowFlops = NO_ROWS,
) -> float:
    """FLOPs of all evaluations of a stage; further passes with the prompt start where they differ from the first.

    Args: beside: FLOPs of LoRA branches beside its layers.
    """
    total = 0.0
    for step in steps:
        for one in plan_passes(scales, step):
            follows = one.kind is PassKind.PERTURBED and given.batch == 1
            start = min((block for blocks in one.perturbed for block in blocks or ()), default=0)
            texts = 1 if one.kind is PassKind.UNCOND and given.batch == 1 else given.texts
            total += forward_flops(
                config,
                replace(given, texts=texts),
                blocks=config.layers - follows * start,
                reads_text=not walk.keeps_text or step == steps.start,
                exchanges=not one.is_isolated,
                beside=beside,
            )
    return total
