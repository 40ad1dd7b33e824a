"""Preview images of a video while it is denoised: clean estimates through a linear colour map.

The map is fitted to the first clips that are decoded with a video VAE, and stored under LTX2_HOME; the map of the
built-in model is shipped. Before there is a map, a latent frame is decoded and shown at half its height and width, if
the decoder fits beside the models in use. Source: docs/cli.md, "Preview".
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from einops import reduce
from torch import Tensor
from torch.nn import functional

from ...disk import disk_reason, read_whole, write_whole
from ...home import ltx2_home
from ...latents import Latents, States, unpatchify_video
from ...media.image import still_bytes
from ...records import presets_folder
from ...sampling.samplers import Denoiser
from ...tiling.video import decode_video
from ..events import PreviewShown, Watch
from ..job import PREVIEW, Job
from ..values import AUTO, OFF
from .latent_colours import ColourFit, ColourMap
from .models import Models

PICTURES = 8  # approximate number of previews per stage, by default
LONGEST_SIDE = 256  # pixels; a preview is enlarged by an integer factor up to this size
MOST_CLIPS = 16  # clips from which a map is fitted
MOST_BYTES = 10_000_000  # limit for the data from which a map is fitted
FOLDER = "previews"  # folder of maps, named by the fingerprint of the decoder's file
DECODER = "video_decoder"


@dataclass
class LastEstimate:
    """A denoiser that keeps its last clean estimate of the video, (1 c f h w), with conditioned tokens restored."""

    denoise: Denoiser
    latent: Tensor | None = None

    def __call__(self, states: States, sigma: float, step: int) -> Latents:
        estimate = self.denoise(states, sigma, step)
        if states.video is not None and estimate.video is not None:
            video = states.video.with_latent(states.video.keep_given(estimate.video))
            self.latent = unpatchify_video(video.base, video.grid)
        return estimate


@dataclass(frozen=True)
class Preview:
    """Shows the progress of the video of a render. It does not affect the result."""

    job: Job
    models: Models
    watch: Watch

    def show(self, step: int, total: int, latent: Tensor) -> None:
        """Show the clean estimate (1 c f h w) after a step, from 1, if a preview is due at that step."""
        every = self.job.task.output.preview
        assert every != OFF
        if every == AUTO:
            every = math.ceil(total / PICTURES)
        if step % every and step != total:
            return
        if self.colours is None:
            picture = self._decoded(latent[0])
        else:
            picture = self.colours.picture(latent[0, :, latent.shape[2] // 2])
        if picture is None:
            return
        path = self.job.folder / PREVIEW
        try:
            write_whole(path, still_bytes(_enlarged(picture)))
        except OSError as error:  # the render continues without it
            self.watch.tell(f"{path} cannot be written: {disk_reason(error)}", is_warning=True)
            return
        self.watch.on_event(PreviewShown(path=path, step=step, total=total))

    @cached_property
    def colours(self) -> ColourMap | None:
        """The colour map of this video VAE, if there is one."""
        if self._shipped is not None:
            return self._shipped
        return self._fit.solve() if self._fit.clips else None

    def fitting(self, frames: Iterator[Tensor], latent: Tensor) -> Iterator[Tensor]:
        """Pass on the decoded frames (F 3 H W) of a latent, and use them to improve the map for later renders."""
        fit = self._fit
        if self._shipped is not None or fit.clips >= MOST_CLIPS:
            yield from frames
            return
        yield from fit.add_clip(frames, latent, self.models.shapes.video_vae.factors.time)
        path = ltx2_home() / self._name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, fit.dump())
        except OSError as error:
            self.watch.tell(f"{path} cannot be written: {disk_reason(error)}", is_warning=True)

    @cached_property
    def _shipped(self) -> ColourMap | None:
        path = presets_folder() / self._name
        return ColourMap.parse(path.read_bytes(), self._channels) if path.is_file() else None

    @cached_property
    def _fit(self) -> ColourFit:
        """The sums of earlier renders; empty if they cannot be read."""
        try:
            return ColourFit.parse(read_whole(ltx2_home() / self._name, MOST_BYTES), self._channels)
        except (OSError, ValueError):
            return ColourFit.blank(self._channels)

    @property
    def _name(self) -> Path:
        return Path(FOLDER, f"{self.job.fingerprint(self.models.headers.role(DECODER))}.safetensors")

    @property
    def _channels(self) -> int:
        return self.models.shapes.video_vae.latent_channels

    def _decoded(self, latent: Tensor) -> Tensor | None:
        """The decoded middle frame of a latent (c f h w), at half its height and width: (3 H W) in [0, 1]. None if the
        decoder does not fit beside the models in use.
        """
        if not self.models.has_room_for(DECODER):
            return None
        middle = latent.shape[1] // 2
        pair = latent[None, :, max(0, middle - 1) : middle + 1].to(
            self.models.dtype
        )  # the decoder's receptive field includes the frame before it
        generator = torch.Generator(self.models.device).manual_seed(0)  # separate from the render's generator
        with self.models.component(DECODER) as decoder:
            frames = [*decode_video(pair, decoder, self.models.machine.decode_tiles, generator)]
        shown = torch.cat(frames)[-1 - (sum(map(len, frames)) - 1) // 2]
        return reduce(shown.cpu(), "c (h y) (w x) -> c h w", "mean", y=2, x=2)


def _enlarged(picture: Tensor) -> Tensor:
    """An image (3 H W) in [0, 1] close to its display size: enlarged by an integer factor, or reduced."""
    longest = max(picture.shape[-2:])
    if longest > LONGEST_SIDE:
        times = math.ceil(longest / LONGEST_SIDE)
        rows, columns = (side // times * times for side in picture.shape[-2:])
        return reduce(picture[:, :rows, :columns], "c (h y) (w x) -> c h w", "mean", y=times, x=times)
    scaled = functional.interpolate(picture[None], scale_factor=LONGEST_SIDE // longest, mode="bicubic")
    return scaled[0].clamp(0, 1)
