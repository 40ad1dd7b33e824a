"""`--attention-backend`: which kernel is used, what is refused, and what `doctor --tune` chooses."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch.nn import attention as kernels
from torch.nn.attention import SDPBackend

import ltx2_core as core
from ltx2_core.cards import Card
from ltx2_core.machine import Backend, Precision
from ltx2_core.models import attention as attention_module
from ltx2_core.models.attention import attending, attention
from ltx2_core.models.int8_attention import int8_attention
from ltx2_core.pipeline.doctor import tune
from ltx2_core.pipeline.doctor.tune import choose_attention
from ltx2_core.pipeline.resolve import machine
from ltx2_core.pipeline.resolve.machine import Device, backends_on
from ltx2_core.pipeline.resolve.tuning import ShapeClass, Switch, Tuning
from tests.commands import UNGUIDED, ltx2, made_in, rendered
from tests.tolerances import INT8_ATTENTION, MATH_ATTENTION
from tests.unit.test_transformer import build, config, make_inputs

pytestmark = pytest.mark.usefixtures("kept_models")
CLIP = ("t2v", "a lamp", "--preset", "smoke", "--seed", 3, *UNGUIDED)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "has_fast_kernels", lambda: False)


def resolved(**flags: object) -> core.Resolved:
    given = core.gather({"preset": "smoke", "seed": 1, **flags})
    return core.resolve("t2v", "a lamp", given.layers)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("keys", [4, 40])
def test_both_kernels_of_the_cpu_give_the_same_but_for_rounding(keys: int, bias: bool):
    q, k, v = (torch.randn(2, 3, count, 16) for count in (24, keys, keys))
    mask = torch.randn(2, 1, 24, keys) if bias else None
    found = {}
    for name in ("sdpa", "flash", "math"):
        with attending(name):
            found[name] = attention(q, k, v, mask)
    assert torch.equal(found["sdpa"], found["flash"])
    assert (found["math"] - found["flash"]).abs().max() <= MATH_ATTENTION * found["flash"].abs().max()


def test_a_kernel_is_fixed_inside_the_block_alone():
    before = kernels._cur_sdpa_kernel_backends()
    with attending("math"):
        assert kernels._cur_sdpa_kernel_backends() == [SDPBackend.MATH]
        with attending("sdpa"):
            assert kernels._cur_sdpa_kernel_backends() == [SDPBackend.MATH]
    with suppress(ValueError), attending("flash"):
        assert SDPBackend.CUDNN_ATTENTION not in kernels._cur_sdpa_kernel_backends()
        raise ValueError("broken")
    assert kernels._cur_sdpa_kernel_backends() == before


def test_a_later_flash_attention_is_switched_on_and_off_again(monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []
    fake = ModuleType("kernels")
    fake.__dict__.update(
        sdpa_kernel=kernels.sdpa_kernel,
        current_flash_attention_impl=lambda: None,
        activate_flash_attention_impl=lambda name: calls.append(name),
        restore_flash_attention_impl=lambda: calls.append("restored"),
    )
    monkeypatch.setattr(attention_module, "kernels", fake)
    with attending("flash4"):
        assert calls == ["FA4"]
        assert SDPBackend.FLASH_ATTENTION in kernels._cur_sdpa_kernel_backends()
    assert calls == ["FA4", "restored"]


@pytest.mark.parametrize(
    ("capability", "precision", "there"),
    [
        ((9, 0), "bf16", ("cudnn", "flash", "efficient", "flash3", "flash4", "math")),
        ((10, 0), "bf16", ("cudnn", "flash", "efficient", "flash4", "math")),
        ((8, 6), "bf16", ("cudnn", "flash", "efficient", "math")),
        ((7, 5), "bf16", ("efficient", "math")),
        ((9, 0), "fp32", ("efficient", "math")),
        (None, "bf16", ("math",)),
    ],
)
def test_a_card_has_the_kernels_of_its_generation(
    capability: tuple[int, int] | None,
    precision: Precision,
    there: tuple[Backend, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    (tmp_path / "flash_attn" / "cute").mkdir(parents=True)
    (tmp_path / "flash_attn" / "__init__.py").write_text("raise RuntimeError('nothing imports it')")
    (tmp_path / "flash_attn_interface.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    card = Card(name="a card", nbytes=2**34, capability=capability)
    assert backends_on(Device("cuda:0", card), precision) == there
    assert "flash_attn" not in sys.modules


def test_flash_attention_is_there_only_where_it_is_installed():
    card = Device("cuda:0", Card(name="a card", nbytes=2**34, capability=(9, 0)))
    assert backends_on(card, "bf16") == ("cudnn", "flash", "efficient", "math")
    assert backends_on(Device("mps"), "fp32") == ("math",)


@pytest.mark.parametrize(("capability", "is_there"), [((9, 0), True), ((7, 5), True), ((7, 0), False), (None, False)])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_int8_is_there_with_its_package_on_a_card_that_multiplies_int8(
    capability: tuple[int, int] | None, is_there: bool, precision: Precision, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(machine, "has_fast_kernels", lambda: True)
    card = Device("cuda:0", Card(name="a card", nbytes=2**34, capability=capability))
    assert ("int8" in backends_on(card, precision)) == is_there
    assert "int8" not in backends_on(Device("cpu"), precision)


def test_the_doctor_does_not_measure_int8(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tune, "backends_on", lambda device, precision: ("flash", "int8", "math"))
    plan = tune.Plan(heads=1, text_rows=8, shapes=(tune.Shape(name="tiny", width=64, height=64, frames=9),))
    with torch.inference_mode():
        measured = tune._Sample(Device("cpu"), plan, "fp32").attention(plan.shapes[0])
    assert set(measured.fixed_s) == {"flash", "math"}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("width", [64, 128, 48])
def test_attention_in_int8_is_that_of_floats_but_for_the_rounding_of_its_codes(width: int, bias: bool):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, count, width, generator=generator) for count in (24, 40, 40))
    k[..., 5] += 20  # a channel with large values everywhere, as in trained models
    mask = torch.randn(2, 1, 24, 40, generator=generator) if bias else None
    expected = attention(q, k, v, mask)
    with attending("int8"):
        found = attention(q, k, v, mask)
        assert torch.equal(found.bfloat16(), attention(q, k, v, mask).bfloat16())
    assert 0 < (found - expected).norm() <= INT8_ATTENTION * expected.norm()
    assert torch.equal(attention(q, k, v, mask), expected), "outside the block nothing has changed"


def test_what_is_masked_is_not_read_by_int8_either():
    q, k, v = (torch.randn(1, 2, count, 64) for count in (6, 9, 9))
    mask = torch.zeros(1, 1, 6, 9)
    mask[..., 4:] = -torch.inf
    with attending("int8"):
        whole = attention(q, k, v, mask)
        assert (whole - attention(q, k[:, :, :4], v[:, :, :4])).norm() <= INT8_ATTENTION * whole.norm()


def test_a_denoiser_attends_in_int8_with_velocities_near_those_of_floats():
    model = build(config(num_layers=2))
    inputs = make_inputs(model.config)
    expected = model(inputs)
    with attending("int8"):
        found = model(inputs)
    assert all(0 < (a - b).norm() <= INT8_ATTENTION * b.norm() for a, b in zip(found, expected, strict=True))


def test_a_kernel_that_fails_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("requires SM75 or newer\nsecond line")

    package = ModuleType("comfy_kitchen")
    package.__dict__["int8_attention"] = refuse
    monkeypatch.setitem(sys.modules, "comfy_kitchen", package)
    on_card = SimpleNamespace(is_cuda=True)
    with pytest.raises(core.RequestError, match="--attention-backend int8 cannot be used") as caught:
        int8_attention(on_card, on_card, on_card)
    assert (caught.value.why, caught.value.hint) == ("requires SM75 or newer", "leave --attention-backend out")


@pytest.mark.parametrize("name", ["cudnn", "efficient", "flash3", "flash4", "int8"])
def test_a_kernel_that_the_machine_does_not_have_is_refused(name: str):
    refused = ltx2(*CLIP, "--attention-backend", name)
    assert refused.exit_code == 2
    assert f"--attention-backend {name} cannot be used" in refused.stderr
    assert "has flash, math for fp32" in refused.stderr
    assert list(Path().iterdir()) == []
    assert (
        "it must be auto, cudnn, flash, efficient, math, flash3, flash4 or int8"
        in ltx2(*CLIP, "--attention-backend", "fastest").stderr
    )


def test_the_recipe_says_which_kernel_it_was_and_rerun_takes_it_again():
    usual = rendered(*CLIP, "-o", "usual.mp4")
    flash = rendered(*CLIP, "--attention-backend", "flash", "-o", "flash.mp4")
    made = [made_in(path) for path in (usual, flash)]
    assert [one.machine.attention for one in made] == ["sdpa", "flash"]
    again = rendered("rerun", flash, "-o", "again.mp4")
    assert again.read_bytes() == flash.read_bytes()
    assert rendered("rerun", usual, "-o", "usual2.mp4").read_bytes() == usual.read_bytes()
    changed = ltx2("rerun", flash, "-o", "math.mp4", "--set", "attention-backend=math")
    assert "flash -> math" in changed.stderr


def test_what_was_measured_holds_unless_somebody_says_otherwise(monkeypatch: pytest.MonkeyPatch):
    switch = Switch(off_s=1, on_s=None, runs=5, chosen=False)
    choice = choose_attention({"sdpa": [1.0] * 5, "flash": [1.0] * 5, "math": [0.5] * 5})
    shape = ShapeClass(name="all", tokens=10**6, batches_passes=switch, keeps_text=switch, attention=choice)
    tuning = Tuning(measured_on=machine.measured_on(Device("cpu")), precision=None, shapes=(shape,))
    monkeypatch.setattr(machine, "read_tuning", lambda: tuning)
    told = tuning.rows["attention, up to 1,000,000 tokens"]
    assert told == "math (flash: 1.00 times as long; math: 0.50 times as long)"
    assert resolved().task.machine.attention == "math"
    assert any("attention math" in note for note in resolved().notes)
    assert resolved(attention_backend="flash").task.machine.attention == "flash"


@pytest.mark.parametrize(
    ("flash_s", "runs", "chosen"), [(0.5, 5, "flash"), (0.9, 5, "sdpa"), (2.0, 5, "sdpa"), (0.5, 2, "sdpa")]
)
def test_another_kernel_is_chosen_only_where_it_is_clearly_faster(flash_s: float, runs: int, chosen: str):
    assert choose_attention({"sdpa": [1.0] * runs, "flash": [flash_s] * runs}).chosen == chosen


def test_nothing_is_fixed_unless_it_is_asked_for():
    assert resolved().task.machine.attention == "sdpa"
    assert not [note for note in resolved().notes if "attention" in note]
