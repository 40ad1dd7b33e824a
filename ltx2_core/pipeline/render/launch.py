"""Start the ranks of a render with torchrun's launcher, pass on the events of the first one, and end them together.

The launcher runs in a thread and this process only listens. Ranks ignore Ctrl-C and TERM, which a terminal sends to all
of them: this process decides, and has the first rank stop after its step. Each rank ends as soon as this process has
ended. Source: docs/ranks.md; torch's documentation of `torch.distributed.launcher` and `torchrun`.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import active_children, get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.resource_tracker import ensure_running
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, NoReturn, TypeVar

from ...errors import LTX2Error
from ...machine import Machine
from ...parallel import FIRST, PeerLostError, Ranks
from ..events import Watch
from ..processes import SIGNALS, START_METHOD, STOP, Pipe, how_ended, tell_warnings

T = TypeVar("T")
TIMEOUT_S = 1800.0  # a rank without a message for this time is lost; reading weights takes long
LISTEN_S = 0.1  # waiting time for events between checks for a stop
END_S = 10.0  # waiting time for ranks to end, also after the loss of another rank
LOOPBACK = "lo"  # the only network interface for ranks of one machine
LONGEST_REASON = 200


@dataclass(frozen=True)
class Here:
    """A rank has started."""


@dataclass(frozen=True)
class Finished:
    """The first rank is done. result: what it returned."""

    result: Any


@dataclass(frozen=True)
class Failed:
    """The exception of a rank. trace: its location, as text."""

    error: BaseException
    trace: str


class RankError(Exception):
    """The failure of a rank, as the cause of an error that was raised in another process."""


def launched(machine: Machine, first: Callable[..., T], others: Callable[[Ranks], None], watch: Watch, again: str) -> T:
    """The return value of a function that the first of several ranks runs, while the others follow it.

    Args: machine: the number of ranks, and their devices. first: called with `watch` and `ranks` in the first rank.
    others: called with its ranks in each of the others. again: the command that resumes after a rank died.
    Raises: the exception of a rank; LTX2Error with the exit code of one that died.
    """
    context = get_context(START_METHOD)
    pipes = [context.Pipe() for _ in range(machine.ranks)]
    mine, theirs = [list(ends) for ends in zip(*pipes, strict=True)]
    with TemporaryDirectory(prefix="ltx2-ranks-", ignore_cleanup_errors=True) as folder:
        meeting = Path(folder) / "ranks"
        launcher = Launcher(machine.ranks, Path(folder), (theirs, first, others, machine.devices, meeting, TIMEOUT_S))
        hearing = Hearing(launcher, mine, theirs, watch)
        ensure_running()  # it unblocks signals in the thread that calls it first
        launcher.start()
        try:
            hearing.listen()
        finally:
            hearing.end()
        return hearing.outcome(again)


class Launcher(Thread):
    """Runs torchrun's agent.

    Args: args: those of `_rank`. failure: of the rank that failed first, as torch reports it; None if there was none.
    """

    def __init__(self, count: int, folder: Path, args: Sequence[Any]) -> None:
        super().__init__(name="launcher", daemon=True)
        self.count, self.folder, self.args = count, folder, args
        self.failure: Any = None
        self.error: Exception | None = None

    def run(self) -> None:
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, launch_agent

        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # ranks start with these blocked, and ignore them later
        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=self.count,
            run_id=self.folder.name,
            rdzv_backend="c10d",  # uses a file, so no port is opened
            rdzv_endpoint=str(self.folder / "launcher"),
            rdzv_configs={"store_type": "file"},
            local_addr="localhost",
            max_restarts=0,
            start_method=START_METHOD,
            logs_specs=DefaultLogsSpecs(log_dir=str(self.folder), redirects=Std.ALL),
            shutdown_timeout=int(END_S),
        )
        try:
            launch_agent(config, _rank, list(self.args))
        except ChildFailedError as error:
            _, self.failure = error.get_first_failure()
        except Exception as error:  # raised again by the thread that waits for ranks
            self.error = error


@dataclass
class Hearing:
    """Listens to the ranks.

    Args: ears: our ends of their pipes. mouths: their ends, which are closed here in time. before: child processes that
    are not ranks.
    """

    launcher: Launcher
    ears: list[Connection]
    mouths: list[Connection]
    watch: Watch
    before: frozenset[Any] = field(default_factory=lambda: frozenset(active_children()))
    begun: int = 0
    finished: Finished | None = None
    failures: list[Failed] = field(default_factory=list)
    is_stopping: bool = False

    def listen(self) -> None:
        """Receive the messages of ranks, until all have ended."""
        first, open_ones = self.ears[FIRST], list(self.ears)
        while open_ones and (self.launcher.is_alive() or any(ear.poll() for ear in open_ones)):
            for ear in wait(open_ones, LISTEN_S):
                assert isinstance(ear, Connection)
                try:
                    self._hear(ear.recv())
                except (EOFError, OSError):
                    open_ones.remove(ear)
            if not self.is_stopping and self.watch.should_stop():
                self.is_stopping = True
                with suppress(OSError):
                    first.send(STOP)
        self.launcher.join(END_S)

    def _hear(self, message: Any) -> None:
        match message:
            case Here():
                self.begun += 1
                if self.begun == len(self.ears):  # every rank has its end: from now on, the exit of a rank is noticed
                    for mouth in self.mouths:
                        mouth.close()
            case Finished():
                self.finished = message
            case Failed():
                self.failures.append(message)
            case _:
                self.watch.on_event(message)

    def end(self) -> None:
        """End all running ranks."""
        deadline = time.monotonic() + END_S
        while self.launcher.is_alive() and time.monotonic() < deadline:
            for process in set(active_children()) - self.before:
                process.terminate()
            self.launcher.join(LISTEN_S)
        for end in (*self.ears, *self.mouths):
            end.close()

    def outcome(self, again: str) -> Any:
        """The return value of the first rank. Raises: the exception of a rank, or an error for one that died."""
        if self.failures:
            first = min(self.failures, key=lambda one: _distance(one.error))
            raise first.error from RankError(first.trace)
        if self.finished is not None:
            return self.finished.result
        if self.launcher.failure is not None:
            raise _died(self.launcher.failure, self.launcher.count, again)
        raise self.launcher.error or RankError("the ranks ended without a message")


def _distance(error: BaseException) -> int:
    """How indirect an error is: an LTX2Error is the cause, and a lost rank only a consequence."""
    return 2 if isinstance(error, PeerLostError) else int(not isinstance(error, LTX2Error))


def _died(failure: Any, count: int, again: str) -> LTX2Error:
    """The error for a rank that ended without a message. failure: of torch's launcher."""
    code = failure.exitcode
    errors = Path(failure.error_file).with_name("stderr.log")
    lines = errors.read_text(errors="replace").split("\n") if errors.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    why = last[:LONGEST_REASON] or "out of memory is a common reason"
    error = LTX2Error(f"rank {failure.local_rank} of {count} ended with {how_ended(code)}", why, again)
    error.exit_code = 128 - code if code < 0 else code
    return error


def _rank(
    ends: Sequence[Connection],
    first: Callable[..., Any],
    others: Callable[[Ranks], None],
    devices: Sequence[str],
    meeting: Path,
    timeout_s: float,
) -> None:
    """The main function of a rank, in its own process. ends: of the pipes of all ranks."""
    Thread(target=_obey, args=(os.getppid(),), name="obeys", daemon=True).start()
    number = int(os.environ["RANK"])
    for other in (*ends[:number], *ends[number + 1 :]):
        other.close()
    pipe = Pipe(ends[number])
    pipe.send(Here())
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(variable, LOOPBACK)
    tell_warnings(pipe.send if number == FIRST else lambda event: None)
    try:
        ranks = Ranks.meet(number, devices, meeting, timeout_s)
        if number == FIRST:
            watch = Watch(on_event=pipe.send, should_stop=pipe.is_asked_to_stop)
            pipe.send(Finished(first(watch=watch, ranks=ranks)))
            ranks.from_first()
        else:
            others(ranks)
        ranks.part()
    except PeerLostError as error:
        time.sleep(END_S)  # the launcher notices the lost rank, and ends this one
        _fail(pipe, error)
    except BaseException as error:  # torch's launcher would wait for ever for a rank that was interrupted
        _fail(pipe, error)


def _fail(pipe: Pipe, error: BaseException) -> NoReturn:
    """End this rank, and with it all others, with its exception. It does not wait for threads of torch."""
    trace = traceback.format_exc()
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # the exception's class cannot be pickled
        error = RankError(f"{type(error).__name__}: {error}")
    pipe.send(Failed(error, trace))
    os._exit(getattr(error, "exit_code", 1))


def _obey(parent: int) -> None:
    """End this process as soon as its parent asks for it or has ended; signals from others are for the parent."""
    while os.getppid() == parent:
        heard = signal.sigtimedwait(SIGNALS, 1)
        if heard is not None and heard.si_pid == parent:
            break
    os._exit(128 + signal.SIGTERM)
