"""The small world of the `toy` model: two-second clips whose picture, sound and events are known exactly.

Lengths are in heights of the picture, y points down and x runs from 0 to the aspect ratio, so that one scene can be
rendered at any resolution. A frame shows the instant index / fps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache, cached_property
from itertools import pairwise, product

import numpy as np

from scripts.toy.drawing import BLACK, CLOUD, RGB, SHADOW, WHITE, Canvas, Field, Point, blend, flat, lit, mix

FPS, FRAMES, WIDTH, HEIGHT, RATE_HZ = 24, 49, 192, 128, 24_000


class Kind(StrEnum):
    FLIGHT = "flight"
    BALL = "ball"
    DOOR = "door"
    LAMP = "lamp"
    WAVES = "waves"


@dataclass(frozen=True)
class Scene:
    """What a prompt can name (None where it does not apply), and the seed of everything else."""

    kind: Kind
    colour: str | None = None
    size: str | None = None
    tempo: str | None = None
    pitch: str | None = None
    side: str | None = None
    strength: str | None = None
    time_of_day: str | None = None
    seed: int = 0

    def values(self, *attributes: str) -> list[str]:
        """What these attributes are; the kind must have them."""
        values = [getattr(self, attribute) for attribute in attributes]
        assert None not in values, f"{attributes} of {self}"
        return values


@dataclass(frozen=True)
class Event:
    """Something that is seen and heard at one instant."""

    time_s: float
    side: str | None


@dataclass(frozen=True)
class Clip:
    """A rendered scene: frames (F H W 3) uint8, mask (F H W) of the object, sound (2 s) float32 at `RATE_HZ`."""

    scene: Scene
    frames: np.ndarray
    mask: np.ndarray
    sound: np.ndarray
    events: tuple[Event, ...]


COLOURS = {
    "red": (226, 58, 50),
    "green": (64, 182, 84),
    "blue": (56, 112, 232),
    "yellow": (250, 208, 62),
    "purple": (164, 84, 214),
    "white": (244, 243, 238),
}
SIDES = {"left": 0.25, "right": 0.75}  # of the width
RADII = {"small": 12 / 128, "big": 20 / 128}
PERIODS_S = {"slow": 0.69, "fast": 0.37}
# Pitches have whole periods in a frame of the mel (10 ms): a vocoder would have to count the others.
THUDS_HZ = {"small": 300.0, "big": 100.0}
BEEPS_HZ = {"low": 300.0, "high": 1200.0}
# The first attribute of a kind has several values, the others have two.
ATTRIBUTES: dict[Kind, dict[str, tuple[str, ...]]] = {
    Kind.FLIGHT: {
        "time_of_day": ("morning", "noon", "evening", "night"), "side": tuple(SIDES), "strength": ("calm", "stormy")
    },
    Kind.BALL: {
        "colour": tuple(COLOURS), "size": tuple(RADII), "tempo": tuple(PERIODS_S), "side": tuple(SIDES)
    },
    Kind.DOOR: {"colour": ("red", "green", "blue", "yellow"), "side": tuple(SIDES)},
    Kind.LAMP: {
        "colour": tuple(COLOURS), "tempo": tuple(PERIODS_S), "pitch": tuple(BEEPS_HZ), "side": tuple(SIDES)
    },
    Kind.WAVES: {
        "time_of_day": ("morning", "noon", "evening", "night"), "strength": ("calm", "stormy"), "side": tuple(SIDES)
    },
}  # fmt: skip

# Bands of the continuous draws: low entropy on purpose, a tiny model learns what varies little.
X_BAND, PERIOD_BAND, PITCH_BAND = 6 / 128, 0.02, 0.03
QUIET_END_S = 0.03  # decoded sound is a little shorter than the picture


def is_held_out(scene: Scene) -> bool:
    """Whether the combination of attributes is kept for the evaluation.

    Each value of the first attribute meets exactly one held-out combination of the others. So a kind needs two others,
    or else one value always comes with the same other one, and who learns from that cannot know that it may change.
    """
    values = ATTRIBUTES[scene.kind]
    first, *others = (names.index(getattr(scene, attribute)) for attribute, names in values.items())
    code = first + sum(index << place for place, index in enumerate(others))
    return code % max(4, 1 << len(others)) == 3


@cache
def combinations(kind: Kind, held_out: bool) -> tuple[Scene, ...]:
    """All scenes of a kind, with seed 0, that are for training or that are held out."""
    values = ATTRIBUTES[kind]
    scenes = (replace(Scene(kind), **dict(zip(values, names, strict=True))) for names in product(*values.values()))
    return tuple(scene for scene in scenes if is_held_out(scene) == held_out)


def draw(rng: np.random.Generator, kinds: Iterable[Kind] = tuple(Kind), held_out: bool = False) -> Scene:
    """A scene of one of the kinds: only held-out combinations of attributes, or never one of them."""
    kinds = tuple(kinds)
    scenes = combinations(kinds[rng.integers(len(kinds))], held_out)
    scene = scenes[rng.integers(len(scenes))]
    return replace(scene, seed=int(rng.integers(1 << 32)))


def render(scene: Scene, width: int = WIDTH, height: int = HEIGHT, frames: int = FRAMES, fps: int = FPS) -> Clip:
    """The clip of a scene; equal scenes give equal clips."""
    rng = np.random.default_rng(scene.seed)
    stage = Stage(
        width / height,
        np.arange(frames, dtype=np.float32) / fps,
        frames / fps,
        np.zeros((frames, height, width, 3), np.float32),
        np.zeros((frames, height, width), bool),
        np.zeros((2, round(frames / fps * RATE_HZ)), np.float32),
    )
    events = RENDERERS[scene.kind](scene, stage, rng)
    stage.sound[:] += NOISE_FLOOR * rng.standard_normal(stage.sound.shape, dtype=np.float32)
    pixels = (stage.pixels + 0.5).clip(0, 255).astype(np.uint8)
    return Clip(scene, pixels, stage.mask, stage.sound, tuple(events))


@dataclass(frozen=True)
class Stage:
    """A clip being made: times_s (F) of the frames, pixels (F H W 3), mask (F H W), sound (2 s)."""

    aspect: float
    times_s: np.ndarray
    duration_s: float
    pixels: np.ndarray
    mask: np.ndarray
    sound: np.ndarray

    @cached_property
    def frames(self) -> list[Canvas]:
        return [Canvas(*views) for views in zip(self.pixels, self.mask, strict=True)]

    @property
    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """The x (1 W) and y (H 1) of the centres of the pixels."""
        _, height, width, _ = self.pixels.shape
        x, y = ((np.arange(size, dtype=np.float32) + 0.5) / height for size in (width, height))
        return x[None], y[:, None]

    def backdrop(self, colour: Field, top: float = 0) -> None:
        """Paint the first frame below a height."""
        self.frames[0].rectangle((0, top, self.aspect, 1), colour)

    def room(self, above: RGB, below: RGB, ground_y: float, floor: RGB) -> None:
        """Paint a wall and a floor into the first frame."""
        self.backdrop(blend({0: above, ground_y: below}))
        self.backdrop(blend({ground_y: floor, 1: mix(floor, BLACK, 0.2)}), ground_y)

    def hold(self) -> None:
        """Put what is painted and marked in the first frame into all frames."""
        self.pixels[1:], self.mask[1:] = self.pixels[0], self.mask[0]

    def terrain(self, line: np.ndarray, colour: Field) -> None:
        """Fill everything below a moving line, y of (F W), with colours that depend on the row alone."""
        height = self.pixels.shape[1]
        top, bottom = (
            min(max(round(edge * height) + margin, 0), height) for edge, margin in ((line.min(), -2), (line.max(), 3))
        )
        x, y = self.grid
        y = y[top:]
        colours = np.broadcast_to(colour(x[:, :1], y), (len(y), 1, 3))
        band = self.pixels[:, top:bottom]
        cover = np.clip(0.5 + (y[: bottom - top] - line[:, None]) * height, 0, 1)
        band += cover[..., None] * (colours[: bottom - top] - band)
        self.pixels[:, bottom:] = colours[bottom - top :]

    def play(self, time_s: float, samples: np.ndarray, x: float) -> None:
        """Add a sound (s) that starts at a time, from the place x."""
        start = round(time_s * RATE_HZ)
        samples = samples[max(-start, 0) :][: max(self.sound.shape[1] - max(start, 0), 0)]
        self.sound[:, max(start, 0) :][:, : len(samples)] += self.gains(x) * samples

    def gains(self, x: float) -> np.ndarray:
        """How loud a sound from the place x is on each side (2 1): constant power, clearly to one side."""
        angle = math.pi / 2 * min(max(0.5 + PAN_WIDTH * (x / self.aspect - 0.5), 0), 1)
        return np.array([[math.cos(angle)], [math.sin(angle)]], np.float32)


# Sounds: mono, float32, at RATE_HZ

NOISE_FLOOR = 1e-3
PAN_WIDTH = 1.6


def seconds(duration_s: float) -> np.ndarray:
    return np.arange(round(duration_s * RATE_HZ), dtype=np.float32) / RATE_HZ


def thud(pitch_hz: float, rng: np.random.Generator) -> np.ndarray:
    """A soft drum with a click: the click makes the onset sharp."""
    t = seconds(0.3)
    tone = np.sin(2 * np.pi * pitch_hz * t) + 0.35 * np.sin(4 * np.pi * pitch_hz * t)
    click = rng.standard_normal(t.shape, dtype=np.float32) * np.exp(-t / 0.003)
    return 0.4 * tone * np.exp(-t / 0.06) + 0.25 * click


def beep(pitch_hz: float, duration_s: float) -> np.ndarray:
    """A plain tone with a weak second harmonic."""
    t = seconds(duration_s)
    envelope = np.minimum(t / 0.004, 1) * np.clip((duration_s - t) / 0.012, 0, 1)
    return 0.35 * envelope * (np.sin(2 * np.pi * pitch_hz * t) + 0.2 * np.sin(4 * np.pi * pitch_hz * t))


def slam(rng: np.random.Generator) -> np.ndarray:
    """A low knock with a burst of dull noise."""
    t = seconds(0.5)
    noise = np.convolve(rng.standard_normal(t.shape, dtype=np.float32), np.full(6, 1 / 6, np.float32), "same")
    return 0.35 * np.sin(2 * np.pi * 100 * t) * np.exp(-t / 0.1) + 0.4 * noise * np.exp(-t / 0.07)


def chirp(detune: float) -> np.ndarray:
    """A whistle that glides up while it trills."""
    t = seconds(0.13)
    pitch_hz = detune * (2700 + 1500 * t / t[-1] + 250 * np.sin(2 * np.pi * 28 * t))
    envelope = np.minimum(t / 0.004, 1) * np.clip((t[-1] - t) / 0.05, 0, 1)
    return 0.35 * envelope * np.sin(2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ)


def rush(samples: int, edge_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Stereo noise (2 s) of unit power that gets duller above `edge_hz`: wind or water."""
    spectrum = np.fft.rfft(rng.standard_normal((2, samples), dtype=np.float32))
    spectrum /= 1 + (np.fft.rfftfreq(samples, 1 / RATE_HZ) / edge_hz) ** 2
    noise = np.fft.irfft(spectrum, samples)
    return (noise / noise.std()).astype(np.float32)


# Scenes


@dataclass(frozen=True)
class Beat:
    """A place and a rhythm: x, period, the first event at or after 0, and a factor near 1 for the pitch of birds."""

    x: float
    period_s: float
    first_s: float
    detune: float

    def times_s(self, stage: Stage) -> list[float]:
        """All instants of the rhythm up to the quiet end, from one period before the clip on."""
        return list(np.arange(self.first_s - self.period_s, stage.duration_s - QUIET_END_S, self.period_s))

    def events(self, scene: Scene, stage: Stage) -> list[Event]:
        return [Event(float(time_s), scene.side) for time_s in self.times_s(stage) if time_s >= 0]


def beat(scene: Scene, stage: Stage, rng: np.random.Generator, period_s: float) -> Beat:
    place, tempo, pitch = rng.uniform(-1, 1, 3)
    period_s *= 1 + PERIOD_BAND * tempo
    x = stage.aspect * SIDES[scene.side or "left"] + X_BAND * place
    return Beat(x, period_s, rng.uniform(0, period_s), 1 + PITCH_BAND * pitch)


GRAVITY = 7.6  # heights per second squared, slow enough to read
BALL_FLOOR = 0.86
BALL_ROOMS = (  # wall above, wall below, floor
    ((74, 92, 112), (96, 116, 134), (52, 64, 80)),
    ((116, 98, 96), (144, 122, 114), (82, 68, 70)),
    ((62, 98, 96), (88, 124, 116), (42, 70, 72)),
)


def _ball(scene: Scene, stage: Stage, rng: np.random.Generator) -> list[Event]:
    """A ball that bounces on a floor, as high as its period allows, with a thud at each contact."""
    hue, size, tempo = scene.values("colour", "size", "tempo")
    rhythm = beat(scene, stage, rng, PERIODS_S[tempo])
    above, below, floor = BALL_ROOMS[rng.integers(len(BALL_ROOMS))]
    radius, colour = RADII[size], COLOURS[hue]
    stage.room(above, below, BALL_FLOOR - 0.02, floor)
    stage.hold()
    for canvas, time_s in zip(stage.frames, stage.times_s, strict=True):
        since_s = (time_s - rhythm.first_s) % rhythm.period_s
        rise = GRAVITY / 2 * since_s * (rhythm.period_s - since_s)
        x, y, spread = rhythm.x, BALL_FLOOR + 0.03 - radius - rise, radius * (1 - 0.5 * rise)
        canvas.ellipse(x, BALL_FLOOR + 0.035, spread, 0.2 * spread, flat(SHADOW), 0.5 * (1 - rise))
        shade = lit(colour, x - 0.35 * radius, y - 0.4 * radius, 1.5 * radius, 1.1, 0.72)
        canvas.ellipse(x, y, radius, radius, shade, marks=True)
    for time_s in rhythm.times_s(stage):
        stage.play(time_s, thud(THUDS_HZ[size], rng), rhythm.x)
    return rhythm.events(scene, stage)


LAMP_ROOMS = (  # wall above, wall below, table
    ((26, 30, 48), (40, 46, 68), (20, 22, 34)),
    ((44, 30, 42), (62, 44, 56), (30, 22, 30)),
    ((22, 38, 42), (34, 56, 60), (16, 26, 30)),
)
LAMP_RADIUS, LAMP_Y, LAMP_TABLE, LAMP_GLOW = 17 / 128, 0.38, 0.84, 0.42


def _lamp(scene: Scene, stage: Stage, rng: np.random.Generator) -> list[Event]:
    """A globe on a stand that shines for half of each period, and beeps as long as it shines."""
    hue, tempo, pitch = scene.values("colour", "tempo", "pitch")
    rhythm = beat(scene, stage, rng, PERIODS_S[tempo])
    above, below, table = LAMP_ROOMS[rng.integers(len(LAMP_ROOMS))]
    x, y, radius, metal = rhythm.x, LAMP_Y, LAMP_RADIUS, flat((112, 110, 120))
    colour = np.array(COLOURS[hue], np.float32)

    def glow(at_x: np.ndarray, at_y: np.ndarray) -> np.ndarray:
        fall = np.hypot(at_x - x, at_y - y)[..., None] / LAMP_GLOW
        return 0.75 * colour * np.maximum(1 - fall, 0) ** 2

    def globe(canvas: Canvas, bright: float, dim: float) -> None:
        canvas.ellipse(x, y, radius, radius, lit(colour, x, y, 1.2 * radius, bright, dim), marks=True)

    stage.room(above, below, LAMP_TABLE, table)
    stage.frames[0].rectangle((x - 0.018, y, x + 0.018, LAMP_TABLE + 0.02), metal)
    stage.frames[0].ellipse(x, LAMP_TABLE + 0.02, 0.11, 0.035, metal)
    on, off = (Canvas(stage.pixels[0].copy(), stage.mask[0].copy()) for _ in range(2))
    globe(off, 0.34, 0.26)
    on.pixels[:] += glow(*stage.grid)
    globe(on, 1.2, 0.95)
    shines = (stage.times_s - rhythm.first_s) % rhythm.period_s < rhythm.period_s / 2
    stage.pixels[:] = np.where(shines[:, None, None, None], on.pixels, off.pixels)
    stage.mask[:] = on.mask
    for time_s in rhythm.times_s(stage):
        stage.play(time_s, beep(BEEPS_HZ[pitch], rhythm.period_s / 2), x)
    return rhythm.events(scene, stage)


DOOR_ROOMS = (  # wall above, wall below, floor
    ((128, 134, 150), (158, 162, 174), (92, 88, 96)),
    ((150, 136, 128), (180, 166, 154), (104, 88, 80)),
    ((124, 140, 136), (152, 168, 160), (84, 92, 92)),
)
DOOR_WIDTH, DOOR_TOP, DOOR_BOTTOM, DOOR_SWING_S, DOOR_AJAR = 0.38, 0.14, 0.86, 0.5, 0.3
DOOR_LIGHT, DOOR_FRAME = (255, 240, 200), (228, 224, 222)


@dataclass(frozen=True)
class Leaf:
    """A door leaf that opens towards the viewer: the hinge, which side of it the leaf is on, how much it covers."""

    hinge: float
    inward: int
    shut: float

    @property
    def stands_out(self) -> float:
        """How far the free edge is in front of the wall, from 0 to 1."""
        return math.sqrt(1 - self.shut**2)

    def at(self, u: float, v: float) -> Point:
        """A place on the leaf, u from the hinge to the free edge, v from the top, in the picture."""
        top, bottom = DOOR_TOP - 0.06 * self.stands_out * u, DOOR_BOTTOM + 0.1 * self.stands_out * u
        return self.hinge + self.inward * DOOR_WIDTH * self.shut * u, top + (bottom - top) * v

    def panel(self, u0: float, v0: float, u1: float, v1: float) -> list[Point]:
        return [self.at(u0, v0), self.at(u1, v0), self.at(u1, v1), self.at(u0, v1)]


def _door(scene: Scene, stage: Stage, rng: np.random.Generator) -> list[Event]:
    """A door, hinged at its outer edge, that swings from a bright room into its frame and slams shut."""
    hue, side = scene.values("colour", "side")
    place, when = rng.uniform(-1, 1), rng.uniform(0.5, 1.6)
    above, below, floor = DOOR_ROOMS[rng.integers(len(DOOR_ROOMS))]
    inward = 1 if side == "left" else -1
    middle = stage.aspect * SIDES[side] + X_BAND * place
    left, right = middle - DOOR_WIDTH / 2, middle + DOOR_WIDTH / 2
    hinge, jamb = (left, right)[::inward]
    stage.room(above, below, DOOR_BOTTOM, floor)
    stage.frames[0].rectangle((left - 0.035, DOOR_TOP - 0.035, right + 0.035, DOOR_BOTTOM), flat(DOOR_FRAME))
    stage.frames[0].rectangle((left, DOOR_TOP, right, DOOR_BOTTOM), flat(DOOR_LIGHT))
    stage.hold()
    for canvas, time_s in zip(stage.frames, stage.times_s, strict=True):
        swung = float(np.clip(1 - (when - time_s) / DOOR_SWING_S, 0, 1))
        leaf = Leaf(hinge, inward, DOOR_AJAR + (1 - DOOR_AJAR) * swung**2)
        edge, spread = hinge + inward * DOOR_WIDTH * leaf.shut, inward * 0.3 * (1 - leaf.shut)
        if swung < 1:
            spill = [(edge, DOOR_BOTTOM), (jamb, DOOR_BOTTOM), (jamb + spread, 1.1), (edge, 1.1)]
            canvas.convex(spill, flat(DOOR_LIGHT), 0.45)
        colour = mix(COLOURS[hue], BLACK, 0.22 * leaf.stands_out)
        canvas.convex(leaf.panel(0, 0, 1, 1), flat(colour), marks=True)
        for panel in (leaf.panel(0.16, 0.08, 0.84, 0.44), leaf.panel(0.16, 0.54, 0.84, 0.92)):
            canvas.convex(panel, flat(mix(colour, BLACK, 0.18)))
        canvas.ellipse(*leaf.at(0.92, 0.5), 0.018, 0.018, flat(DOOR_LIGHT))
    stage.play(when, slam(rng), middle)
    return [Event(when, side)]


@dataclass(frozen=True)
class Light:
    """The colours of a time of day: sky from top to horizon, sun or moon, far and near land, mist, sea, birds."""

    zenith: RGB
    horizon: RGB
    sun: RGB
    sun_y: float
    far: RGB
    near: RGB
    mist: RGB
    bird: RGB


LIGHTS = {
    "morning": Light(
        zenith=(120, 172, 214), horizon=(255, 214, 186), sun=(255, 244, 214), sun_y=0.36,
        far=(170, 168, 190), near=(44, 74, 88), mist=(246, 218, 204), bird=(40, 44, 62),
    ),
    "noon": Light(
        zenith=(52, 136, 220), horizon=(178, 222, 246), sun=(255, 252, 226), sun_y=0.16,
        far=(132, 172, 200), near=(24, 92, 84), mist=(220, 238, 246), bird=(24, 34, 52),
    ),
    "evening": Light(
        zenith=(88, 58, 122), horizon=(255, 150, 92), sun=(255, 214, 122), sun_y=0.40,
        far=(150, 92, 130), near=(46, 28, 62), mist=(246, 158, 118), bird=(34, 18, 40),
    ),
    "night": Light(
        zenith=(10, 16, 42), horizon=(44, 62, 108), sun=(238, 240, 226), sun_y=0.18,
        far=(48, 64, 104), near=(10, 16, 34), mist=(74, 94, 138), bird=(226, 232, 244),
    ),
}  # fmt: skip


def _sky(stage: Stage, light: Light, haze: float = 0) -> None:
    """The sky with a sun or moon in its middle, in all frames."""
    stage.backdrop(blend({0: mix(light.zenith, CLOUD, haze), 0.5: mix(light.horizon, CLOUD, haze)}))
    for radius, opacity in ((0.165, 0.15), (0.112, 0.2), (0.075, 1.0)):
        stage.frames[0].ellipse(stage.aspect / 2, light.sun_y, radius, radius, flat(light.sun), opacity * (1 - haze))
    stage.hold()


RIDGES = (  # base, height, waves per unit of length, speed in heights per second, nearness
    (0.53, 0.17, 1.3, 0.03, 0.0),
    (0.66, 0.20, 0.9, 0.07, 0.3),
    (0.82, 0.22, 0.6, 0.15, 0.65),
    (0.99, 0.20, 0.42, 0.30, 1.0),
)
CHIRP_PERIOD_S, BIRD_SECONDS, BIRD_SPAN = 0.68, 0.44, 44 / 128
WINDS = {"calm": (0.006, 300, 0.0), "stormy": (0.02, 500, 0.45)}  # loudness, edge of the noise in Hz, share of grey


def _flight(scene: Scene, stage: Stage, rng: np.random.Generator) -> list[Event]:
    """A drone's view of misty ridges that drift by, and a bird that darts into view with each chirp."""
    time_of_day, strength = scene.values("time_of_day", "strength")
    loudness, edge_hz, grey = WINDS[strength]
    rhythm, flown_s = beat(scene, stage, rng, CHIRP_PERIOD_S), rng.uniform(0, 8)
    light = LIGHTS[time_of_day]
    _sky(stage, light, grey)
    x, _ = stage.grid
    for base, tall, waves, speed, nearness in RIDGES:
        along = waves * (x + speed * (stage.times_s[:, None] + np.float32(flown_s))) + 3.7 * nearness
        peaks = 0.65 * np.abs((along % 1) * 2 - 1) + 0.35 * np.abs((2.7 * along % 1) * 2 - 1)
        land = mix(light.far, light.near, nearness)
        top, foot = (mix(colour, CLOUD, grey) for colour in (land, mix(land, light.mist, 0.75 - 0.45 * nearness)))
        stage.terrain(base - tall * peaks, blend({base - 0.9 * tall: top, base + 0.1: foot}))
    for order, time_s in enumerate(rhythm.times_s(stage)):
        stage.play(time_s, chirp(rhythm.detune), rhythm.x)
        for canvas, at_s in zip(stage.frames, stage.times_s, strict=True):
            if 0 <= at_s - time_s < BIRD_SECONDS:
                _bird(canvas, rhythm.x, 0.2 + 0.07 * (order % 2), at_s - time_s, light.bird)
    stage.sound[:] += loudness * rush(stage.sound.shape[1], edge_hz, rng)
    return rhythm.events(scene, stage)


def _bird(canvas: Canvas, x: float, y: float, age_s: float, colour: RGB) -> None:
    """A gull in silhouette that beats its wings, climbs and fades at the end of its time."""
    y -= 0.1 * age_s
    wing = BIRD_SPAN / 2
    beat = math.cos(2 * math.pi * 3 * age_s)
    points = [(0.0, 0.0), (0.5 * wing, -0.2 * wing - 0.25 * wing * beat), (wing, 0.1 * wing - 0.45 * wing * beat)]

    def distance(at_x: np.ndarray, at_y: np.ndarray) -> np.ndarray:
        across = np.abs(at_x - x)
        parts = []
        for ((x0, y0), (x1, y1)), thick in zip(pairwise(points), ((0.036, 0.03), (0.03, 0.01)), strict=True):
            dx, dy = x1 - x0, y1 - y0
            along = np.clip(((across - x0) * dx + (at_y - y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
            parts.append(
                np.hypot(across - x0 - along * dx, at_y - y - y0 - along * dy)
                - (thick[0] + (thick[1] - thick[0]) * along)
            )
        return np.minimum(*parts)

    fade = min((BIRD_SECONDS - age_s) / 0.12, 1)
    canvas.paint(distance, (x - 0.22, y - 0.16, x + 0.22, y + 0.16), flat(colour), fade, marks=fade > 0.5)


SEA_DEEP = (16, 62, 92)
SWELLS = (  # base, size of the waves, waves per unit of length, speed in heights per second, nearness
    (0.52, 0.3, 2.6, 0.12, 0.0),
    (0.62, 0.6, 1.9, 0.22, 0.35),
    (0.76, 1.0, 1.3, 0.36, 0.7),
)
ROCK_TOP, ROCK_FOOT = 0.3, 0.58
STRENGTHS = {  # wave height, lift of the swell, swell period, loudness, edge of the noise in Hz, share of grey, foam
    "calm": (0.010, 0.012, 1.5, 0.03, 500, 0.0, 0.4),
    "stormy": (0.040, 0.060, 1.1, 0.17, 1500, 0.35, 0.75),
}


def _waves(scene: Scene, stage: Stage, rng: np.random.Generator) -> list[Event]:
    """A sea at a rock, whose swell is seen as high water and heard from the rock as louder noise."""
    strength, time_of_day, side = scene.values("strength", "time_of_day", "side")
    high, lift, period_s, loudness, edge_hz, grey, whiteness = STRENGTHS[strength]
    light = LIGHTS[time_of_day]
    swell_s, rolled = rng.uniform(0, period_s), np.float32(rng.uniform(0, 1))
    rock_x = stage.aspect * SIDES[side] + X_BAND * rng.uniform(-1, 1)
    _sky(stage, light, 1.5 * grey)
    _rock(stage, rock_x, light.bird)
    x, y = stage.grid

    def swell(times_s: np.ndarray) -> np.ndarray:
        return 0.5 + 0.5 * np.cos(2 * np.pi * (times_s - np.float32(swell_s)) / np.float32(period_s))

    for base, size, waves, speed, nearness in SWELLS:
        along = waves * (x - speed * stage.times_s[:, None]) + rolled + nearness
        crest = np.abs(np.sin(np.pi * along))
        line = base - size * (lift * swell(stage.times_s)[:, None] + 2 * high * (1 - crest))
        sea = mix(mix(light.zenith, SEA_DEEP, 0.35 + 0.4 * nearness), CLOUD, grey)
        foam = mix(sea, WHITE, whiteness * (0.4 + 0.6 * size))
        stage.terrain(line, flat(foam))
        stage.mask[:] &= y < line[:, None]
        stage.terrain(line + 0.012 + 0.4 * high * size, blend({base: sea, 1: mix(sea, SEA_DEEP, 0.6)}))
    times_s = np.arange(stage.sound.shape[1], dtype=np.float32) / RATE_HZ
    noise = math.sqrt(2) * stage.gains(rock_x) * rush(len(times_s), edge_hz, rng)
    stage.sound[:] += loudness * (0.3 + 0.7 * swell(times_s)) * noise
    return []


def _rock(stage: Stage, x: float, colour: RGB) -> None:
    """A rock that stands out of the water, in all frames."""
    left, right = [(x - 0.19, ROCK_FOOT), (x - 0.07, ROCK_TOP)], [(x + 0.05, ROCK_TOP + 0.03), (x + 0.17, ROCK_FOOT)]
    edge = [(x, ROCK_TOP + 0.01), (x + 0.03, ROCK_FOOT)]
    stage.frames[0].convex([*left, *right], flat(mix(colour, CLOUD, 0.15)), marks=True)
    stage.frames[0].convex([*left, *edge], flat(mix(colour, CLOUD, 0.4)))
    stage.hold()


RENDERERS: dict[Kind, Callable[[Scene, Stage, np.random.Generator], list[Event]]] = {
    Kind.FLIGHT: _flight,
    Kind.BALL: _ball,
    Kind.DOOR: _door,
    Kind.LAMP: _lamp,
    Kind.WAVES: _waves,
}
