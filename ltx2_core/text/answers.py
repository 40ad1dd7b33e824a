"""The answer of a language model: cleaned as in the reference, and checked before it becomes a prompt.

Source: docs/reference/text.md, "Answers".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

PLAIN = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u2032": "'", "\u201c": '"', "\u201d": '"'}
    | {"\u2014": "-", "\u2013": "-", "\u2212": "-", "\u00a0": " "}
)
SINGLE = r"(?<!\w)'([^']+(?:\b'\b[^']+)*)'(?!\w)"  # a quote may contain apostrophes inside words
QUOTED = re.compile(rf'"([^"]+)"|«([^»]+)»|„([^"]+)"|「([^」]+)」|{SINGLE}')
WORD = re.compile(r"\w+(?:'\w+)*")
MARKUP = re.compile(
    r"^\s*(?:#{1,6}\s|[-*+•]\s|\d{1,2}[.)]\s|>\s|\||[-=*_]{3,}\s*$)|\*\*|```|</?[a-zA-Z][^<>]*>|\[[^\]]*\]\(",
    re.MULTILINE,
)
HEADING = re.compile(r"^[^\n.!?\"]{1,60}:[ \t]*$", re.MULTILINE)
CHAT = (
    "i can't",
    "i cannot",
    "i'm sorry",
    "i am sorry",
    "i'm unable",
    "as an ai",
    "sure,",
    "okay,",
    "here is",
    "here's",
)
LATIN_SHARE = 0.9  # share of Latin letters outside quotes in an English answer
TEXT_SHARE = 0.75  # share of letters and spaces among the characters
MOST_LETTERS = 40  # largest number of letters in a word
LONGEST_LOOP, MOST_REPEATS = 12, 4  # length of a repeated sequence of words; allowed repeats


def clean_response(text: str) -> str:
    """Replace typographic quotes, dashes and spaces by plain ones, and remove everything before the first letter."""
    plain = text.translate(PLAIN)
    start = next((index for index, character in enumerate(plain) if character.isalpha()), 0)
    return plain[start:]


def as_prompt(answer: str) -> str:
    """A cleaned answer as one paragraph."""
    return " ".join(clean_response(answer).split())


def problem_with(answer: str, prompt: str, *, has_ended: bool = True) -> str:
    """Why an answer cannot replace a prompt, as the end of a sentence about it; "" if it can.

    Args: has_ended: whether the model ended it itself, rather than being cut off.
    """
    cleaned = clean_response(answer)
    if not any(map(str.isalpha, cleaned)):
        return "is empty"
    if not has_ended:
        return "does not come to an end"
    if MARKUP.search(answer) or HEADING.search(cleaned):
        return "has markup, headings or a list in it"
    if cleaned.lower().startswith(CHAT):
        return "talks to you instead of describing the video"
    if _is_babble(cleaned):
        return "is not a readable English text"
    lost = next((quote for quote in quotes(prompt) if not _holds(cleaned, quote)), None)
    return "" if lost is None else f'does not keep the words "{lost}"'


def quotes(text: str) -> list[str]:
    """The texts in quotation marks, with plain marks."""
    return [" ".join(part.split()) for found in QUOTED.findall(text.translate(PLAIN)) for part in found if part.strip()]


def _holds(text: str, quote: str) -> bool:
    """Whether a text contains the words of a quote, one after another."""
    words, wanted = WORD.findall(text.translate(PLAIN)), WORD.findall(quote)
    return any(words[start : start + len(wanted)] == wanted for start in range(len(words) - len(wanted) + 1))


def _is_babble(text: str) -> bool:
    """Whether a text is unlike human writing: broken characters, other scripts, very long words."""
    if any(
        unicodedata.category(character) in ("Cc", "Cf", "Cn", "Co", "Cs") for character in text if character != "\n"
    ):
        return True
    plain = QUOTED.sub(" ", text.translate(PLAIN))
    letters = [character for character in plain if character.isalpha()]
    latin = sum(unicodedata.name(character, "").startswith("LATIN") for character in letters)
    readable = sum(character.isalpha() or character.isspace() for character in text)
    if latin < LATIN_SHARE * len(letters) or readable < TEXT_SHARE * len(text) or "\ufffd" in text:
        return True
    return any(len(word) > MOST_LETTERS for word in WORD.findall(plain)) or _has_loop(WORD.findall(text.lower()))


def _has_loop(words: Sequence[str]) -> bool:
    """Whether the same words follow each other too often."""
    spans = ((start, length) for start in range(len(words)) for length in range(1, LONGEST_LOOP + 1))
    times = MOST_REPEATS + 1
    return any(
        start + times * length <= len(words)
        and all(words[start + i] == words[start + i + length] for i in range(length * MOST_REPEATS))
        for start, length in spans
    )
