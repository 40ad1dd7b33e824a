"""Unusual paths for every option, argument, variable and key of a file that is a path."""

from __future__ import annotations

import json
import os
from random import Random

from .case import Case, Ground, Write, data, linked, text

PATHS = (
    "~", "~/", "~nosuchuser", "~nosuchuser/x.mp4", "~root/x.mp4", "./~/x.mp4", "/", "//", ".", "..", "../..", "./",
    "x", "x.mp4", "x.mp4/", "new/", "new/x.mp4", "folder", "folder/", "folder/x.mp4", "file", "file/x.mp4", "file/",
    "pipe", "pipe.mp4", "zero", "zero.mp4", "/dev/zero", "/dev/full", "/dev/stdin", "/dev/fd/0", "/dev/null",
    "/dev/null/x.mp4",
    "/proc/self/mem", "/proc/self/environ", "loop", "loop.mp4", "loop/x.mp4", "dangling", "dangling.mp4", "empty",
    "a" * 255, "a" * 256, "a" * 251 + ".mp4", "a" * 240 + ".mp4", "é" * 127 + ".mp4", "a/" * 3000, "a" * 5000,
    "a/../" * 900 + "x.mp4",
    "\udcff.mp4", "\udcff", "x\n.mp4", "\x1b[31m.mp4", "\u202e4pm.mp4", " ", " x.mp4", "x.mp4 ", "-", "-x.mp4", "@",
    "@x",
    "a.png@last", "a.png@first:2", "a.png@-1", "a.png@99999999999999999999", "a.png@1e5s", "@0:1", "a.png@0:nan",
    "w.safetensors:0.5", "w.safetensors:", "w.safetensors:nan", ":1", "::", "concat:a.mp4|a.mp4",
    "subfile,,start,0,end,9,,:a.mp4",
    "http://127.0.0.1:9/x.mp4", "file:a.mp4", "file:///etc/passwd", "pipe:0", "data:,x", "C:\\x.mp4", "\\\\host\\x.mp4",
    "{mode}/x.mp4", "{slug}.mp4", "{seed[a]}.mp4", "{seed.real}.mp4", "{seed:>900000000}.mp4", "{seed!r}.mp4",
    "{0}.mp4", "{}.mp4",
    "{", "}", "{{seed}}.mp4", "{prompt}.mp4", "{preset}.mp4", "a.png", "a.mp4", "a.wav", "w.safetensors", "toy",
    "TOY", "ltx-2", "x.wav",
    "x.MP4", "x.txt", ".mp4", "..mp4", "x.mp4.job", ".x.mp4.lock",
)  # fmt: skip
SETTINGS = (
    "model", "transformer", "video_vae", "audio_vae", "text_encoder", "upsampler", "distilled_lora", "lora", "image",
    "output", "output", "output", "job_dir", "control",
)  # fmt: skip


def make(random: Random, ground: Ground) -> Case:
    """A command with one or several unusual paths."""
    files: dict[str, Write] = {name: data(ground.media[name]) for name in ("a.png", "a.mp4", "a.wav")}
    files |= {
        "file": data(b"x"), "empty": data(b""), "folder": os.mkdir, "pipe": os.mkfifo, "pipe.mp4": os.mkfifo,
        "zero": linked("/dev/zero"), "zero.mp4": linked("/dev/zero"), "loop": linked("loop"),
        "loop.mp4": linked("loop.mp4"),
        "dangling": linked("nowhere"), "dangling.mp4": linked("nowhere"), "w.safetensors": linked(_lora(ground)),
    }  # fmt: skip
    how = random.random()
    environment: dict[str, str] = {}
    if how < 0.2:
        command = random.choice(("inspect", "resume", "decode", "i2v", "v2v", "a2v", "v2a"))
        words = (command, _odd(random), *(ground.model if command.endswith(("2v", "2a")) else ()))
        return Case(words=words, files=files)
    words = (*random.choice((("t2v", "x"), ("i2v", "a.png"), ("v2v", "a.mp4"), ("a2v", "a.wav"), ("v2a", "a.mp4"))),)
    words = (*words, *ground.model)
    if how < 0.3:
        environment["LTX2_HOME"] = _odd(random)
    elif how < 0.4:
        words = (*words, "--config", _odd(random))
    elif how < 0.5:
        environment["LTX2_" + random.choice(SETTINGS).upper()] = _odd(random)
    elif how < 0.65:
        odd = _odd(random).encode("utf-8", "replace").decode() + random.choice(("", "", "\0", "\x07"))
        files["ltx2.yaml"] = text(f"{random.choice(SETTINGS)}: {json.dumps(odd)}\n")
    else:
        for _ in range(random.choice((1, 1, 1, 2))):
            words = (*words, "--" + random.choice(SETTINGS).replace("_", "-"), _odd(random))
    if random.random() < 0.25:
        words = (*words, random.choice(("--overwrite", "--skip-existing", "--sheet", "--report", "--json")))
    return Case(words=words, files=files, environment=environment)


def _odd(random: Random) -> str:
    path = random.choice(PATHS)
    if random.random() < 0.1:
        path = random.choice(
            (f"./{path}", f"folder/../{path}", f"{path}/x.mp4", f"{path}@last", f"{path}:0.5", path + path)
        )
    return path


def _lora(ground: Ground) -> str:
    return str(next(path for path in sorted(ground.tiny.glob("*lora*.safetensors"))))
