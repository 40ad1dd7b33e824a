"""Displayed seconds: from renders and the doctor, never used for choices; and measured peaks of memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ltx2_core.pipeline.events import Event, Message, PhaseDone, StepDone, Watch
from ltx2_core.pipeline.events import Phase as Kind
from ltx2_core.pipeline.render import meter as meters
from ltx2_core.pipeline.render.meter import CardPeak, Meter, ProcessPeak, compared, measured
from ltx2_core.pipeline.resolve import speeds
from ltx2_core.pipeline.resolve.machine import Device, measured_on
from ltx2_core.pipeline.resolve.plan import GIB, Plan, Row, Streaming
from ltx2_core.pipeline.resolve.resolve import plan_render, resolve
from ltx2_core.pipeline.resolve.settings import COMMAND_LINE
from ltx2_core.pipeline.resolve.speeds import (
    MEASURED,
    SCALED,
    Speed,
    Speeds,
    Work,
    keep_speeds,
    read_speeds,
    speeds_file,
    speeds_of,
)
from ltx2_core.pipeline.resolve.tuning import ShapeClass, Switch, Tuning, write_tuning
from ltx2_core.pipeline.resolved import Resolved

CPU = Device("cpu")
OFF = Switch(off_s=1.0, on_s=2.0, runs=5, chosen=False)
ON = Switch(off_s=2.0, on_s=1.0, runs=5, chosen=True)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def settled(**flags: Any) -> Resolved:
    given = {"model": "toy", "output": "none.mp4", "device": "cpu", "seed": 1}
    return resolve("t2v", "a bell rings", [(COMMAND_LINE, given | flags)])


def plan_of(resolved: Resolved) -> Plan:
    assert resolved.plan is not None
    return resolved.plan


def keep(resolved: Resolved, seconds: Mapping[Kind, float]) -> None:
    plan = plan_of(resolved)
    assert plan.work is not None
    assert keep_speeds(speeds_of(plan.work, plan.flops, seconds)) == ""


def seconds_of(resolved: Resolved, kind: Kind) -> list[tuple[float | None, str]]:
    return [(row.seconds, row.source) for row in plan_of(resolved).rows if row.kind == kind]


def test_nothing_is_told_where_nothing_was_measured() -> None:
    assert {row.seconds for row in plan_of(settled()).rows} == {None}


def test_the_same_render_is_planned_with_the_seconds_that_it_took() -> None:
    keep(settled(), {"denoise": 12.0, "sound": 3.0})
    again = settled()
    assert seconds_of(again, "denoise") == [(pytest.approx(12.0), MEASURED)]
    told = seconds_of(again, "sound")
    assert sum(seconds or 0 for seconds, _ in told) == pytest.approx(3.0)
    assert seconds_of(again, "video") == [(None, "")]


def test_another_size_takes_the_closest_that_was_measured_and_says_so_where_it_is_far() -> None:
    keep(settled(), {"denoise": 12.0})
    near, far = settled(steps=19), settled(frames=9, res="64x64")
    (seconds, source), *_ = seconds_of(near, "denoise")
    assert (source, seconds) == (MEASURED, pytest.approx(12.0 * 19 / 20, rel=0.02))
    assert seconds_of(far, "denoise")[0][1] == SCALED
    keep(far, {"denoise": 5.0})
    assert seconds_of(settled(frames=9, res="64x64"), "denoise") == [(pytest.approx(5.0), MEASURED)]
    assert seconds_of(settled(), "denoise") == [(pytest.approx(12.0), MEASURED)]


@pytest.mark.parametrize("flags", [{"precision": "bf16"}, {"memory": "lean"}])
def test_what_was_measured_in_another_mode_does_not_hold(flags: dict[str, str]) -> None:
    keep(settled(), {"denoise": 12.0})
    assert seconds_of(settled(**flags), "denoise") == [(None, "")]


def test_what_was_measured_elsewhere_does_not_hold() -> None:
    plan = plan_of(settled())
    assert plan.work is not None
    for change in ({"name": "another CPU"}, {"torch": "2.9.0"}, {"device": "cuda"}):
        other = plan.work.measured_on.model_copy(update=change)
        keep_speeds(speeds_of(plan.work.model_copy(update={"measured_on": other}), plan.flops, {"denoise": 1.0}))
    assert len(read_speeds().speeds) == 3
    assert seconds_of(settled(), "denoise") == [(None, "")]


def test_nothing_that_is_rendered_depends_on_what_was_measured() -> None:
    before = settled()
    keep(before, dict.fromkeys(speeds.KINDS, 1e5))
    after = settled()
    assert after.task == before.task
    assert after.notes == before.notes
    rows = [[replace(row, seconds=None, source="") for row in plan_of(one).rows] for one in (before, after)]
    assert rows[0] == rows[1]


def test_a_card_that_is_only_planned_for_was_not_measured() -> None:
    keep(settled(), {"denoise": 12.0})
    planning = plan_render("t2v", "x", [(COMMAND_LINE, {"model": "toy"})], vram_gb=8)
    assert {row.seconds for row in planning.plan.rows} == {None}


def test_the_newest_of_each_size_is_kept_and_no_more_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(measured_on=measured_on(CPU), model="a model")

    def speed(flops: float, seconds: float) -> Speed:
        return Speed(work=work, kind="denoise", flops=flops, seconds=seconds)

    found = Speeds().with_new([speed(1e12, 1)]).with_new([speed(1.1e12, 2), speed(1e13, 3)])
    assert [one.seconds for one in found.speeds] == [2, 3]
    assert [getattr(found.nearest(work, "denoise", flops), "seconds", None) for flops in (1, 3e12, 5e12)] == [2, 2, 3]
    assert found.nearest(work, "video", 1) is None
    monkeypatch.setattr(speeds, "MOST_SPEEDS", 2)
    assert [one.seconds for one in found.with_new([speed(1e15, 4)]).speeds] == [3, 4]


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 2}', "[" * 50_000, '{"speeds": [{"kind": "denoise"}]}'])
def test_a_file_that_cannot_be_used_is_as_good_as_none_and_is_replaced(content: str, home: Path) -> None:
    home.mkdir()
    speeds_file().write_text(content)
    found = settled()
    assert seconds_of(found, "denoise") == [(None, "")]
    keep(found, {"denoise": 2.0})
    assert seconds_of(settled(), "denoise") == [(pytest.approx(2.0), MEASURED)]


def test_a_place_that_cannot_be_written_is_told_and_nothing_more(home: Path) -> None:
    home.write_text("a file")
    plan = plan_of(settled())
    assert plan.work is not None
    assert keep_speeds(speeds_of(plan.work, plan.flops, {"denoise": 1.0}))


# Measurements of the doctor


def tuned(width: int | None, tokens: int = 10**6) -> Tuning:
    shape = ShapeClass(name="all", tokens=tokens, batches_passes=OFF, keeps_text=ON, flops_per_s=1e9)
    return Tuning(measured_on=measured_on(CPU), precision=None, shapes=(shape,), width=width)


@pytest.mark.parametrize(
    ("width", "tokens", "source"), [(192, 10**6, MEASURED), (192, 1, SCALED), (256, 10**6, ""), (None, 10**6, "")]
)
def test_the_doctors_step_tells_seconds_of_models_of_its_width(width: int | None, tokens: int, source: str) -> None:
    write_tuning(tuned(width, tokens))
    found = settled()
    flops = plan_of(found).flops["denoise"]
    assert seconds_of(found, "denoise") == [(pytest.approx(flops / 1e9) if source else None, source)]
    keep(found, {"denoise": 3.0})  # the measurement of a finished render takes precedence
    assert seconds_of(settled(), "denoise") == [(pytest.approx(3.0), MEASURED)]


# Peaks


def row(kind: Kind, vram: int | None, ram: int = GIB) -> Row:
    return Row(kind=kind, name=kind, vram=vram, workspace=0, ram=ram, disk=0, flops=1.0)


def test_blocks_could_have_stayed_as_long_as_there_was_room() -> None:
    streaming = Streaming(limit=100, resident=1, blocks=(10, 10, 20, 30))
    assert [streaming.could_stay(peak) for peak in (101, 91, 90, 71, 70, 40, 0)] == [0, 0, 1, 1, 2, 3, 3]


@pytest.mark.parametrize(
    ("peak", "line"),
    [
        (7 * GIB, "2 more of the 3 blocks that were streamed could have stayed on the card"),
        (6 * GIB, "the whole transformer could have stayed on the card"),
        (9 * GIB, "no other block of the transformer could have stayed on the card"),
    ],
)
def test_a_measured_peak_stands_beside_the_planned_one(peak: int, line: str) -> None:
    streaming = Streaming(limit=9 * GIB, resident=1, blocks=(GIB,) * 4)
    plan = Plan(rows=(row("text", GIB), row("denoise", 8 * GIB)), vram=10 * GIB, ram=None, streaming=streaming)
    first, second = compared(plan, {"text": GIB, "denoise": peak})
    assert first == f"peak: {peak / GIB:.1f} GB of the card's memory in denoise; planned: 8.0 GB in denoise"
    assert second == line


def test_on_the_cpu_only_peaks_are_compared() -> None:
    plan = Plan(rows=(row("text", None), row("video", None, 3 * GIB)), vram=None, ram=None)
    assert list(compared(plan, {"text": 2 * GIB, "video": GIB})) == [
        "peak: 2.0 GB of memory in text; planned: 3.0 GB in video"
    ]
    assert list(compared(plan, {"text": 0})) == []


class Peaks(ProcessPeak):
    """Peaks of earlier measurements."""

    def __init__(self, *peaks: int | None) -> None:
        self.left = list(peaks)

    def take(self) -> int | None:
        return self.left.pop(0)


def metered(*events: Event, peaks: tuple[int | None, ...]) -> tuple[Meter, list[Event]]:
    told: list[Event] = []
    meter = Meter(Watch(on_event=told.append), Peaks(*peaks))
    for event in events:
        meter.watch.on_event(event)
    return meter, told


def done(kind: Kind, seconds: float) -> PhaseDone:
    return PhaseDone(phase=kind, seconds=seconds)


def test_a_phase_ends_with_its_peak_and_phases_of_a_kind_are_added_up() -> None:
    meter, told = metered(done("denoise", 2.0), done("denoise", 3.0), done("video", 1.0), peaks=(5, 9, None))
    assert [event.peak_bytes for event in told if isinstance(event, PhaseDone)] == [5, 9, None]
    assert meter.seconds == {"denoise": 5.0, "video": 1.0}
    assert meter.peaks == {"denoise": 9, "video": 0}


@pytest.mark.parametrize(("prompts", "kinds"), [(0, {"denoise"}), (1, {"denoise"}), (2, {"denoise", "text"})])
def test_a_prompt_that_was_known_says_nothing_of_how_long_it_takes_to_read_one(prompts: int, kinds: set[str]) -> None:
    read = StepDone(phase="text", done=prompts, total=2)
    meter, _ = metered(read, done("text", 1.0), done("denoise", 2.0), peaks=(1, 2))
    found = settled()
    assert found.request.negative is not None
    meter.conclude(found)
    assert {one.kind for one in read_speeds().speeds} == kinds


def test_a_render_goes_on_where_its_speed_cannot_be_kept(home: Path) -> None:
    found = settled()
    home.write_text("a file")
    meter, told = metered(done("denoise", 2.0), peaks=(GIB,))
    meter.conclude(found)
    messages = [event.message for event in told if isinstance(event, Message)]
    assert messages[-1].startswith("how long this took is not kept: ")


def test_the_memory_of_this_process_is_looked_at_between_phases() -> None:
    if meters.held_bytes() is None:
        pytest.skip("this system does not tell the memory of a process")
    told: list[Event] = []
    with measured(Watch(on_event=told.append), torch.device("cpu")) as meter:
        meter.watch.on_event(done("text", 1.0))
        held = torch.ones(2**25)  # 128 MB
        meter.peak.look_once() if isinstance(meter.peak, ProcessPeak) else None
        del held
        meter.watch.on_event(done("denoise", 1.0))
        meter.watch.on_event(done("video", 1.0))
    first, second, third = (event.peak_bytes or 0 for event in told if isinstance(event, PhaseDone))
    assert second - max(first, third) > 100e6


def test_a_system_that_tells_nothing_ends_no_render(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(meters, "STATUS", tmp_path / "none")
    with measured(Watch(), torch.device("cpu")) as meter:
        assert meter.peak.take() is None


def test_the_peak_of_a_card_is_counted_from_phase_to_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "init", lambda: asked.append("init"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: asked.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: asked.append("peak") or 7)
    assert CardPeak(torch.device("cuda:0")).take() == 7
    assert asked == ["init", "reset", "peak", "reset"]  # otherwise torch asks: did you call init?


def test_a_clock_knows_the_kind_of_model() -> None:
    found = plan_of(settled())
    assert found.work is not None
    assert found.work.model == "2.0: 6 blocks of 192, plain, conv decoder, fp32, resident"
