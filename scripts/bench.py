"""Measure the denoiser and the decoders, with random weights or none; torch, transformers, einops and safetensors are
all that is needed.

    python scripts/bench.py --meta   # FLOPs, live bytes and launches of the full-size model, without its weights
    python scripts/bench.py --cpu    # a mid-size model in float32 beside diffusers'; must not be slower, must agree
    python scripts/bench.py --gpu    # the full-size model in bfloat16, beside diffusers' if that is installed
    python scripts/bench.py --modes  # with --cpu or --gpu: the memory modes beside resident weights, instead

--modes takes --formats bf16 fp8 int8, and with --gpu --cap 8|12|16|24, which no allocation may exceed, in GiB.

Exits 1 where a budget is exceeded.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from scripts.benchmarks import decoders, meta, modes, paired
from scripts.benchmarks.section import Section, machine
from scripts.benchmarks.subjects import Size

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"
OVERRIDES = ("device", "layers", "heads", "sizes", "runs", "decoded")


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    given = {name: value for name in OVERRIDES if (value := getattr(options, name)) is not None}
    cpu, gpu = (replace(setup, **given) for setup in (paired.CPU, paired.GPU))
    what = [paired.section, decoders.section]
    if options.modes is not None:
        chosen = options.modes or modes.MODES
        what = [partial(modes.section, formats=options.formats, modes=chosen, cap_gb=options.cap)]
    benches = {
        "meta": [meta.section],
        "cpu": [partial(one, cpu) for one in what],
        "gpu": [partial(one, gpu) for one in what],
    }
    command = shlex.join(["python", "scripts/bench.py", *arguments])
    head = "\n".join([f"# The denoiser, {date.today()}\n", *(f"- {line}" for line in machine()), f"- `{command}`"])
    print(head)
    sections: list[Section] = []
    for bench in chain.from_iterable(benches[name] for name in benches if getattr(options, name)):
        sections.append(bench())
        print(f"\n{sections[-1].markdown}", flush=True)
    out = options.out or (default_out(gpu) if options.gpu else None)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("\n\n".join([head, *(section.markdown for section in sections)]) + "\n", encoding="utf-8")
    return int(not all(section.is_good for section in sections))


def default_out(setup: paired.Setup) -> Path | None:
    """Where the table of a card belongs; a CPU that stands in for one leaves none."""
    if setup.device.type != "cuda":
        return None
    card = re.sub(r"\W+", "-", setup.device_name).lower()
    return FOLDER / f"{date.today()}-{card}.md"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("meta", "cpu", "gpu"):
        parser.add_argument(f"--{name}", action="store_true")
    timed = parser.add_argument_group("in place of what --cpu and --gpu time")
    timed.add_argument("--device", type=torch.device)
    timed.add_argument("--layers", type=int)
    timed.add_argument("--heads", type=int)
    timed.add_argument("--sizes", type=size, nargs="+", metavar="WxHxF")
    timed.add_argument("--decoded", type=size, metavar="WxHxF", help="of the clip that the decoders are timed with")
    timed.add_argument("--runs", type=int)
    timed.add_argument("--modes", nargs="*", choices=modes.MODES, help="memory modes, all of them where none is named")
    timed.add_argument("--formats", nargs="+", choices=modes.FORMATS, default=["bf16"])
    timed.add_argument("--cap", type=int, choices=(8, 12, 16, 24), metavar="GIB")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the tables go as markdown")
    options = parser.parse_args(arguments)
    if not (options.meta or options.cpu or options.gpu):
        parser.error("choose what to measure: --meta, --cpu or --gpu")
    if options.gpu and options.device is None and not torch.cuda.is_available():
        parser.error("there is no CUDA device; `--gpu --device cpu --layers 2 --sizes 128x96x9` tries the bench itself")
    return options


def size(text: str) -> Size:
    """Width, height and frames from "768x512x121"."""
    width, height, frames = map(int, text.split("x"))
    return width, height, frames


if __name__ == "__main__":
    sys.exit(main())
