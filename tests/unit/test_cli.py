"""The command line in this process: where it prints what, and how it ends."""

import io
import json
import logging
import re
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.progress import Progress
from typer.testing import CliRunner, Result

import ltx2_core
from ltx2_cli.app import app
from ltx2_cli.display import Display, visible
from ltx2_cli.facts import readable
from ltx2_cli.progress import Clock
from ltx2_core.media.clip import VIDEO_CODECS
from ltx2_core.pipeline.resolve.edits import STRENGTH
from ltx2_core.pipeline.resolve.modes import MODES
from ltx2_core.pipeline.resolve.presets import generation_defaults
from ltx2_core.pipeline.resolve.presets import names as presets_of
from ltx2_core.pipeline.resolve.refusals import without_effect
from ltx2_core.pipeline.resolve.settings import DEFAULTS, Settings
from ltx2_core.pipeline.resolve.target import DEFAULT_NAME
from ltx2_core.pipeline.values import option_name

RUN = CliRunner()
COMMANDS = ("t2v", "i2v", "v2v", "a2v", "v2a", "batch", "resume", "decode", "inspect", "presets", "doctor")
ONLY_IN_FILES = {"model_folders", "draft_steps", "schedule_tokens", "text_rows", "image_crf"}


def write_weights(path: Path, **metadata: str) -> Path:
    names = ["transformer_blocks.0.attn1.to_q.weight", "caption_projection.linear_1.weight"]
    tensors = {
        f"model.diffusion_model.{name}": {"dtype": "BF16", "shape": [2], "data_offsets": [4 * i, 4 * i + 4]}
        for i, name in enumerate(names)
    }
    text = json.dumps({"__metadata__": metadata} | tensors).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    return path


def test_the_version_goes_to_stdout():
    result = RUN.invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"ltx2 {ltx2_core.__version__}\n")


def test_without_a_command_five_lines_say_how_to_begin():
    result = RUN.invoke(app, [])
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 5
    assert all(f"ltx2 {command}" in result.stdout for command in ("t2v", "download", "doctor", "--help"))


@pytest.mark.parametrize("words", [[], ["--help"], *([command, "--help"] for command in COMMANDS)])
def test_what_explains_the_program_fits_80_columns(words: list[str]):
    result = RUN.invoke(app, words)
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_every_setting_has_its_option_in_the_help():
    listed = "".join(RUN.invoke(app, [command, "--help"]).stdout for command in COMMANDS)
    names = Settings.model_fields.keys() - ONLY_IN_FILES
    missing = [name for name in names if f"{option_name(name)} " not in _words(listed)]
    assert missing == []


@pytest.mark.parametrize("command", ["a2v", "v2a"])
def test_a_mode_does_not_list_options_that_it_refuses(command: str):
    refused = [option_name(name) for name in without_effect(MODES[command].video[0], MODES[command].audio[0])]
    listed = RUN.invoke(app, [command, "--help"]).stdout.partition("Other:")[0].split()
    assert [name for name in refused if name in listed] == []


def _words(text: str) -> list[str]:
    return [word.rstrip(",") + " " for word in text.split()]


def test_the_help_names_the_guidance_that_holds():
    listed = " ".join(RUN.invoke(app, ["help", "guidance"]).stdout.split())
    names = ("video_st", "video_sm", "audio_st", "audio_sm")
    assert " ".join(f"{option_name(name)} {generation_defaults('2.0')[name]:g}" for name in names) in listed


def test_the_help_names_the_defaults_that_hold():
    listed = " ".join(RUN.invoke(app, ["t2v", "--help"]).stdout.split())

    def text(name: str) -> str:
        return listed.partition(f"{option_name(name)} ")[2].partition(" --")[0]

    for name in ("model", "precision", "device", "codec", "audio_codec"):
        assert f"default {DEFAULTS[name]}" in text(name).lower(), name
    for name in ("video", "sound"):
        assert f"default {MODES['t2v'].streams[name][0]}" in text(name).lower(), name
    for generation in presets_of("generations"):
        assert f"default {generation_defaults(generation)['fps']}" in text("fps").lower(), generation
    assert f"default {DEFAULT_NAME}" in text("output")
    assert ", ".join(f"{codec.crf} ({name})" for name, codec in VIDEO_CODECS.items()) in text("crf")
    for name in ("res", "duration", "steps", "preset", "negative"):
        assert "the model's own" in text(name), name


@pytest.mark.parametrize("command", ["t2v", "i2v", "v2v", "a2v", "v2a", "decode"])
def test_copying_audio_is_listed_where_there_may_be_audio_to_copy(command: str):
    listed = RUN.invoke(app, [command, "--help"]).stdout
    assert ("aac|alac|flac|copy" in listed) == (command in ("v2v", "a2v", "decode"))


def test_the_help_of_decode_names_no_default_but_the_value_of_the_render():
    listed = RUN.invoke(app, ["decode", "--help"]).stdout
    defaults = set(re.findall(r"default:? ([^.;]+)", " ".join(listed.split())))
    assert defaults == {"as before"}


def test_the_help_names_the_strength_that_holds():
    listed = " ".join(RUN.invoke(app, ["v2v", "--help"]).stdout.split())
    assert f"the default edit, at {STRENGTH}" in listed


def test_presets_lists_every_name_the_user_s_own_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("ltx2.yaml").write_text("presets: {mine: {steps: 3}}")
    listed = RUN.invoke(app, ["presets"]).stdout
    assert {"one-stage", "smoke", "mine", "480p", "ltx-2"} <= set(listed.split())
    told = [json.loads(line) for line in RUN.invoke(app, ["presets", "--json"]).stdout.splitlines()]
    assert [event["event"] for event in told] == ["output", "output", "output", "summary"]
    assert "mine" in told[0]["facts"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_names(shell: str):
    variables = {
        "bash": {"COMP_WORDS": "ltx2 t2v x --preset sm", "COMP_CWORD": "4"},
        "zsh": {"_TYPER_COMPLETE_ARGS": "ltx2 t2v x --preset sm"},
        "fish": {"_TYPER_COMPLETE_ARGS": "ltx2 t2v x --preset sm", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }
    run = CliRunner(env={"_LTX2_COMPLETE": f"complete_{shell}", **variables[shell]})
    assert "smoke" in run.invoke(app, [], prog_name="ltx2").stdout


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("batch x --sweep audio_s", "audio_st= audio_sm= audio_stg="),
        ("batch x --sweep video-r", "video-rescale="),
        ("t2v x --lora can", "canny"),
        ("v2v x --control dep", "depth"),
        ("t2v x --lora hd", ""),  # hdr cannot be used here
    ],
)
def test_shells_complete_the_keys_of_sweeps_and_the_names_of_loras(line: str, names: str):
    words = {"COMP_WORDS": f"ltx2 {line}", "COMP_CWORD": "4"}
    run = CliRunner(env={"_LTX2_COMPLETE": "complete_bash", **words})
    assert run.invoke(app, [], prog_name="ltx2").stdout.split() == names.split()


def test_inspect_says_what_a_file_is(tmp_path: Path):
    result = RUN.invoke(app, ["inspect", str(write_weights(tmp_path / "a.safetensors"))])
    facts = dict(line.strip().split(maxsplit=1) for line in result.stdout.splitlines()[1:])
    assert facts["kind"] == "a transformer"
    assert facts["generation"] == "2.0"
    assert facts["precision"] == "bf16"
    assert (facts["tensors"], facts["bytes"]) == ("2", "8")


RECIPE = {
    "negative": "words " * 40,
    "steps": "4",
    "recipe": json.dumps({"stages": [{"scale": 0.5, "noise": None}, {"scale": 1, "sigmas": [1, 0]}], "takes": None}),
    "guidance": json.dumps([{"st": 3.0, "stg_blocks": [2, 5]}]),
    "prompt": '["a sign", "in JSON"]',
}


def test_a_recipe_is_a_row_per_setting_with_its_records_taken_apart():
    rows = readable(RECIPE, is_whole=True)
    assert rows["negative"] == RECIPE["negative"]
    assert rows["prompt"] == RECIPE["prompt"]
    assert rows["steps"] == "4"
    assert {name: text for name, text in rows.items() if name.startswith(("recipe", "guidance"))} == {
        "recipe stages 1": "scale 0.5",
        "recipe stages 2": "scale 1, sigmas 1,0",
        "guidance 1": "st 3.0, stg_blocks 2,5",
    }


def test_long_texts_are_cut_to_a_line_unless_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(ltx2_core, "describe", lambda path: RECIPE)
    short, whole, told = (RUN.invoke(app, ["inspect", "a.mp4", *more]).stdout for more in ([], ["-v"], ["--json"]))
    assert RECIPE["negative"].strip() in whole
    assert max(map(len, short.splitlines())) <= 80
    assert "…" in short
    assert json.loads(told.splitlines()[0])["facts"] == RECIPE


def test_only_what_a_person_wrote_is_cut():
    rows = readable({"prompt": "words " * 40, "problem": "words " * 40}, is_whole=False)
    assert len(rows["prompt"]) == 56
    assert rows["problem"] == "words " * 40


def test_text_from_a_file_cannot_act_on_the_terminal(tmp_path: Path):
    path = write_weights(tmp_path / "a\x1b]0;title\x07.safetensors", model_version="2.0\x1b[31m\u202e")
    result = RUN.invoke(app, ["inspect", str(path)])
    assert result.exit_code == 0
    assert not set(result.stdout) & set("\x1b\x07\u202e")
    assert r"2.0\x1b[31m\u202e" in result.stdout


@pytest.mark.parametrize("text", ["plain, Zürich, 日本語", "100 % — “quoted”"])
def test_ordinary_text_stays_as_it_is(text: str):
    assert visible(text) == text


def test_a_failure_of_core_is_three_lines_on_stderr_and_its_exit_code(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"PK\x03\x04" + bytes(60))
    result = RUN.invoke(app, ["inspect", str(path)])
    assert result.exit_code == 7
    assert result.stdout == ""
    what, why, hint = result.stderr.splitlines()
    assert what == "error: model.safetensors cannot be opened"
    assert "pickle" in why
    assert hint.startswith("hint: ")


@pytest.mark.parametrize("arguments", [["nonsense"], ["inspect"], ["inspect", "a", "--nonsense"]])
def test_wrong_usage_is_exit_2(arguments: list[str]):
    result = RUN.invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (2, "")


def test_wrong_usage_does_not_repeat_words_of_any_length():
    result = CliRunner().invoke(app, ["presets", "x" * 100_000])
    assert result.exit_code == 2
    assert "unexpected extra argument" in result.stderr
    assert len(result.stderr) < 500


def test_a_prompt_and_a_name_cannot_act_on_the_terminal(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "a\x1b[31m\u202e"
    model.symlink_to(tiny)
    said = RUN.invoke(app, ["t2v", "a\x1b]0;b\x07", "--model", str(model), "--lora", "a\x1b[0m"]).stderr
    said += RUN.invoke(app, ["t2v", "x", "--model", str(model) + "\x07", "-v"]).stderr
    assert said.count(r"\x1b") >= 2
    assert not set(said) & set("\x1b\x07\u202e")


def warned(monkeypatch: pytest.MonkeyPatch, *words: str) -> Result:
    """A command during which core logs a warning."""

    def describe(path: Path) -> dict[str, str]:
        logging.getLogger("ltx2").warning("its last %d tokens\x1b are dropped", 3)
        return {}

    monkeypatch.setattr(ltx2_core, "describe", describe)
    return RUN.invoke(app, ["inspect", "a", *words])


def test_what_core_logs_is_told_once_as_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    assert warned(monkeypatch).stderr == "warning: its last 3 tokens\\x1b are dropped\n"
    assert warned(monkeypatch, "-q").stderr == ""
    result = warned(monkeypatch, "--json")
    event = json.loads(result.stdout.splitlines()[0])
    assert (event["event"], event["message"]) == ("warning", "its last 3 tokens\x1b are dropped")
    assert result.stderr == ""
    assert caplog.records == []  # the record did not reach parent loggers


def test_after_a_command_the_logger_is_as_before(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    logger = logging.getLogger("ltx2")
    before = (logger.handlers[:], logger.propagate)
    warned(monkeypatch)
    monkeypatch.setattr(ltx2_core, "describe", lambda path: 1 / 0)
    assert RUN.invoke(app, ["inspect", "a"]).exit_code == 1
    assert (logger.handlers, logger.propagate) == before
    logger.warning("heard again")
    assert caplog.messages == ["heard again"]


@pytest.mark.parametrize("more", [[], ["-vv"], ["--json"]])
def test_a_crash_over_text_that_no_file_can_hold_is_told_and_written(
    more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def describe(path: Path) -> dict[str, str]:
        raise ValueError("what is a\udcff")

    monkeypatch.setenv("LTX2_HOME", str(tmp_path))
    monkeypatch.setattr(ltx2_core, "describe", describe)
    result = RUN.invoke(app, ["inspect", "a", *more])
    (written,) = tmp_path.glob("crash-*.txt")
    assert result.exit_code == 1
    assert r"ValueError: what is a\udcff" in result.stderr
    assert r"a\udcff" in written.read_text()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """The output on stderr of a render with a progress bar."""
    for name in ("NO_COLOR", "TERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "80", **environment}.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    show = Display()
    show.event(ltx2_core.PhaseStarted(phase="denoise", name="denoising", total=4))
    for done in (1, 2):
        show.event(ltx2_core.StepDone(phase="denoise", done=done, total=4))
    show.warn("[bold]dark\x1b[31m")
    show.event(ltx2_core.PhaseDone(phase="denoise", seconds=1.0))
    show.end(0)
    return terminal.getvalue()


def test_on_a_terminal_a_phase_is_a_bar_with_its_count(monkeypatch: pytest.MonkeyPatch):
    shown = shown_on_a_terminal(monkeypatch)
    assert "denoising" in shown
    assert "4/4" in shown
    assert "\x1b[3" in shown  # colours
    assert r"warning: [bold]dark\x1b[31m" in shown


def test_no_color_leaves_the_bar_without_colours(monkeypatch: pytest.MonkeyPatch):
    shown = shown_on_a_terminal(monkeypatch, NO_COLOR="1")
    assert "4/4" in shown
    assert not re.search(r"\x1b\[[0-9;]*[34][0-9;]*m", shown)


def test_lines_are_broken_between_words_and_never_inside_one(monkeypatch: pytest.MonkeyPatch):
    path = "/a/path/that/is/longer/than/" + "forty-columns/" * 3 + "and-more.mp4"
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    Display().fail(
        ltx2_core.RequestError(f"{path} cannot be used", "one two three four " * 5, "--frames 9 or --frames 17")
    )
    lines = terminal.getvalue().splitlines()
    assert path in lines
    assert all(len(line) <= 40 for line in lines if line != path)
    assert (
        " ".join(lines).split()
        == f"error: {path} cannot be used {'one two three four ' * 5}hint: --frames 9 or --frames 17".split()
    )


def test_without_a_terminal_a_message_is_one_line():
    result = RUN.invoke(app, ["inspect", "lost-" * 30 + ".safetensors"], env={"COLUMNS": "40"})
    assert result.stderr.startswith("error: lost-")
    assert len(result.stderr.splitlines()[0]) > 140


@pytest.mark.parametrize("words", [["t2v"], ["decode"], ["presets"]])
def test_help_shows_what_the_option_shows(words: list[str]):
    assert RUN.invoke(app, ["help", *words]).stdout == RUN.invoke(app, [*words, "--help"]).stdout


def test_help_alone_lists_the_commands_and_topics_are_explained_once():
    assert RUN.invoke(app, ["help"]).stdout == RUN.invoke(app, ["--help"]).stdout
    assert "cfg_scale" in RUN.invoke(app, ["help", "guidance"]).stdout
    assert "LTX2_STEPS=30" in RUN.invoke(app, ["help", "settings"]).stdout
    for command in ("t2v", "i2v", "v2v", "a2v", "v2a"):
        assert "cfg_scale" not in RUN.invoke(app, [command, "--help"]).stdout
    unknown = RUN.invoke(app, ["help", "guidence"])
    assert (unknown.exit_code, unknown.stdout) == (2, "")
    assert "hint: ltx2 help takes t2v" in unknown.stderr


@pytest.mark.parametrize("name", ["t2v", "i2v", "v2v", "a2v", "v2a", "resume", "decode", "inspect", "presets", "help"])
def test_every_help_fits_a_terminal(name: str):
    result = RUN.invoke(app, [name, "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80


FULL = """
import sys
from ltx2_cli.app import main
import ltx2_core
from pathlib import Path

ltx2_core.describe = lambda path: {"kind": "a LoRA"}
sys.argv = ["ltx2", "inspect", "a.safetensors"]
main()
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_standard_output_is_exit_7():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", FULL], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 7
    assert done.stderr.splitlines()[0] == "error: standard output cannot be written: that disk is full"
    assert "hint: " in done.stderr


def test_where_the_clip_is_complete_a_full_standard_output_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    show = Display()
    show.refused, show.finished = OSError(28, "No space left on device"), tmp_path / "a.mp4"
    assert show.end(0) == 7
    assert f"the result is complete: {tmp_path / 'a.mp4'}" in capsys.readouterr().err
    assert show.end(3) == 3


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch):
    shown = shown_on_a_terminal(monkeypatch, TERM="dumb")
    assert shown.splitlines() == ["denoising", r"warning: [bold]dark\x1b[31m"]


def test_the_clock_of_a_finished_phase_stands_still():
    now = 0.0
    progress = Progress(get_time=lambda: now, disable=True)
    number = progress.add_task("denoising", total=4)
    task = progress.tasks[0]
    now = 5.0
    progress.update(number, completed=4)
    now = 65.0
    assert Clock().render(task).plain == "0:05"


def test_summary_tells_the_seconds_that_passed() -> None:
    before = time.perf_counter()
    result = CliRunner().invoke(app, ["t2v", " ", "--json"])
    passed = time.perf_counter() - before
    summary = json.loads(result.stdout.splitlines()[-1])
    assert (summary["event"], summary["exit_code"]) == ("summary", 2)
    assert 0 <= summary["seconds"] <= round(passed, 3) + 0.001


def test_a_stop_in_the_middle_of_an_import_is_a_stop_whatever_fails_after_it(monkeypatch: pytest.MonkeyPatch):
    def describe(what: str) -> dict[str, str]:
        try:
            raise KeyboardInterrupt
        finally:
            raise ImportError("cannot import name 'nn' from partially initialized module 'torch'")

    monkeypatch.setattr(ltx2_core, "describe", describe)
    result = RUN.invoke(app, ["inspect", "toy"])
    assert (result.exit_code, result.stderr) == (130, "stopped\n")
