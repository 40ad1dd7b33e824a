"""Advice about prompts, by rules on their words. Nothing is changed or refused.

Source: docs/prompting.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...errors import LTX2Error, shown
from ...hub.find import ModelFiles
from ...text.files import find_encoder
from ..request import Request

QUOTE = re.compile(r"[\"“”«»„](?P<words>[^\"“”«»„]{2,})[\"“”«»]")
NEAR = 80  # characters around a quote in which its speaker is searched
SPEAKS = re.compile(
    r"\b(say|speak|whisper|shout|yell|scream|ask|repl|answer|announce|murmur|mutter|sing|sang|call|cry|cries|exclaim|laugh|"
    r"explain|add|tell|told|read aloud|narrat|voice|chant|recite|greet|order|beg|joke|said|spoke|scream|declare)",
    re.IGNORECASE,
)
WRITTEN = re.compile(
    r"\b(reads?|reading|sign|written|writing|label|title|titled|caption|text|word|words|letters|logo|poster|banner|neon|"
    r"screen|engraved|printed|painted|called|named)\b",
    re.IGNORECASE,
)
NEGATION = re.compile(
    r"\b(?:no|not|without|never|nobody|nothing|none|avoid|\w+n['’]t)\b(?:\s+(?:an?|the|any)\b)?(?:\s+\w+)?",
    re.IGNORECASE,
)
SOUND = re.compile(
    r"\b(sound|nois[ey]|hear|audio|music|melod|song|sing|sang|tune|voice|say|said|speak|spoke|talk|whisper|shout|yell|laugh|"
    r"giggl|cry|cries|crying|sob|sigh|breath|cough|hum|whistl|rumbl|roar|crunch|chirp|tweet|bark|meow|purr|growl|howl|"
    r"neigh|moo|buzz|thud|thump|bang|boom|crash|click|clack|clatter|clink|clang|beep|bell|ring|chime|toll|tick|drip|"
    r"splash|gurgl|trickl|babbl|rustl|creak|squeak|screech|squeal|hiss|sizzl|crackl|pop|fizz|drum|piano|guitar|violin|"
    r"flute|trumpet|choir|orchestra|applau|clap|cheer|knock|slam|snap|siren|horn|honk|engine|motor|echo|silen|quiet|"
    r"loud|footstep|patter|rattl|swish|whoosh|murmur|chatter|ambien|thunder|explo|gunshot|wail|scream|snor)",
    re.IGNORECASE,
)
LEAST_BYTES_PER_TOKEN = 2  # hardly any text has fewer characters per token; a shorter prompt is not tokenized
USUAL_BYTES_PER_TOKEN = 4


def prompt_advice(request: Request, files: ModelFiles) -> tuple[str, ...]:
    """Advice about the prompts of a request, a sentence each; none without a prompt, or if it will be rewritten."""
    given = {name: text.strip() for text, name in request.texts.items() if text.strip()}
    if request.enhances:
        return ()
    advice: list[str] = []
    for name, prompt in given.items():
        advice += _length(name, prompt, request.text_rows, files)
        if is_english(prompt):
            advice += [*_speech(name, prompt), *_negations(name, prompt, has_negative=request.negative is not None)]
            if request.audio == "generate" and not SOUND.search(prompt):
                advice.append(f"{name} names no sound, which leaves the audio to the model")
    return tuple(advice)


def is_english(prompt: str) -> bool:
    """Whether the rules, which use English words, apply: nearly all letters are of the Latin alphabet."""
    letters = [letter for letter in prompt if letter.isalpha()]
    return sum(letter.isascii() for letter in letters) > 0.95 * len(letters)


def _length(name: str, prompt: str, rows: int, files: ModelFiles) -> Iterator[str]:
    """How many tokens are cut off. They are counted if there may be too many, or estimated without the tokenizer."""
    size = len(prompt.encode())
    if size < LEAST_BYTES_PER_TOKEN * rows:
        return
    if "text_encoder" in files.assumed:
        if (about := size // USUAL_BYTES_PER_TOKEN) > rows:
            yield f"{name} has about {about:,} tokens, and the model reads {rows:,}: the rest is cut off"
        return
    from ...text.tokens import PromptTokenizer  # this import takes longer than all others here

    try:
        tokenizer = PromptTokenizer.load(find_encoder(files.require_file("text_encoder")))
    except LTX2Error:  # the render reports the error
        return
    if dropped := tokenizer.count_dropped(prompt, rows):
        total = f"{name} has {rows + dropped:,} tokens"
        yield f"{total}, and the model reads {rows:,}: the last {dropped:,} are cut off"


def _speech(name: str, prompt: str) -> Iterator[str]:
    """Quotes without a nearby word for speaking or writing."""
    for quote in QUOTE.finditer(prompt):
        before, after = prompt[max(quote.start() - NEAR, 0) : quote.start()], prompt[quote.end() :][:NEAR]
        if not any(rule.search(side) for rule in (SPEAKS, WRITTEN) for side in (before, after)):
            yield f'{name} does not say who speaks "{shown(quote["words"], 30)}", or how'


def _negations(name: str, prompt: str, *, has_negative: bool) -> Iterator[str]:
    """What the prompt says is missing, outside of quotes."""
    found = [" ".join(one.group().split()) for one in NEGATION.finditer(QUOTE.sub(" ", prompt))]
    if found:
        named = ", ".join(f'"{words}"' for words in dict.fromkeys(found))
        why = "models tend to show what is named; say what is there instead" + ", or use --negative" * has_negative
        yield f"{name} says what is not there ({shown(named)}): {why}"
