"""Record the output of commands in tests/transcripts/*.txt, which tests compare: columns, units, order and wording.

    python -m scripts.transcripts

None of the commands loads a model, and their output does not depend on the machine.
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from typer.testing import CliRunner

from ltx2_cli.app import app

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests" / "transcripts"
TOY = "ltx2_core/toy"
GOLDEN = "tests/golden"
PLAN = "plan t2v 'drone over misty mountains, birds chirping' --seed 1"
COMMANDS: Mapping[str, tuple[str, ...]] = {  # commands by the name of their transcript
    "plan": (
        f"{PLAN} --model ltx-2-fp8 --res 480p --vram 8 --explain",
        f"{PLAN} --model ltx-2.5-distilled-int8 --res 1080p --vram 12",
        f"{PLAN} --model ltx-2.3 --preset two-stage --res 720p --duration 3s --vram 24 --draft -v",
        f"{PLAN} --model ltx-2 --res 4k --vram 8",
    ),
    "inspect": (
        "inspect toy",
        f"inspect {TOY}",
        f"inspect {TOY}/transformer.safetensors",
        f"inspect {TOY}/video_vae.safetensors",
        f"inspect {TOY}/upsampler.safetensors",
        f"inspect {TOY}/distilled_lora.safetensors",
        f"inspect {TOY}/text_encoder",
        f"inspect {GOLDEN}/transformer/2.0/checkpoint.safetensors",
        "inspect docs/report-batch.jpg",
        f"inspect {TOY}/distilled_lora.safetensors --json",
    ),
    "lists": ("models", "presets", "help guidance", "help jobs", "help settings"),
    "mistakes": (
        "t2v",
        "t2w x",
        "t2v x --stepps 3",
        "t2v x --preset two-stag",
        "t2v x --model ltx-3",
        "t2v x --model toy --frames 10",
        "t2v x --model toy --res 100x100",
        "t2v x --model toy --fps nan",
        "t2v x --model toy --seed -1",
        "t2v x --model toy -o out.avi",
        "t2v x --model toy --lora missing.safetensors",
        "i2v x --model toy",
        "i2v x --image missing.png --model toy",
        f"v2v x {TOY}/upsampler.safetensors --model toy",
        "inspect missing.mp4",
        "resume missing.job",
        "rerun missing.mp4",
        "batch missing.txt",
        "sync pyproject.toml",
        "t2v x --model toy --json --frames 10",
    ),
}


def transcript(name: str) -> str:
    """The commands of a transcript, each with its output and its exit code."""
    with tempfile.TemporaryDirectory() as home:
        return "\n".join(_lines(COMMANDS[name], home))


def _lines(commands: tuple[str, ...], home: str) -> Iterator[str]:
    for command in commands:
        environment = {"LTX2_HOME": home, "COLUMNS": "80"}
        done = CliRunner().invoke(app, shlex.split(command), prog_name="ltx2", env=environment)
        printed = f"{done.stderr}{done.stdout}".replace(home, "LTX2_HOME").replace(f"{ROOT}/", "")
        printed = re.sub(r'"seconds": [\d.]+', '"seconds": 0', printed)
        yield f"$ ltx2 {command}\n{printed}exit code {done.exit_code}\n"


def main() -> None:
    """Write all transcripts."""
    os.chdir(ROOT)
    FOLDER.mkdir(exist_ok=True)
    for name in COMMANDS:
        (FOLDER / f"{name}.txt").write_text(transcript(name))


if __name__ == "__main__":
    main()
