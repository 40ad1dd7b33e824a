"""`--enhance`, `--enhance-only`: the prompt is rewritten first, is stored in every record, and is rewritten only
once.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ltx2_core.pipeline.events import StoppedError, Watch
from ltx2_core.pipeline.job import Job
from ltx2_core.pipeline.render.engine import Engine
from ltx2_core.pipeline.render.models import Models
from ltx2_core.text import enhancers
from ltx2_core.text.enhance import Answer, Writer
from tests.commands import ltx2, made_in, rendered

GOLDEN = Path(__file__).parents[1] / "golden"
GEMMA_3, IMAGE = GOLDEN / "text/2.0/gemma", GOLDEN / "e2e/2.0/media/image0.png"
COMMON = ("--preset", "smoke", "--res", "128x128", "--seed", "7")
BETTER = 'A brown dog is running over wet grass while rain is falling and a man calls loudly, "Come back!"'
PROMPT = 'a dog runs, a man calls "Come back!"'


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace every answer of the language model by the last entry of the returned list."""
    said: list[str] = [BETTER]
    monkeypatch.setattr(Writer, "write", lambda *given, **more: Answer(said[-1], has_ended=True))
    return said


@pytest.fixture
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the language model write only a few tokens with its random weights."""
    short = replace(enhancers.INSTRUCT_3, most_tokens=4)
    monkeypatch.setattr(enhancers, "INSTRUCT_3", short)
    monkeypatch.setattr(enhancers, "ENHANCERS", (short,))


@pytest.fixture
def no_render(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every model except the text encoder fail."""

    def never(*given: Any) -> None:
        raise AssertionError("a model was loaded")

    for name in ("component", "transformer", "upsampler", "connectors"):
        monkeypatch.setattr(Models, name, never)


def clip(tiny: Path, out: Path, prompt: str, *words: object) -> Path:
    return rendered("t2v", prompt, "--model", tiny, *words, *COMMON, "-o", out)


def told(*words: object, exit_code: int = 0) -> str:
    """The message of a command on stderr, as one line."""
    result = ltx2(*words, *COMMON)
    assert result.exit_code == exit_code, result.stderr
    return " ".join(result.stderr.split())


@pytest.mark.usefixtures("answers", "kept_models")
def test_the_rewritten_prompt_is_rendered_and_the_file_holds_both(tiny: Path, tmp_path: Path) -> None:
    result = ltx2("t2v", PROMPT, "--model", tiny, "--enhance", *COMMON, "-o", tmp_path / "a.mp4")
    assert result.exit_code == 0, result.stderr
    assert f"the rewritten prompt: {BETTER}" in " ".join(result.stderr.split())
    request = made_in(tmp_path / "a.mp4").request
    assert (request.prompt, request.given_prompt, request.enhances) == (BETTER, PROMPT, False)
    assert request.model_copy(update={"given_prompt": None}) == made_in(clip(tiny, tmp_path / "b.mp4", BETTER)).request


@pytest.mark.usefixtures("answers", "kept_models")
def test_a_stopped_render_goes_on_with_the_prompt_in_its_record(
    tiny: Path, tmp_path: Path, answers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = clip(tiny, tmp_path / "whole.mp4", BETTER, "--no-metadata").read_bytes()

    def broken(engine: Engine) -> None:
        raise KeyboardInterrupt

    words = ("t2v", PROMPT, "--model", tiny, "--enhance", "--no-metadata", *COMMON, "-o", tmp_path / "a.mp4")
    with monkeypatch.context() as stopped:
        stopped.setattr(Engine, "with_prompt", broken)
        ltx2(*words)
    assert Job.open(tmp_path / "a.mp4.job").request.enhances
    with monkeypatch.context() as stopped:
        stopped.setattr(Engine, "render", broken)
        ltx2("resume", tmp_path / "a.mp4.job")
    job = Job.open(tmp_path / "a.mp4.job")
    assert (job.request.prompt, job.request.given_prompt, job.request.enhances) == (BETTER, PROMPT, False)
    answers.append("Something else is happening in a quiet room.")
    assert rendered("resume", job.folder).read_bytes() == expected


@pytest.mark.usefixtures("answers", "no_render")
def test_enhance_only_prints_the_prompt_alone_and_loads_nothing_else(tiny: Path, tmp_path: Path) -> None:
    taken = tmp_path / "a.mp4"
    taken.write_text("something")
    result = ltx2("t2v", PROMPT, "--model", tiny, "--enhance-only", *COMMON, "-o", taken)
    assert (result.exit_code, result.stdout) == (0, BETTER + "\n"), result.stderr
    assert BETTER not in result.stderr
    assert "seed 7" in result.stderr
    assert [taken.read_text(), *tmp_path.iterdir()] == ["something", taken]


@pytest.mark.usefixtures("no_render")
def test_an_answer_that_loses_a_quote_leaves_the_prompt_as_it_is(tiny: Path, answers: list[str]) -> None:
    answers.append("A brown dog is running over wet grass while rain is falling and a man is calling it back.")
    result = ltx2("t2v", PROMPT, "--model", tiny, "--enhance-only", *COMMON)
    assert (result.exit_code, result.stdout) == (0, PROMPT + "\n")
    warning = 'the prompt is used as you wrote it, because the rewritten one does not keep the words "Come back!"'
    assert " ".join(result.stderr.split()).count(warning) == 1


@pytest.mark.usefixtures("few_tokens", "no_render")
def test_the_babble_of_a_random_model_is_not_used(tiny: Path) -> None:
    result = ltx2("t2v", PROMPT, "--model", tiny, "--enhance-only", *COMMON)
    assert (result.exit_code, result.stdout) == (0, PROMPT + "\n")
    assert "because the rewritten one" in " ".join(result.stderr.split())


@pytest.mark.usefixtures("answers", "no_render")
def test_in_json_an_event_holds_both_prompts(tiny: Path) -> None:
    result = ltx2("t2v", PROMPT, "--model", tiny, "--enhance-only", *COMMON, "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    (event,) = (one for one in events if one["event"] == "prompt")
    assert (event["prompt"], event["given"], event["is_rewritten"]) == (BETTER, PROMPT, True)
    assert events[-1]["event"] == "summary"


@pytest.mark.usefixtures("few_tokens", "kept_models")
def test_a_model_of_its_own_is_let_go_before_the_text_encoder_and_named_in_the_recipe(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[list[str]] = []
    usual = Engine.contexts

    def seen(engine: Engine) -> Any:
        loaded.append([str(key[0]) for key in engine.models._residency._loaded])  # type: ignore[index]
        return usual(engine)

    monkeypatch.setattr(Engine, "contexts", seen)
    made = made_in(clip(tiny, tmp_path / "a.mp4", PROMPT, "--enhance", "--enhancer", GEMMA_3))
    assert "enhancer" not in loaded[0]
    assert made.model.files["enhancer"].name == GEMMA_3.name
    assert made.request.given_prompt == made.request.prompt == PROMPT  # the random answer is not used


@pytest.mark.usefixtures("answers", "no_render")
def test_an_image_is_looked_at_where_the_model_can(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []

    def write(writer: Writer, prompt: str, seed: int, image: Any, on_token: Any) -> Answer:
        shown.append(image)
        return Answer(BETTER, has_ended=True)

    monkeypatch.setattr(Writer, "write", write)
    words = ("i2v", IMAGE, "", "--model", tiny, "--enhance-only", *COMMON)
    assert ltx2(*words, "--enhancer", GEMMA_3).stdout == BETTER + "\n"
    assert max(shown[0].shape) == 896
    assert "there is no prompt to rewrite" in ltx2(*words).stderr
    warned = told("i2v", IMAGE, "a dog", "--model", tiny, "--enhance-only")
    assert "warning: the image is not used for rewriting the prompt: Gemma 3 in gemma has no vision part here" in warned
    assert shown[1:] == [None]


def test_a_model_whose_text_encoder_cannot_write_is_refused_before_anything_is_loaded() -> None:
    found = told("t2v", PROMPT, "--model", "toy", "--enhance", exit_code=2)
    assert "error: --enhance cannot be used the model's own text encoder has no chat template" in found
    assert "hint: --enhancer FOLDER names an instruct model" in found


def test_an_enhancer_that_nobody_asks_for_is_refused(tiny: Path) -> None:
    assert "nothing is rewritten without --enhance" in told(
        "t2v", PROMPT, "--model", tiny, "--enhancer", GEMMA_3, exit_code=2
    )


def test_a_plan_counts_the_rewriting(tiny: Path) -> None:
    words = ("plan", "t2v", PROMPT, "--model", tiny, *COMMON)
    assert "enhancing" not in ltx2(*words).stdout
    for more in ((), ("--enhancer", GEMMA_3)):
        assert ltx2(*words, "--enhance", *more).stdout.splitlines()[1].startswith("enhancing")


def test_a_plan_for_2_5_says_that_its_text_encoder_cannot_write() -> None:
    found = told("plan", "t2v", PROMPT, "--model", "ltx-2.5", "--enhance", exit_code=2)
    assert "--enhance cannot be used the model's own is the text encoder of LTX-2.5 (gemma4_unified)" in found


@pytest.mark.usefixtures("answers", "no_render")
def test_a_settings_file_may_name_an_enhancer_for_later(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(f"enhancer: {GEMMA_3}\n")
    words = ("t2v", PROMPT, "--model", tiny, "--config", tmp_path / "own.yaml", *COMMON)
    assert ltx2("plan", *words).exit_code == 0
    assert ltx2(*words, "--enhance-only").stdout == BETTER + "\n"


@pytest.mark.usefixtures("few_tokens", "no_render")
def test_stopped_while_it_writes_it_prints_nothing(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watch, "check", stopping)
    result = ltx2("t2v", PROMPT, "--model", tiny, "--enhance-only", *COMMON)
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr.splitlines()[-1] == "stopped"


def stopping(watch: Watch) -> None:
    raise StoppedError
