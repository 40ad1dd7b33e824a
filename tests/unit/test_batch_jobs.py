"""From jobs as written to settled jobs: seeds, sweeps, names, and one list of all mistakes."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import ltx2_core as core
from ltx2_cli.batch import TAKES
from ltx2_core.errors import LTX2Error, RequestError
from ltx2_core.pipeline.batch import settle, unsettled
from ltx2_core.pipeline.batch.expand import (
    Sweep,
    count_variants,
    job_seed,
    parse_seeds,
    parse_sweep,
    parse_sweeps,
    variants,
)
from ltx2_core.pipeline.batch.jobs import JobLine
from ltx2_core.pipeline.batch.options import BatchOptions, parse_time_limit
from ltx2_core.pipeline.batch.settle import settle_line
from ltx2_core.pipeline.batch.unsettled import completed
from ltx2_core.pipeline.values import parse_gpus
from tests.commands import ltx2


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def batch(name: str, content: str, *words: object, preset: str = "smoke") -> core.Batch:
    """The result of settling `ltx2 batch NAME --preset smoke WORDS`."""
    Path(name).write_text(content)
    flags: dict[str, Any] = {"preset": preset} if preset else {}
    rest: dict[str, Any] = {"sweeps": []}
    for option, value in zip(words[::2], words[1::2], strict=True):
        if option in ("seeds", "shares_seed", "seed_of"):
            rest[str(option)] = value
        elif option == "sweep":
            rest["sweeps"].append(value)
        else:
            flags[str(option)] = value
    return core.read_batch(core.AskedBatch(path=Path(name), flags=flags, takes=TAKES, **rest))


def problems(name: str, content: str, *words: object) -> list[str]:
    """The mistakes in a file of jobs, each with its line."""
    with pytest.raises(core.JobsError) as failure:
        batch(name, content, *words)
    assert not Path(name).with_suffix("").exists()  # a refused batch leaves no folder
    return [
        f"{','.join(place.rpartition(' ')[2] for place in places)}: {' / '.join(str(error).splitlines())}"
        for places, error in failure.value.problems
    ]


def seeds_of(found: core.Batch) -> list[int]:
    return [job.resolved.request.seed for job in found.jobs]


def names_of(found: core.Batch) -> list[str]:
    return [job.resolved.target.name for job in found.jobs]


# Seeds and sweeps


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("7", (7,)), ("1-4,9", (1, 2, 3, 4, 9)), (" 3 - 5 , 1 ", (3, 4, 5, 1)), (f"{2**63 - 1}", (2**63 - 1,))],
)
def test_seeds_are_numbers_and_ranges_of_them(text: str, seeds: tuple[int, ...]):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "4-1", "1,1", "1-3,2", "1.5", "0-10000", f"{2**63}", "1;2", "²"])
def test_seeds_that_mean_nothing_are_refused(text: str):
    with pytest.raises(RequestError) as failure:
        parse_seeds(text)
    assert failure.value.hint


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("video_st=2:4:1", ["2", "3", "4"]),
        ("video-st=4:2:-1", ["4", "3", "2"]),
        ("--video-st=2:2:1", ["2"]),
        ("steps=8:10", ["8", "9", "10"]),
        ("video_st=2:4:0.7", ["2", "2.7", "3.4"]),
        ("video_st=-0.1:0.1:.1", ["-0.1", "0", "0.1"]),
        ("preset=distilled, hq", ["distilled", "hq"]),
        ("crop=true,false", ["true", "false"]),
        ("duration=2s,4s", ["2s", "4s"]),
    ],
)
def test_a_sweep_is_a_range_with_both_ends_or_a_list(text: str, values: list[str]):
    assert list(parse_sweep(text).values) == values


def test_the_largest_sweep_has_as_many_values_as_a_batch_has_jobs():
    assert len(parse_sweep("video_st=0.01:100:0.01").values) == 10_000


def test_tenths_are_tenths():
    values = parse_sweep("video_st=2:4:0.1").values
    assert len(values) == 21
    assert values == tuple(f"{number / 10:g}" for number in range(20, 41))


@given(st.integers(0, 500), st.integers(1, 60), st.integers(0, 4))
def test_every_step_of_a_range_is_exact(first: int, count: int, digits: int):
    step = Decimal(1).scaleb(-digits)
    wanted = [first * step + number * step for number in range(count)]
    found = parse_sweep(f"video_st={wanted[0]:f}:{wanted[-1]:f}:{step:f}").values
    assert [Decimal(value) for value in found] == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("video_st=2:4:0", "its step is 0"),
        ("video_st=4:2:1", "never reach"),
        ("video_st=2:4:-1", "never reach"),
        ("video_st=0:100:0.01", "more than 10,000 values"),
        ("video_st=1:2:3:4", "not a range"),
        ("video_st", "not a key with values"),
        ("video_st=", "not a key with values"),
        ("video_st=1,,2", "a value is empty"),
        ("video_st=1,1", "names a value twice"),
        ("vido_st=1:2", "did you mean video_st"),
        ("seed=1:3", "--seeds"),
        ("output=a,b", "whole batch"),
    ],
)
def test_a_sweep_that_means_nothing_is_refused(text: str, says: str):
    with pytest.raises(RequestError) as failure:
        parse_sweep(text)
    assert says in str(failure.value)


def test_a_setting_is_swept_once():
    with pytest.raises(RequestError, match="given twice"):
        parse_sweeps(["video_st=1:2", "video-st=3"])


def test_the_seed_of_a_job_follows_from_its_number_and_never_changes():
    assert [job_seed(1, number) for number in (1, 2, 3)] == [312396423, 1822214455, 113215257]
    assert all(0 <= job_seed(base, number) < 2**31 for base in (0, 2**63 - 1) for number in range(1, 50))


def test_job_i_gets_a_seed_of_its_own_unless_it_has_one():
    found = batch("a.yaml", "[a, {prompt: b, seed: 5}, c]", "seed", "1")
    assert seeds_of(found) == [job_seed(1, 1), 5, job_seed(1, 3)]
    assert found.seed == 1


def test_a_sweep_compares_with_one_seed_and_several_make_a_product():
    found = batch("a.txt", "a\nb", "seed", "1", "sweep", "steps=2,3", "sweep", "video_st=1:2")
    assert len(found.jobs) == 8
    assert seeds_of(found) == [job_seed(1, 1)] * 4 + [job_seed(1, 2)] * 4
    swept = [(job.line.settings["steps"], job.line.settings["video_st"]) for job in found.jobs[:4]]
    assert swept == [("2", "1"), ("2", "2"), ("3", "1"), ("3", "2")]
    assert [job.resolved.request.steps for job in found.jobs[:4]] == [2, 2, 3, 3]


def test_seeds_render_each_job_with_each_of_them_but_not_a_job_with_its_own():
    found = batch("a.yaml", "[a, {prompt: b, seed: 5}]", "seeds", "1-2")
    assert seeds_of(found) == [1, 2, 5]
    assert any("does not apply to 1 of 2 jobs" in note for note in found.notes)


@pytest.mark.parametrize("words", [("seeds", "1-2"), ("sweep", "seed=1")])
def test_a_sweep_that_applies_to_no_job_is_refused(words: tuple[str, str]):
    with pytest.raises(RequestError, match=r"--seeds"):
        batch("a.yaml", "[{prompt: b, seed: 5}]", *words)


def test_seed_and_seeds_say_the_same():
    with pytest.raises(RequestError, match="cannot be used together"):
        batch("a.txt", "a", "seed", "1", "seeds", "1-2")


def test_seeds_and_sweeps_of_thousands_are_counted_before_anything_is_settled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(unsettled, "MOST_JOBS", 5)
    assert len(batch("a.txt", "a\n", "seeds", "1-5").jobs) == 5
    with pytest.raises(RequestError, match="make 6 jobs of it, and 5 is the most"):
        batch("b.txt", "a\nb", "seeds", "1-3")


@given(
    st.lists(st.integers(0, 9), max_size=3, unique=True),
    st.dictionaries(st.sampled_from(["steps", "crf", "seed"]), st.integers(1, 4), max_size=3),
    st.sets(st.sampled_from(["steps", "crf", "seed"])),
)
def test_jobs_are_counted_as_they_are_made(seeds: list[int], counts: dict[str, int], own: set[str]):
    sweeps = [Sweep(key, tuple(map(str, range(count)))) for key, count in counts.items()]
    assert count_variants(seeds, sweeps, own) == len(list(variants(seeds, sweeps, own)))


def test_the_seed_of_a_batch_is_the_one_it_had_before_or_random():
    assert batch("a.txt", "a", "seed_of", lambda folder: 77).seed == 77
    assert batch("b.txt", "a").seed != batch("c.txt", "a").seed
    with pytest.raises(RequestError, match="--shard needs --seed"):
        batch("d.txt", "a", "shares_seed", True)


# Where settings come from


def test_a_job_goes_before_the_command_line_and_that_before_the_defaults(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LTX2_CRF", "40")
    content = "{defaults: {steps: 3, crf: 30, codec: h265, model: toy}, jobs: [{prompt: a, steps: 5}, b]}"
    found = batch("a.yaml", content, "crf", "20", preset="")
    assert [job.resolved.request.steps for job in found.jobs] == [5, 3]
    assert {job.resolved.task.output.crf for job in found.jobs} == {20}
    assert {job.resolved.task.output.codec for job in found.jobs} == {"h265"}


def test_a_job_says_the_length_in_its_own_way():
    found = batch("a.yaml", "[{prompt: a, duration: 1s}, b]", "frames", "17")
    assert [job.resolved.request.frames for job in found.jobs] == [25, 17]


def test_what_the_preset_of_a_job_sets_goes_before_the_command_line():
    found = batch("a.yaml", "[{prompt: a, preset: smoke}, b]", "frames", "17", "model", "toy", preset="")
    assert [job.resolved.request.frames for job in found.jobs] == [9, 17]


def test_a_complete_line_settles_to_the_same_job():
    found = batch(
        "a.yaml", "{defaults: {steps: 3}, jobs: [{prompt: '@a.txt', name: '{x} y'}]}", "sweep", "video_st=2,3"
    )
    given = core.gather({})
    for job in found.jobs:
        line = JobLine.parse(json.loads(json.dumps(job.line.dump())), job.line.place)
        assert line == job.line
        again = settle_line(line, given)
        assert again == replace(job.resolved, plan=again.plan), "the memory that is free changes"


@pytest.fixture(autouse=True)
def _prompt_file() -> None:
    Path("a.txt").write_text("a prompt in a file\n")


def test_a_prompt_in_a_file_is_read_with_the_jobs_and_words_are_words_in_a_line():
    (job,) = batch("b.txt", "@a.txt").jobs
    assert job.resolved.request.prompt == "a prompt in a file"
    assert JobLine.parse({"prompt": "@a.txt"}, "stdin").prompt == "@a.txt"


def test_a_batch_settles_a_job_as_its_own_command_would():
    (job,) = batch("b.yaml", "[{prompt: a lamp, steps: 3, seed: 4, video-st: 2}]").jobs
    flags = {"preset": "smoke", "steps": "3", "seed": "4", "video_st": "2", "output": str(job.resolved.target)}
    given = core.gather({**flags, "skip_existing": True})
    assert core.resolve("t2v", "a lamp", given.layers, given.own_presets).task == job.resolved.task


# Names


def test_names_say_number_words_and_seed_and_what_is_swept():
    found = batch("scenes.txt", "A lamp!\nb", "seeds", "3,4", "sweep", "video_st=1.5,2")
    assert found.folder == Path("scenes")
    assert names_of(found)[:4] == [
        "0001-a-lamp-3-video-st-1.5.mp4",
        "0001-a-lamp-4-video-st-1.5.mp4",
        "0001-a-lamp-3-video-st-2.mp4",
        "0001-a-lamp-4-video-st-2.mp4",
    ]


def test_a_job_has_its_own_name():
    content = "jobs: {opening: a, 'Two {b} 1.5': {prompt: b, seed: 9}}"
    assert names_of(batch("a.yaml", content)) == ["opening.mp4", "Two {b} 1.5.mp4"]
    swept = batch("a.yaml", content, "seeds", "1-2", "sweep", "steps=2:3")
    assert names_of(swept)[:3] == ["opening-1-steps-2.mp4", "opening-2-steps-2.mp4", "opening-1-steps-3.mp4"]
    assert names_of(swept)[4:] == ["Two {b} 1.5-steps-2.mp4", "Two {b} 1.5-steps-3.mp4"]


@pytest.mark.parametrize(
    ("output", "folder", "name"),
    [
        ("out/", "out", "0001-a-5-video-st-2.mp4"),
        ("out", "out", "0001-a-5-video-st-2.mp4"),
        ("x/{y}/", None, "a batch has one folder"),
        ("deep/er/{slug}-{video_st}-{index}.mp4", "deep/er", "a-2-0001.mp4"),
        ("{seed}.{ext}", ".", "5.mp4"),
        ("out/{{x}}.mp4", "out", "{x}.mp4"),
        ("out/{nope}.mp4", None, "known fields are {index}, {video_st}, {mode}"),
        ("out/{slug:3}.mp4", None, "a name in braces"),
        ("out/{slug.mp4", None, "it has an unmatched brace"),
        ("a.txt/", None, "is not a folder"),
        ("out/x.mkv", None, "ends in .mp4"),
    ],
)
def test_output_is_a_folder_or_a_template_in_one(output: str, folder: str | None, name: str):
    words = ("output", output, "sweep", "video_st=2")
    if folder is None:
        with pytest.raises(RequestError) as failure:
            batch("b.yaml", "[{prompt: a, seed: 5}]", *words)
        listed = [str(error) for _, error in getattr(failure.value, "problems", ())]
        assert name in "\n".join([str(failure.value), *listed])
        assert sorted(path.name for path in Path().iterdir()) == ["a.txt", "b.yaml"]
        return
    found = batch("b.yaml", "[{prompt: a, seed: 5}]", *words)
    assert found.folder == Path(folder)
    assert names_of(found) == [name]
    assert found.jobs[0].resolved.target == Path(folder, name)


def test_audio_alone_gets_an_ending_of_its_own():
    assert names_of(batch("b.yaml", "[{prompt: a, name: x, video: off}]")) == ["x.wav"]


def test_two_jobs_of_one_name_are_refused_whatever_their_case():
    content = "jobs:\n - {prompt: a, name: One}\n - {prompt: b}\n - {prompt: c, name: one, video: off}"
    (problem,) = problems("b.yaml", content)
    assert problem.startswith("4: two jobs would write one.wav / b.yaml, line 2 has a job of the same name")
    assert "{index}" in problem
    (problem,) = problems("b.txt", "a\n", "seeds", "1-3", "output", "b/{slug}.mp4")
    assert problem.startswith("1: two jobs would write a.mp4 / this job becomes several")
    (problem,) = problems("b.txt", "a\nb\n", "attention", "look.mp4")
    assert problem.startswith(
        "2: two jobs would write look.mp4 / b.txt, line 1 writes it, too / hint: --attention '{slug}"
    )
    assert len(batch("b.txt", "a\nb\n", "attention", "look-{slug}.mp4").jobs) == 2


def test_a_job_cannot_start_from_what_another_one_writes():
    Path("b").mkdir()
    Image.new("RGB", (64, 64)).save("b/one.png")
    Path("b/one.mp4").touch()  # without this file, the existing sheet would be refused first
    content = "jobs:\n - {prompt: a, name: one, sheet: true}\n - {mode: i2v, input: b/one.png, name: two}"
    with pytest.raises(core.JobsError) as failure:
        batch("b.yaml", content)
    ((places, error),) = failure.value.problems
    assert places == ["b.yaml, line 3"]
    assert "b.yaml, line 2 writes it in the same batch" in str(error)


# One list of all mistakes

WRONG = """\
jobs:
  - {prompt: a, steps: 1}
  - {prompt: a, stepz: 3}
  - {mode: i2v, prompt: a}
  - {mode: t2w, prompt: a}
  - {prompt: a, input: b.png}
  - {prompt: a, name: b/c}
  - {prompt: a, output: x.mp4}
  - {prompt: a, retake: 1s-2s}
  - {prompt: a, preset: smok}
  - {prompt: "-"}
  - {prompt: "@none.txt"}
  - {prompt: ""}
  - {mode: i2v, input: none.png}
  - 7
  - {prompt: fine}
  - {prompt: a, steps: 1}
"""


def test_every_mistake_is_told_at_once_with_its_line_in_the_order_of_the_file():
    found = problems("b.yaml", WRONG)
    said = [
        "2,17: --steps 1 cannot be used / it must be at least 2",
        "3: unknown key stepz / hint: did you mean steps?",
        "4: i2v needs an input",
        "5: unknown mode t2w / hint: did you mean t2v?",
        "6: input b.png cannot be used",
        "7: name b/c cannot be used",
        "8: output cannot be set by a job",
        "9: --retake is not an option of t2v / hint: it is an option of v2v",
        "10: unknown preset smok / hint: did you mean smoke?",
        "11: the prompt - cannot be used",
        "12: the prompt @none.txt cannot be read",
        "13: the prompt is empty",
        "14: none.png",
        "15: job 7 cannot be read",
    ]
    assert len(found) == len(said)
    assert [line for line, beginning in zip(found, said, strict=True) if not line.startswith(beginning)] == []


def test_the_list_of_mistakes_is_exit_2_and_an_event_for_each_in_json():
    Path("b.yaml").write_text(WRONG)
    result = ltx2("batch", "b.yaml", "--preset", "smoke", "--json")
    assert result.exit_code == 2
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == [*["job_error"] * 14, "error", "summary"]
    assert events[0]["places"] == ["b.yaml, line 2", "b.yaml, line 17"]
    assert events[-2]["message"] == "b.yaml: 15 jobs cannot be rendered"
    lines = result.stderr.splitlines()
    assert lines[0] == "error: b.yaml: 15 jobs cannot be rendered"
    assert lines[1] == "b.yaml, line 2; b.yaml, line 17: --steps 1 cannot be used"
    assert lines[-1] == "hint: ltx2 batch b.yaml --plan checks the jobs again when they are corrected"


def test_the_plan_of_a_batch_lists_its_jobs_and_leaves_nothing():
    Path("b.txt").write_text("a lamp\n")
    result = ltx2("batch", "b.txt", "--preset", "smoke", "--seeds", "4", "--plan")
    assert result.exit_code == 0
    assert result.stdout.split()[:2] == ["b/", "0001-a-lamp-4.mp4"]
    assert not Path("b").exists()
    (event, _) = [
        json.loads(line) for line in ltx2("batch", "b.txt", "--preset=smoke", "--plan", "--json").stdout.splitlines()
    ]
    assert (event["event"], event["count"], event["jobs"][0]["prompt"]) == ("batch", 1, "a lamp")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--steps", "1"], "--steps 1 cannot be used"),
        (["--retake", "1s-2s"], "--retake belongs to v2v"),
        (["--job-dir", "x"], "no such option"),
        (["--gpus", "x"], "not a list of cards"),
        (["--max-time", "soon"], "not a time"),
        (["--order", "random"], "models or file"),
    ],
)
def test_what_concerns_all_jobs_is_told_once(words: list[str], says: str):
    result = ltx2("batch", "a.txt", "--preset", "smoke", *words)
    assert result.exit_code == 2
    assert says in result.stderr
    assert "a.txt, line" not in result.stderr


def test_a_job_folder_for_all_jobs_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LTX2_JOB_DIR", "x")
    with pytest.raises(RequestError, match="cannot use --job-dir"):
        batch("b.txt", "a")


def test_the_environment_sets_seed_and_folder_of_a_batch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LTX2_SEED", "1")
    monkeypatch.setenv("LTX2_OUTPUT", "there/")
    found = batch("b.txt", "a")
    assert (found.folder, seeds_of(found)) == (Path("there"), [job_seed(1, 1)])


def test_what_does_not_fit_is_looked_at_once_for_jobs_of_one_size(monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []

    def too_large(mode: str, prompt: str, *rest: Any) -> None:
        calls.append(prompt)
        raise core.DoesNotFitError("this does not fit", "it takes 90 GB", "--res 480p")

    monkeypatch.setattr(settle, "resolve", too_large)
    content = "- a\n- b\n- {prompt: c, steps: 3}\n- {prompt: d, seed: 4}"
    assert problems("b.yaml", content) == ["1,2,3,4: this does not fit / it takes 90 GB / hint: --res 480p"]
    assert calls == ["a", "c"]


def test_what_may_be_replaced_is_said_in_any_place(monkeypatch: pytest.MonkeyPatch):
    assert not batch("b.txt", "a").is_replacing
    monkeypatch.setenv("LTX2_OVERWRITE", "true")
    found = batch("b.txt", "a")
    assert found.is_replacing
    assert found.jobs[0].line.settings["overwrite"] is True


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5s", 1.5), ("45m", 2700), ("1h30m", 5400), ("2d", 172_800)]
)
def test_a_time_limit_is_exact(text: str, seconds: float):
    assert parse_time_limit(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "soon", "1y", "-5", "9999d", "5m3h"])
def test_a_time_limit_that_is_none_is_refused(text: str):
    with pytest.raises(ValueError, match="it "):
        parse_time_limit(text)


def test_cards_are_numbers_and_ranges():
    assert parse_gpus("0,2-4") == (0, 2, 3, 4)
    assert BatchOptions.of({"gpus": "1"}).gpus == (1,)
    for text in ("", "a", "1-", "3-1", "0,0"):
        with pytest.raises(LTX2Error):
            BatchOptions.of({"gpus": text})


def test_completed_takes_no_value_from_below_that_a_preset_of_the_job_sets():
    given = core.gather({})
    line = completed(JobLine(settings={"preset": "smoke"}), ({"steps": "9", "crf": "20"}, {"frames": "17"}), given)
    assert line.settings == {"preset": "smoke", "crf": "20"}
