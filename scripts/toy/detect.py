"""What is seen and heard in a clip, found again from its pixels and its wave alone.

The same detectors run on rendered, reconstructed and generated clips. In shapes, `F H W 3` are frames and `2 s` samples
at `RATE_HZ`; inside, pictures are averaged down to 64 rows and lengths are in heights of the picture as in `world`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache

import numpy as np

from ltx2_core.media.pieces import Piece
from ltx2_core.media.sync import BINS_PER_S, energies
from scripts.toy import world
from scripts.toy.world import FPS, RATE_HZ, Kind, Scene

ROWS = 64
TOLERANCE_S = 1 / FPS
LAST_S = (world.FRAMES - 1) / FPS  # the instant of the last frame
END_S = 0.05  # what happens nearer to the first or the last frame is not judged


@dataclass(frozen=True)
class Seen:
    """What the picture shows: the attributes of a scene, None where it has none, and the times of its events."""

    kind: Kind
    colour: str | None = None
    size: str | None = None
    tempo: str | None = None
    side: str | None = None
    strength: str | None = None
    time_of_day: str | None = None
    times_s: tuple[float, ...] = ()


@dataclass(frozen=True)
class Heard:
    """What the sound of a kind of scene tells; the pitch is that of the tone after an onset."""

    onsets_s: tuple[float, ...]
    pitch_hz: float | None
    pitch: str | None
    size: str | None
    side: str
    strength: str | None


@dataclass(frozen=True)
class Sync:
    """How many events have an onset of their own within the tolerance, and how many onsets an event."""

    found: int = 0
    events: int = 0
    justified: int = 0
    onsets: int = 0

    def __add__(self, other: Sync) -> Sync:
        return Sync(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def recall(self) -> float:
        return self.found / max(self.events, 1)

    @property
    def precision(self) -> float:
        return self.justified / max(self.onsets, 1)


def match(events_s: Sequence[float], onsets_s: Sequence[float]) -> Sync:
    """Pair events and onsets one to one; those near the ends may be partners, but are not judged."""

    def judged(time_s: float) -> bool:
        return END_S <= time_s <= LAST_S - END_S

    events, onsets = sorted(events_s), sorted(onsets_s)
    i = j = found = justified = 0
    while i < len(events) and j < len(onsets):
        if abs(events[i] - onsets[j]) <= TOLERANCE_S:
            found, justified = found + judged(events[i]), justified + judged(onsets[j])
            i, j = i + 1, j + 1
        elif events[i] < onsets[j]:
            i += 1
        else:
            j += 1
    return Sync(found, sum(map(judged, events)), justified, sum(map(judged, onsets)))


# The picture

MIN_MASS, MIN_CHANGE = 200, 12
DOOR_SWINGS, DOOR_LATE_S = (0.1, 0.9), 0.02  # of the change of its picture; by how much it seems to be shut too soon


def see(frames: np.ndarray) -> Seen:
    """What frames (F H W 3) uint8 show; the height is a multiple of 64."""
    picture = _shrink(frames)
    scene = _nearest_backdrop(picture)
    match scene.kind:
        case Kind.BALL:
            return _see_ball(picture)
        case Kind.LAMP:
            return _see_lamp(picture)
        case Kind.DOOR:
            return _see_door(picture)
        case Kind.FLIGHT:
            return _see_flight(picture, scene)
        case Kind.WAVES:
            return _see_waves(picture, scene)


def _shrink(frames: np.ndarray, rows: int = ROWS) -> np.ndarray:
    """The means of square blocks, float32."""
    count, height, width, _ = frames.shape
    side = height // rows
    sums = frames.reshape(count, rows, side, width * 3).sum(2, dtype=np.float32)  # whole lines first: much faster
    return sums.reshape(count, rows, width // side, side, 3).sum(3) / np.float32(side**2)


def _backdrop(picture: np.ndarray) -> np.ndarray:
    """The colour of each row (16 3): of most of its columns, most of the time."""
    rows = np.median(_shrink(picture, 16), axis=2)
    return np.median(rows, axis=0)


@cache
def _known_backdrops() -> tuple[list[Scene], np.ndarray]:
    """Scenes with all attributes and rooms of the world, and their backdrops."""
    scenes = [
        replace(scene, seed=seed)
        for kind in Kind
        for held_out in (False, True)
        for scene in world.combinations(kind, held_out)
        for seed in range(4)
    ]
    return scenes, np.stack([_backdrop(world.render(scene, 48, 32, frames=5, fps=2).frames) for scene in scenes])


def _nearest_backdrop(picture: np.ndarray) -> Scene:
    scenes, backdrops = _known_backdrops()
    return scenes[np.abs(backdrops - _backdrop(picture[::4])).sum((1, 2)).argmin()]


def _see_ball(picture: np.ndarray) -> Seen:
    """The ball is what is brighter, in some channel, than its row; it touches the floor where it turns upwards."""
    excess = (picture - np.median(picture, axis=2, keepdims=True)).max(-1)
    weight = np.clip(excess - 25, 0, 40)
    mass = weight.sum((1, 2))
    if np.median(mass) < MIN_MASS:
        return Seen(Kind.BALL)
    x, y = _centroids(weight)
    core = weight > 0.9 * weight.max()
    width = (weight > 15).any(1).sum(1) / ROWS
    times_s = _contacts(y)
    return Seen(
        Kind.BALL,
        colour=_nearest_colour(picture[core], tuple(world.COLOURS)),
        size=_nearest(float(np.median(width)) / 2, world.RADII),
        tempo=_tempo(times_s),
        side=_side_of(float(np.median(x)), picture),
        times_s=times_s,
    )


def _see_lamp(picture: np.ndarray) -> Seen:
    """The lamp is what changes; it goes on where its brightness rises through the middle of its range."""
    change = picture.max(-1).std(0)
    if change.max() < MIN_CHANGE:
        return Seen(Kind.LAMP)
    weight = np.clip(change - 0.5 * change.max(), 0, None)
    brightness = (picture.max(-1) * weight).sum((1, 2)) / weight.sum()
    dark, bright = np.quantile(brightness, (0.1, 0.9))
    core = weight > 0.6 * weight.max()
    shine = picture[brightness > (dark + bright) / 2][:, core].mean((0, 1))
    times_s = _rises(brightness, dark, bright)
    return Seen(
        Kind.LAMP,
        colour=_nearest_colour(shine, tuple(world.COLOURS)),
        tempo=_tempo(times_s),
        side=_side_of(float(_centroids(weight[None])[0][0]), picture),
        times_s=times_s,
    )


def _see_door(picture: np.ndarray) -> Seen:
    """The door is what differs between the first and the last frame; it swings faster and faster until it is shut."""
    rows = slice(int(world.DOOR_TOP * ROWS) + 1, int(world.DOOR_BOTTOM * ROWS) - 1)
    inside = picture[:, rows]
    change = inside[-3:].mean(0) - inside[:3].mean(0)
    extent = np.abs(change).sum(-1)
    if extent.max() < MIN_CHANGE:
        return Seen(Kind.DOOR)
    region = extent > 0.5 * extent.max()
    change *= region[..., None]
    share = ((inside - inside[:3].mean(0)) * change).sum((1, 2, 3)) / (change**2).sum()
    first, last = DOOR_SWINGS
    end = int(np.argmax(share > last))
    begin = end - int(np.argmin(share[:end][::-1] > first)) if end else end
    swung = np.sqrt(share[begin:end])
    shut_s = np.arange(begin, end) / FPS + world.DOOR_SWING_S * (1 - swung) + DOOR_LATE_S
    return Seen(
        Kind.DOOR,
        colour=_nearest_colour(np.median(inside[-3:][:, region], (0, 1)), world.ATTRIBUTES[Kind.DOOR]["colour"]),
        side=_side_of(float(_centroids(region[None].astype(np.float32))[0][0]), picture),
        times_s=(float(shut_s.mean()),) if begin < end else (),
    )


def _see_flight(picture: np.ndarray, scene: Scene) -> Seen:
    """A bird is what differs, above the mountains and beside the sun, from its row."""
    sky, x = _beside_sun(picture, 0, 0.36)
    difference = np.abs(sky - np.median(sky, axis=2, keepdims=True)).sum(-1)
    weight = np.clip(difference - 60, 0, None)
    mass = weight.sum((1, 2))
    found = Seen(Kind.FLIGHT, strength=scene.strength, time_of_day=scene.time_of_day)
    if mass.max() < MIN_MASS:
        return found
    times_s = _rises(mass, 0, float(np.quantile(mass, 0.9)))
    return replace(found, side=_side_of(_mean_x(weight, x), picture), times_s=times_s)


def _see_waves(picture: np.ndarray, scene: Scene) -> Seen:
    """A rock is what differs, above the water and beside the sun, from its row."""
    sky, x = _beside_sun(picture, 0.36, 0.46)
    weight = np.clip(np.abs(sky - np.median(sky, axis=2, keepdims=True)).sum(-1) - 60, 0, None).mean(0, keepdims=True)
    found = Seen(Kind.WAVES, strength=scene.strength, time_of_day=scene.time_of_day)
    return replace(found, side=_side_of(_mean_x(weight, x), picture)) if weight.sum() > MIN_MASS else found


def _beside_sun(picture: np.ndarray, top: float, bottom: float) -> tuple[np.ndarray, np.ndarray]:
    """The rows of frames between two heights without the columns of the sun, and the x of the others."""
    rows = picture[:, int(top * ROWS) : int(bottom * ROWS)]
    x = (np.arange(rows.shape[2]) + 0.5) / ROWS
    beside = np.abs(x - x.mean()) > 0.19
    return rows[:, :, beside], x[beside]


def _mean_x(weight: np.ndarray, x: np.ndarray) -> float:
    return float((weight.sum((0, 1)) * x).sum() / weight.sum())


def _centroids(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean x and y (F each), in heights, of weights (F H W); where there is no weight, the last known place."""
    mass = weight.sum((1, 2)) + 1e-6
    x = (weight.sum(1) * (np.arange(weight.shape[2]) + 0.5)).sum(-1) / mass
    y = (weight.sum(2) * (np.arange(weight.shape[1]) + 0.5)).sum(-1) / mass
    return x / weight.shape[1], y / weight.shape[1]


def _contacts(y: np.ndarray) -> tuple[float, ...]:
    """When a falling ball turns: the cusps of its height (F)."""
    low, high = y.min(), y.max()
    if high - low < 0.04:
        return ()
    speed = np.quantile(np.abs(np.diff(y)), 0.95)
    times_s = []
    for k in range(1, len(y) - 1):
        before, after = y[max(k - 4, 0) : k], y[k + 1 : k + 5]
        if (
            y[k] >= y[k - 1]
            and y[k] > y[k + 1]
            and y[k] > low + 0.6 * (high - low)
            and y[k] - before.min() > 0.2 * (high - low)
            and y[k] - after.min() > 0.2 * (high - low)
        ):
            times_s.append((k + float(np.clip(0.5 * (y[k + 1] - y[k - 1]) / speed, -0.5, 0.5))) / FPS)
    return tuple(times_s)


def _rises(level: np.ndarray, low: float, high: float) -> tuple[float, ...]:
    """When a level (F) jumps up: half a frame before the first frame after the jump, on average."""
    times_s, armed = [], False
    level = (level - low) / (high - low)
    for k in range(1, len(level)):
        armed = armed or level[k - 1] < 0.3
        if armed and level[k] >= 0.5:
            times_s.append((k - 0.5) / FPS)
            armed = False
    return tuple(times_s)


def _tempo(times_s: tuple[float, ...]) -> str | None:
    """The class of the usual time between two events."""
    return _nearest(float(np.median(np.diff(times_s))), world.PERIODS_S) if len(times_s) > 1 else None


def _nearest(value: float, classes: dict[str, float]) -> str:
    """The class with the nearest ratio to a value."""
    return min(classes, key=lambda name: abs(np.log(max(value, 1e-6) / classes[name])))


def _nearest_colour(pixels: np.ndarray, names: tuple[str, ...]) -> str:
    """The colour with the most similar hue and saturation to pixels (... 3)."""
    mean = pixels.reshape(-1, 3).mean(0)

    def likeness(name: str) -> float:
        colour = np.array(world.COLOURS[name], np.float32)
        return float(mean @ colour / (np.linalg.norm(mean) * np.linalg.norm(colour) + 1e-6))

    return max(names, key=likeness)


def _side_of(x: float, picture: np.ndarray) -> str:
    return "left" if x < picture.shape[2] / picture.shape[1] / 2 else "right"


# The sound

BIN_S, RISE_BINS, GAP_BINS = 1 / BINS_PER_S, 6, 20
ONSET_BINS = 2.3  # from the steepest rise of the smoothed energy to the onset itself
PITCH_BANDS_HZ = {Kind.BALL: (60, 600), Kind.LAMP: (200, 2500), Kind.FLIGHT: (2000, 6000), Kind.DOOR: (40, 400)}
STRENGTH_LEVELS = {  # root mean square below an edge in Hz that keeps chirps out
    Kind.WAVES: (RATE_HZ, {"calm": 0.018, "stormy": 0.105}),
    Kind.FLIGHT: (1000, {"calm": 0.0057, "stormy": 0.018}),
}


def hear(sound: np.ndarray, kind: Kind) -> Heard:
    """What a sound (2 s) float32 tells that belongs to a kind of scene; a sea has no onsets."""
    strength = _strength(sound, *STRENGTH_LEVELS[kind]) if kind in STRENGTH_LEVELS else None
    left, right = (sound**2).sum(1)
    side = "left" if left > right else "right"
    if kind == Kind.WAVES:
        return Heard((), None, None, None, side, strength)
    onsets_s = _onsets(sound)
    pitches_hz = [pitch for onset_s in onsets_s if (pitch := _pitch(sound, onset_s, PITCH_BANDS_HZ[kind]))]
    pitch_hz = float(np.median(pitches_hz)) if pitches_hz else None
    pitch = _nearest(pitch_hz, world.BEEPS_HZ) if pitch_hz and kind == Kind.LAMP else None
    size = _nearest(pitch_hz, world.THUDS_HZ) if pitch_hz and kind == Kind.BALL else None
    return Heard(onsets_s, pitch_hz, pitch, size, side, strength)


def _strength(sound: np.ndarray, edge_hz: float, levels: dict[str, float]) -> str:
    spectrum = np.fft.rfft(sound)
    spectrum[:, np.fft.rfftfreq(sound.shape[1], 1 / RATE_HZ) > edge_hz] = 0
    return _nearest(float(np.sqrt(np.mean(np.fft.irfft(spectrum, sound.shape[1]) ** 2))), levels)


def _onsets(sound: np.ndarray) -> tuple[float, ...]:
    """When the energy grows 3.7 times within 30 ms, to a 30th of the loudest or more: at the steepest place."""
    whole_s = sound.shape[1] * BINS_PER_S // RATE_HZ * BIN_S
    energy = energies([Piece(Fraction(0), RATE_HZ, sound)], RATE_HZ, whole_s) + 1e-6
    energy = np.convolve(np.pad(energy, 1, "edge"), np.full(3, 1 / 3), "valid")
    level, loud = np.log(energy), energy > energy.max() / 30
    rise = level[RISE_BINS:] - level[:-RISE_BINS]
    times_s: list[float] = []
    k = 0
    while k < len(rise):
        if rise[k] > 1.3 and loud[k : k + 2 * RISE_BINS].any():
            steepest = k + int(np.argmax(np.diff(level[k : k + 10])))
            times_s.append((steepest + ONSET_BINS) * BIN_S)
            k = steepest + GAP_BINS
        else:
            k += 1
    return tuple(times_s)


def _pitch(sound: np.ndarray, onset_s: float, band_hz: tuple[float, float]) -> float | None:
    """The strongest frequency in the 100 ms after an onset, None if the sound ends before."""
    start = round((onset_s + 0.01) * RATE_HZ)
    tone = sound[:, start : start + RATE_HZ // 10]
    if tone.shape[1] < RATE_HZ // 10:
        return None
    spectrum = np.abs(np.fft.rfft(tone * np.hanning(tone.shape[1]), 8 * tone.shape[1])).sum(0)
    frequency_hz = np.fft.rfftfreq(8 * tone.shape[1], 1 / RATE_HZ)
    inside = (frequency_hz > band_hz[0]) & (frequency_hz < band_hz[1])
    return float(frequency_hz[inside][spectrum[inside].argmax()])
