"""Sizes and lengths of clips: from a name, an aspect ratio, an input's size or a duration to pixels and frames.

Source: docs/cli.md, "Sizes" and "Length".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from ...config.video_vae import VideoVAEConfig, has_mirrored_decoder
from ...errors import RequestError
from ...media.inputs import AudioSource, VideoSource
from ..chain import Chain
from ..recipe import Recipe
from ..request import AutoLength
from ..values import ASPECTS, AUTO, FPS_LIMITS, Size, counted, did_you_mean, parse_size, show_fps, show_time
from .presets import names, read_tier
from .settings import BUILT_IN, Merged, Origin, required

LARGEST_SIDE = 16384
LARGEST_DENOMINATOR = 1001  # largest denominator of a frame rate, as in 30000/1001
LONGEST_TRAINED_S, FASTEST_TRAINED_FPS = 20, 50


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderSize:
    """The rendered size, and the size of the file if it is cropped."""

    size: Size
    crop: Size | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipLength:
    """Frames, one more than a multiple of the temporal factor, and their exact rate.

    auto: the range if the model chooses the length; the frames are then the maximum. chain: the windows, if there are
    several.
    """

    frames: int
    fps: Fraction
    auto: AutoLength | None = None
    chain: Chain | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def choose_size(
    merged: Merged, recipe: Recipe, vae: VideoVAEConfig, shown: Size | None = None, reference_scale: int = 1
) -> RenderSize:
    """The size of a render.

    Args: shown: the size of an input that is visible in the result; its aspect ratio is then the default.
    reference_scale: the size of the render relative to a reference, whose latent grid must be whole too.
    Raises: RequestError with the two nearest valid sizes.
    """
    multiple, least = _multiple(recipe, vae, reference_scale)
    res, aspect = required(merged.settings.res), merged.settings.aspect
    if aspect is None and shown is not None:
        aspect = nearest_aspect(*shown)
    if res.lower() in names("tiers"):
        stages = len(recipe.stages)
        tier = _tier_size(res.lower(), stages, aspect, multiple)
        if merged.settings.crop is not False:
            return tier
        _require_effect(merged, f"{res} is rendered at the size of the file", has_effect=tier.crop is not None)
        return RenderSize(size=tier.size)
    try:
        size = parse_size(res)
    except ValueError as error:
        raise RequestError(f"--res {res} cannot be used", str(error), did_you_mean(res, names("tiers"))) from error
    if not merged.is_asked("res"):
        if aspect is not None:
            size = turned(size, aspect, multiple)
    elif merged.settings.aspect:
        why = "an explicit size has its own aspect"
        raise RequestError(f"--aspect {merged.settings.aspect} cannot be used with --res {res}", why)
    _check_legal(size, multiple, least, reference_scale)
    _require_effect(merged, "only a size by name is cropped", has_effect=False)
    return RenderSize(size=size)


def _require_effect(merged: Merged, why: str, *, has_effect: bool) -> None:
    """Raises: RequestError for a --no-crop without effect."""
    place = merged.sources.get("crop", BUILT_IN)
    if place.origin is Origin.COMMAND_LINE and merged.settings.crop is False and not has_effect:
        raise RequestError("--no-crop cannot be used here", why, "leave it out")


def _tier_size(name: str, stages: int, aspect: str | None, multiple: int) -> RenderSize:
    """The rendered size of a size by name, and the size of the file, if it is cropped. aspect: None for the
    tier's own.
    """
    tier = read_tier(name)
    width, height = parse_size(tier.one_stage if stages == 1 else tier.two_stages)
    size, file = (_up(width, multiple), _up(height, multiple)), parse_size(tier.file)
    if aspect is not None:
        cut = turned(file, aspect, 2)
        file = cut if cut in (file, file[::-1]) else turned(size, aspect, multiple)
        width, height = turned(size, aspect, multiple)
        size = _up(width, multiple), _up(height, multiple)
    if file == size:
        return RenderSize(size=size)
    note = f"{name}: rendered at {size[0]}x{size[1]}, cut to {file[0]}x{file[1]}"
    return RenderSize(size=size, crop=file, notes=(note,))


def _check_legal(size: Size, multiple: int, least: int, reference_scale: int) -> None:
    """Raises: RequestError, with the two nearest valid sizes."""
    needs = "this preset needs"
    if reference_scale > 1:
        needs = f"this preset and a reference at 1/{reference_scale} need"
    for word, side in zip(("width", "height"), size, strict=True):
        if side % multiple or not least <= side <= LARGEST_SIDE:
            near = [nearest_legal(value, multiple, least) for value in size]
            sizes = dict.fromkeys(f"--res {w}x{h}" for w, h in zip(*near, strict=True))
            why = f"{needs} a multiple of {multiple} from {least} to {LARGEST_SIDE}"
            raise RequestError(f"{word} {side} cannot be used", why, " or ".join(sizes))


def choose_working_size(merged: Merged, recipe: Recipe, vae: VideoVAEConfig, shown: Size) -> RenderSize:
    """The size at which the model sees a video that is not changed.

    It has the aspect ratio of the video, about as many pixels as the tier or the model's own size, and no more than the
    video, as far as its sides can be valid. An explicit size is used unchanged.
    Args: shown: the size of the video; the others as for choose_size, whose errors apply.
    """
    width, height = choose_size(merged, recipe, vae).size
    if not merged.is_asked("res") or required(merged.settings.res).lower() in names("tiers"):
        multiple, least = _multiple(recipe, vae)
        scale = min(1.0, math.sqrt(width * height / math.prod(shown)))
        width, height = (max(least, _legal(side * scale, multiple)) for side in shown)
    copied = f"the video, {shown[0]}x{shown[1]}, is copied as it is"
    return RenderSize(size=(width, height), notes=(f"{copied}; the model sees it at {width}x{height}",))


def choose_length(merged: Merged, frames_per_latent: int, fps: Fraction | None = None) -> ClipLength:
    """The length of a render that only the settings determine. fps: instead of the rate that is set.

    Raises: RequestError with both neighbours for frames that are not one more than a multiple of frames_per_latent.
    """
    settings = merged.settings
    if fps is None:
        fps = required(settings.fps)
    if settings.frames is not None:
        _check_frames(settings.frames, frames_per_latent)
        return ClipLength(frames=settings.frames, fps=fps, warnings=beyond_training(settings.frames, fps))
    duration, notes = stated_duration(merged), ()
    frames = max(1, math.floor((duration * fps - 1) / frames_per_latent + Fraction(1, 2)) * frames_per_latent + 1)
    if "duration" in merged.sources or frames != duration * fps:
        notes = (f"{float(duration):g} s at {show_fps(fps)} fps: {counted(frames, 'frame')}",)
    return ClipLength(frames=frames, fps=fps, notes=notes, warnings=beyond_training(frames, fps))


def stated_duration(merged: Merged) -> Fraction:
    """The duration that is set. Raises: RequestError if it is left to the model."""
    duration = required(merged.settings.duration)
    if isinstance(duration, str):
        what = f"--duration {AUTO} cannot be used here"
        raise RequestError(what, "only t2v and i2v leave the length to the model", "--duration 5s")
    return duration


def _check_frames(frames: int, frames_per_latent: int) -> None:
    if too_many := (frames - 1) % frames_per_latent:
        below = max(1, frames - too_many)
        raise RequestError(
            f"--frames {frames} cannot be used",
            f"it must be one more than a multiple of {frames_per_latent}",
            f"--frames {below} or --frames {below + frames_per_latent}",
        )


def rate_of(source: VideoSource, hint: str = "--fps 24 reads it at another rate") -> Fraction:
    """The frame rate of a clip; for a variable rate its average, as a simple fraction.

    Args: hint: what to do if that cannot be used.
    Raises: RequestError if nothing can be rendered at it.
    """
    fps = source.fps.limit_denominator(LARGEST_DENOMINATOR)
    low, high = FPS_LIMITS
    if not low <= fps <= high:
        what = f"{source.path.name} has {show_fps(fps)} frames a second"
        raise RequestError(what, f"they must be {low} to {high}", hint)
    return fps


def chosen_rate(merged: Merged, source: VideoSource) -> Fraction:
    """The frame rate at which a clip is read: as set, or its own. Raises: RequestError, as `rate_of`."""
    return required(merged.settings.fps) if merged.is_asked("fps") else rate_of(source)


def rest_after(source: AudioSource | VideoSource, start_s: Fraction) -> Fraction:
    """The seconds of a file after a time. Raises: RequestError if it ends before that."""
    if start_s >= source.duration_s:
        lasts = f"{source.path.name} lasts {float(source.duration_s):.2f} s"
        raise RequestError(f"--start {show_time(start_s)} cannot be used", lasts, "--start 0s is its beginning")
    return source.duration_s - start_s


def beyond_training(frames: int, fps: Fraction, *, offers_windows: bool = False) -> tuple[str, ...]:
    """Warnings for a length or a rate that the models were not trained for. 20 s are 481 frames at 24 fps.

    Args: offers_windows: whether the clip could be made in windows.
    """
    warnings = []
    if (frames - 1) / fps > LONGEST_TRAINED_S:
        seconds = f"{float(frames / fps):.1f} s"
        instead = f"; --until {float(frames / fps):.4g}s makes it in windows" if offers_windows else ""
        warnings.append(f"{seconds} is longer than the {LONGEST_TRAINED_S} s that the model was made for{instead}")
    if fps > FASTEST_TRAINED_FPS:
        warnings.append(f"{show_fps(fps)} fps is more than the {FASTEST_TRAINED_FPS} that the model was made for")
    return tuple(warnings)


def nearest_legal(side: int, multiple: int, least: int) -> tuple[int, int]:
    """The valid lengths just below and just above, or twice the same if it is valid itself."""
    below, above = side // multiple * multiple, _up(side, multiple)
    top = LARGEST_SIDE // multiple * multiple
    return min(max(below, least), top), min(max(above, least), top)


def nearest_aspect(width: int, height: int) -> str:
    """The name of the aspect that is nearest to this size."""
    return min(ASPECTS, key=lambda name: abs(math.log(ASPECTS[name] * height / width)))


def turned(size: Size, aspect: str, multiple: int) -> Size:
    """A size with another aspect ratio and about as many pixels, both sides valid. Portrait and landscape are just
    swapped.
    """
    width, height = size
    wanted = ASPECTS[aspect]
    if nearest_aspect(width, height) == aspect:
        return size
    if nearest_aspect(height, width) == aspect:
        return height, width
    wide = math.sqrt(width * height * wanted)
    return _legal(wide, multiple), _legal(wide / wanted, multiple)


def _multiple(recipe: Recipe, vae: VideoVAEConfig, reference_scale: int = 1) -> tuple[int, int]:
    """The required divisor of the sides, and the shortest side."""
    multiple = recipe.multiple(max(vae.factors.height, vae.factors.width)) * reference_scale
    return multiple, 2 * multiple if has_mirrored_decoder(vae) else multiple


def _up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


def _legal(side: float, multiple: int) -> int:
    return max(multiple, round(side / multiple) * multiple)
