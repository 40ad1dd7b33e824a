"""Compare this implementation with golden tensors of the official code.

    python scripts/check_golden.py ROOT [--only 2.0] [--json]

ROOT contains some or all of the folders transformer, text, audio, video_vae, sampling, e2e and quantised, or is one of
them. Each of them except sampling has one folder per model generation; quantised has one per file. `--only V` checks
the folders named V or V-…, the upsamplers that V uses, all of sampling, the tile plans and the variants of quantised
files. Files of ROOT may be compressed with gzip; the check works on a temporary copy in which they are decompressed.

There is one line per expected tensor: PASS, FAIL or LATER, family/version/case, tensor, error, tolerance, and possibly
a note in brackets. The error is relative unless the note names another measure. LATER marks the tensors of a case in
the table below if nothing was compared with them; a tensor that was compared is always PASS or FAIL. The last line has
the counts. The exit code is 1 after any failure, 2 if ROOT or the version does not exist, else 0.

With `--json` every line is a JSON object with the keys status, where, tensor, error, tolerance and note (error is null
if nothing was compared or the difference is not finite). The last object has the keys expected, compared, failed,
later.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from any folder

from scripts.golden import audio, e2e, quantised, sampling, text, transformer, video_vae
from scripts.golden.packed import unpack
from scripts.golden.report import FAIL, LATER, Line, Report

# Cases that are not implemented yet: "family/version/case" (sampling has no version) and the reason.
UNUSED = "no recipe uses it"
CELLS = "masks of cells come with the modes that use them"
ROUNDS = "keyframe rounds come with the modes that need them"
MEDIA = "wide gamut comes with the modes that use it"
WAITING = {
    "sampling/beta_*": UNUSED,
    "sampling/linear_quadratic_*": UNUSED,
    "sampling/cfg_pp_*": UNUSED,
    "sampling/delta_apg_*": UNUSED,
    "sampling/delta_cfg_star_*": UNUSED,
    "sampling/sigma_bins": UNUSED,
    "sampling/mask_s*": CELLS,
    "sampling/mask_downsample_*": CELLS,
    "sampling/dfr_*": ROUNDS,
    "sampling/acescct": MEDIA,
    "sampling/acescg_to_rec709": MEDIA,
    "sampling/logc3": MEDIA,
}

Run = Callable[[Path, str, Report], None]
FAMILIES: dict[str, Run] = {
    "transformer": transformer.run,
    "text": text.run,
    "audio": audio.run,
    "video_vae": video_vae.run,
    "sampling": sampling.run,
    "e2e": e2e.run,
    "quantised": quantised.run,
}
WITHOUT_VERSIONS = ("sampling",)
# Files that are next to the folders of a family, and the functions that check them.
LISTS: dict[str, tuple[str, Run]] = {
    "video_vae": ("tile_plans.json", video_vae.run_tile_plans),
    "quantised": ("variants.json", quantised.run_variants),
}
UPSAMPLERS = {
    "2.0": ("upsampler-spatial-x2-rational", "upsampler-temporal-x2"),
    "2.3": ("upsampler-spatial-x2", "upsampler-spatial-x1.5", "upsampler-temporal-x2"),
    "2.5": ("upsampler-spatial-x2", "upsampler-temporal-x2"),
}


@dataclass(frozen=True)
class Target:
    """One folder, or one file next to such folders, and the function that checks it. `where`: "family/version", for the
    lines.
    """

    path: Path
    where: str
    run: Run


def targets(root: Path, only: str | None = None) -> Iterator[Target]:
    """All targets under a root, in the order of the families. `check` needs an uncompressed root."""
    homes = {family: root / family for family in FAMILIES if (root / family).is_dir()}
    if not homes and root.name in FAMILIES and root.is_dir():
        homes = {root.name: root}
    for family, home in homes.items():
        run = FAMILIES[family]
        folders = [] if family in WITHOUT_VERSIONS else sorted(path for path in home.iterdir() if path.is_dir())
        listed, run_list = LISTS.get(family, (".", run))
        if (
            not folders and not (home / listed).is_file()
        ):  # the folder itself has the tensors; if not, its check reports that
            yield Target(home, family, run)
        for path in folders:
            if only is None or _belongs(path.name, only):
                yield Target(path, f"{family}/{path.name}", run)
        if (home / listed).is_file():
            yield Target(home / listed, f"{family}/{Path(listed).stem}", run_list)


def _belongs(folder: str, version: str) -> bool:
    return folder == version or folder.startswith(f"{version}-") or folder in UPSAMPLERS.get(version, ())


def check(target: Target) -> Report:
    """Check one target. Any exception in it, and finding no tensor, becomes a line of the report."""
    report = Report(WAITING)
    try:
        target.run(target.path, target.where, report)
    except Exception as exception:
        report.add_broken(f"{target.where}/*", exception)
    if not report.lines:
        report.add(Line(FAIL, f"{target.where}/*", "*", math.inf, 0.0, "no golden file of this family is here"))
    return report


def count(lines: Sequence[Line]) -> dict[str, int]:
    """How many tensors were expected, compared, failed (including cases that raised an exception) and left for
    later.
    """
    expected = [line for line in lines if line.tensor != "*"]
    return {
        "expected": len(expected),
        "compared": sum(not math.isnan(line.error) for line in expected),
        "failed": sum(line.status == FAIL for line in lines),
        "later": sum(line.status == LATER for line in lines),
    }


def as_text(line: Line) -> str:
    note = f" ({line.note})" if line.note else ""
    return f"{line.status} {line.where} {line.tensor} {line.error:.3g} {line.tolerance:.3g}{note}"


def as_json(line: Line) -> str:
    return json.dumps(asdict(line) | {"error": line.error if math.isfinite(line.error) else None})


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--only", metavar="VERSION")
    parser.add_argument("--json", action="store_true", dest="is_json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the golden tensors were made with one thread; sums in another order round differently
    lines: list[Line] = []
    with TemporaryDirectory() as place:
        found = list(targets(unpack(options.root, Path(place) / options.root.resolve().name), options.only))
        if not found:
            parser.error(f"{options.root} has no folder of golden tensors")
        if options.only and not any(_belongs(target.path.name, options.only) for target in found):
            parser.error(f"{options.root} has no folder of version {options.only}")
        for target in found:
            report = check(target)
            lines += report.lines
            for line in report.lines:
                print(as_json(line) if options.is_json else as_text(line), flush=True)
    counts = count(lines)
    summary = "compared {compared} of {expected} expected tensors, {failed} failed, {later} later"
    print(json.dumps(counts) if options.is_json else summary.format(**counts))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
