"""A Ray cluster on this machine, for tests and measurements: each node is a process that `ray start` runs.

    python -m scripts.local_cluster --nodes 2     prints the address, and runs until it is stopped

The cluster listens on all interfaces, but only a client with its token can use it. It ends with the process that
started it.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = ("--head", "--port=0", "--include-dashboard=false")
NODE = ("--num-cpus=1", "--num-gpus=0", "--object-store-memory=80000000", "--disable-usage-stats", "--block")
ADDRESS = re.compile(r"--address='(\S+)'")
LAST_WORDS = "ray stop"  # the end of the message that a node prints when it has started
ENDS_WITH_US = 'exec 3<&0; (read -r <&3; kill $$) & exec "$@" 3<&-'  # kills the node when its input is closed
LOOK_S = 0.05
TOKEN = "RAY_AUTH_TOKEN"


def new_token() -> dict[str, str]:
    """Environment variables with a new token, for a cluster and its clients. They have to be set before ray is
    imported.
    """
    return {"RAY_AUTH_MODE": "token", TOKEN: secrets.token_hex()}


@contextmanager
def local_cluster(nodes: int, token: Mapping[str, str]) -> Iterator[str]:
    """A cluster of nodes with one CPU each, for the time of a `with` block. Yields its address. token: from
    `new_token`.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: socket paths have at most 107 characters
    with ExitStack() as started:
        started.callback(shutil.rmtree, folder, ignore_errors=True)
        said = started.enter_context(_node(folder / "0.log", token, *HEAD, f"--temp-dir={folder}"))
        (address,) = ADDRESS.findall(said)
        for number in range(1, nodes):
            started.enter_context(_node(folder / f"{number}.log", token, f"--address={address}"))
        yield address


@contextmanager
def _node(log: Path, token: Mapping[str, str], *words: str) -> Iterator[str]:
    """A node, for the time of a `with` block. Yields the message that it prints when it has started. log: a file for
    its output.
    """
    environment = {**os.environ, **token, "PYTHONPATH": str(ROOT)}
    with log.open("wb") as told:
        words = (str(Path(sys.executable).with_name("ray")), "start", *words, *NODE)
        words = ("bash", "-c", ENDS_WITH_US, "node", *words)
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=told, stderr=subprocess.STDOUT, env=environment)
    assert process.stdin is not None
    try:
        while LAST_WORDS not in log.read_text():
            if process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(LOOK_S)
        yield log.read_text()
    finally:
        process.stdin.close()
        process.wait()  # `ray start --block` also ends the processes that it has started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=2)
    given, token = parser.parse_args(), new_token()
    signal.signal(signal.SIGTERM, lambda *told: sys.exit())
    with local_cluster(given.nodes, token) as address:
        print(f"export RAY_AUTH_MODE=token {TOKEN}={token[TOKEN]} ADDRESS={address}", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
