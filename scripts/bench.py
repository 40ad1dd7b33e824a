"""Measure the denoiser and the decoders, with random weights or without weights. Only torch, transformers, einops and
safetensors are needed, except for --start and --ranks.

    python scripts/bench.py --meta   # FLOPs, live bytes and launches of the full-size model, without its weights
    python scripts/bench.py --cpu    # a mid-size model in float32; must be as fast as diffusers and agree with it
    python scripts/bench.py --gpu    # the full-size model in bfloat16, compared with diffusers if that is installed
    python scripts/bench.py --modes  # with --cpu or --gpu: compare the memory modes with resident weights instead
    python scripts/bench.py --start  # imports, --help, plan, and the phases of a render with the built-in model
    python scripts/bench.py --ranks 2   # a render with the built-in model on two ranks, compared with one rank
    python scripts/bench.py --compare OLD.json NEW.json     # compare two files of runs, as --out writes them
    python scripts/bench.py --compare v1 HEAD --cpu ...     # run the same bench alternately with two revisions

--cpu and --gpu take --only forward guided-step compiled-forward decoders, to run a part of the bench. --modes takes
--formats bf16 fp8 int8, and with --gpu --cap 8|12|16|24: a limit in GiB for allocations on the GPU. --compare fails if
the second is more than 5 % slower in the median of seven pairs or more and the quartiles do not overlap.

The exit code is 1 if a limit is exceeded, and 2 if nothing can be measured or compared.
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

from scripts.benchmarks import compare, compiled, decoders, meta, modes, paired, ranks, start
from scripts.benchmarks.section import Section, machine
from scripts.benchmarks.subjects import Size

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"
BENCHES = ("meta", "cpu", "gpu", "start")  # --ranks is not in this list, because it takes a number
DECODERS = "decoders"
PARTS = (*(work.replace(" ", "-") for work in paired.WORKS), DECODERS)
OVERRIDES = ("device", "layers", "heads", "sizes", "runs", "decoded")


def main(arguments: Sequence[str] | None = None) -> int:
    if arguments is None:
        arguments = sys.argv[1:]
    options = parse(arguments)
    if options.compare:
        return compared(options.compare, arguments)
    given = {name: value for name in OVERRIDES if (value := getattr(options, name)) is not None}
    works = tuple(work for work in paired.WORKS if work.replace(" ", "-") in options.only)
    cpu, gpu = (replace(setup, **given, works=works) for setup in (paired.CPU, paired.GPU))
    what = [paired.section] * bool(works) + [decoders.section] * (DECODERS in options.only)
    if options.modes is not None:
        chosen = options.modes or modes.MODES
        what = [partial(modes.section, formats=options.formats, modes=chosen, cap_gb=options.cap)]
    runs = start.RUNS if options.runs is None else options.runs
    benches = {
        "meta": [meta.section, compiled.section],
        "cpu": [partial(one, cpu) for one in what],
        "gpu": [partial(one, gpu) for one in what],
        "start": [partial(start.section, runs)],
        "ranks": [partial(ranks.section, options.ranks, runs)],
    }
    command = shlex.join(["python", "scripts/bench.py", *arguments])
    head = "\n".join([f"# Benchmarks, {date.today()}\n", *(f"- {line}" for line in machine()), f"- `{command}`"])
    print(head)
    sections: list[Section] = []
    for bench in chain.from_iterable(benches[name] for name in benches if getattr(options, name)):
        sections.append(bench())
        print(f"\n{sections[-1].markdown}", flush=True)
    for out in options.out or ([default_out(gpu)] if options.gpu else []):
        if out is None:
            continue
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".json":
            compare.Measurement.of(sections, command).write(out)
        else:
            out.write_text("\n\n".join([head, *(section.markdown for section in sections)]) + "\n", encoding="utf-8")
    return int(not all(section.is_good for section in sections))


def compared(names: Sequence[str], arguments: Sequence[str]) -> int:
    """Compare two files or revisions. Returns: the exit code."""
    at = arguments.index("--compare")
    try:
        found = compare.section(*names, [*arguments[:at], *arguments[at + 3 :]])
    except compare.Incomparable as error:
        print(error, file=sys.stderr)
        return 2
    print(found.markdown)
    return int(not found.is_good)


def default_out(setup: paired.Setup) -> Path | None:
    """The file for the results of a GPU; None if a CPU stands in for it."""
    if setup.device.type != "cuda":
        return None
    card = re.sub(r"\W+", "-", setup.device_name).lower()
    return FOLDER / f"{date.today()}-{card}.md"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in BENCHES:
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--ranks", type=int, metavar="N")
    timed = parser.add_argument_group("change what --cpu and --gpu measure")
    timed.add_argument("--device", type=torch.device)
    timed.add_argument("--layers", type=int)
    timed.add_argument("--heads", type=int)
    timed.add_argument("--sizes", type=size, nargs="+", metavar="WxHxF")
    timed.add_argument("--decoded", type=size, metavar="WxHxF", help="size of the clip that decoders are timed with")
    timed.add_argument("--runs", type=int)
    timed.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    timed.add_argument("--modes", nargs="*", choices=modes.MODES, help="memory modes (default: all)")
    timed.add_argument("--formats", nargs="+", choices=modes.FORMATS, default=["bf16"])
    timed.add_argument("--cap", type=int, choices=(8, 12, 16, 24), metavar="GIB")
    parser.add_argument("--out", type=Path, nargs="+", metavar="FILE", help="write tables (.md) or all runs (.json)")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two .json files of runs, or two git revisions")
    options = parser.parse_args(arguments)
    is_of_files = options.compare is not None and all(name.endswith(".json") for name in options.compare)
    if not is_of_files and not any(getattr(options, name) for name in (*BENCHES, "ranks")):
        parser.error("choose what to measure: --meta, --cpu, --gpu, --start or --ranks")
    if options.ranks is not None and options.ranks < 2:
        parser.error("--ranks takes 2 or more")
    if options.gpu and options.device is None and not torch.cuda.is_available():
        parser.error("there is no CUDA device; `--gpu --device cpu --layers 2 --sizes 128x96x9` tries the bench itself")
    return options


def size(text: str) -> Size:
    """Width, height and frames from "768x512x121"."""
    width, height, frames = map(int, text.split("x"))
    return width, height, frames


if __name__ == "__main__":
    sys.exit(main())
