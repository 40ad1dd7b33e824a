"""The bytes of encoded files depend only on the encoded content, not on the earlier content of the memory."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ltx2_cli.app import app
from ltx2_core.media.clip import VIDEO_CODECS
from ltx2_core.media.tracks import repeatable_options

ROOT = Path(__file__).parents[2]
ENCODE = """
import hashlib, sys
from fractions import Fraction
from pathlib import Path

import av
import torch

from ltx2_core.media.clip import VIDEO_CODECS, ClipShape, Encoding, Output
from ltx2_core.media.image import compress
from ltx2_core.media.writer import write_clip

given, folder = Path(sys.argv[1]), Path(sys.argv[2])
with av.open(str(given)) as file:
    frames = [torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1) for frame in file.decode(video=0)]
frames = torch.stack(frames)
for codec in VIDEO_CODECS:
    some = frames if codec == "h264" else frames[:9]  # the others are slower
    shape = ClipShape(width=some.shape[3], height=some.shape[2], frames=len(some), fps=Fraction(24))
    target = folder / f"{codec}.mp4"
    write_clip(Output(path=target, overwrite=True), shape, [some / 255], None, Encoding(video=codec))
    print(codec, hashlib.sha256(target.read_bytes()).hexdigest())
for size in (64, 32):  # no larger than a coding tree unit of libx265
    moving = torch.nn.functional.interpolate(torch.rand(1, 3, 32, 32, generator=torch.manual_seed(0)), scale_factor=8)
    some = torch.stack([moving[0, :, step : step + size, 2 * step : 2 * step + size] for step in range(25)])
    shape = ClipShape(width=size, height=size, frames=len(some), fps=Fraction(24))
    target = folder / f"h265-{size}.mp4"
    write_clip(Output(path=target, overwrite=True), shape, [some], None, Encoding(video="h265"))
    print(size, hashlib.sha256(target.read_bytes()).hexdigest())
print("still", hashlib.sha256(compress(frames[:1], 33).numpy().tobytes()).hexdigest())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc fills fresh memory with a value of choice")
def test_files_are_the_same_whatever_fresh_memory_holds(tmp_path: Path) -> None:
    clip = tmp_path / "lamp.mp4"  # from the built-in model, because frames of random models hide this error
    words = ["t2v", "a yellow lamp blinks on the right, low beeps", "--model", "toy", "--seed", "7", "--steps", "6"]
    made = CliRunner().invoke(app, [*words, "-o", str(clip)])
    assert made.exit_code == 0, made.stderr
    command = [sys.executable, "-c", ENCODE, str(clip), str(tmp_path)]
    hashes = []
    for value in ("85", "170"):
        environment = {**os.environ, "MALLOC_PERTURB_": value}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        hashes.append(done.stdout.splitlines())
    assert len(hashes[0]) == len(VIDEO_CODECS) + 3
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("capability", "params"), [("AVX512", "asm=AVX2"), ("AVX2", None), ("DEFAULT", None), ("SVE256", None)]
)
def test_h264_leaves_out_avx512_where_the_cpu_has_it(
    capability: str, params: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert repeatable_options(VIDEO_CODECS["h264"], 192, 128).get("x264-params") == params
    assert repeatable_options(VIDEO_CODECS["av1"], 32, 32) == VIDEO_CODECS["av1"].options


@pytest.mark.parametrize(
    ("width", "height", "unit"), [(32, 32, 16), (96, 32, 16), (64, 64, 32), (96, 64, 32), (64, 96, 32), (96, 96, 64)]
)
def test_h265_divides_a_frame_into_more_than_one_coding_tree_unit_each_way(width: int, height: int, unit: int) -> None:
    params = repeatable_options(VIDEO_CODECS["h265"], width, height)["x265-params"]
    _, _, set_to = params.partition(":ctu=")
    assert int(set_to or 64) == unit
