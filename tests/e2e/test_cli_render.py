"""The real command line on a tiny random model, with real files: what it writes, what it prints, and how it resumes."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

import ltx2_core as core
from ltx2_core.media import check
from ltx2_core.media.probe import probe
from ltx2_core.media.reading import BT709_LIMITED
from ltx2_core.pipeline.resolve.speeds import read_speeds
from ltx2_core.sampling.denoiser import GuidedDenoiser
from tests.commands import UNGUIDED, ltx2, rendered
from tests.hostile.guard import guarded
from tests.stopping import at, killed

pytestmark = pytest.mark.usefixtures("kept_models")

ROOT = Path(__file__).parents[2]
PROMPT = "drone over misty mountains, birds chirping"
TWO_STAGES = ("--preset", "two-stage", "--res", "128x128", "--frames", "9", "--steps", "4", *UNGUIDED)


def events(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def smoke(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[object]]:
    """The words of the smallest render, in its own folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *more: ["t2v", PROMPT, "--model", tiny, "--preset", "smoke", "--seed", 7, *more]


@pytest.fixture
def two_stages(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    monkeypatch.chdir(tmp_path)
    return ["t2v", PROMPT, "--model", tiny, "--seed", 7, *TWO_STAGES, "-o", "a.mp4"]


@pytest.fixture(scope="module")
def undisturbed(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of an undisturbed `two_stages`."""
    path = tmp_path_factory.mktemp("undisturbed") / "a.mp4"
    return rendered("t2v", PROMPT, "--model", tiny, "--seed", 7, *TWO_STAGES, "-o", path).read_bytes()


# what it writes


def test_a_second_of_video_has_the_promised_frames_rate_sound_and_tags(tiny: Path, tmp_path: Path):
    with guarded(tmp_path, core.ltx2_home()) as guard:
        words = ("--res", "128x96", "--duration", "1s", "--steps", 2, "-o", tmp_path)
        path = rendered("t2v", PROMPT, "--model", tiny, *words)
    assert guard.faults == []  # no socket was opened, and no file elsewhere was changed
    info = probe(path)
    assert info.video is not None
    assert info.audio is not None
    assert (info.video.width, info.video.height, info.video.frames, info.video.fps) == (128, 96, 25, Fraction(24))
    assert (info.video.codec, info.video.colour) == ("h264", BT709_LIMITED)
    assert (info.audio.codec, info.audio.channels) == ("aac", 2)
    assert info.video.duration_s == Fraction(25, 24)
    assert abs(info.audio.duration_s - info.video.duration_s) <= 1 / info.video.fps


@pytest.mark.parametrize(("codec", "audio"), [("h264", "aac"), ("h265", "flac"), ("av1", "aac")])
def test_the_same_command_gives_the_same_bytes(codec: str, audio: str, smoke: Callable[..., list[object]]):
    files = [
        rendered(*smoke("-o", name, "--codec", codec, "--audio-codec", audio)).read_bytes()
        for name in ("a.mp4", "another name.mp4")
    ]
    assert files[0] == files[1]


def test_the_name_says_mode_prompt_and_seed_and_the_job_folder_is_gone(smoke: Callable[..., list[object]]):
    path = rendered(*smoke())
    assert path == Path.cwd() / "t2v-drone-over-misty-mountains-birds-7.mp4"
    assert [*Path.cwd().iterdir()] == [path]


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_sound_alone(suffix: str, smoke: Callable[..., list[object]]):
    info = probe(rendered(*smoke("--video", "off", "-o", "a" + suffix)))
    assert info.video is None
    assert info.audio is not None
    assert info.audio.duration_s == pytest.approx(9 / 24, abs=1e-4)


def test_sound_alone_into_a_folder_has_the_name_and_suffix_of_sound(smoke: Callable[..., list[object]]):
    Path("sounds").mkdir()
    path = rendered(*smoke("--video", "off", "-o", "sounds/"))
    assert path == Path.cwd() / "sounds" / "t2v-drone-over-misty-mountains-birds-7.wav"


def test_values_that_are_not_finite_end_a_render_at_their_step(
    smoke: Callable[..., list[object]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    denoise = GuidedDenoiser.__call__

    def broken(self: GuidedDenoiser, states: Any, sigma: float, step: int) -> Any:
        estimate = denoise(self, states, sigma, step)
        return estimate.map(lambda x: x * math.nan) if step == 1 else estimate

    monkeypatch.setattr(GuidedDenoiser, "__call__", broken)
    result = ltx2(*smoke("--steps", 3, "-o", "a.mp4"))
    assert result.exit_code == 8
    assert "error: the model produced NaN or infinite values\nstep 2 of 3 gave them" in result.stderr
    assert read_speeds().speeds == ()


def test_a_clip_that_fails_its_check_was_as_fast_as_a_good_one(
    smoke: Callable[..., list[object]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(check, "DARK_LUMA", 1.0)
    result = ltx2(*smoke("--strict", "-o", "a.mp4"))
    assert result.exit_code == 8
    assert "denoise" in {one.kind for one in read_speeds().speeds}


def test_a_silent_video(smoke: Callable[..., list[object]]):
    info = probe(rendered(*smoke("--sound", "off")))
    assert info.audio is None
    assert info.video is not None
    assert info.video.frames == 9


def test_the_file_says_how_it_was_made_and_nothing_about_the_machine(
    smoke: Callable[..., list[object]], tmp_path: Path
):
    comment = probe(rendered(*smoke())).comment
    assert comment is not None
    recipe = json.loads(comment)
    assert (recipe["request"]["prompt"], recipe["request"]["seed"]) == (PROMPT, 7)
    for private in (str(tmp_path), str(Path.home()), os.uname().nodename):
        assert private not in comment
    assert probe(rendered(*smoke("-o", "b.mp4", "--no-metadata"))).comment is None


def test_what_is_there_is_left_or_replaced(smoke: Callable[..., list[object]]):
    there = Path("a.mp4")
    there.write_bytes(b"mine")
    assert rendered(*smoke("-o", there, "--skip-existing")) == there.resolve()
    assert there.read_bytes() == b"mine"
    assert rendered(*smoke("-o", there, "--overwrite")) == there.resolve()
    assert there.read_bytes()[4:8] == b"ftyp"


# what it says


def test_stdout_is_the_path_and_stderr_a_line_per_phase(smoke: Callable[..., list[object]]):
    result = ltx2(*smoke("-o", "a.mp4"))
    assert result.stdout == f"{Path.cwd() / 'a.mp4'}\n"
    plan, choice, *phases, end = result.stderr.splitlines()
    assert "128x96, 9 frames at 24 fps" in plan
    assert "seed 7" in plan
    assert choice == "auto: one-stage, as 128x96 is not a multiple of 64, which a second stage needs"
    assert phases == ["reading the prompt", "denoising, stage 1 of 1", "decoding the audio", "decoding and encoding"]
    assert "seed 7" in end
    assert not set(result.stderr) & set("\r\x1b")


def test_quiet_says_nothing_and_verbose_says_times_and_choices(smoke: Callable[..., list[object]]):
    assert ltx2(*smoke("-q")).stderr == ""
    told = ltx2(*smoke("-v", "--overwrite")).stderr
    for fragment in (
        "preset smoke sets res, frames, steps",
        "on cpu in fp32",
        "24 video and",
        "decoding the audio: 0.",
    ):
        assert fragment in told


def test_json_tells_everything_line_by_line_on_stdout(smoke: Callable[..., list[object]]):
    result = ltx2(*smoke("--json"))
    told = events(result)
    assert (result.exit_code, result.stderr) == (0, "")
    assert {event["schema"] for event in told} == {1}
    assert told[0]["event"] == "plan"
    assert (told[0]["request"]["frames"], told[0]["sources"]["frames"]) == (9, "preset smoke")
    phases = [(event["phase"], event["state"]) for event in told if event["event"] == "phase"]
    order = ("text", "denoise", "sound", "video")
    assert phases == [(phase, state) for phase in order for state in ("started", "done")]
    steps = [(event["done"], event["total"]) for event in told if event.get("phase") == "denoise" and "done" in event]
    assert steps == [(1, 2), (2, 2)]
    *_, output, summary = told
    assert (output["event"], output["path"]) == ("output", told[0]["path"])
    assert (summary["event"], summary["exit_code"]) == ("summary", 0)


def test_what_a_file_sets_holds_below_variables_and_flags(
    smoke: Callable[..., list[object]], monkeypatch: pytest.MonkeyPatch
):
    Path("ltx2.yaml").write_text("steps: 5\nvideo_st: 2\nsound: off\npresets: {mine: {preset: smoke, seed: 3}}\n")
    Path("more.yaml").write_text("video_st: 4\naudio_st: 6\n")
    monkeypatch.setenv("LTX2_AUDIO_ST", "8")
    words = [word if word != "smoke" else "mine" for word in smoke("--steps", 3, "--config", "more.yaml", "--json")]
    plan = events(ltx2(*words))[0]
    request = plan["request"]
    assert (request["steps"], request["seed"], request["frames"], request["audio"]) == (3, 7, 9, "off")
    assert [scales["st"] for scales in request["guidance"]] == [4, 8]
    named = ("steps", "audio_st", "video_st", "sound", "frames")
    places = ["the command line", "the environment", "more.yaml", "ltx2.yaml", "preset smoke"]
    assert [plan["sources"][name] for name in named] == places


def test_a_reader_that_goes_away_does_not_end_the_render(smoke: Callable[..., list[object]]):
    rendered(*smoke("-o", "b.mp4"))  # the prompt is cached, so the process does not need transformers
    words = [str(word) for word in smoke("-o", "a.mp4", "--json")]
    with subprocess.Popen(
        [sys.executable, "-m", "ltx2_cli", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "plan"
        process.stdout.close()
        assert process.wait() == 0
    assert Path("a.mp4").exists()


RENDER = """
import sys
from ltx2_cli.app import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
slow = {"transformers", "torch._dynamo", "torch._inductor"} & sys.modules.keys()
assert not slow, slow
"""


def test_a_prompt_that_was_read_before_needs_neither_transformers_nor_the_compiler(smoke: Callable[..., list[object]]):
    words = [str(word) for word in smoke("-o", "a.mp4")]
    assert ltx2(*words).exit_code == 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", RENDER, *words, "--overwrite"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# how it resumes


IN_STAGE = core.StepDone(phase="denoise", done=2, total=4)
IN_VIDEO = core.StepDone(phase="video", done=4, total=9)


def interrupted(words: list[object], event: Any, *signals: signal.Signals) -> Result:
    """Run a command that gets signals at an event."""
    with pytest.MonkeyPatch.context() as patch:
        at(patch, lambda what: what == event, lambda: [signal.raise_signal(one) for one in signals] and None)
        return ltx2(*words)


def test_killed_at_any_phase_boundary_it_goes_on_to_the_same_bytes(two_stages: list[object], undisturbed: bytes):
    told = events(ltx2(*two_stages, "--json"))
    over = [event["phase"] for event in told if event.get("state") == "done"]
    assert over == ["text", "denoise", "upsample", "denoise", "sound", "video"]
    target = Path("a.mp4")
    for number in range(1, len(over)):  # after the last phase the file exists
        target.unlink()
        killed(two_stages, lambda what: isinstance(what, core.PhaseDone), number)
        assert not target.exists()
        assert rendered("resume", "a.mp4.job").read_bytes() == undisturbed
        assert not Path("a.mp4.job").exists()


@pytest.mark.parametrize("event", [IN_STAGE, IN_VIDEO])
def test_killed_inside_a_phase_it_goes_on_to_the_same_bytes(
    event: object, two_stages: list[object], undisturbed: bytes
):
    killed(two_stages, lambda what: what == event)
    assert rendered("resume", "a.mp4.job").read_bytes() == undisturbed


@pytest.mark.parametrize(
    ("event", "kept", "how_far"),
    [(IN_STAGE, "stopped-1.safetensors", " after step 2 of 4"), (IN_VIDEO, "latents-2.safetensors", "")],
)
@pytest.mark.parametrize(("asked", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_stop_it_keeps_what_it_has_and_says_how_to_go_on(
    event: object,
    kept: str,
    how_far: str,
    asked: signal.Signals,
    code: int,
    two_stages: list[object],
    undisturbed: bytes,
):
    result = interrupted(two_stages, event, asked)
    assert (result.exit_code, result.stdout) == (code, "")
    assert "stopping after this step" in result.stderr
    told = [f"stopped{how_far}; the latents are kept", "hint: ltx2 resume a.mp4.job"]
    assert result.stderr.splitlines()[-2:] == told
    assert [path.name for path in Path.cwd().iterdir()] == ["a.mp4.job"]
    assert Path("a.mp4.job", kept).exists()
    assert rendered("resume", "a.mp4.job").read_bytes() == undisturbed


def test_stopped_twice_and_resumed_twice_it_gives_the_same_bytes(two_stages: list[object], undisturbed: bytes):
    assert interrupted(two_stages, core.StepDone(phase="denoise", done=1, total=4), signal.SIGINT).exit_code == 130
    resume = ["resume", "a.mp4.job"]
    assert interrupted(resume, core.StepDone(phase="denoise", done=3, total=4), signal.SIGINT).exit_code == 130
    assert rendered(*resume).read_bytes() == undisturbed


def test_stopped_in_json_it_still_ends_with_an_error_and_a_summary(two_stages: list[object]):
    result = interrupted([*two_stages, "--json"], IN_STAGE, signal.SIGINT)
    *_, error, summary = events(result)
    assert (error["event"], error["code"], error["hint"]) == ("error", 130, "ltx2 resume a.mp4.job")
    assert (summary["event"], summary["exit_code"], result.exit_code) == ("summary", 130, 130)


@pytest.mark.parametrize("event", [IN_STAGE, IN_VIDEO])
def test_asked_twice_it_stops_at_once_and_leaves_no_half_file(
    event: object, two_stages: list[object], undisturbed: bytes
):
    result = interrupted(two_stages, event, signal.SIGINT, signal.SIGINT)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-2:] == [
        "nothing of the stage that was running is kept",
        "hint: ltx2 resume a.mp4.job starts it again",
    ]
    assert [path.name for path in Path.cwd().iterdir()] == ["a.mp4.job"]
    assert rendered("resume", "a.mp4.job").read_bytes() == undisturbed


def test_an_unfinished_render_is_not_begun_anew_by_accident(two_stages: list[object], undisturbed: bytes):
    interrupted(two_stages, IN_STAGE, signal.SIGINT)
    result = ltx2(*two_stages)
    assert result.exit_code == 2
    assert "hint: ltx2 resume a.mp4.job, or --overwrite to start again" in result.stderr
    assert rendered(*two_stages, "--overwrite").read_bytes() == undisturbed


def test_kept_latents_are_decoded_again_and_with_another_codec(smoke: Callable[..., list[object]]):
    first = rendered(*smoke("-o", "a.mp4", "--keep-latents"))
    assert rendered("decode", "a.mp4.job", "-o", "b.mp4").read_bytes() == first.read_bytes()
    assert rendered("decode", "a.mp4.job", "--overwrite").read_bytes() == first.read_bytes()
    video = probe(rendered("decode", "a.mp4.job", "-o", "c.mp4", "--codec", "h265")).video
    assert video is not None
    assert (video.codec, video.frames) == ("hevc", 9)
    assert Path("a.mp4.job", "latents-1.safetensors").exists()
    for words in ([], ["-o", "b.mp4"]):
        assert "already exists" in ltx2("decode", "a.mp4.job", *words).stderr


def test_two_crashes_in_one_second_leave_two_files(
    smoke: Callable[..., list[object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LTX2_HOME", str(tmp_path))
    monkeypatch.setattr(core, "resolve", lambda *given: 1 / 0)
    monkeypatch.setattr(time, "strftime", lambda form: form.replace("%Y%m%d-%H%M%S", "20260101-000000"))
    assert [ltx2(*smoke()).exit_code for _ in range(2)] == [1, 1]
    assert len([*tmp_path.glob("crash-20260101-000000-*.txt")]) == 2


def test_a_failure_that_nobody_foresaw_is_one_line_and_a_file(
    smoke: Callable[..., list[object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LTX2_HOME", str(tmp_path))
    monkeypatch.setattr(core, "resolve", lambda *given: 1 / 0)
    result = ltx2(*smoke())
    (written,) = tmp_path.glob("crash-*.txt")
    assert result.exit_code == 1
    what, why, hint = result.stderr.splitlines()
    assert "ZeroDivisionError: division by zero" in what
    assert str(written) in why
    assert hint.startswith("hint: ")
    assert "Traceback" in written.read_text()
    assert "Traceback" in ltx2(*smoke("-vv")).stderr
