"""Let a test meet the rights of files, also where it runs as root."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

VERSION = 0x20080522  # of the structures of capset(2): a header, and twice effective, permitted, inheritable
PASSES_RIGHTS = 0b1110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """For the length of a block, this thread has no rights beyond those of its user, who may be root."""
    if os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root ignores file permissions, and can give that up on Linux only")
    system = ctypes.CDLL(None)
    header, data = (ctypes.c_uint32 * 2)(VERSION, 0), (ctypes.c_uint32 * 6)()
    assert system.capget(header, data) == 0
    before = data[0]
    data[0] &= ~PASSES_RIGHTS
    assert system.capset(header, data) == 0
    try:
        yield
    finally:
        data[0] = before
        assert system.capset(header, data) == 0
