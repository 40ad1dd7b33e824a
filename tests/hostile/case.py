"""The records of hostile cases, the files that all cases start from, and unusual values that several kinds use."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

from tests.synthetic_media import picture, write_sound, write_video

DEEPEST = 12
Write = Callable[[Path], Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One command. files: content of the working folder, by name. environment: environment variables."""

    words: tuple[str, ...]
    files: Mapping[str, Write] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Ground:
    """The files that all cases start from, and that none may change.

    Args: tiny: a folder with a tiny random model. job: the folder of a finished render with stored latents. media: the
    contents of images, audio files and clips, by name.
    """

    tiny: Path
    job: Path
    media: Mapping[str, bytes]

    @property
    def model(self) -> tuple[str, ...]:
        """Options of the smallest request."""
        return "--model", str(self.tiny), "--preset", "smoke"


def data(content: bytes) -> Write:
    """Write these bytes."""
    return lambda path: path.write_bytes(content)


def text(content: str) -> Write:
    """Write this text, with any characters."""
    return data(content.encode("utf-8", "surrogatepass"))


def hole(start: bytes, size: int) -> Write:
    """Write these bytes, followed by a hole up to a size, which takes no disk space."""

    def write(path: Path) -> None:
        path.write_bytes(start)
        if size > len(start):
            os.truncate(path, size)

    return write


def linked(target: str) -> Write:
    return lambda path: path.symlink_to(target)


def clips(folder: Path) -> dict[str, bytes]:
    """The contents of small images, audio files and clips, by name."""
    from PIL import Image

    for name in ("a.png", "a.jpg", "a.webp"):
        Image.fromarray(picture(3)).save(folder / name)
    write_video(folder / "a.mp4", sound="aac", preset="ultrafast", options={"movflags": "faststart"})
    write_video(folder / "plain.mp4", fps=Fraction(24), preset="ultrafast")
    write_video(folder / "a.mkv", sound="flac", preset="ultrafast")
    write_video(folder / "a.webm", codec="libvpx", sound="libopus")
    write_video(folder / "a.ts", sound="aac", preset="ultrafast")
    for name, codec in {"a.wav": "pcm_s16le", "a.flac": "flac", "a.mp3": "libmp3lame", "a.m4a": "aac"}.items():
        write_sound(folder / name, codec)
    kept = Path(__file__).parents[1] / "media"
    return {path.name: path.read_bytes() for path in sorted([*folder.iterdir(), *kept.iterdir()])}


ODD_TEXTS = (
    "",
    " ",
    "\t",
    "\n",
    "-",
    "--",
    "@",
    "@nothing.txt",
    "0",
    "-1",
    "-0",
    "+1",
    "1.5",
    "1e5",
    "1e309",
    "1e-400",
    "nan",
    "inf",
    "-inf",
    "9" * 400,
    "9" * 5000,
    "0x10",
    "010",
    "1_000",
    "１２",
    "٣",
    "²",
    "½",
    "1/0",
    "0/0",
    "30000/1001",
    "1/" + "9" * 400,
    "24/1/1",
    "1:30",
    "16:9",
    "0:0",
    "5s",
    "-5s",
    "1m30s",
    "999999999999h",
    "1e400s",
    "s",
    "1s-2s",
    "2s-1s",
    "-",
    "0s-0s",
    "128x96",
    "0x0",
    "96x",
    "x",
    "128x96x1",
    "99999999999999999999x32",
    "-128x-96",
    "1000",
    "1,0",
    "1,,0",
    ",",
    "," * 1000,
    "0.5,nan,0",
    ",".join(["1"] * 5000),
    "true",
    "false",
    "null",
    "None",
    "yes",
    "auto",
    "AUTO",
    "off",
    "keep",
    "generate",
    "copy",
    "cuda",
    "cuda:99999999999999999999",
    "cuda:-1",
    "cpu:0",
    "mps",
    "smoke",
    "SMOKE",
    "distilled",
    "toy",
    "first",
    "last",
    "{seed}",
    "{seed[a]}",
    "{seed.real}",
    "{seed:>900000000}",
    "{seed!r}",
    "{0}",
    "{",
    "}{",
    "%s%n",
    "%(default)s",
    "$HOME",
    "`id`",
    "[bold red]x[/]",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\r\x1b[2K",
    "\x7f\x80\x9b31m",
    "\u202egnp.exe",
    "\u2028",
    "\ufeff",
    "\U000e0041",
    "é",
    "ﬁ",
    "💣" * 50,
    "ß" * 300,
    "\udcff\udc80",
    "a" * 255,
    "a" * 5000,
    "a" * 100_000,
    "a:b:c",
    "a@b@c",
    "a=b",
    "1" + "0" * 30,
)


def odd_text(random: Random) -> str:
    """An unusual text: one from the list, two of them joined, or random characters."""
    choice = random.random()
    if choice < 0.75:
        return random.choice(ODD_TEXTS)
    if choice < 0.9:
        return random.choice(ODD_TEXTS) + random.choice(ODD_TEXTS)
    length = random.choice((1, 2, 3, 8, 40, 1000))
    characters = [*range(1, 0x300), *range(0x2000, 0x2070), *range(0x1F300, 0x1F320), *range(0xDC80, 0xDD00)]
    return "".join(chr(random.choice(characters)) for _ in range(length))


def odd_value(random: Random, old: Any = None) -> Any:
    """An unusual JSON value, or one that is close to the old one."""
    is_number = isinstance(old, int | float) and not isinstance(old, bool)
    if is_number and abs(old) < 2**70 and random.random() < 0.5:
        return random.choice((old + 1, old - 1, -old, old * 2, old * 1000, old + 0.5, float(old), str(old)))
    if isinstance(old, str) and len(old) < 1000 and random.random() < 0.4:
        return random.choice((old + "x", old[:-1], old.upper(), old * 100, [old], {old: old}, f"../{old}"))
    if isinstance(old, list) and len(old) < 50 and random.random() < 0.4:
        return random.choice((old[:-1], old + old, [old], old * 1000, [], dict(enumerate(map(str, old)))))
    return random.choice(
        (
            None,
            True,
            False,
            0,
            1,
            -1,
            2,
            0.0,
            -0.0,
            1e-300,
            1e308,
            float("inf"),
            float("nan"),
            2**31,
            2**63,
            2**64,
            10**30,
            10**400,
            10**4000,
            "",
            "x" * 5000,
            "\x00",
            "\x1b[31m",
            [],
            [[]],
            [None],
            [0] * 3000,
            {},
            {"": None},
            {"a": {"b": 1}},
            nested(random.choice((30, 500))),
            odd_text(random).encode("utf-8", "replace").decode(),
        )
    )


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of values in a JSON tree, without the root and without deeply nested ones."""
    if len(here) > DEEPEST:
        return []
    if isinstance(value, dict):
        inside = list(value.items())
    elif isinstance(value, list):
        inside = list(enumerate(value))
    else:
        return []
    found = [(*here, key) for key, _ in inside]
    return found + [place for key, one in inside for place in places(one, (*here, key))]


def changed(random: Random, tree: Any) -> Any:
    """A JSON tree with one value changed, removed, renamed or added."""
    spots = places(tree)
    if not spots:
        return odd_value(random, tree)
    *above, key = random.choice(spots)
    parent = tree
    for step in above:
        parent = parent[step]
    how = random.random()
    if how < 0.7:
        parent[key] = odd_value(random, parent[key])
    elif how < 0.85:
        del parent[key]
    elif isinstance(parent, dict) and how < 0.93:
        parent[random.choice(("", "x", f"{key}x", str(key).upper(), "\x00", "\x1b[1m", "x" * 3000))] = parent.pop(key)
    elif isinstance(parent, dict):
        parent["unknown"] = odd_value(random)
    else:
        parent.insert(key, odd_value(random, parent[key]))
    return tree
