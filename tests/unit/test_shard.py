"""The part of a batch that a process of an array job runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltx2_core.errors import RequestError
from ltx2_core.pipeline.batch.shard import parse_shard, part_of

SLURM = {"ID": "9", "MIN": "5", "STEP": "2", "COUNT": "4"}


def slurm(**changes: str) -> dict[str, str]:
    return {f"SLURM_ARRAY_TASK_{name}": value for name, value in {**SLURM, **changes}.items()}


def test_a_part_is_what_the_environment_says():
    assert parse_shard("1/4", {}) == (1, 4)
    assert parse_shard("auto", slurm()) == (2, 4)
    assert parse_shard("auto/4", slurm()) == (2, 4)
    assert parse_shard("auto/3", {"JOB_COMPLETION_INDEX": "2"}) == (2, 3)


@pytest.mark.parametrize(
    ("text", "environment", "why"),
    [
        ("4/4", {}, "the parts are 0 to 3, and this is 4"),
        ("1", {}, "it is not I/N"),
        ("0/0", {}, "N must be 1 to 10,000"),
        ("auto", {}, "neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set"),
        ("auto", {"JOB_COMPLETION_INDEX": "2"}, "and not how many there are"),
        ("auto/5", slurm(), "the SLURM array has 4 tasks"),
        ("auto", slurm(ID="8"), "do not fit together"),
        ("auto", slurm(COUNT="x"), "which is not a whole number"),
    ],
)
def test_what_is_no_part_is_refused(text: str, environment: dict[str, str], why: str):
    with pytest.raises(RequestError) as failure:
        parse_shard(text, environment)
    assert why in failure.value.why


@given(st.lists(st.integers(), max_size=40), st.integers(1, 9))
def test_each_job_is_in_one_part(jobs: list[int], count: int):
    parts = [part_of(jobs, f"{number}/{count}") for number in range(count)]
    assert sorted(job for part in parts for job in part) == sorted(jobs)
    assert part_of(jobs, None) == tuple(jobs)


@given(st.text(max_size=12))
def test_any_text_is_a_part_or_refused(text: str):
    try:
        number, count = parse_shard(text, {})
    except RequestError:
        return
    assert 0 <= number < count
