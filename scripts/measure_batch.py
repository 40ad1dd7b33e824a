"""Measure the overhead of a job of a batch besides its render, on this machine and on a Ray cluster of one node here.

    python -m scripts.measure_batch --jobs 20 --engine ray

The time of a job begins at the end of the previous job of the same worker. The time of a render goes from its start to
the finished file, as the render itself reports it. The first job of a worker is left out, because it loads the models.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import ltx2_core as core
from ltx2_cli.batch import TAKES
from scripts.local_cluster import local_cluster, new_token

FLAGS = {"preset": "smoke", "seed": "1"}


def batch_of(count: int, folder: Path) -> core.Batch:
    """A batch of `count` small jobs in a folder."""
    path = folder / "s.txt"
    path.write_text("".join(f"lamp {number}\n" for number in range(count)))
    return core.read_batch(core.AskedBatch(path=path, flags={**FLAGS, "output": f"{folder}/s/"}, takes=TAKES))


def overheads(batch: core.Batch, options: core.BatchOptions) -> list[float]:
    """For each job except the first: the seconds that are not part of its render, with one worker."""
    found: list[float] = []
    ended: float | None = None

    def on_outcome(worker: int, outcome: core.Outcome) -> None:
        nonlocal ended
        now = time.monotonic()
        if ended is not None:
            found.append(now - ended - outcome.seconds)
        ended = now

    end = core.run_batch(batch, options, None, core.BatchWatch(on_outcome=on_outcome))
    assert not end.failed
    assert not end.left
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a node of the cluster has one CPU
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        options = core.BatchOptions()
        if given.engine == "ray":
            token = new_token()
            os.environ.update(token)
            address = stack.enter_context(local_cluster(1, token))
            options = core.BatchOptions(engine="ray", address=address)
        found = overheads(batch_of(given.jobs, folder), options)
    low, middle, high = (1000 * one for one in (min(found), median(found), max(found)))
    print(f"{given.engine}: {len(found)} jobs, besides the render {middle:.0f} ms each ({low:.0f} to {high:.0f})")


if __name__ == "__main__":
    main()
