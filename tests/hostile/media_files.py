"""Images, audio files and clips that are truncated, or have flipped bits or exchanged pieces."""

from __future__ import annotations

from random import Random

from .case import Case, Ground, Write, data

STILL = (".png", ".jpg", ".webp")
AUDIO = (".wav", ".flac", ".mp3", ".m4a")
EDGE = 3000  # bytes at the beginning and the end, where headers are


def make(random: Random, ground: Ground) -> Case:
    """A command that reads a damaged file."""
    name = random.choice(list(ground.media))
    content = bytearray(ground.media[name])
    for _ in range(random.choice((1, 1, 2, 6))):
        content = _damaged(random, content)
    suffix = "." + name.rpartition(".")[2]
    given = "given" + (suffix if random.random() < 0.9 else random.choice((".mp4", ".wav", ".png", ".mkv", "")))
    common = (*ground.model, "-o", "x.mp4")
    commands: list[tuple[str, ...]] = [("inspect", given)]
    if suffix in STILL:
        commands += [("i2v", given, "x", *common), ("t2v", "x", "--image", given, *common)]
    elif suffix in AUDIO:
        commands += [("a2v", given, "x", *common), ("a2v", given, "x", *common, "--start", "0.2s")]
    else:
        edits = random.choice(
            ((), ("--retake", "0.1s-0.3s"), ("--extend", "1s"), ("--sound", "keep"), ("--strength", "1"))
        )
        commands += [("v2v", given, "x", *common, *edits), ("v2a", given, *common), ("a2v", given, "x", *common)]
    files: dict[str, Write] = {given: data(bytes(content))}
    return Case(words=random.choice(commands), files=files)


def _damaged(random: Random, content: bytearray) -> bytearray:
    size = len(content)
    if not size:
        return content
    begin = random.choice((0, 0, max(size - EDGE, 0), random.randrange(size)))
    at = min(begin + random.randrange(EDGE), size - 1)
    how = random.random()
    if how < 0.15:
        return content[: random.choice((at, random.randrange(size)))]
    if how < 0.5:
        for _ in range(random.choice((1, 1, 3, 30))):
            content[min(at + random.randrange(200), size - 1)] ^= 1 << random.randrange(8)
    elif how < 0.65:
        content[at : at + 4] = random.choice(
            (b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"moov")
        )
    elif how < 0.8:
        length, other = random.choice((1, 8, 100, 1000)), random.randrange(size)
        content[at : at + length] = content[other : other + length]
    elif how < 0.9:
        del content[at : at + random.choice((1, 4, 100, 2000))]
    else:
        content[at:at] = random.choice((random.randbytes(16), bytes(100), content[at : at + 500]))
    return content
