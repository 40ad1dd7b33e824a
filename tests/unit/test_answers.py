"""Processing of a language model's answer: it is cleaned, and only used if it passes the checks."""

from __future__ import annotations

import pytest

from ltx2_core.text.answers import as_prompt, clean_response, problem_with, quotes

GOOD = (
    "Style: realistic. A brown dog is running over wet grass while rain is falling, its paws splashing in the puddles, "
    'and a man in a green coat calls in a hoarse voice, "Come back, Rex!" as thunder rolls far away.'
)


def test_a_good_answer_becomes_one_paragraph_with_plain_marks() -> None:
    assert problem_with(GOOD, "a dog runs") == ""
    assert as_prompt("  “A dog” — it’s late\n\n and rains ") == "A dog\" - it's late and rains"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("", "is empty"),
        ("... 123", "is empty"),
        ("# A dog\nA dog is running.", "has markup, headings or a list in it"),
        ("**A dog** is running.", "has markup, headings or a list in it"),
        ("- A dog is running.\n- It is barking.", "has markup, headings or a list in it"),
        ("1. A dog is running.", "has markup, headings or a list in it"),
        ("Video caption:\nA dog is running.", "has markup, headings or a list in it"),
        ("<b>A dog</b> is running.", "has markup, headings or a list in it"),
        ("I cannot help with that.", "talks to you instead of describing the video"),
        ("Here is the paragraph: a dog is running.", "talks to you instead of describing the video"),
        ("一只狗在跑。A dog.", "is not a readable English text"),
        ("A dog \ufffd\ufffd is running.", "is not a readable English text"),
        ("A dog \x1b[31m is running.", "is not a readable English text"),
        ("aves ]]}{}()=+&^%$ 99 12 () ;;;", "is not a readable English text"),
        ("A " + "dog" * 20 + " is running.", "is not a readable English text"),
        ("A dog is running" + " and is running" * 8 + ".", "is not a readable English text"),
    ],
)
def test_an_answer_that_cannot_be_trusted_says_why(answer: str, problem: str) -> None:
    assert problem_with(answer, "a dog runs") == problem


def test_an_answer_that_was_cut_off_is_not_used() -> None:
    assert problem_with(GOOD, "a dog runs", has_ended=False) == "does not come to an end"


@pytest.mark.parametrize(
    "prompt",
    [
        'a man calls "Come back, Rex!"',
        "a man calls “Come back, Rex”",
        "a man calls «Come   back, Rex!»",
        "a man calls 'Come back, Rex!'",
    ],
)
def test_quotes_are_kept_word_for_word_whatever_their_marks(prompt: str) -> None:
    assert problem_with(GOOD, prompt) == ""
    lost = GOOD.replace("Come back", "Come here")
    assert problem_with(lost, prompt).startswith('does not keep the words "Come back, Rex')


def test_quotes_in_another_language_stay_in_it() -> None:
    prompt = "an old woman says „Guten Morgen, mein Kind“"
    answer = 'An old woman is opening the door and says warmly, "{}" while birds are singing outside in the garden.'
    assert problem_with(answer.format("Guten Morgen, mein Kind"), prompt) == ""
    assert "does not keep" in problem_with(answer.format("Good morning, my child"), prompt)


def test_what_is_quoted_may_be_in_any_script() -> None:
    answer = (
        'A man in a dark coat is standing at a station and says quietly in Japanese, "お元気ですか" as a train passes.'
    )
    assert problem_with(answer, "a man says 「お元気ですか」") == ""


def test_apostrophes_are_no_quotation_marks() -> None:
    assert quotes("it's the dogs' ball, isn’t it the cats'") == []
    assert quotes("he says 'it's late, isn't it' and goes") == ["it's late, isn't it"]
    assert quotes('she says "yes" and "no"') == ["yes", "no"]


def test_a_text_without_letters_is_left_as_it_is() -> None:
    assert clean_response("12 – 3") == "12 - 3"
