"""The tree of exception classes and the exit codes that scripts rely on."""

import pytest

from ltx2_core import errors
from ltx2_core.errors import LTX2Error

EXIT_CODES = {
    "LTX2Error": 1,
    "RequestError": 2,
    "TargetTakenError": 2,
    "MediaError": 3,
    "DoesNotFitError": 4,
    "OutOfMemoryError": 5,
    "AccessError": 6,
    "StorageError": 7,
    "CheckpointError": 7,
    "OutputError": 8,
    "NotFiniteError": 8,
    "BatchError": 9,
    "JobsError": 2,
}


def test_every_failure_has_the_exit_code_of_the_contract():
    found = {name: kind.exit_code for name, kind in vars(errors).items() if isinstance(kind, type)}
    assert found == EXIT_CODES


@pytest.mark.parametrize("name", EXIT_CODES)
def test_every_failure_is_caught_as_one_of_ours(name: str):
    assert issubclass(getattr(errors, name), LTX2Error)


def test_a_message_says_what_why_and_what_to_run_a_line_each():
    error = LTX2Error("height 500 cannot be used", "it needs a multiple of 64", "--res 896x512")
    assert str(error).splitlines() == ["height 500 cannot be used", "it needs a multiple of 64", "hint: --res 896x512"]


def test_a_message_leaves_out_what_it_does_not_have():
    assert str(LTX2Error("no such preset")) == "no such preset"
