"""Files of jobs: the jobs in them, each with its line, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ltx2_core.errors import LTX2Error, RequestError
from ltx2_core.pipeline.batch import reading
from ltx2_core.pipeline.batch.jobs import JobLine
from ltx2_core.pipeline.batch.reading import RawJob, json_object, read_jobs


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def jobs_of(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The line and the keys of every job, including the defaults; a job that cannot be read has no keys."""
    found = []
    for entry in read_jobs(path):
        place = entry.place if isinstance(entry, RawJob) else entry[0]
        keys = {**entry.defaults, **entry.keys} if isinstance(entry, RawJob) else {}
        found.append((int(place.rpartition(" ")[2]), keys))
    return found


def failures_of(path: Path) -> list[tuple[str, LTX2Error]]:
    return [entry for entry in read_jobs(path) if not isinstance(entry, RawJob)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_text_file_has_a_prompt_a_line_however_lines_end(end: str, mark: str, tmp_path: Path):
    text = mark + end.join(["# scenes", "a lamp, blinking", "", "  a ball\t", "\t# no job", "#not this either", "c#"])
    found = jobs_of(written(tmp_path, "a.txt", text))
    assert found == [(2, {"prompt": "a lamp, blinking"}), (4, {"prompt": "a ball"}), (7, {"prompt": "c#"})]


def test_a_line_of_text_ends_only_where_lines_end(tmp_path: Path):
    assert jobs_of(written(tmp_path, "a.txt", "a\u2028b\x0cc\n")) == [(1, {"prompt": "a\u2028b\x0cc"})]


def test_four_kinds_of_files_hold_the_same_jobs(tmp_path: Path):
    jobs = [{"prompt": "a lamp, blinking", "steps": "4"}, {"prompt": 'a "red" ball\nrolls', "video_st": "2.5"}]
    cells = io.StringIO()
    table = csv.DictWriter(cells, ["prompt", "steps", "video-st"])
    table.writeheader()
    table.writerows({key.replace("_", "-"): value for key, value in job.items()} for job in jobs)
    contents = {
        "a.yaml": yaml.safe_dump(jobs),
        "a.jsonl": "\n".join(json.dumps(job) for job in jobs),
        "a.csv": cells.getvalue(),
    }
    for name, content in contents.items():
        assert [keys for _, keys in jobs_of(written(tmp_path, name, content))] == jobs, name


YAML = """\
defaults: {model: toy, prompt: nothing}
jobs:
  - a lamp
  - prompt: a ball
    video-st: 2.5

  - {model: other}
"""


def test_yaml_holds_a_list_with_defaults_below_each_job(tmp_path: Path):
    assert jobs_of(written(tmp_path, "a.yaml", YAML)) == [
        (3, {"model": "toy", "prompt": "a lamp"}),
        (4, {"model": "toy", "prompt": "a ball", "video_st": 2.5}),
        (7, {"model": "other", "prompt": "nothing"}),
    ]


def test_yaml_holds_jobs_by_their_names(tmp_path: Path):
    found = jobs_of(written(tmp_path, "a.yml", "jobs:\n  one: a lamp\n  two: {seed: 3}\n"))
    assert found == [(2, {"name": "one", "prompt": "a lamp"}), (3, {"name": "two", "seed": 3})]


def test_an_empty_cell_sets_nothing_and_a_job_knows_its_first_line(tmp_path: Path):
    text = 'prompt,seed,name\n"two\nlines",,\n,,\nb, 3 ,x\n'
    assert jobs_of(written(tmp_path, "a.csv", text)) == [
        (2, {"prompt": "two\nlines"}),
        (5, {"prompt": "b", "seed": "3", "name": "x"}),
    ]


def test_empty_columns_at_the_end_of_a_spreadsheet_are_ignored(tmp_path: Path):
    text = "\ufeffprompt,seed,,\r\na,3,,\r\n,,,\r\nb,,,\r\n"
    assert jobs_of(written(tmp_path, "a.csv", text)) == [(2, {"prompt": "a", "seed": "3"}), (4, {"prompt": "b"})]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", "", "holds no jobs"),
        ("a.txt", "\ufeff# only a comment\r\n", "holds no jobs"),
        ("a.yaml", "jobs: []", "holds no jobs"),
        ("a.jsonl", "\n\n", "holds no jobs"),
        ("a.csv", "prompt,seed\n", "holds no jobs"),
        ("a.txt", "a lamp".encode("utf-16"), "not text in UTF-8"),
        ("a.txt", "a lamp".encode("utf-16-le"), "not text in UTF-8"),
        ("a.csv", b"prompt\n\xe9t\xe9\n", "not text in UTF-8"),
        ("a.json", "[]", "must end in .txt, .yaml"),
        ("jobs", "a", "must end in"),
        ("a.yaml", "jobs:\n\t- a", "line 2"),
        ("a.yaml", "job: [a]", "did you mean jobs"),
        ("a.yaml", "prompt: a lamp", "- prompt: a lamp blinks"),
        ("a.yaml", "just text", "list of jobs"),
        ("a.yaml", "jobs: 3", "list of jobs"),
        ("a.yaml", "defaults: 3\njobs: [a]", "line 1"),
        ("a.yaml", "defaults: {name: x}\njobs: [a]", "cannot be a default"),
        ("a.yaml", "defaults: {video-st: 1, video_st: 2}\njobs: [a]", "occurs twice"),
        ("a.csv", "prompt;seed\na;3\n", "commas"),
        ("a.csv", "prompt,seed,seed\n", "two columns are called seed"),
        ("a.csv", "video-st,video_st\n", "two columns are called video_st"),
        ("a.csv", "prompt,,seed\na,b,1\n", "column 2 has no name"),
        ("a.csv", 'prompt\n"a\n', "line 2"),
        ("a.csv", 'prompt\n"a" b\n', "line 2"),
        pytest.param("a.csv", ",".join(map(str, range(300_000))) + ",7\n", "two columns are called 7", id="wide"),
    ],
)
def test_a_file_that_holds_no_jobs_or_cannot_be_read_says_why(name: str, content: Any, says: str, tmp_path: Path):
    with pytest.raises(RequestError) as failure:
        read_jobs(written(tmp_path, name, content))
    assert says in str(failure.value)


@pytest.mark.parametrize("name", ["a.txt", "a.yaml", "a.csv", "a.jsonl"])
def test_what_is_no_regular_file_is_refused(name: str, tmp_path: Path):
    (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / f"pipe-{name}")
    for path in (tmp_path / name, tmp_path / f"no-{name}", tmp_path / f"pipe-{name}"):
        with pytest.raises(RequestError, match="cannot be read"):
            read_jobs(path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '{"prompt": "a"}\nnot\n{"prompt": "b"}', "not JSON"),
        ("a.jsonl", '{"prompt": "a"}\n["a"]\n{"prompt": "b"}', "not an object"),
        ("a.jsonl", '{"prompt": "a"}\n{"steps": NaN}\n{"prompt": "b"}', "NaN is not a finite number"),
        ("a.jsonl", '{"prompt": "a"}\n{"seed": 1, "seed": 2}\n{"prompt": "b"}', "seed is in it twice"),
        ("a.jsonl", '{"prompt": "a"}\n' + "[" * 100_000 + '\n{"prompt": "b"}', "nested too deeply"),
        ("a.jsonl", '{"prompt": "a"}\n{"seed": ' + "9" * 5000 + '}\n{"prompt": "b"}', "a number in it has thousands"),
        ("a.jsonl", '{"prompt": "a"}\n{"video-st": 1, "video_st": 2}\n{"prompt": "b"}', "occurs twice"),
        ("a.csv", "prompt,seed,\na,1,2\nb,1\n", "it has 3 cells, and the first row names 2"),
        ("a.yaml", "- a\n- 7\n- b", "neither a prompt nor a mapping"),
        ("a.yaml", "jobs:\n  x: {name: y}\n  z: b", "second name"),
    ],
)
def test_one_job_that_cannot_be_read_does_not_hide_the_others(name: str, content: str, says: str, tmp_path: Path):
    entries = read_jobs(written(tmp_path, name, content))
    (place, error), *_ = [entry for entry in entries if not isinstance(entry, RawJob)]
    assert len(entries) >= 2
    assert ", line 2" in place
    assert says in str(error)


def test_more_jobs_than_can_be_looked_at_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reading, "MOST_JOBS", 3)
    assert len(read_jobs(written(tmp_path, "a.txt", "a\n" * 3))) == 3
    with pytest.raises(RequestError, match="more than 3 jobs"):
        read_jobs(written(tmp_path, "a.txt", "a\n" * 4))


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reading, "LARGEST_BYTES", 2**20)
    with pytest.raises(RequestError, match="larger than 1 MB"):
        read_jobs(written(tmp_path, "a.txt", b"a" * (2**20 + 1)))


KEYS = {"mode", "prompt", "input", "name", "lora", "steps", "overwrite", "negative"}


@given(st.dictionaries(st.sampled_from(sorted(KEYS)), st.text(min_size=1) | st.integers() | st.none() | st.booleans()))
def test_a_job_is_dumped_to_what_it_is_parsed_from_or_refused(content: dict[str, Any]):
    try:
        line = JobLine.parse(content, "here")
    except LTX2Error:
        return
    assert JobLine.parse(json.loads(json.dumps(line.dump())), "here") == line


@given(st.text() | st.recursive(st.none() | st.floats() | st.text(), lambda x: st.lists(x)).map(json.dumps))
def test_a_line_that_is_no_object_is_refused_and_never_breaks(text: str):
    with suppress(RequestError):
        assert isinstance(json_object(text), dict)


@given(content=st.binary() | st.text().map(str.encode), suffix=st.sampled_from(sorted(reading.READERS)))
def test_files_of_jobs_answer_or_refuse_and_never_break(
    content: bytes, suffix: str, tmp_path_factory: pytest.TempPathFactory
):
    path = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    path.write_bytes(content)
    with suppress(RequestError):
        assert read_jobs(path)


@pytest.mark.parametrize("value", ["1e999", "1.10", "1e3"])
def test_a_number_that_is_no_longer_as_it_was_written_is_no_text(value: str):
    assert JobLine.parse(json_object('{"prompt": 7, "name": 12}'), "here").name == "12"
    for key in ("prompt", "name"):
        with pytest.raises(RequestError, match=f"must be text\nhint: put {key} in quotes"):
            JobLine.parse(json_object(f'{{"{key}": {value}}}'), "here")


def test_an_unknown_key_is_refused_with_the_nearest():
    with pytest.raises(RequestError, match="did you mean steps") as failure:
        JobLine.parse({"stepz": 3}, "here")
    assert failure.value.what == "unknown key stepz"
