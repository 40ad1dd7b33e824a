"""Sentences that describe the scenes of the world, in many wordings from a closed list of words.

In a template `{colour}` stands for one of the wordings of that attribute, and `[a|b|]` for one of the alternatives.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from scripts.toy.world import Kind, Scene

COLOUR = {
    "red": ("red", "red", "crimson"),
    "green": ("green", "green", "lime"),
    "blue": ("blue", "blue", "cobalt"),
    "yellow": ("yellow", "yellow", "lemon"),
    "purple": ("purple", "purple", "violet"),
    "white": ("white", "white", "snow-white"),
}
SIDE = {"left": ("left",), "right": ("right",)}
TIME_OF_DAY = {
    "morning": ("in the morning", "at dawn", "at sunrise", "early in the morning"),
    "noon": ("at noon", "at midday", "in bright daylight", "under a clear blue sky"),
    "evening": ("in the evening", "at sunset", "at dusk", "in the warm evening light"),
    "night": ("at night", "by moonlight", "in the dark of the night", "under the moon"),
}
STRENGTH = {"calm": ("calm", "gentle", "quiet"), "stormy": ("stormy", "rough", "wild")}
WORDINGS: dict[Kind, dict[str, dict[str, tuple[str, ...]]]] = {
    Kind.FLIGHT: {"time_of_day": TIME_OF_DAY, "side": SIDE, "strength": STRENGTH},
    Kind.BALL: {
        "colour": COLOUR,
        "size": {"small": ("small", "little", "tiny"), "big": ("big", "large", "huge")},
        "tempo": {
            "slow": ("high", "slowly", "high and slowly", "in high bounces", "in slow high bounces"),
            "fast": ("low", "quickly", "low and fast", "in low bounces", "in quick low bounces"),
        },
        "side": SIDE,
    },
    Kind.DOOR: {"colour": COLOUR, "side": SIDE},
    Kind.LAMP: {
        "colour": COLOUR,
        "tempo": {
            "slow": ("slowly", "at a slow pace", "in a slow rhythm"),
            "fast": ("fast", "quickly", "rapidly", "in a quick rhythm"),
        },
        "pitch": {"low": ("low", "deep", "low-pitched"), "high": ("high", "bright", "high-pitched")},
        "side": SIDE,
    },
    Kind.WAVES: {"strength": STRENGTH, "time_of_day": TIME_OF_DAY, "side": SIDE},
}
TEMPLATES: dict[Kind, tuple[str, ...]] = {
    Kind.FLIGHT: (
        "drone over {strength} misty mountains {time_of_day}, birds chirping on the {side}",
        "[a drone flies|flying] over {strength} foggy mountains {time_of_day}[ while|,] a bird chirps on the {side}",
        "[on|to] the {side} a bird [chirps|sings], a drone [glides|flies] over {strength} mountains {time_of_day}",
        "{time_of_day}, a flight over {strength} mountains[ in the mist|], birds [chirp|sing] on the {side}",
        "[aerial|drone] [view|shot] of {strength} misty mountains {time_of_day}, [birds chirping|a bird] on the {side}",
        "a drone glides over {strength} foggy mountains {time_of_day}, on the {side} side [birds sing|a bird chirps]",
    ),
    Kind.BALL: (
        "a {size} {colour} ball bounces {tempo} on the {side}",
        "on the {side} a {size} {colour} ball [is bouncing|bounces] {tempo}[ with a thud at each bounce|]",
        "a {colour} ball, {size}, [bouncing|jumping] {tempo} on the {side} side[, a thud at every contact|]",
        "on the {side} side, a {size} ball in {colour} [jumps|bounces] {tempo} and thuds on the floor",
        "{size} {colour} ball on the {side}, it bounces {tempo}[, thud after thud| and hits the floor with a thud]",
        "the ball on the {side} side is {size} and {colour}, it is jumping {tempo}[ and thuds on the floor|]",
    ),
    Kind.DOOR: (
        "a {colour} door on the {side} slams shut",
        "on the {side} a {colour} door [swings and slams|slams shut with a bang|falls shut]",
        "[a|the] {colour} door slams [shut|loudly] on the {side} side",
        "{colour} door on the {side}, [it slams shut|it closes with a bang|slamming shut]",
        "on the {side} side of the room[ a|, the] {colour} door [closes with a slam|slams]",
        "a door in {colour} swings and falls shut on the {side} side[ with a bang|]",
    ),
    Kind.LAMP: (
        "a {colour} lamp blinks {tempo} on the {side} with a {pitch} beep",
        "on the {side} a {colour} [lamp|light] [flashes|blinks] {tempo}[, with| and makes] a {pitch} beep",
        "a {pitch} beep each time the {colour} lamp on the {side} [blinks|lights up] {tempo}",
        "{colour} lamp on the {side} side, [blinking|flashing] {tempo}, {pitch} [beeps|beeping]",
        "[a|the] lamp in {colour} on the {side} [goes on and off|is blinking] {tempo}, each time a {pitch} beep",
        "the light on the {side} side is {colour} and flashes {tempo}, it makes {pitch} beeps",
    ),
    Kind.WAVES: (
        "a {strength} sea {time_of_day}, waves on the {side}",
        "{strength} waves [on|at] the {side} of the [sea|ocean] {time_of_day}[, the sound of water|]",
        "{time_of_day}, the [sea|ocean] is {strength}[ and the|,] waves roll on the {side} side",
        "[on|to] the {side} waves [rolling|roll] on a {strength} [ocean|sea] {time_of_day}[, water rushing|]",
        "view of the {strength} [ocean|sea] {time_of_day}, [rushing|rolling] waves on the {side}",
        "the sound of {strength} water on the {side}, the waves [on|of] the ocean {time_of_day}",
    ),
}
"""The last template of each kind is for the evaluation alone."""
BARE: dict[Kind, tuple[str, ...]] = {
    Kind.FLIGHT: (
        "drone over misty mountains, birds chirping",
        "[a drone flies|drone flight] over misty mountains[, birds sing|]",
    ),
    Kind.BALL: ("a bouncing ball", "a {colour} ball bounces", "a ball bouncing on the floor with a thud"),
    Kind.DOOR: ("a door slams shut", "a {colour} door slams"),
    Kind.LAMP: ("a blinking lamp", "a {colour} lamp blinks", "a lamp blinks and beeps"),
    Kind.WAVES: ("waves on the sea", "[the|a] {strength} sea", "the ocean {time_of_day}"),
}
"""Sentences that leave attributes open."""
BARE_SHARE, SENTENCE_SHARE = 0.2, 0.25

_CHOICE, _SLOT = re.compile(r"\[([^]]*)\]"), re.compile(r"\{(\w+)\}")


def words_of(sentence: str) -> list[str]:
    """The words of a sentence in lower case, without punctuation."""
    return re.findall(r"[a-z-]+", sentence.lower())


def _all_words() -> list[str]:
    texts = [template for templates in (*TEMPLATES.values(), *BARE.values()) for template in templates]
    texts = [_SLOT.sub(" ", text) for text in texts]
    slots = [values for wordings in WORDINGS.values() for values in wordings.values()]
    texts += [wording for values in slots for wordings in values.values() for wording in wordings]
    return sorted({word for text in texts for word in words_of(text)})


WORDS = _all_words()


def prompt(scene: Scene, rng: np.random.Generator, held_out: bool = False, bare_share: float = BARE_SHARE) -> str:
    """A sentence about a scene.

    Args: held_out: it has a wording that training never sees, and names every attribute. bare_share: how many of the
    others leave attributes open.
    """

    def one_of(choices: Sequence[str]) -> str:
        return choices[rng.integers(len(choices))]

    *known, unknown = TEMPLATES[scene.kind]
    templates: Sequence[str] = known
    if held_out:
        templates = (unknown,)
    elif rng.random() < bare_share:
        templates = BARE[scene.kind]
    text = _CHOICE.sub(lambda match: one_of(match[1].split("|")), one_of(templates))
    text = _SLOT.sub(lambda match: one_of(WORDINGS[scene.kind][match[1]][getattr(scene, match[1])]), text)
    return f"{text[0].upper()}{text[1:]}." if rng.random() < SENTENCE_SHARE else text
