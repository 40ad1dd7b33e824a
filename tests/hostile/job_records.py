"""Edited job folders: changed values in the record, other latents, and links and pipes instead of files."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from random import Random
from typing import Any

from ltx2_core.pipeline.job import RECORD

from .case import Case, Ground, Write, changed, data, hole, linked, nested, odd_text, text

JOB = "x.mp4.job"
TARGETS = (
    "../x.mp4", "/etc/x.mp4", "x.txt", "victim.mp4", "../victim.mp4", "", ".", "..", "/", "x.mp4/", "x\0.mp4", "x.mkv",
    "~/x.mp4", "x" * 300 + ".mp4", "x/" * 3000 + "x.mp4", "\x1b[31m.mp4", "\ud800.mp4", "http://127.0.0.1/x.mp4",
    ".mp4",
)  # fmt: skip


def make(random: Random, ground: Ground) -> Case:
    """A command that resumes a job, or decodes its latents again."""
    record = json.loads((ground.job / RECORD).read_bytes())
    stages = {path.name: path.read_bytes() for path in sorted(ground.job.glob("*.safetensors"))}
    files: dict[str, Write] = {f"{JOB}/{name}": data(content) for name, content in stages.items()}
    files["victim.mp4"] = data(b"somebody's")
    how = random.random()
    if how < 0.3:
        name = random.choice(list(stages))
        files[f"{JOB}/{name}"] = written = _other_latents(random, stages, name)
        if isinstance(written, bytes):
            files[f"{JOB}/{name}"] = data(written)
            if random.random() < 0.7:
                record["latents"][name] = hashlib.sha256(written).hexdigest()
        content: Write | None = None
    elif how < 0.4:
        content = random.choice(_SPECIAL)
    else:
        content = None
        for _ in range(random.choice((1, 1, 2, 5))):
            record = _edited(random, record)
    if content is None:
        content = _record(record, is_signed=random.random() < 0.7)
    files[f"{JOB}/{RECORD}"] = content
    if random.random() < 0.1:
        files["x.mp4"] = random.choice((data(b"there"), linked("victim.mp4"), linked("nowhere"), os.mkdir))
    return Case(words=_words(random), files=files)


def _words(random: Random) -> tuple[str, ...]:
    words = [random.choice(("resume", "decode")), random.choice((JOB, JOB, JOB, "x.mp4", f"{JOB}/", f"{JOB}/{RECORD}"))]
    if random.random() < 0.4:
        words += ["-o", random.choice(("y.mp4", "y.mp4", "x.mp4", "victim.mp4", "y.wav", "./", odd_text(random)))]
    if random.random() < 0.3:
        words.append("--overwrite")
    if words[0] == "decode" and random.random() < 0.3:
        words += random.choice(
            (("--codec", "av1"), ("--audio-codec", "flac"), ("--crf", "63"), ("--old-sound", "drop"))
        )
    return tuple(words)


def _edited(random: Random, record: Any) -> Any:
    if not isinstance(record, dict):
        return changed(random, record)
    task = record.get("task")
    if isinstance(task, dict) and random.random() < 0.2:
        task["target"] = random.choice(TARGETS)
        return record
    part = random.choice(("task", "task", "task", "latents", "identities", None))
    if part in record and isinstance(record[part], dict) and record[part]:
        record[part] = changed(random, record[part])
        return record
    return changed(random, record)


def _record(record: Any, *, is_signed: bool) -> Write:
    """Write the record into a folder. is_signed: with a matching checksum."""

    def write(path: Path) -> None:
        content = record
        if isinstance(content, dict):
            task = content.get("task")
            if isinstance(task, dict) and task.get("target") == "x.mp4":  # the target has not been edited
                task["target"] = str(path.parent.with_suffix(""))
            if is_signed:
                content = content | {"checksum": checksum(content)}
        path.write_bytes(json.dumps(content).encode())

    return write


def checksum(record: dict[str, Any]) -> str:
    """The checksum in a record: over everything except where and how the result is written."""
    task = record.get("task")
    values = {name: value for name, value in record.items() if name != "checksum"}
    values = {("version" if name == "schema" else name): value for name, value in values.items()}
    if isinstance(task, dict):
        values["task"] = {name: value for name, value in task.items() if name not in ("target", "output")}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _other_latents(random: Random, stages: dict[str, bytes], name: str) -> Any:
    """Other contents of a file of latents, or a function that replaces it by something else."""
    old = stages[name]
    at = random.randrange(len(old))
    other = random.choice([*stages.values()])
    flipped = old[:at] + bytes([old[at] ^ 1 << random.randrange(8)]) + old[at + 1 :]
    contents = (b"", old[:at], flipped, flipped, old + b"\0", other, random.randbytes(50), _retyped(random, old))
    places: tuple[Write, ...] = (os.mkfifo, os.mkdir, linked("/dev/zero"), linked("nowhere"), hole(old, 2**33))
    return random.choice(contents if random.random() < 0.7 else places)


def _retyped(random: Random, old: bytes) -> bytes:
    """The same file with a changed header, of the same length if possible."""
    length = int.from_bytes(old[:8], "little")
    header = changed(random, json.loads(old[8 : 8 + length]))
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + old[8 + length :]


_SPECIAL: tuple[Write, ...] = (
    os.mkfifo,
    os.mkdir,
    linked("/dev/zero"),
    linked("nowhere"),
    linked(RECORD),
    hole(b"{", 2**33),
    data(b""),
    data(b"\xff\xfe"),
    text("null"),
    text("[" * 200_000),
    text("{" * 10_000),
    text(json.dumps(nested(900))),
    text('{"schema": 3}'),
    text('{"schema": 3, "schema": 3}'),
    text("9" * 900_000),
    lambda path: None,
)
