"""Time a clip on several ranks against the same clip on one rank: whole renders in separate processes."""

from __future__ import annotations

import shlex
import statistics
import sys
import tempfile
from pathlib import Path

from .section import Section
from .start import RENDER, RUNS, Times, timed_render

SHOWN = ("phase denoise", "phase video", "render: end")


def section(count: int, runs: int = RUNS) -> Section:
    """Time a render with the built-in model alternately on one rank and on several. There is no limit."""
    seconds: dict[int, Times] = {1: {}, count: {}}
    with tempfile.TemporaryDirectory() as home:
        for number in range(runs + 1):  # the first run is a warm-up, which reads the files into the page cache
            print(f"timing: ranks, run {number} of {runs}", file=sys.stderr, flush=True)
            for ranks, times in seconds.items():
                found = timed_render(Path(home), "--ranks", str(ranks))
                for name in SHOWN if number else ():
                    times.setdefault(name, []).append(found[name])
    return Section(
        title=f"{count} ranks",
        facts=[
            "each run is a process of its own, in turns with one on one rank, after one more; medians",
            f"the render: `{shlex.join(['ltx2', *RENDER, '--ranks', str(count)])}`",
        ],
        rows=[_row(name, seconds[1][name], seconds[count][name], count) for name in SHOWN],
        verdict="without a budget: processes that share the cores of one computer need not be faster",
        is_good=True,
        runs=seconds[count],
    )


def _row(name: str, alone: list[float], shared: list[float], count: int) -> dict[str, str]:
    ratio = statistics.median(b / a for a, b in zip(alone, shared, strict=True))
    return {
        "work": name,
        "runs": str(len(shared)),
        "one rank, s": f"{statistics.median(alone):.3f}",
        f"{count} ranks, s": f"{statistics.median(shared):.3f}",
        "ratio": f"{ratio:.3f}",
        "floor": f"{1 / count:.3f}",
    }
