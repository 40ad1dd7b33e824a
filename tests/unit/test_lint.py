"""Advice on prompts: the findings of each rule, and prompts without findings."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ltx2_core as core
from ltx2_core.pipeline.resolve.lint import is_english, prompt_advice
from tests.commands import ltx2

GOOD = 'A tram approaches, its bell clangs twice. She turns and says with relief, "Finally." The doors hiss open.'


@pytest.fixture(scope="module")
def resolved(tiny: Path) -> core.Resolved:
    given = core.gather({"model": str(tiny), "output": "x.mp4", "force": True, "overwrite": True})
    return core.resolve("t2v", GOOD, given.layers)


def advice(resolved: core.Resolved, prompt: str, **changes: object) -> tuple[str, ...]:
    request = resolved.request.model_copy(update={"prompt": prompt, **changes})
    return prompt_advice(request, resolved.task.files)


def test_a_good_prompt_gets_no_advice(resolved: core.Resolved) -> None:
    assert resolved.advice == advice(resolved, GOOD) == ()


@pytest.mark.parametrize(
    "prompt", ['a bar at night, "It is late.", music', "rain falls, “It is over now.” The bell rings"]
)
def test_a_quote_that_nobody_speaks_is_named(prompt: str, resolved: core.Resolved) -> None:
    (found,) = advice(resolved, prompt)
    assert found.startswith('the prompt does not say who speaks "It is ')


@pytest.mark.parametrize(
    "prompt",
    [
        'the old man laughs and says softly, "I told you it would rain."',
        '"Not today," she whispers',
        'a neon sign that reads "OPEN ALL NIGHT", and rain patters',
        "it's the singer's turn, and the crowd cheers",
    ],
)
def test_quotes_with_a_speaker_signs_and_apostrophes_are_left_alone(prompt: str, resolved: core.Resolved) -> None:
    assert advice(resolved, prompt) == ()


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a street without people, a bell rings", '"without people"'),
        ("a dog barks, no cars, not a cloud", '"no cars", "not a cloud"'),
        ("a bell rings, and it doesn't rain", '"doesn\'t rain"'),
    ],
)
def test_what_is_said_not_to_be_there_is_named(prompt: str, named: str, resolved: core.Resolved) -> None:
    (found,) = advice(resolved, prompt, negative="worst quality")
    assert f"({named})" in found
    assert found.endswith("say what is there instead, or use --negative")
    assert "--negative" not in advice(resolved, prompt, negative=None)[0]


def test_a_prompt_without_a_sound_is_said_only_where_audio_is_made(resolved: core.Resolved) -> None:
    prompt = "a red car drives along the coast"
    assert advice(resolved, prompt) == ("the prompt names no sound, which leaves the audio to the model",)
    assert advice(resolved, prompt, audio="off") == advice(resolved, prompt, audio="keep") == ()


def test_tokens_that_are_cut_off_are_counted(resolved: core.Resolved) -> None:
    rows = resolved.request.text_rows
    (found,) = advice(resolved, "a bell rings " * rows)
    total, shown_rows, dropped = (int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", found))
    assert found.endswith("are cut off")
    assert total - rows == dropped > 0
    assert shown_rows == rows


def test_rules_on_english_words_leave_other_languages_alone(resolved: core.Resolved) -> None:
    assert not is_english("Старый рыбак тянет сеть")
    assert advice(resolved, "Старый рыбак тянет сеть") == advice(resolved, "", enhances=True) == ()


@given(prompt=st.text(max_size=200))
def test_any_prompt_gets_sentences(prompt: str, resolved: core.Resolved) -> None:
    assert all(sentence.startswith("the prompt ") for sentence in advice(resolved, prompt))


def test_a_plan_tells_it_and_a_render_in_detail_only(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("t2v", "a red car drives by", "--model", tiny)
    assert "advice: the prompt names no sound" in ltx2("plan", *words).stderr
    told = json.loads(ltx2("plan", *words, "--json").stdout.splitlines()[0])
    assert told["advice"] == ["the prompt names no sound, which leaves the audio to the model"]
    small = ("--res", "64x64", "--frames", 9, "--steps", 2, "--seed", 1, "--video", "off", "-o", "a.wav")
    assert "advice" not in ltx2(*words, *small[2:]).stderr
    assert "advice: the prompt names no sound" in ltx2(*words, *small[2:], "--overwrite", "-v").stderr
