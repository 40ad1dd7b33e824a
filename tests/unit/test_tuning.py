"""Measurements on a machine: their use in later renders, and measurements that are ignored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.exc import TorchRuntimeError
from torch.utils.flop_counter import FlopCounterMode

from ltx2_core.cards import Card
from ltx2_core.errors import RequestError, StorageError
from ltx2_core.models.transformer import Transformer
from ltx2_core.pipeline.doctor import tune
from ltx2_core.pipeline.doctor.tune import Plan, Shape, choose_precision, choose_switch, timed
from ltx2_core.pipeline.resolve import machine
from ltx2_core.pipeline.resolve.machine import Device, measured_on, products_of
from ltx2_core.pipeline.resolve.resolve import resolve
from ltx2_core.pipeline.resolve.settings import COMMAND_LINE
from ltx2_core.pipeline.resolve.tuning import (
    MOST_BYTES,
    PrecisionChoice,
    ShapeClass,
    Switch,
    Tuning,
    read_tuning,
    tuning_file,
    write_tuning,
)
from ltx2_core.pipeline.resolved import Resolved
from tests.commands import ltx2

CPU = Device("cpu")
ON, OFF = (Switch(off_s=2.0, on_s=1.0, runs=5, chosen=chosen) for chosen in (True, False))
BF16 = PrecisionChoice(fp32_s=2.0, bf16_s=1.0, runs=5, chosen="bf16")
TINY = Plan(heads=1, text_rows=8, shapes=(Shape(name="tiny", width=64, height=64, frames=9),))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a machine without a compiler, because compiling would take a minute per shape."""
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tune, "lacking_compiler", lambda device: "there is none")
    return tmp_path / "home"


def with_compiler(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
    """A machine whose compiler leaves blocks unchanged, or raises an error when the first one runs."""

    def run(*_: object) -> None:
        if error is not None:
            raise error

    def compile_blocks(model: Transformer) -> None:
        model.blocks[0].register_forward_pre_hook(run)

    monkeypatch.setattr(tune, "PLANS", {"cpu": TINY})
    monkeypatch.setattr(tune, "lacking_compiler", lambda device: "")
    monkeypatch.setattr(tune, "compile_blocks", compile_blocks)


def tuning(device: Device = CPU, precision: PrecisionChoice | None = BF16, **tokens: int) -> Tuning:
    """Measurements that choose everything that is not the default, up to some numbers of tokens."""
    shapes = tuple(
        ShapeClass(name=name, tokens=most, batches_passes=ON, keeps_text=OFF)
        for name, most in (tokens or {"all": 10_000}).items()
    )
    return Tuning(measured_on=measured_on(device), precision=precision, shapes=shapes)


def settled(tiny: Path, **flags: object) -> Resolved:
    given = {"model": str(tiny), "output": f"{tiny}/none.mp4", "res": "128x128", "frames": 9, "device": "cpu"}
    return resolve("t2v", "a bell rings", [(COMMAND_LINE, given | flags)])


def test_without_measurements_the_usual_values_hold(tiny: Path) -> None:
    found = settled(tiny)
    chosen = found.task.machine
    assert (chosen.precision, chosen.batches_passes, chosen.keeps_text) == ("fp32", False, True)
    assert not any("machine.json" in note for note in found.notes)


def test_what_was_measured_is_obeyed_and_told(tiny: Path) -> None:
    write_tuning(tuning())
    found = settled(tiny)
    chosen = found.task.machine
    assert (chosen.precision, chosen.batches_passes, chosen.keeps_text) == ("bf16", True, False)
    told = "machine.json: precision bf16, batches_passes True, keeps_text False, as measured on this machine"
    assert told in found.notes


def test_a_precision_that_is_asked_for_stays(tiny: Path) -> None:
    write_tuning(tuning())
    found = settled(tiny, precision="fp32")
    assert found.task.machine.precision == "fp32"
    assert "machine.json: batches_passes True, keeps_text False, as measured on this machine" in found.notes


def test_a_clip_takes_the_smallest_class_that_holds_it(tiny: Path) -> None:
    whole = tuning(small=32, large=100)  # 128x128 and 9 frames are 2 x 4 x 4 tokens
    assert [getattr(whole.shape_of(tokens), "name", None) for tokens in (1, 32, 33, 100, 101)] == [
        "small",
        "small",
        "large",
        "large",
        None,
    ]
    write_tuning(tuning(small=31))
    chosen = settled(tiny).task.machine
    assert (chosen.batches_passes, chosen.keeps_text) == (False, True)  # it is larger than everything that was measured
    write_tuning(tuning(small=32))
    assert settled(tiny).task.machine.batches_passes


@pytest.mark.parametrize("change", [{"name": "another CPU"}, {"torch": "2.9.0"}, {"device": "cuda"}])
def test_what_was_measured_elsewhere_is_passed_over_with_a_line(change: dict[str, str], tiny: Path) -> None:
    whole = tuning()
    write_tuning(whole.model_copy(update={"measured_on": whole.measured_on.model_copy(update=change)}))
    found = settled(tiny)
    assert found.task.machine.precision == "fp32"
    assert any(note.startswith("machine.json is not used: it was measured on ") for note in found.notes)


def test_another_driver_is_the_same_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (
        measured_on(Device("cuda:0", Card(name="a card", nbytes=1, driver=driver))) for driver in ("1", "2")
    )
    assert first.is_same(second)


WRONG: dict[str, Callable[[dict], object]] = {
    "a name that is not known": lambda values: values | {"colour": "red"},
    "another schema": lambda values: values | {"schema": 2},
    "seconds that are none": lambda values: values | {"precision": values["precision"] | {"fp32_s": -1}},
    "a precision that is none": lambda values: values | {"precision": values["precision"] | {"chosen": "int4"}},
    "no shapes": lambda values: values | {"shapes": []},
    "a list": lambda values: [values],
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_a_file_that_is_not_right_is_refused_by_name_with_what_to_do(change: Callable, tiny: Path) -> None:
    path = write_tuning(tuning())
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(RequestError, match=r"machine\.json cannot be used") as caught:
        settled(tiny)
    assert caught.value.hint == "ltx2 doctor --tune measures again and replaces the file"
    assert caught.value.why


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 50_000, b" " * (MOST_BYTES + 1), b""])
def test_what_cannot_be_read_is_refused_the_same_way(content: bytes, home: Path) -> None:
    home.mkdir()
    tuning_file().write_bytes(content)
    with pytest.raises(RequestError, match=r"machine\.json cannot be used") as caught:
        read_tuning()
    assert caught.value.hint == "ltx2 doctor --tune measures again and replaces the file"


def test_a_link_is_not_followed(home: Path, tmp_path: Path) -> None:
    path = write_tuning(tuning())
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(RequestError, match="it is a link"):
        read_tuning()


def test_the_doctor_shows_a_broken_file_and_ends_well(home: Path) -> None:
    home.mkdir()
    tuning_file().write_text("{")
    result = ltx2("doctor")
    assert result.exit_code == 0
    assert "To do: ltx2 doctor --tune measures again and replaces the file" in result.stdout


def test_nothing_is_measured_that_could_not_be_kept(home: Path) -> None:
    home.touch()  # a file in the place of the folder
    told: list[str] = []
    with pytest.raises(StorageError, match=r"machine\.json cannot be written"):
        tune.tune(tell=told.append)
    assert told == []


def test_the_doctor_says_whether_the_measurements_hold_here() -> None:
    write_tuning(tuning())
    assert "tuning       measured on " in ltx2("doctor").stdout
    other = tuning().measured_on.model_copy(update={"torch": "1.0"})
    write_tuning(tuning().model_copy(update={"measured_on": other}))
    assert "torch 1.0. To do: not used here" in ltx2("doctor").stdout


@pytest.mark.parametrize(
    ("off", "on", "usual", "chosen"),
    [
        ([2.0] * 3, [1.0] * 3, False, True),
        ([1.0] * 3, [0.95] * 3, False, False),  # not clearly faster
        ([1.0] * 3, [2.0] * 3, False, False),
        ([1.0] * 3, [1.05] * 3, True, True),
        ([1.0] * 3, [2.0] * 3, True, False),
        ([2.0] * 3, [], False, False),
        ([9.0] * 2, [1.0] * 2, False, False),  # too few runs
        ([1.0] * 2, [9.0] * 2, True, True),
        ([2.0, 2.0, 2.0], [1.0, 9.0, 1.0], False, True),  # the median
    ],
)
def test_what_is_usual_stays_unless_the_other_is_clearly_faster(
    off: list[float], on: list[float], usual: bool, chosen: bool
) -> None:
    assert choose_switch(off, on, usual=usual).chosen == chosen
    assert not choose_switch(off, on, usual=usual, is_possible=False).chosen


@pytest.mark.parametrize(
    ("bf16", "chosen"), [([1.0] * 3, "bf16"), ([1.9] * 3, "fp32"), ([5.0] * 3, "fp32"), ([1.0], "fp32"), ([], "fp32")]
)
def test_bfloat16_is_taken_where_it_is_clearly_faster(bf16: list[float], chosen: str) -> None:
    seconds = {"fp32": [2.0] * max(1, len(bf16))} | ({"bf16": bf16} if bf16 else {})
    assert choose_precision(seconds, "fp32").chosen == chosen


def test_choices_run_in_turns_and_end_when_they_have_taken_long(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    calls = {name: lambda name=name: ran.append(name) for name in "ab"}
    assert [len(runs) for runs in timed(calls, CPU).values()] == [tune.RUNS] * 2
    assert "".join(ran) == "ab" * tune.RUNS
    monkeypatch.setattr(tune, "MOST_S", -1.0)
    assert [len(runs) for runs in timed(calls, CPU).values()] == [1, 1]


def test_every_choice_of_a_device_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "PLANS", {"cpu": TINY})
    told: list[str] = []
    found = tune.tune(CPU, told.append)
    assert found.measured_on == measured_on(CPU)
    assert found.precision is not None
    (shape,) = found.shapes
    assert (shape.name, shape.tokens) == ("tiny", 8)
    assert shape.batches_passes.on_s is not None
    assert shape.flops_per_s is not None
    assert (found.width, found.link_bytes_per_s) == (tune.HEAD, None)
    assert len(told) == 2


def test_compiled_blocks_are_measured_where_there_is_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    with_compiler(monkeypatch)
    told: list[str] = []
    found = tune.tune(CPU, told.append)
    (shape,) = found.shapes
    assert shape.compiles is not None
    assert shape.compiles.on_s is not None
    assert told[-1] == "measuring on cpu: compiled blocks, tiny; the compiler may run for minutes"
    assert found.rows["compiled blocks, up to 8 tokens"] == str(shape.compiles)
    assert read_tuning() is None  # only the command writes measurements


def test_a_compiler_that_fails_leaves_the_rest_of_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    with_compiler(monkeypatch, TorchRuntimeError("no such instruction\nsecond line"))
    told: list[str] = []
    (shape,) = tune.tune(CPU, told.append).shapes
    assert (shape.compiles, shape.flops_per_s is None) == (None, False)
    assert told[-1].startswith("the blocks cannot be compiled: no such instruction")


def test_compiled_blocks_that_do_not_fit_are_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with_compiler(monkeypatch)
    monkeypatch.setattr(tune._Sample, "_peak", lambda self, call: None)
    (shape,) = tune.tune(CPU).shapes
    assert shape.compiles is not None
    assert (shape.compiles.on_s, shape.compiles.chosen) == (None, False)


@pytest.mark.parametrize(
    ("flags", "compiles"),
    [({}, True), ({"compile": False}, False), ({"ranks": 2}, False), ({"attention": "map.mp4"}, False)],
)
def test_blocks_are_compiled_as_measured_where_the_render_allows_it(
    flags: dict[str, Any], compiles: bool, tiny: Path
) -> None:
    shape = ShapeClass(name="all", tokens=10_000, batches_passes=OFF, keeps_text=ON, compiles=ON)
    write_tuning(tuning().model_copy(update={"shapes": (shape,), "precision": None}))
    found = settled(tiny, **flags)
    assert found.task.machine.compiles == compiles
    assert any(note.startswith("compile: the first step") for note in found.notes) == compiles
    assert any("compiles True" in note for note in found.notes) == compiles


def test_the_flops_of_a_measured_step_are_those_that_it_computes() -> None:
    sample = tune._Sample(CPU, TINY, "fp32")
    with torch.inference_mode():
        step = sample.step(TINY.shapes[0])
        step()
        with FlopCounterMode(display=False) as counter:
            step()
    assert sample.flops(TINY.shapes[0]) == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_the_link_to_a_card_is_as_fast_as_memory_is_copied_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tune.link_speed(CPU) is None
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda size, dtype, **_: empty(16, dtype=dtype))
    monkeypatch.setattr(tune, "timed", lambda calls, device: {"copied": [0.5, 2.0, 4.0]})
    assert tune.link_speed(Device("cuda:0", CARD)) == tune.LINK_BYTES / 2


def test_what_does_not_fit_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "PLANS", {"cpu": TINY})
    monkeypatch.setattr(tune._Sample, "_peak", lambda self, call: None)
    (shape,) = tune.tune(CPU).shapes
    assert (shape.batches_passes.on_s, shape.batches_passes.chosen) == (None, False)
    assert "does not fit into the memory" in str(shape.batches_passes)


def test_a_device_that_torch_cannot_use_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("torch can use this machine's card")
    with pytest.raises(RequestError, match="torch cannot compute on cuda:0") as caught:
        tune.tune(Device("cuda:0", Card(name="a card", nbytes=2**34)))
    assert caught.value.hint == "ltx2 doctor shows what is wrong"


def test_large_shapes_are_measured_where_the_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    large = Shape(name="large", width=64, height=64, frames=17, needs_gb=24)
    monkeypatch.setattr(tune, "PLANS", {"cpu": Plan(heads=1, text_rows=8, shapes=(*TINY.shapes, large))})
    monkeypatch.setattr(tune, "RUNS", 1)

    def names(gb: int) -> list[str]:
        return [one.name for one in tune.tune(Device("cpu", Card(name="a card", nbytes=gb * 2**30))).shapes]

    assert names(16) == ["tiny"]
    assert names(24) == ["tiny", "large"]


CARD = Card(name="a card", nbytes=2**34, capability=(8, 6))


@pytest.mark.parametrize(
    ("card", "is_fused", "expected"),
    [
        (CARD, False, True),
        (CARD, True, False),
        (None, False, False),
        (Card(name="old", nbytes=1, capability=(7, 0)), False, False),
        (Card(name="of AMD", nbytes=1), False, False),
    ],
)
def test_products_of_int8_are_measured_where_torch_has_the_only_kernel(
    card: Card | None, is_fused: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "has_fast_kernels", lambda: is_fused)
    monkeypatch.setattr(tune, "PLANS", {"cpu": TINY})
    monkeypatch.setattr(tune, "RUNS", 1)
    assert (tune.tune(Device("cpu", card)).int8 is not None) == expected


def test_both_ways_to_multiply_int8_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "RUNS", 3)
    found = tune.choose_int8(CPU, 128, 40)
    assert found.on_s is not None
    assert found.runs == 3


def test_int8_that_a_card_cannot_multiply_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RequestError("no kernel")

    monkeypatch.setattr(tune, "multiply", refuse)
    found = tune.choose_int8(CPU, 128, 40)
    assert (found.on_s, found.chosen) == (None, False)


@pytest.mark.parametrize(
    ("int8", "precision", "expected"),
    [(ON, "auto", ("int8",)), (OFF, "auto", ()), (None, "auto", ()), (ON, "fp32", ()), (ON, "bf16", ())],
)
def test_int8_is_multiplied_as_stored_only_where_that_was_measured_to_pay(
    int8: Switch | None, precision: str, expected: tuple[str, ...], tiny: Path
) -> None:
    write_tuning(tuning().model_copy(update={"int8": int8}))
    found = settled(tiny, precision=precision)
    assert found.task.machine.products == expected
    assert products_of(CPU) == (("int8",) if int8 is ON else ())
    assert any("products int8" in note for note in found.notes) == bool(expected)


def test_devices_are_those_of_the_drivers_and_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(name="a card", nbytes=1)
    monkeypatch.setattr(machine, "has_cuda_build", lambda: True)
    monkeypatch.setattr(machine, "find_card", lambda number: card if number < 2 else None)
    assert [device.name for device in machine.devices()] == ["cuda:0", "cuda:1", "cpu"]
