"""Evaluate the toy model on prompts and combinations of attributes that are not in its training data.

    python scripts/toy/evaluate.py --results DIR [--clips 200] [--folder DIR]

The findings in each clip are appended at once to a file of JSON lines in DIR, so an interrupted evaluation continues
where it stopped. With another model, other settings or other detectors it starts from the beginning. At the end the
tables and the plot are written into `docs/`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that it runs from anywhere

import numpy as np
import torch

from ltx2_core.components import NOT_ALWAYS_NEEDED
from ltx2_core.pipeline.request import Request
from ltx2_core.pipeline.resolved import Resolved
from ltx2_core.types import Streams
from scripts.toy import detect, prompts, world
from scripts.toy.codec import Codec
from scripts.toy.detect import Heard, Seen
from scripts.toy.generate import Generator, toy_request
from scripts.toy.judge import Finding, Given
from scripts.toy.model import HOME
from scripts.toy.pictures import Pictures, object_error, psnr_db
from scripts.toy.report import AXES, SCALES, by_row, main_table, write_report
from scripts.toy.sound import ONSET_S, PITCHED, mels_of
from scripts.toy.world import Clip, Kind, Scene

SEED = 5000
FEW_STEPS = 8  # for comparing guidance scales: with many steps, small scales may be sufficient
PLAIN = {f"{stream}_{scale}": 1.0 for stream in ("video", "audio") for scale in AXES}
CODEC = ("video_encoder", "video_decoder", "audio_encoder", "audio_decoder", "vocoder")
HERE = Path(__file__).resolve().parent
SOURCES = [HERE / name for name in ("drawing.py", "world.py", "prompts.py", "detect.py")]
DOCS = HERE.parents[1] / "docs"


@dataclass(frozen=True)
class Row:
    """One way to get clips. settings: those that differ from the toy's own. is_held_out: of prompts and
    combinations.
    """

    name: str
    given: Given = "neither"
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_held_out: bool = True


def _guided(name: str, **scales: float) -> Row:
    """A row with these scales on both streams, and neutral values for the other scales."""
    settings = {f"{stream}_{scale}": value for stream in ("video", "audio") for scale, value in scales.items()}
    return Row(name, settings={"steps": FEW_STEPS, **PLAIN, **settings})


ROWS = (
    Row("rendered", "both"),
    Row("reconstructed", "both"),
    Row("t2v"),
    Row("t2v known", is_held_out=False),
    Row("a2v", "sound"),
    Row("v2a", "picture"),
    Row("distilled", settings={"preset": "distilled-lora"}),
    _guided("plain"),
    *(_guided(f"{axis} {scale}", **{axis: float(scale)}) for axis in AXES for scale in SCALES[1:]),
)


@dataclass(frozen=True)
class Case:
    """One clip of a row: its prompt, and the clip that the world renders for it."""

    number: int
    clip: Clip
    prompt: str

    @classmethod
    def of(cls, number: int, is_held_out: bool) -> Case:
        rng = np.random.default_rng((SEED, number, is_held_out))
        kind = tuple(Kind)[number % len(Kind)]
        scene = world.draw(rng, [kind], held_out=is_held_out)
        sentence = prompts.prompt(scene, rng, held_out=is_held_out, bare_share=0)
        return cls(number, world.render(scene), sentence)

    @property
    def times_s(self) -> tuple[float, ...]:
        return tuple(event.time_s for event in self.clip.events)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="folder for the findings")
    parser.add_argument("--clips", type=int, default=200, help="clips per row")
    parser.add_argument("--batch", type=int, default=10, help="clips per batch")
    parser.add_argument("--folder", type=Path, default=HOME, help="folder of the model")
    parser.add_argument(
        "--rows", nargs="+", metavar="ROW", choices=[row.name for row in ROWS], help="only print these rows"
    )
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    rows = [row for row in ROWS if options.rows is None or row.name in options.rows]
    started = time.monotonic()
    findings = evaluate(rows, options.folder, options.clips, options.batch, options.results / "findings.jsonl")
    if options.rows is None:
        write_report(findings, f"{options.clips} clips per column.", DOCS)
        print(f"{DOCS} in {(time.monotonic() - started) / 60:.1f} minutes")
    else:
        print(main_table(by_row(findings)))


def evaluate(rows: Sequence[Row], folder: Path, clips: int, batch: int, path: Path) -> list[Finding]:
    """The findings in this many clips of each row. Clips whose findings are in the file at `path` are not generated
    again.
    """
    unused = str(path.with_name("unused.mp4"))
    requests = [toy_request(folder, output=unused, **row.settings) for row in rows]
    generator, codec = Generator.of(requests[0]), Codec.load(*CODEC, folder=folder)
    known = _read(path)
    findings = []
    for row, resolved in zip(rows, requests, strict=True):
        key = _key(row, resolved)
        missing = [number for number in range(clips) if (key, number) not in known]
        for start in range(0, len(missing), batch):
            cases = [Case.of(number, row.is_held_out) for number in missing[start : start + batch]]
            began = time.monotonic()
            for finding in _examine(row, cases, *make(row, cases, codec, generator, resolved.request)):
                known[key, finding.clip] = finding
                _append(path, key, finding)
            seconds = (time.monotonic() - began) / len(cases)
            print(f"{row.name}: {start + len(cases)} of {len(missing)}, {seconds:.2f} s per clip", flush=True)
        findings += [known[key, number] for number in range(clips)]
    return findings


def make(
    row: Row, cases: Sequence[Case], codec: Codec, generator: Generator, request: Request
) -> tuple[np.ndarray, np.ndarray]:
    """The frames (b F H W 3) uint8 and sounds (b 2 s) of a row."""
    clips = [case.clip for case in cases]
    if row.name == "rendered":
        return np.stack([clip.frames for clip in clips]), np.stack([clip.sound for clip in clips])
    video, audio = codec.encode(clips) if row.given != "neither" else Streams()
    if row.given != "both":
        kept = {"picture": Streams(video=video), "sound": Streams(audio=audio)}.get(row.given, Streams())
        asked, seeds = [case.prompt for case in cases], [case.number for case in cases]
        video, audio = generator.generate(request, asked, seeds, kept)
    assert video is not None
    assert audio is not None
    return codec.pictures(video), codec.sounds(audio)


def _examine(row: Row, cases: Sequence[Case], frames: np.ndarray, sounds: np.ndarray) -> Iterator[Finding]:
    for case, picture, sound in zip(cases, frames, sounds, strict=True):
        scene, heard = case.clip.scene, detect.hear(sound, case.clip.scene.kind)
        yield Finding(
            row=row.name,
            clip=case.number,
            scene=scene,
            times_s=case.times_s,
            given=row.given,
            seen=detect.see(picture),
            heard=heard,
            numbers=_errors(case, picture, sound, heard) if row.name == "reconstructed" else {},
        )


def _errors(case: Case, frames: np.ndarray, sound: np.ndarray, heard: Heard) -> dict[str, float]:
    """The errors of a reconstructed clip."""
    true, given_back = Pictures.of([case.clip]), Pictures.from_arrays([frames], [case.clip.mask])
    samples = min(sound.shape[1], case.clip.sound.shape[1])
    mels = mels_of(torch.from_numpy(np.stack([sound[:, :samples], case.clip.sound[:, :samples]])))
    pitch_hz = detect.hear(case.clip.sound, case.clip.scene.kind).pitch_hz
    off_s = [min(abs(onset_s - time_s) for time_s in case.times_s) for onset_s in heard.onsets_s if case.times_s]
    errors = {
        "psnr_db": psnr_db(given_back.video, true.video),
        "object_error": object_error(given_back.video, true),
        "mel_l1": (mels[0] - mels[1]).abs().mean().item(),
        "onsets": len(off_s),
        "onsets_near": sum(off <= ONSET_S for off in off_s),
        "onsets_false": sum(off > detect.TOLERANCE_S for off in off_s),
    }
    if case.clip.scene.kind in PITCHED and pitch_hz and heard.pitch_hz:
        errors["pitch_error"] = abs(heard.pitch_hz / pitch_hz - 1)
    return errors


def _key(row: Row, resolved: Resolved) -> str:
    """A hash of everything that a finding depends on, except for the number of its clip."""
    digest = hashlib.sha256(json.dumps([row.name, resolved.request.model_dump(mode="json")]).encode())
    unused = NOT_ALWAYS_NEEDED - set(resolved.request.recipe.needs)
    for path in [*SOURCES, *(file for role, file in resolved.task.files.paths.items() if role not in unused)]:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _append(path: Path, key: str, finding: Finding) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"key": key, **asdict(finding)}) + "\n")


def _read(path: Path) -> dict[tuple[str, int], Finding]:
    """Findings of earlier runs, by key and number; the last line may be truncated."""
    known = {}
    for line in path.read_text("utf-8").splitlines() if path.is_file() else []:
        with suppress(json.JSONDecodeError):
            entry = json.loads(line)
            key = entry.pop("key")
            records = {
                "scene": Scene(**entry["scene"]),
                "seen": Seen(**entry["seen"]),
                "heard": Heard(**entry["heard"]),
            }
            known[key, entry["clip"]] = Finding(**{**entry, **records})
    return known


if __name__ == "__main__":
    main()
