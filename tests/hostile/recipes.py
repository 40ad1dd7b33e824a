"""Finished files with an edited or invented recipe, and changes for `ltx2 rerun`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from ltx2_core.media.probe import probe
from ltx2_core.media.wav_flac import encode

from .case import Case, Ground, Write, changed, data, nested, odd_text

NAMES = ("../x", "/etc/passwd", "~root", "a\0b", "x" * 5000, "", "con", "\x1b[31m", "-o", "{seed}", "toy", "ltx-2")
MODES = ("i2v", "v2v", "a2v", "v2a", "t2v", "T2V", "../t2v")
TEXTS = ("null", "{}", "[" * 100_000, '{"a":' * 5_000, json.dumps(nested(900)), '{"schema": 2}', '{"schema": 99}', "{")
CHANGES = (
    "seed=8", "prompt=a cat", "frames=17", "model=toy", "res=64x64", "memory=lean", "input=a.png", "lora=x.safetensors",
    "seed", "=", "preset=hq", "duration=auto", "enhance=true", "output=victim.mp4",
)  # fmt: skip


def make(random: Random, ground: Ground) -> Case:
    """A command that renders such a file again."""
    text = random.choice(TEXTS)
    if random.random() < 0.9:
        recipe = json.loads(_recipe(ground.job))
        for _ in range(random.choice((0, 1, 1, 2, 5))):
            recipe = _edited(random, recipe)
        text = json.dumps(recipe)
    files: dict[str, Write] = {"x.wav": data(_wav(text)), "victim.mp4": data(b"somebody's")}
    files |= {"a.png": data(ground.media["a.png"])} if random.random() < 0.3 else {}
    return Case(words=_words(random, ground), files=files)


@cache
def _recipe(job: Path) -> str:
    return probe(job.with_suffix("")).comment or ""


def _wav(comment: str) -> bytes:
    return encode(".wav", np.zeros((100, 2), np.int16), 48000, comment)


def _words(random: Random, ground: Ground) -> tuple[str, ...]:
    words = ["rerun", "x.wav"]
    words += ["--yes"] if random.random() < 0.9 else []
    words += ["--input", str(ground.tiny)] if random.random() < 0.9 else ["--input", odd_text(random)]
    words += ["-o", random.choice(("y.mp4", "y.mp4", "y.wav", "x.wav", "victim.mp4", odd_text(random)))]
    if random.random() < 0.3:
        words += [
            "--set",
            random.choice(CHANGES) if random.random() < 0.7 else f"{odd_text(random)}={odd_text(random)}",
        ]
    words += [word for word in ("--overwrite", "--json") if random.random() < 0.2]
    return tuple(words)


def _edited(random: Random, recipe: Any) -> Any:
    """The recipe with one more unusual value."""
    if not isinstance(recipe, dict) or random.random() < 0.1:
        return changed(random, recipe)
    request, model = recipe.get("request"), recipe.get("model")
    if isinstance(request, dict) and random.random() < 0.3:
        request[random.choice(("mode", "preset", "prompt"))] = random.choice((*MODES, *NAMES))
        if random.random() < 0.5:
            role, name = random.choice(("image-1", "clip", "checkpoint", "../x")), random.choice(NAMES)
            request["images"] = [{"role": role, "name": name, "frame": 0, "strength": 1.0, "crf": 33}]
    elif isinstance(model, dict) and isinstance(model.get("files"), dict) and random.random() < 0.3:
        file = {"name": random.choice(NAMES), "fingerprint": random.choice(("", "0" * 64, *NAMES))}
        model["files"][random.choice(("image-1", "clip", "text_encoder", "checkpoint", "upsampler", "../x"))] = file
        model["name"] = random.choice(NAMES)
    else:
        part = random.choice(("request", "request", "machine", "machine", "output", "model", "made_with"))
        recipe[part] = changed(random, recipe.get(part))
    return recipe
