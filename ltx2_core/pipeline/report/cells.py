"""The facts of each result in a report: badges, recipe, the command that renders it again, and its place.

Source: docs/report.md.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ...errors import LTX2Error
from ...media.overview import Overview, Picture
from ...media.plots import frequencies
from ...media.seam import Seam
from ...paths import in_shell
from ..made import Made
from ..rerun.differences import leaves, recorded
from ..values import show_fps

MOST_LABELS = 3  # values in a label that distinguish neighbours, besides the seed
LABELLED_LENGTH = 24  # longest value in a label, in characters
FINGERPRINT_LENGTH = 12  # hexadecimal digits of a file's hash
APART = ("prompt", "seed", "version", "hardware", "machine", "file ")  # differences that do not appear in labels
NO_RECIPE, NO_PROMPT, NOT_RENDERED = "no recipe", "no prompt", "not rendered"  # shown instead of a prompt


@dataclass(frozen=True, slots=True)
class Badge:
    """A word about a result, and a sentence that explains it. is_warning: whether the result may be unusable."""

    word: str
    meaning: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One result of a page.

    Args: file: its name, in the folder of the page. state: of its job. seed: None if neither the job nor the file
    contains it. overview: None if there is no readable file. seam: of a loop. made: its recipe, if it has one.
    """

    file: str
    state: str = "done"
    seed: int | None = None
    overview: Overview | None = None
    seam: Seam | None = None
    made: Made | None = None
    problem: str = ""

    @property
    def heading(self) -> str:
        """The prompt, or why there is none."""
        if self.made is not None:
            return self.made.request.prompt or NO_PROMPT
        return NO_RECIPE if self.overview else NOT_RENDERED


def result_of(file: str, overview: Overview, seed: int | None = None) -> Result:
    """A result from the content of its file. seed: of the job, for a file without a recipe."""
    made = read_made(overview.info.comment)
    return Result(file=file, seed=made.request.seed if made else seed, overview=overview, made=made)


def unreadable(file: str, seed: int, error: LTX2Error) -> Result:
    """A result whose file is damaged. The reason does not contain the folder of the file."""
    return Result(file=file, state="unreadable", seed=seed, problem=error.why)


def read_made(comment: str | None) -> Made | None:
    """The recipe in a file; None if there is none that this version reads."""
    try:
        return Made.parse(comment or "")
    except (ValueError, RecursionError):
        return None


def badges(overview: Overview, seam: Seam | None = None) -> Iterator[Badge]:
    """The badges: findings of the self-check, loudness, agreement of audio and motion, and the seam of a loop."""
    if seam is not None:
        yield Badge(f"seam ×{seam.ratio:.2f}", seam.verdict, is_warning=not seam.is_smooth)
    for word, meaning in overview.problems.items():
        yield Badge(word, meaning, is_warning=True)
    if (level := overview.level) is not None and level.lufs is not None:
        peak = f"loudness by EBU R128; true peak {_signed(level.peak_dbtp, '.1f')} dBTP"
        yield Badge(f"{_signed(level.lufs, '.1f')} LUFS", peak)
    if (sync := overview.sync) is not None:
        if sync.lag_s is None or sync.frame_s is None or not sync.is_clear:
            yield Badge("sync unclear", sync.verdict)
        else:
            is_late = abs(sync.lag_s) > sync.frame_s
            yield Badge(f"sync {_signed(sync.lag_s * 1000, '+.0f')} ms", sync.verdict, is_warning=is_late)


@dataclass(frozen=True, slots=True)
class Recipes:
    """The recipes of several results, a column for each value that any of them contains.

    Args: columns: a name, its different values, and the index of the value of each result, -1 for none; None if all
    have the first.
    """

    columns: tuple[tuple[str, tuple[str, ...], tuple[int, ...] | None], ...]

    @classmethod
    def of(cls, results: Sequence[Result]) -> Recipes:
        """The table of some results."""
        told = [dict(recipe_values(result.made)) if result.made else {} for result in results]
        names = dict.fromkeys(name for values in told for name in values)
        return cls(tuple(_column(name, [values.get(name) for values in told]) for name in names))

    def labels(self, numbers: Sequence[int]) -> dict[int, list[str]]:
        """The values that distinguish some results, apart from prompt, seed, program and machine."""
        found: dict[int, list[str]] = {number: [] for number in numbers}
        for name, values, places in self.columns:
            if name.startswith(APART) or places is None or len({places[number] for number in numbers}) < 2:
                continue
            for number in numbers:
                if len(found[number]) < MOST_LABELS and places[number] >= 0:
                    found[number].append(f"{name} {_short(values[places[number]])}")
        return found

    def dump(self) -> list[dict[str, Any]]:
        """The table for the script of the page."""
        return [
            {"name": name, "values": values, **({"of": places} if places is not None else {})}
            for name, values, places in self.columns
        ]


def _column(name: str, values: Sequence[str | None]) -> tuple[str, tuple[str, ...], tuple[int, ...] | None]:
    different = tuple(dict.fromkeys(value for value in values if value is not None))
    places = tuple(-1 if value is None else different.index(value) for value in values)
    return name, different, places if any(places) else None


def recipe_values(made: Made) -> Iterator[tuple[str, str]]:
    """Every non-empty value of a recipe, by its name."""
    told = recorded(made)
    files = {role: f"{file.name} ({file.fingerprint[:FINGERPRINT_LENGTH]})" for role, file in made.model.files.items()}
    ordered = {"request": told.pop("request"), "model": told.pop("model"), "file": files, **told}
    for name, value in leaves("", ordered):
        if value not in (None, "", [], {}):
            yield name.replace("_", " "), _as_text(value)


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _short(text: str) -> str:
    return text if len(text) <= LABELLED_LENGTH else text[: LABELLED_LENGTH - 1] + "…"


def _signed(value: float, form: str) -> str:
    """A number with a typographic minus sign."""
    return format(value, form).replace("-", "−")


def highest(overview: Overview) -> str:
    """The frequency at the upper edge of the spectrogram."""
    assert overview.info.audio is not None
    return f"{frequencies(overview.info.audio.sample_rate_hz, 1)[0] / 1000:g} kHz"


def facts(overview: Overview) -> str:
    """Size, length and rate of a file, in words."""
    words = []
    if overview.size is not None and overview.info.video is not None:
        video = overview.info.video
        words += [f"{overview.size[0]} × {overview.size[1]}", f"{show_fps(video.fps)} fps", video.codec]
    if overview.info.audio is not None:
        words.append(f"{overview.info.audio.codec} {overview.info.audio.sample_rate_hz} Hz")
    return ", ".join([f"{overview.duration_s:.2f} s", *words])


def address(file: str) -> str:
    """A file in the folder of the page as a relative URL, for any name."""
    return "./" + quote(file, errors="surrogateescape")


def rerun_command(file: str, folder: str = "") -> str:
    """The command that renders a file again. folder: of its batch."""
    path = f"{folder}/{file}" if folder else file
    return f"ltx2 rerun {in_shell(path)}"


def picked_line(file: str) -> str:
    """A file as a line of picks.txt, written so that it is not a comment."""
    return f"./{file}" if file.startswith("#") or file != file.strip() else file


def data_address(picture: Picture) -> str:
    """An image as a data URL."""
    return f"data:image/webp;base64,{b64encode(picture.content).decode()}"
