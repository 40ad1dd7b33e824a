"""The toy model's encoders and decoders for whole batches of clips. In shapes, `b` are clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from ltx2_core.checkpoint import load_component
from ltx2_core.types import Streams
from scripts.toy.model import AUDIO_STEPS, FILE_OF, HOME
from scripts.toy.sound import mels_of
from scripts.toy.world import Clip

DTYPES = {"vocoder": torch.float32}  # the rest runs in bfloat16


class Codec(nn.Module):
    """Encodes clips to latents and decodes latents."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)

    @classmethod
    def load(cls, *names: str, folder: Path = HOME) -> Self:
        """Load the named parts from the files."""
        dtypes = [DTYPES.get(name, torch.bfloat16) for name in names]
        return cls(
            **{
                name: load_component(name, folder / FILE_OF[name], dtype=dtype)
                for name, dtype in zip(names, dtypes, strict=True)
            }
        )

    @torch.inference_mode()
    def encode(self, clips: Sequence[Clip]) -> Streams[Tensor]:
        """The latents of clips, (b c f h w) and (b c t m) float32."""
        frames = rearrange(torch.from_numpy(np.stack([clip.frames for clip in clips])), "b F H W c -> b c F H W")
        mels = mels_of(torch.from_numpy(np.stack([clip.sound for clip in clips])))
        video = self.parts["video_encoder"]((frames.float() / 127.5 - 1).bfloat16())
        audio = self.parts["audio_encoder"](mels.bfloat16())
        return Streams(video.float(), audio[:, :, :AUDIO_STEPS].float())

    @torch.inference_mode()
    def pictures(self, latent: Tensor) -> np.ndarray:
        """The frames (b F H W 3) uint8 of latents (b c f h w)."""
        video = rearrange(self.parts["video_decoder"](latent.bfloat16()).float(), "b c F H W -> b F H W c")
        return ((video + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()

    @torch.inference_mode()
    def sounds(self, latent: Tensor) -> np.ndarray:
        """The sounds (b 2 s) float32 of latents (b c t m)."""
        mel = self.parts["audio_decoder"](latent.bfloat16()).float()
        return self.parts["vocoder"](mel).numpy()
