"""A child process of a batch: it receives orders through a pipe as lines of JSON, and sends events and outcomes.

Source: docs/batch.md, "Workers".
"""

from __future__ import annotations

import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from ...disk import disk_failure
from ...errors import LTX2Error
from ..events import Watch
from ..processes import Pipe, begin, tell_warnings
from .begin import Order
from .outcome import Outcome
from .record import Failure

if TYPE_CHECKING:
    from .worker import Worker


def serve(connection: Connection, parents: Connection, config: Path | None) -> None:
    """Do orders until the parent sends no more.

    Args: parents: the other end of the pipe. config: the file that --config names.
    """
    begin(parents)
    pipe = Pipe(connection)
    tell_warnings(pipe.send)
    from .worker import Worker

    worker = Worker(config)
    while (text := pipe.receive()) is not None:
        order = Order.parse(text)
        pipe.send(outcome_of(worker, order, Watch(on_event=pipe.send, should_stop=pipe.is_asked_to_stop)))


def outcome_of(worker: Worker, order: Order, watch: Watch) -> Outcome:
    """Do an order, and return its outcome, whatever happens."""
    from ..render.run import Interrupted
    from .worker import note_failure

    try:
        return worker.do(order, watch)
    except Interrupted:
        return Outcome(job=order.job, state="stopped")
    except LTX2Error as error:
        return Outcome(job=order.job, state="failed", failure=Failure.of(error))
    except Exception as error:  # an error of this program: it ends this job only
        for line in traceback.format_exc().splitlines():
            watch.tell(line)
        place = traceback.extract_tb(error.__traceback__)[-1]
        why = f"in {Path(place.filename).name}, line {place.lineno}; -v shows where it happened"
        refused = disk_failure(error) or LTX2Error(f"internal error: {type(error).__name__}: {error}", why)
        failure = Failure.of(refused)
        note_failure(order, failure)
        worker.clear()
        return Outcome(job=order.job, state="failed", failure=failure)
