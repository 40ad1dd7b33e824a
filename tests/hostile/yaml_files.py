"""Unusual settings files: aliases, depth, types, dates, numbers, duplicates, wrong names, user presets."""

from __future__ import annotations

from random import Random

from ltx2_core.pipeline.resolve.settings import Settings

from .case import Case, Ground, Write, data, odd_text, text

VALUES = (
    "", "~", "null", "true", "yes", "no", "on", "off", "True", "TRUE", "y", "0", "1", "-1", "+1", "010", "0o10", "0x10",
    "0b1", "1_000", "1:30", "1.5", ".5", "5.", ".", "1e5", "1e400", "-.inf", ".nan", ".inf", "1" * 31, "1" * 5000,
    "2001-01-01", "2001-99-99", "2001-12-14t21:59:43.10-05:00", "2001-12-14 21:59:43 +99", "12:30:45", "=", "<<",
    "!!int x", "!!int 5", "!!python/object/apply:os.system [id]", "!!binary aGk=", "!!set {a, b}", "!!timestamp x",
    "!!float x", "!x y", "[1, 2", "{a: 1", "[]", "{}", "[[]]", "[a, b]", "{a: b}", "[1, 0.5, 0]", "&a 1", "*a", "*b",
    "'x'", '"x"', '"\\0"', '"\\x1b[31m"', '"\\ud800"', '"\\U0010ffff"', "'", '"', "|", ">", "- a", "? a", "@x", "`x`",
    "%x", "128x96", "[0, 0]", "[64, 64, 64]", "16:9", "5s", "1s-2s", "smoke", "mine", "~/x", "~nosuchuser/x",
    "{seed[a]}.mp4", "'{seed[a]}.mp4'", "x" * 300, "x" * 5000, "\x07", "\u2028", "\u202ex", "9" * 29, "1e-400", "# x",
)  # fmt: skip
GOOD = (
    "steps: 3", "seed: 7", "frames: 9", "res: 128x96", "crop: true", "preset: mine", "cache: null", "overwrite: true",
    "stg_blocks: [0, 1]", "sigmas: [1, 0.5, 0]", "negative: 'hum'", "image: []", "tiles: [64, 8]", "device: cpu",
)  # fmt: skip
NAMES = (
    *Settings.model_fields,
    "presets",
    "preset",
    "Steps",
    "steps ",
    "step",
    "<<",
    "1",
    "null",
    "config",
    "mode",
    "x",
)


def make(random: Random, ground: Ground) -> Case:
    """A command that reads a settings file."""
    content = _file(random)
    name = random.choice(("ltx2.yaml", "ltx2.yaml", "my.yaml", "home/config.yaml"))
    words = random.choice((("presets",), ("t2v", "x", "--model", str(ground.tiny)), ("t2v", "x", *ground.model)))
    if name == "my.yaml":
        words = ("t2v", "x", "--config", name)
    if words[0] == "t2v" and random.random() < 0.3:
        words = (*words, "--preset", random.choice(("mine", "MINE", "other")))
    if words[0] == "t2v" and random.random() < 0.3:
        words = (*words, random.choice(("--json", "-v", "-vv")))
    files: dict[str, Write] = {name: content}
    if random.random() < 0.2 and name != "ltx2.yaml":
        files["ltx2.yaml"] = _file(random)
    return Case(words=words, files=files)


def _file(random: Random) -> Write:
    how = random.random()
    if how < 0.15:
        return random.choice(_SPECIAL)(random)
    lines = [_line(random) for _ in range(random.choice((1, 1, 2, 3, 10)))]
    if random.random() < 0.4:
        lines += ["presets:", f"  {random.choice(('mine', 'MINE', 'auto', 'smoke', '1', '~', odd_name(random)))}:"]
        lines += [f"    {_line(random)}" for _ in range(random.choice((0, 1, 2)))]
    content = "\n".join(lines) + "\n"
    if random.random() < 0.25:
        content = _disturbed(random, content)
    return text(content)


def odd_name(random: Random) -> str:
    return odd_text(random)[:100].replace("\n", " ")


def _line(random: Random) -> str:
    if random.random() < 0.5:
        return random.choice(GOOD)
    name = random.choice(NAMES) if random.random() < 0.95 else odd_name(random)
    value = random.choice(VALUES) if random.random() < 0.85 else odd_text(random)
    return f"{name}: {value}"


def _disturbed(random: Random, content: str) -> str:
    """A text with characters inserted, removed, or repeated."""
    for _ in range(random.choice((1, 3))):
        at = random.randrange(len(content) + 1)
        odd = random.choice(
            ("\t", "\n", " ", ":", "-", "{", "[", "*a ", "&a ", "!", "\x00", "---\n", "...\n", "%", "'")
        )
        content = random.choice(
            (content[:at] + odd + content[at:], content[:at] + content[at + 1 :], content[:at] + content * 2)
        )
    return content


def _bomb(random: Random) -> Write:
    """Aliases of aliases, which would fill the memory if expanded."""
    wide, levels = random.choice((2, 9, 60)), random.choice((3, 9, 25))
    lines = [f"l0: &l0 [{', '.join(['x'] * wide)}]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * wide)}]" for n in range(1, levels)]
    return text("\n".join([*lines, f"{random.choice(NAMES)}: *l{levels - 1}"]))


def _deep(random: Random) -> Write:
    depth = random.choice((19, 21, 1000, 100_000))
    opening, closing = random.choice(("[]", "{}", ("{a: ", "}"), ("- ", "")))
    return text(f"{random.choice(NAMES)}: {opening * depth}1{closing * depth}")


def _large(random: Random) -> Write:
    return text(
        random.choice(("steps: 3\n# ", "x: ", "a", "- ", "[", "a: 1\n")) * random.choice((1000, 60_000, 400_000))
    )


def _encoded(random: Random) -> Write:
    code = random.choice(("utf-16", "utf-32", "latin-1", "utf-8-sig", "cp037"))
    return data("steps: 3\nnegative: é\n".encode(code))


def _bytes(random: Random) -> Write:
    return data(random.randbytes(random.choice((1, 10, 1000))))


def _cyclic(random: Random) -> Write:
    return text(
        random.choice(("&a [*a]", "a: &a {b: *a}", "steps: &a *a", "&a {<<: *a}", "? &a [*a]\n: 1", "lora: &a [*a]"))
    )


_SPECIAL = (_bomb, _deep, _large, _encoded, _bytes, _cyclic)
