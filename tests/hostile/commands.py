"""Unusual command lines: options of this and other modes, in any order, with unusual values."""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Any

import typer

from ltx2_cli.app import app

from .case import Case, Ground, Write, data, odd_text

MODES = ("t2v", "i2v", "v2v", "a2v", "v2a")
OTHERS = ("resume", "decode", "inspect", "presets", "nothing", "T2V", "")
INPUTS = {"i2v": "a.png", "v2v": "a.mp4", "a2v": "a.wav", "v2a": "a.mp4"}
PLAUSIBLE = {
    "res": ("128x96", "480p", "64x64"),
    "frames": ("9", "17", "10"),
    "duration": ("1s", "0.5s"),
    "fps": ("24", "23.976", "30000/1001"),
    "steps": ("2", "3"),
    "seed": ("7",),
    "preset": ("smoke", "one-stage", "distilled", "two-stage", "hq"),
    "sound": ("off", "keep", "generate"),
    "video": ("off", "keep", "generate"),
    "output": ("x.mp4", "x.wav", "new/x.mp4", "./"),
    "image": ("a.png@last", "a.png@0.1s:0.5"),
    "strength": ("0.5",),
    "extend": ("1s",),
    "extend_before": ("1s",),
    "retake": ("0.1s-0.3s",),
    "start": ("0.1s",),
    "codec": ("h264", "av1", "H265"),
    "audio_codec": ("aac", "flac", "copy"),
    "crf": ("20", "63"),
    "stg_blocks": ("1", "0,2"),
    "video_st": ("1", "3"),
    "aspect": ("9:16",),
    "device": ("cpu",),
    "precision": ("fp32", "bf16"),
}


@cache
def options() -> dict[str, dict[str, Any]]:
    """The options of every command, by name."""
    commands: Any = typer.main.get_command(app)
    return {
        name: {one.name: one for one in command.params if (*one.opts, *one.secondary_opts)[0].startswith("-")}
        for name, command in commands.commands.items()
    }


def make(random: Random, ground: Ground) -> Case:
    """A command line, from almost correct to senseless."""
    mode = random.choice(MODES) if random.random() < 0.85 else random.choice(OTHERS)
    words = [*_arguments(random, mode), *(ground.model if random.random() < 0.8 else ())]
    known = options().get(mode, {})
    for _ in range(random.choice((0, 1, 1, 2, 3, 6))):
        words += _option(random, known if random.random() < 0.85 else options()[random.choice(MODES)])
    for _ in range(random.choice((0, 0, 0, 1, 3))):
        words = _disturbed(random, words)
    files: dict[str, Write] = {name: data(ground.media[name]) for name in {*INPUTS.values()}}
    return Case(words=tuple(word.replace("\0", "") for word in (mode, *words)), files=files)


def _arguments(random: Random, mode: str) -> list[str]:
    prompt = random.choice(("a bell rings", odd_text(random)))
    if mode in INPUTS:
        given = INPUTS[mode] if random.random() < 0.85 else random.choice((*INPUTS.values(), odd_text(random)))
        return [given, prompt][: random.choice((1, 2, 2, 2))]
    return [prompt][: random.choice((0, 1, 1, 1, 1, 1))]


def _option(random: Random, known: dict[str, Any]) -> list[str]:
    """An option of a command with a value, plausible or unusual."""
    if not known or random.random() < 0.03:
        return [random.choice(("--unknown", "--", "-x", "--=", "--ouput", "---", "-vvvvv", "-o", odd_text(random)))]
    name = random.choice(list(known))
    option = known[name]
    flag = random.choice((*option.opts, *option.secondary_opts))
    if option.is_flag or option.count:
        return [flag] if random.random() < 0.95 else [f"{flag}=1"]
    value = odd_text(random)
    if name in PLAUSIBLE and random.random() < 0.6:
        value = random.choice(PLAUSIBLE[name])
    return random.choice(([flag, value], [flag, value], [f"{flag}={value}"], [flag, value, flag, value], [flag]))


def _disturbed(random: Random, words: list[str]) -> list[str]:
    """The words with one of them removed, repeated, moved, replaced or truncated."""
    if not words:
        return [odd_text(random)]
    at, other = random.randrange(len(words)), random.randrange(len(words))
    changes = (
        [*words[:at], *words[at + 1 :]],
        [*words, words[at]],
        [*words[:at], odd_text(random), *words[at:]],
        [*words[:at], words[at][:-1], *words[at + 1 :]],
        [words[other] if n == at else words[at] if n == other else word for n, word in enumerate(words)],
    )
    return random.choice(changes)
