"""Measure the memory of a conversion: `scripts/measure_convert.py FOLDER --gigabytes 4`.

The script writes a transformer, one layer of a large block after the other, into FOLDER, converts it in a separate
process, and prints the largest anonymous memory of that process, without the pages of mapped files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

WIDTH, HIDDEN = 4096, 16384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--to", default="int8")
    given = parser.parse_args()
    source, target = given.folder / "large.safetensors", given.folder / f"large-{given.to}.safetensors"
    write_source(source, int(given.gigabytes * 1e9))
    start = time.perf_counter()
    words = ("convert", str(source), "--to", given.to, "-o", str(target), "--overwrite")
    process = subprocess.Popen([sys.executable, "-m", "ltx2_cli", *words])
    peak = 0
    while process.poll() is None:
        peak = max(peak, anonymous(process.pid))
        time.sleep(0.05)
    seconds = time.perf_counter() - start
    print(
        f"{source.stat().st_size / 1e9:.2f} GB, exit {process.returncode}, {peak / 1e6:.0f} MB at most, {seconds:.0f} s"
    )


def anonymous(pid: int) -> int:
    """The anonymous memory of a process, which no file backs, in bytes."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)


def write_source(path: Path, nbytes: int) -> None:
    """A file of approximately this many bytes with matrices of blocks in bf16; each repeats the same megabyte of
    noise.
    """
    shapes: dict[str, tuple[int, int]] = {}
    block = 0
    while 2 * sum(rows * columns for rows, columns in shapes.values()) < nbytes:
        prefix = f"model.diffusion_model.transformer_blocks.{block}."
        shapes |= {f"{prefix}attn1.{one}.weight": (WIDTH, WIDTH) for one in ("to_q", "to_k", "to_v", "to_out.0")}
        shapes |= {f"{prefix}ff.net.0.proj.weight": (HIDDEN, WIDTH), f"{prefix}ff.net.2.weight": (WIDTH, HIDDEN)}
        block += 1
    entries, end = {}, 0
    for name, (rows, columns) in shapes.items():
        entries[name] = {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [end, end + 2 * rows * columns]}
        end += 2 * rows * columns
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    noise = bytearray(os.urandom(2**20))
    noise[1::2] = bytes(60 + (byte & 1) for byte in noise[1::2])  # exponents of numbers around 0.01
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in range(end // len(noise)):
            file.write(noise)


if __name__ == "__main__":
    main()
