"""Sizes and lengths of clips: what a name, an aspect, an input's own shape or a duration means in pixels and frames.

Source: spec cli, sections 2 and 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ...config.video_vae import VideoVAEConfig
from ...errors import RequestError
from ...media.inputs import VideoSource
from ..recipe import Recipe
from ..values import FPS_LIMITS, did_you_mean, parse_size, show_fps
from .presets import names, read_tier
from .settings import Layer, Settings, required

ASPECTS: dict[str, Fraction] = {
    "16:9": Fraction(16, 9),
    "9:16": Fraction(9, 16),
    "1:1": Fraction(1),
    "4:3": Fraction(4, 3),
    "3:4": Fraction(3, 4),
    "21:9": Fraction(21, 9),
}
LARGEST_SIDE = 16384
LARGEST_DENOMINATOR = 1001  # of a frame rate; 30000/1001 has it
LONGEST_TRAINED_S, FASTEST_TRAINED_FPS = 20, 50

Size = tuple[int, int]  # width, height


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderSize:
    """What is rendered, and what the file is cut to where that is less."""

    size: Size
    crop: Size | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipLength:
    """Frames, one more than a multiple of the temporal factor, and their exact rate."""

    frames: int
    fps: Fraction
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def choose_size(
    settings: Settings,
    sources: Mapping[str, str],
    recipe: Recipe,
    vae: VideoVAEConfig,
    shown: Size | None,
    command: str,
    reference_scale: int = 1,
) -> RenderSize:
    """The size of a render.

    Args: sources: where each setting came from. shown: the size of an input that is seen in the result; its aspect is
    then the default. command: the beginning of a command line, for hints. reference_scale: how much larger the render
    is than a reference, whose latent grid must be whole too.
    Raises: RequestError with the two nearest legal sizes.
    """
    multiple, least = _multiple(recipe, vae, reference_scale)
    res = required(settings.res)
    aspect = settings.aspect or (nearest_aspect(*shown) if shown else None)
    if res.lower() in names("tiers"):
        tier = read_tier(res.lower())
        width, height = parse_size(tier.one_stage if len(recipe.stages) == 1 else tier.two_stages)
        size, file = (-(-width // multiple) * multiple, -(-height // multiple) * multiple), parse_size(tier.file)
        if aspect is not None and turned(file, aspect, 2) not in (file, file[::-1]):
            file = turned(size, aspect, multiple)
        elif aspect is not None:
            file = turned(file, aspect, 2)
        size = size if aspect is None else turned(size, aspect, multiple)
        size = -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple
        if file == size or settings.crop is False:
            return RenderSize(size=size)
        note = f"{res.lower()}: rendered at {size[0]}x{size[1]}, cut to {file[0]}x{file[1]}"
        return RenderSize(size=size, crop=file, notes=(note,))
    try:
        size = parse_size(res)
    except ValueError as error:
        raise RequestError(f"--res {res} cannot be used", str(error), did_you_mean(res, names("tiers"))) from error
    is_default = sources.get("res", "").startswith("model ")
    if settings.aspect and not is_default:
        raise RequestError(f"--aspect {settings.aspect} cannot be used with --res {res}", "a size has its own aspect")
    if is_default and aspect is not None:
        size = turned(size, aspect, multiple)
    needs = "this preset needs" if reference_scale == 1 else f"this preset and a reference at 1/{reference_scale} need"
    for word, side in zip(("width", "height"), size, strict=True):
        if side % multiple or not least <= side <= LARGEST_SIDE:
            near = [nearest_legal(value, multiple, least) for value in size]
            sizes = dict.fromkeys(f"{w}x{h}" for w, h in zip(*near, strict=True))
            raise RequestError(
                f"{word} {side} cannot be used",
                f"{needs} a multiple of {multiple} from {least} to {LARGEST_SIDE}",
                f"{command} --res {' or '.join(sizes)}",
            )
    return RenderSize(size=size)


def choose_working_size(
    settings: Settings,
    sources: Mapping[str, str],
    recipe: Recipe,
    vae: VideoVAEConfig,
    shown: Size,
    command: str,
) -> RenderSize:
    """The size at which the model looks at a picture that stays as it is.

    It has the aspect of the picture, about as many pixels as the tier or the model's own size, and no more than the
    picture, as far as its sides can be legal. A size that is written out is taken as it is.
    Args: shown: the size of the picture; the others as for choose_size, which this raises as.
    """
    width, height = choose_size(settings, sources, recipe, vae, None, command).size
    if sources.get("res", "").startswith("model ") or required(settings.res).lower() in names("tiers"):
        multiple, least = _multiple(recipe, vae)
        scale = min(1.0, math.sqrt(width * height / math.prod(shown)))
        width, height = (max(least, _legal(side * scale, multiple)) for side in shown)
    picture = f"the picture, {shown[0]}x{shown[1]}, is copied as it is"
    return RenderSize(size=(width, height), notes=(f"{picture}; the model looks at it at {width}x{height}",))


def tier_layer(res: str, model: str, tiers: Sequence[str]) -> list[Layer]:
    """What a size by name sets; nothing for a size in numbers.

    Args: tiers: those that the model is made for.
    Raises: RequestError for another one.
    """
    name = res.lower()
    if name not in names("tiers"):
        return []
    if name not in tiers:
        made_for = ", ".join(tiers) or "none of the sizes by name"
        raise RequestError(f"--res {res} cannot be used", f"model {model} is made for {made_for}", "--res WxH")
    return [(f"size {name}", read_tier(name).defaults)]


def choose_length(settings: Settings, sources: Mapping[str, str], frames_per_latent: int, command: str) -> ClipLength:
    """The length of a render that nothing but the settings decides. frames_per_latent: frames to a latent frame.

    Raises: RequestError with both neighbours for frames that are not one more than a multiple of k.
    """
    fps = required(settings.fps)
    notes: list[str] = []
    if settings.frames is not None:
        frames = settings.frames
        if frames % frames_per_latent != 1:
            below = max(1, (frames - 1) // frames_per_latent * frames_per_latent + 1)
            raise RequestError(
                f"--frames {frames} cannot be used",
                f"it must be one more than a multiple of {frames_per_latent}",
                f"{command} --frames {below} or {below + frames_per_latent}",
            )
    else:
        duration = required(settings.duration)
        frames = max(1, math.floor((duration * fps - 1) / frames_per_latent + Fraction(1, 2)) * frames_per_latent + 1)
        if sources.get("duration") not in (None, "built-in") or frames != duration * fps:
            notes.append(f"{float(duration):g} s at {show_fps(fps)} fps: {frames} frames")
    return ClipLength(frames=frames, fps=fps, notes=tuple(notes), warnings=beyond_training(frames, fps))


def rate_of(source: VideoSource, hint: str = "--fps 24 reads it at another rate") -> Fraction:
    """The frame rate of a clip; of one without a constant rate its average, as a simple fraction.

    Args: hint: what to do where that is no use.
    Raises: RequestError if nothing can be rendered at it.
    """
    fps = source.fps.limit_denominator(LARGEST_DENOMINATOR)
    low, high = FPS_LIMITS
    if not low <= fps <= high:
        what = f"{source.path.name} has {show_fps(fps)} frames a second"
        raise RequestError(what, f"they must be {low} to {high}", hint)
    return fps


def beyond_training(frames: int, fps: Fraction) -> tuple[str, ...]:
    """Warnings for a length or a rate that the models were not made for. 20 s are 481 frames at 24 fps."""
    warnings = []
    if (frames - 1) / fps > LONGEST_TRAINED_S:
        seconds = f"{float(frames / fps):.1f} s"
        warnings.append(f"{seconds} is longer than the {LONGEST_TRAINED_S} s that the model was made for")
    if fps > FASTEST_TRAINED_FPS:
        warnings.append(f"{show_fps(fps)} fps is more than the {FASTEST_TRAINED_FPS} that the model was made for")
    return tuple(warnings)


def nearest_legal(side: int, multiple: int, least: int) -> tuple[int, int]:
    """The legal lengths just below and just above, or twice the same if it is legal itself."""
    below, above = side // multiple * multiple, -(-side // multiple) * multiple
    top = LARGEST_SIDE // multiple * multiple
    return min(max(below, least), top), min(max(above, least), top)


def nearest_aspect(width: int, height: int) -> str:
    """The name of the aspect that is nearest to a picture's."""
    return min(ASPECTS, key=lambda name: abs(math.log(ASPECTS[name] * height / width)))


def turned(size: Size, aspect: str, multiple: int) -> Size:
    """A size of another aspect with about as many pixels, both sides legal. One that only lies or stands is turned."""
    width, height = size
    wanted = ASPECTS[aspect]
    if nearest_aspect(width, height) == aspect:
        return size
    if nearest_aspect(height, width) == aspect:
        return height, width
    wide = math.sqrt(width * height * wanted)
    return _legal(wide, multiple), _legal(wide / wanted, multiple)


def _multiple(recipe: Recipe, vae: VideoVAEConfig, reference_scale: int = 1) -> tuple[int, int]:
    """What sides must be a multiple of, and the shortest one."""
    multiple = recipe.multiple(max(vae.factors.height, vae.factors.width)) * reference_scale
    return multiple, 2 * multiple if vae.decoder_padding == "reflect" else multiple


def _legal(side: float, multiple: int) -> int:
    return max(multiple, round(side / multiple) * multiple)
