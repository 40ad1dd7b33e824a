"""Turn findings into the tables and the plot in `docs/`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from scripts.toy.detect import match
from scripts.toy.judge import MEASURES, SYNCED, Finding, by_clip, share, shuffled, sync, total
from scripts.toy.world import Kind

Rows = Mapping[str, Sequence[Finding]]

PAGE, PLOT = "toy.md", "toy-guidance.svg"
BEGIN, END = "<!-- evaluation: begin (written by scripts/toy/evaluate.py) -->", "<!-- evaluation: end -->"
AXES, SCALES = ("sm", "st"), (1, 2, 3, 5)
COLUMNS = ("rendered", "reconstructed", "t2v", "t2v known", "a2v", "v2a", "distilled")
GOALS = {  # in percent, in the order of the table
    "scene": "98",
    "colour seen": "95",
    "tempo seen": "85",
    "size seen": "",
    "side seen": "90",
    "time of day seen": "",
    "strength seen": "",
    "pitch heard": "95",
    "size heard": "",
    "side heard": "90",
    "strength heard": "",
}
SYNC_GOAL = "90, given 85"


def write_report(findings: Sequence[Finding], about: str, folder: Path) -> None:
    """Write the tables between the two marks of the page, or at its end, and the plot into the same folder."""
    rows = by_row(findings)
    parts = [about, main_table(rows), kind_table(rows), reconstruction_table(rows["reconstructed"])]
    parts += [f"![Guidance]({PLOT})", guidance_table(rows)]
    text = "\n\n".join([BEGIN, *parts, END])
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / PAGE
    old = page.read_text("utf-8") if page.is_file() else ""
    before, _, rest = old.partition(BEGIN)
    page.write_text(f"{before}{text}{rest.partition(END)[2] or chr(10)}", "utf-8")
    (folder / PLOT).write_text(guidance_plot(rows), "utf-8")


def by_row(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    rows: dict[str, list[Finding]] = {}
    for finding in findings:
        rows.setdefault(finding.row, []).append(finding)
    return rows


def main_table(rows: Rows) -> str:
    """The share of the clips, or of the events, that is right in each column."""
    columns = [name for name in COLUMNS if name in rows]

    def line(name: str, goal: str, value: Callable[[Sequence[Finding]], float | None]) -> list[str]:
        return [name, goal, *(_percent(value(rows[column])) for column in columns)]

    def detected(find: Callable[[Finding], Sequence[float]], part: str) -> Callable[[Sequence[Finding]], float | None]:
        def value(findings: Sequence[Finding]) -> float | None:
            is_true = findings[0].given == "both"
            return getattr(total(match(f.times_s, find(f)) for f in findings), part) if is_true else None

        return value

    def synced(kinds: Sequence[Kind], part: str) -> Callable[[Sequence[Finding]], float | None]:
        return lambda findings: getattr(sync(findings, kinds), part)

    lines = [line(name, goal, lambda findings, name=name: share(findings, name)) for name, goal in GOALS.items()]
    for part in ("recall", "precision"):
        lines.append(line(f"events seen, {part}", "", detected(lambda f: f.seen_s, part)))
        lines.append(line(f"events heard, {part}", "", detected(lambda f: f.heard.onsets_s, part)))
    for name, kinds in (("sync", SYNCED), ("sync of ball and lamp", (Kind.BALL, Kind.LAMP))):
        for part in ("recall", "precision"):
            lines.append(line(f"{name}, {part}", SYNC_GOAL, synced(kinds, part)))
    lines.append(line("sync with the sounds shuffled, recall", "", lambda findings: sync(shuffled(findings)).recall))
    return _markdown(["right, in %", "goal", *columns], lines)


def kind_table(rows: Rows) -> str:
    """The sync of each kind of scene."""
    columns = [name for name in COLUMNS if name in rows]

    def cell(findings: Sequence[Finding], kind: Kind) -> str:
        score = sync(findings, (kind,))
        return f"{_percent(score.recall)} / {_percent(score.precision)}"

    lines = [[kind.value, *(cell(rows[column], kind) for column in columns)] for kind in SYNCED]
    return _markdown(["sync, recall / precision in %", *columns], lines)


def reconstruction_table(findings: Sequence[Finding]) -> str:
    """How well the VAEs and the vocoder reconstruct clips, by kind of scene."""

    def line(name: str, kinds: Sequence[Kind]) -> list[str]:
        numbers = [finding.numbers for finding in findings if finding.scene.kind in kinds]
        pitch = [one["pitch_error"] for one in numbers if "pitch_error" in one]
        onsets, near, false = (sum(one[key] for one in numbers) for key in ("onsets", "onsets_near", "onsets_false"))
        means = [np.mean([one[key] for one in numbers]) for key in ("psnr_db", "object_error", "mel_l1")]
        return [
            name,
            *(f"{mean:.{digits}f}" for mean, digits in zip(means, (1, 3, 3), strict=True)),
            f"{100 * np.mean(pitch):.2f} / {100 * max(pitch):.2f}" if pitch else "",
            *((_percent(near / onsets), _percent(false / onsets)) if onsets else ("", "")),
        ]

    head = ["reconstruction", "PSNR in dB", "error in the object, of a range of 2", "log-mel L1"]
    head += ["pitch off in %, mean / worst", "onsets within 20 ms, %", "false onsets, %"]
    return _markdown(head, [*(line(kind.value, (kind,)) for kind in Kind), line("all", tuple(Kind))])


def guidance_table(rows: Rows) -> str:
    """The change from each scale compared with a scale of 1, by clip, with the same seeds."""
    head, lines = ["scale"], []
    for measure in MEASURES:
        head += [f"{measure} in %", "more than at 1, ± 2 standard errors"]
    for axis in AXES:
        for scale in SCALES:
            cells = [f"{axis} {scale}"]
            for measure in MEASURES:
                values, before = (by_clip(_at(rows, axis, one), measure) for one in (scale, 1))
                change = [values[clip] - before[clip] for clip in values]
                cells.append(_percent(_mean_and_error([*values.values()])[0]))
                mean, error = _mean_and_error(change)
                cells.append("" if scale == 1 else f"{100 * mean:+.1f} ± {200 * error:.1f}")
            lines.append(cells)
    return _markdown(head, lines)


def _at(rows: Rows, axis: str, scale: int) -> Sequence[Finding]:
    return rows["plain" if scale == 1 else f"{axis} {scale}"]


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines))


WIDTH, HEIGHT, GAP, EDGE = 300, 200, 90, 50  # sizes: a panel, the gap between panels, the margin around them
COLOURS = {"sm": "#c8553d", "st": "#2f6690"}


def guidance_plot(rows: Rows) -> str:
    """Each measure as a function of each scale, with 95 % confidence intervals, as SVG."""
    marks = []
    for number, measure in enumerate(MEASURES):
        left = EDGE + number * (WIDTH + GAP)
        curves = {axis: [by_clip(_at(rows, axis, scale), measure) for scale in SCALES] for axis in AXES}
        marks += _panel(measure, left, curves)
    width, height = 2 * EDGE + len(MEASURES) * (WIDTH + GAP) - GAP, HEIGHT + 2 * EDGE
    style = "font-family: sans-serif; font-size: 12px; background: white"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" style="{style}">'
    return "\n".join([head, *marks, "</svg>\n"])


def _panel(title: str, left: float, curves: Mapping[str, Sequence[Mapping[int, float]]]) -> list[str]:
    """A grid with a curve for each axis."""

    def x_of(scale: float) -> float:
        return left + WIDTH * (scale - SCALES[0]) / (SCALES[-1] - SCALES[0])

    def y_of(value: float) -> float:
        return EDGE + HEIGHT * (1 - value)

    marks = [f'<text x="{left}" y="{EDGE - 20}" font-weight="bold">{title} in %</text>']
    for value in (0, 0.25, 0.5, 0.75, 1):
        y = y_of(value)
        marks.append(f'<path d="M{left} {y}h{WIDTH}" stroke="#ddd"/>')
        marks.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{100 * value:.0f}</text>')
    marks += [f'<text x="{x_of(s)}" y="{EDGE + HEIGHT + 18}" text-anchor="middle">{s}</text>' for s in SCALES]
    marks.append(f'<text x="{left + WIDTH / 2}" y="{EDGE + HEIGHT + 36}" text-anchor="middle">scale</text>')
    for order, (axis, scores) in enumerate(curves.items()):
        colour = COLOURS[axis]
        points = []
        for scale, values in zip(SCALES, scores, strict=True):
            mean, error = _mean_and_error([*values.values()])
            x, y, reach = x_of(scale) + 3 * order, y_of(mean), 1.96 * error * HEIGHT
            points.append(f"{x:.1f},{y:.1f}")
            marks.append(f'<path d="M{x:.1f} {y - reach:.1f}v{2 * reach:.1f}" stroke="{colour}" stroke-width="2"/>')
            marks.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')
        marks.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}"/>')
        marks.append(f'<text x="{left + WIDTH - 60 + 30 * order}" y="{EDGE - 20}" fill="{colour}">{axis}</text>')
    return marks
