"""A download that is killed repeatedly downloads at most one piece of 8 MiB again each time."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from ltx2_core.hub.part import PIECE
from tests.fake_hub import FakeHub

ROOT = Path(__file__).parents[2]
REPOSITORY, FILE = "somebody/model", "transformer.safetensors"
CONTENT = random.Random(1).randbytes(64 * 10**6)
FETCH = """
import sys
from pathlib import Path
from ltx2_core.hub.remote import Hub
with Hub() as hub:
    print(hub.fetch(hub.look_up(sys.argv[1], sys.argv[2]), Path(sys.argv[2])))
"""


def start(folder: Path, server: FakeHub) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= {"PYTHONPATH": str(ROOT), **server.environment(folder / "home")}
    words = [sys.executable, "-c", FETCH, REPOSITORY, FILE]
    return subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)


def wait_for(part: Path, nbytes: int, process: subprocess.Popen[str]) -> None:
    """Wait until a partial file has this many bytes, or its process has ended."""
    while process.poll() is None and not (part.exists() and part.stat().st_size >= nbytes):
        time.sleep(0.005)


@pytest.mark.parametrize("kills", [4, pytest.param(60, marks=pytest.mark.slow)])
def test_killed_download_fetches_at_most_one_piece_again(tmp_path: Path, kills: int):
    choose, part = random.Random(kills), tmp_path / (FILE + ".part")
    with FakeHub({REPOSITORY: {FILE: CONTENT}}, bytes_per_s=40e6) as server:
        for _ in range(kills):
            there = part.stat().st_size if part.exists() else 0
            process = start(tmp_path, server)
            wait_for(part, there + choose.randrange(1, 2 * len(CONTENT) // kills), process)
            process.kill()
            process.communicate()
            assert not (tmp_path / FILE).exists()
        server.bytes_per_s = None
        last = start(tmp_path, server)
        assert last.communicate()[0].strip() == hashlib.sha256(CONTENT).hexdigest()
        requests = server.asked("storage")
    assert (tmp_path / FILE).read_bytes() == CONTENT
    again = [before.begins + before.sent - after.begins for before, after in pairwise(requests)]
    assert len(requests) == kills + 1
    assert max(again) <= PIECE, again
    assert sum(one.sent for one in requests) <= len(CONTENT) + kills * PIECE
