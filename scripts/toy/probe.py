"""A quick check of a denoiser in training: a few clips are sampled, and the detectors report what they show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from ltx2_core.config.video_vae import VideoVAEConfig
from ltx2_core.latents import LatentState, States, unpatchify_audio, unpatchify_video
from ltx2_core.models.transformer import Transformer
from ltx2_core.sampling.denoiser import GuidedDenoiser
from ltx2_core.sampling.guidance import Contexts, GuidanceScales
from ltx2_core.sampling.noise import add_noise
from ltx2_core.sampling.samplers import sample_euler
from ltx2_core.sampling.schedules import ltx2_schedule
from ltx2_core.types import Streams
from scripts.toy import world
from scripts.toy.codec import Codec
from scripts.toy.detect import Seen, Sync, hear, match, see
from scripts.toy.model import AUDIO_CHANNELS, FPS, model_config
from scripts.toy.prompts import prompt
from scripts.toy.text_path import TextPath
from scripts.toy.world import Clip, Kind

CODEC = ("video_encoder", "video_decoder", "audio_encoder", "audio_decoder", "vocoder")
STEPS, TEXT_SCALE, MODALITY_SCALE = 12, 3.0, 1.0
FACTORS = VideoVAEConfig.from_metadata(model_config()).factors


@dataclass
class Score:
    """Answers to each question, right or wrong, and how well video and audio are synchronised."""

    right: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    sync: Sync = field(default_factory=Sync)

    def __str__(self) -> str:
        shares = [f"{what} {100 * np.mean(answers):.0f}" for what, answers in self.right.items()]
        both = f"recall {100 * self.sync.recall:.0f} precision {100 * self.sync.precision:.0f} of {self.sync.events}"
        return ", ".join([*shares, both])


@torch.inference_mode()
def probe(denoiser: Transformer, text: TextPath, codec: Codec, kinds: Sequence[Kind], count: int, seed: int = 7) -> str:
    """Sample clips of held-out combinations from text, from audio, and from video. Returns one line about each.

    The given audio and video come from other seeds than those of the training. Scores are in percent.
    """
    rng = np.random.default_rng(seed)
    scenes = [world.draw(rng, kinds, held_out=True) for _ in range(count)]
    clips = [world.render(scene) for scene in scenes]
    truth = codec.encode(clips)
    contexts = text([prompt(scene, rng, bare_share=0) for scene in scenes] + [""])
    lines = []
    for name, kept in (("t2v", ()), ("a2v", ("audio",)), ("v2a", ("video",))):
        given = Streams(*(latent if stream in kept else None for stream, latent in truth._asdict().items()))
        latents = sample(denoiser, contexts, truth, given, seed)
        lines.append(f"{name}: {judge(codec, clips, latents, given)}")
    return "\n".join(lines)


def sample(
    denoiser: Transformer, contexts: Streams[Tensor], like: Streams[Tensor], given: Streams[Tensor], seed: int
) -> Streams[Tensor]:
    """Latents of both streams from contexts (b + 1 rows d), of which the last one belongs to the empty prompt.

    Args: like: latents of the wanted size. given: latents that do not change, of one stream or of none.
    """
    states = noisy_states(like, given, torch.Generator().manual_seed(seed))
    scales = (GuidanceScales(st=TEXT_SCALE, sm=MODALITY_SCALE) if one is None else GuidanceScales() for one in given)
    sigmas = ltx2_schedule(STEPS, tokens=1024)
    with torch.autocast("cpu", torch.bfloat16):
        states = sample_euler(guided(denoiser, contexts, Streams(*scales)), states, sigmas, lambda *_: None)
    return latents_of(states)


def noisy_states(like: Streams[Tensor], given: Streams[Tensor], generator: torch.Generator) -> States:
    """The initial states: noise of the size of the latents `like`, and the given latents."""
    video, audio = (torch.zeros_like(x) if one is None else one for x, one in zip(like, given, strict=True))
    states = Streams(LatentState.video(video, Fraction(FPS), FACTORS), LatentState.audio(audio))
    return Streams(
        *(
            add_noise(state, generator, 1.0, torch.float32) if one is None else state.freeze()
            for state, one in zip(states, given, strict=True)
        )
    )


def guided(denoiser: Transformer, contexts: Streams[Tensor], scales: Streams[GuidanceScales]) -> GuidedDenoiser:
    """The guided denoiser for contexts (b + 1 rows d), of which the last one belongs to the empty prompt."""
    own = contexts.map(lambda x: Contexts(x[:-1], x[-1:].expand(len(x) - 1, -1, -1)))
    return GuidedDenoiser(model=denoiser, contexts=own, scales=scales)


def latents_of(states: States) -> Streams[Tensor]:
    """The latents (b c f h w) and (b c t m) of states."""
    video, audio = states
    return Streams(
        unpatchify_video(video.base, video.grid).float(), unpatchify_audio(audio.base, AUDIO_CHANNELS).float()
    )


def judge(codec: Codec, clips: Sequence[Clip], latents: Streams[Tensor], given: Streams[Tensor]) -> Score:
    """The findings of the detectors in latents, compared with the clips of the same scenes."""
    score = Score()
    pictures = [clip.frames for clip in clips] if given.video is not None else codec.pictures(latents.video)
    sounds = [clip.sound for clip in clips] if given.audio is not None else codec.sounds(latents.audio)
    for clip, frames, sound in zip(clips, pictures, sounds, strict=True):
        scene, seen = clip.scene, see(frames)
        heard = hear(sound, scene.kind)
        if given.video is None:
            for what in ("kind", "colour", "size", "tempo", "side", "strength", "time_of_day"):
                if getattr(scene, what) is not None:
                    score.right[what].append(getattr(seen, what) == getattr(scene, what))
        if given.audio is None:
            for what in ("pitch", "side", "strength"):
                if getattr(scene, what) is not None:
                    score.right[f"heard {what}"].append(getattr(heard, what) == getattr(scene, what))
        events = times_of(clip) if given.video is not None else times_of_seen(seen, scene)
        onsets = times_of(clip) if given.audio is not None else heard.onsets_s
        if clip.events:
            score.sync += match(events, onsets)
    return score


def times_of(clip: Clip) -> tuple[float, ...]:
    """The times of the events in a rendered clip."""
    return tuple(event.time_s for event in clip.events)


def times_of_seen(seen: Seen, scene: world.Scene) -> tuple[float, ...]:
    """The times of visible events; empty if another kind of scene is seen."""
    return seen.times_s if seen.kind == scene.kind else ()
