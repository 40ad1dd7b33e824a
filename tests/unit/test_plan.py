"""Plans for published models that are not installed and for GPUs that are not present, and their refusals."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import device, nn

from ltx2_core.cards import Card
from ltx2_core.errors import DoesNotFitError, RequestError, StorageError
from ltx2_core.memory import Residency
from ltx2_core.pipeline.request import Extension
from ltx2_core.pipeline.resolve import plan as plans
from ltx2_core.pipeline.resolve.basis import Planned
from ltx2_core.pipeline.resolve.clock import Clock
from ltx2_core.pipeline.resolve.counting import Load, Phase
from ltx2_core.pipeline.resolve.machine import Device
from ltx2_core.pipeline.resolve.peaks import Rates, rates_of, read_peaks
from ltx2_core.pipeline.resolve.phases import Costs
from ltx2_core.pipeline.resolve.plan import GIB, MARGIN_BYTES, Row, make_plan
from ltx2_core.pipeline.resolve.resolve import Planning, plan_render, planned_card, resolve
from ltx2_core.pipeline.resolve.settings import COMMAND_LINE, Origin, Place
from ltx2_core.pipeline.resolve.settle import Asked
from ltx2_core.sampling.schedules import from_level, with_level
from ltx2_core.text.enhancers import MOST_TOKENS, find_enhancer

GEMMA = Path(__file__).parents[1] / "golden/text/2.0/gemma"


@pytest.fixture(autouse=True)
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))


def planned(mode: str = "t2v", *, vram: int | None = None, **flags: Any) -> Planning:
    return plan_render(mode, "x", [(COMMAND_LINE, flags)], vram_gb=vram)


def settled_costs(vram: int, **flags: Any) -> Costs:
    return Asked(mode="t2v", prompt="x", layers=[(COMMAND_LINE, flags)]).settle(Planned(planned_card(vram))).costs


def rows(planning: Planning) -> Mapping[str, Row]:
    return {row.name: row for row in planning.plan.rows}


@pytest.mark.parametrize(
    ("vram", "flags"),
    [(8, {"res": "480p", "model": "ltx-2-fp8"}), (12, {"res": "1080p"}), (16, {"res": "4k"})],
)
def test_the_sizes_that_are_promised_fit_the_smallest_cards(vram: int, flags: dict[str, str]) -> None:
    found = planned(vram=vram, **flags)
    assert found.plan.fits
    assert found.nearest == ()
    assert found.plan.is_assumed
    machine = found.resolved.task.machine
    assert machine.memory == "streamed"
    assert machine.device == "cuda:0"
    assert any(note.startswith("memory: streamed") and f"{vram} GB" in note for note in found.resolved.notes)


def test_streamed_fp8_stays_within_its_bounds_in_all_phases() -> None:
    for size, vram, most in (("480p", 8, 7.0e9), ("1080p", 12, 11e9), ("4k", 16, 14.5e9)):
        found = planned(vram=vram, res=size, model="ltx-2-fp8", memory="lean")
        assert max(row.vram or 0 for row in found.plan.rows) <= most


def test_what_does_not_fit_names_three_settings_that_do() -> None:
    found = planned(vram=8, res="4k", model="ltx-2")
    assert not found.plan.fits
    assert "of the card's memory" in found.plan.lack
    assert len(found.nearest) == 3
    for flags in found.nearest:
        words = shlex.split(flags)
        given = {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}
        assert planned(vram=8, **{"res": "4k", "model": "ltx-2"} | given).plan.fits


def test_only_settings_are_tried_that_act_on_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Mapping[str, Any]] = []
    settle = Asked.settle

    def noted(self: Asked, planned: Planned | None, flags: Mapping[str, Any] | None = None, *rest: Any) -> Any:
        tried.append(flags or {})
        return settle(self, planned, flags, *rest)

    monkeypatch.setattr(Asked, "settle", noted)
    found = planned(vram=8, res="4k", model="ltx-2")
    assert found.plan.lacking == {"video"}
    assert [list(flags) for flags in tried] == [[], ["model"], ["res"], ["res"], ["res"]]  # "model": is it installed?


def test_a_larger_card_keeps_more_blocks_and_in_the_end_all() -> None:
    machines = [planned(vram=vram, res="720p", model="ltx-2-fp8").resolved.task.machine for vram in (8, 12, 16, 32)]
    assert [machine.memory for machine in machines] == ["streamed", "streamed", "streamed", "resident"]
    kept = [machine.resident_blocks for machine in machines[:3]]
    assert kept == sorted(set(kept))


def test_loaded_models_may_fill_what_the_largest_phase_leaves_of_the_card() -> None:
    costs = settled_costs(16, model="toy")
    largest = max(costs.phases, key=lambda phase: phase.active + phase.workspace)
    assert largest.workspace > 0  # the workspace of the decoder's convolutions
    assert costs.machine.kept_bytes + largest.active + largest.workspace == plans.class_bytes(planned_card(16))


def test_as_many_layers_as_can_stay_on_the_card_while_the_prompt_is_rewritten() -> None:
    found = [rows(planned(vram=vram, res="480p", model="ltx-2", enhance=True)) for vram in (12, 24)]
    small, large = ((one["enhancing"].vram or 0) / GIB for one in found)
    assert 6 < small < 12 < large < 24
    plain = rows(planned(vram=24, res="480p", model="ltx-2"))
    assert "enhancing" not in plain
    assert found[1]["denoising"] == plain["denoising"]  # the model that rewrote the prompt has been unloaded


def test_layers_that_do_not_stay_are_loaded_for_every_token_of_a_rewritten_prompt() -> None:
    small, large = (settled_costs(vram, model="ltx-2", enhance=True) for vram in (12, 24))
    a_token = [costs.enhancing.moved / MOST_TOKENS for costs in (small, large)]
    assert GIB < a_token[1] < a_token[0] < 24 * GIB


@pytest.mark.parametrize(("kept", "on_card"), [(2**40, True), (0, False)])
def test_what_is_loaded_whole_to_rewrite_a_prompt_lies_on_the_card_where_it_fits(kept: int, on_card: bool) -> None:
    own = find_enhancer(GEMMA)
    apart = replace(own, enhancer=replace(own.enhancer, model_type="another"))
    costs = settled_costs(24, model="ltx-2", enhance=True)
    costs = replace(costs, machine=replace(costs.machine, kept_bytes=kept), enhancer=apart)
    nbytes = apart.whole_bytes(costs.itemsize)
    (load,) = costs.enhancing.loads
    assert (load.nbytes, costs.enhancing.host) == ((nbytes, 0) if on_card else (0, nbytes))
    assert costs.enhancing.moved == 0


def test_a_projection_that_is_read_in_place_is_nowhere_else_and_moved_for_each_prompt() -> None:
    small, large = (settled_costs(vram, model="ltx-2", res="480p") for vram in (8, 80))
    read, loaded = small.connecting.loads[0], large.connecting.loads[0]
    assert read.key == loaded.key == "text projection"
    assert read.nbytes == 0 < loaded.nbytes
    assert read.moved == len(small.prompts) * loaded.moved


def test_text_is_kept_only_where_there_is_room() -> None:
    small, large = (planned(vram=vram, res="480p", preset="one-stage") for vram in (5, 80))
    assert not small.resolved.task.machine.keeps_text
    assert large.resolved.task.machine.keeps_text


def test_a_lora_of_the_second_stage_takes_memory() -> None:
    one, two = (planned(vram=80, res="1080p", preset=preset) for preset in ("one-stage", "two-stage"))
    assert "stage 2" in rows(two)
    assert rows(two)["stage 2"].flops < rows(one)["denoising"].flops
    quantised = planned(vram=80, res="1080p", preset="two-stage", model="ltx-2-fp8")
    stages = rows(quantised)
    assert (stages["stage 2"].vram or 0) > (stages["stage 1"].vram or 0)  # LoRA branches next to quantised layers


def test_guidance_and_steps_make_flops() -> None:
    few, many = (rows(planned(vram=80, res="480p", steps=steps))["denoising"].flops for steps in (10, 20))
    assert many == pytest.approx(2 * few, rel=0.01)
    plain = {"video_st": 1, "video_sm": 1, "video_stg": 0, "audio_st": 1, "audio_sm": 1, "audio_stg": 0}
    unguided = planned(vram=80, res="480p", steps=10, video_rescale=0, audio_rescale=0, **plain)
    alone = rows(unguided)["denoising"].flops
    assert 3 < few / alone < 4  # four passes, one begins late


def test_steps_are_those_of_the_first_stage_and_the_second_has_its_own() -> None:
    few, many = (rows(planned(vram=80, res="720p", preset="two-stage", steps=steps)) for steps in (10, 20))
    first, second = (name for name in few if name.startswith("stage"))
    assert many[first].flops == pytest.approx(2 * few[first].flops, rel=0.01)
    assert many[second].flops == few[second].flops


@pytest.mark.parametrize(
    ("mode", "flags", "phase"),
    [
        ("i2v", {}, "inputs"),
        ("v2v", {"strength": "0.5"}, "inputs"),
        ("a2v", {}, "audio input"),
        ("v2a", {"output": "x.mp4"}, "inputs"),
    ],
)
def test_inputs_may_be_left_out(mode: str, flags: dict[str, str], phase: str) -> None:
    found = planned(mode, vram=24, res="480p", **flags) if mode != "v2a" else planned(mode, vram=24, **flags)
    assert phase in rows(found)
    assert any("left out" in note for note in found.resolved.notes)


def test_a_clip_that_is_left_out_is_planned_with_what_extends_it() -> None:
    usual = planned("v2v", vram=24, res="480p", frames=49, strength="0.5").resolved.task.request
    request = planned("v2v", vram=24, res="480p", frames=49, extend="2s", extend_before="1s").resolved.task.request
    assert (usual.frames, request.frames) == (49, 24 + 49 + 48)
    assert request.extension == Extension(before=24, after=48)


def test_a_clip_is_restyled_in_as_many_steps_as_its_strength_leaves_of_the_list() -> None:
    planned_request = planned("v2v", vram=24, res="480p", preset="restyle").resolved.task.request
    (sigmas,) = (torch.tensor(stage.listed_sigmas()) for stage in planned_request.recipe.stages)
    for strength in (0.1, 0.7, 0.725, 0.95, 1.0):
        request = planned_request.model_copy(update={"strength": strength})
        assert request.steps_of_stages == [len(from_level(sigmas, strength)) - 1]
        silent = request.model_copy(update={"audio_source": None})  # its audio begins as noise, at the first level
        assert silent.steps_of_stages == [len(with_level(sigmas, strength)) - 1]


def test_a_render_takes_no_model_that_is_not_here() -> None:
    with pytest.raises(StorageError, match="ltx-2 is not installed"):
        resolve("t2v", "x", [(COMMAND_LINE, {"model": "ltx-2"})])


def test_a_render_that_does_not_fit_is_refused_unless_it_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    flags: dict[str, Any] = {"model": "toy", "output": "none.mp4"}
    assert resolve("t2v", "x", [(COMMAND_LINE, flags)]).task.machine.memory == "resident"
    monkeypatch.setattr(plans, "available_bytes", lambda: MARGIN_BYTES + 10**6)
    with pytest.raises(DoesNotFitError, match="does not fit") as caught:
        resolve("t2v", "x", [(COMMAND_LINE, flags)])
    assert "and 0.0 GB can be used" in caught.value.why
    assert "--force" in caught.value.hint
    forced = resolve("t2v", "x", [(COMMAND_LINE, flags | {"force": True})])
    assert forced.plan is not None
    assert not forced.plan.fits


def test_a_card_is_judged_by_what_is_free_and_planned_for_by_its_class() -> None:
    settled = Asked(mode="t2v", prompt="x", layers=[(COMMAND_LINE, {"res": "480p", "model": "ltx-2-fp8"})])
    device = planned_card(8)
    costs = settled.settle(Planned(device)).costs
    assert device.card is not None
    for free, fits in ((8 * GIB, True), (5 * GIB, False)):
        busy = Device("cuda:0", replace(device.card, free_bytes=free))
        assert make_plan(costs, busy).fits == fits
        assert settled.settle(Planned(busy)).costs.machine == costs.machine


def test_memory_that_nobody_tells_refuses_nothing() -> None:
    device = Device("cuda:0", Card(name="a card", nbytes=0))
    asked = Asked(mode="t2v", prompt="x", layers=[(COMMAND_LINE, {"res": "4k", "model": "ltx-2"})])
    settled = asked.settle(Planned(device))
    assert settled.costs.machine.memory == "resident"
    assert make_plan(settled.costs, device).fits


def test_models_stay_and_leave_in_the_plan_as_in_a_render() -> None:
    sizes = {"text": 6, "context": 3, "denoiser": 8, "audio": 1, "video": 2}
    order = ("text", "context", "denoiser", "video", "denoiser", "audio", "text", "video")
    for budget in range(1, 16):
        residency = Residency(device("cpu"), budget)
        seen = []
        for name in order:
            with residency.use(name, sizes[name], nn.Identity):
                seen.append(sum(entry.nbytes for entry in residency._loaded.values()))
        loads = {name: (Load(name, nbytes, 0),) for name, nbytes in sizes.items()}
        phases = [Phase(kind="denoise", name=name, loads=loads[name], active=0, flops=0) for name in order]
        assert [weights for _, weights, _ in plans.loaded(phases, budget)] == seen


def test_seconds_are_told_for_cards_whose_peak_is_known() -> None:
    asked = Asked(mode="t2v", prompt="x", layers=[(COMMAND_LINE, {"res": "480p", "model": "ltx-2-fp8"})])
    card = Card(name="NVIDIA GeForce RTX 4090", nbytes=24 * GIB, capability=(8, 9))
    settled = asked.settle(Planned(Device("cuda:0", card)))
    clock = Clock.of_this_machine(settled.costs, Device("cuda:0", card))
    found = make_plan(settled.costs, Device("cuda:0", card), clock)
    assert all(row.seconds is not None and row.seconds > 0 for row in found.rows)
    assert all(row.is_estimate and "published peak" in row.source for row in found.rows)
    assert rates_of(card, replace(settled.costs.machine, precision="fp32")) is None
    assert rates_of(replace(card, name="another"), settled.costs.machine) is None


def test_a_phase_takes_its_products_or_its_weights_whichever_is_longer() -> None:
    rates = Rates(flops_per_s=10, link_bytes_per_s=2)
    assert rates.seconds(100, 0) == 10
    assert rates.seconds(100, 60) == 30


@pytest.mark.parametrize(
    ("name", "summary"),
    [
        ("NVIDIA GeForce RTX 3060", "NVIDIA GeForce RTX 3060"),
        ("NVIDIA GeForce RTX 3060 Ti", None),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 SXM"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200", "NVIDIA H200"),
    ],
)
def test_cards_are_known_by_the_name_of_the_driver(name: str, summary: str | None) -> None:
    import re

    assert [one.summary for one in read_peaks() if re.search(one.matches, name)] == [summary] * (summary is not None)


def test_no_settings_are_made_up_for_what_is_wrong() -> None:
    with pytest.raises(RequestError):
        planned(vram=8, res="481p")


def test_the_convolutional_decoder_is_chosen_where_only_that_fits(tmp_path: Path) -> None:
    flags = {"model": "ltx-2.5-int8", "res": "4k", "output": str(tmp_path / "x.mp4")}

    def planned(vram_gb: int, **more: str) -> Planning:
        return plan_render("t2v", "x", [(COMMAND_LINE, flags | more)], vram_gb=vram_gb)

    chosen, roomy, asked = planned(16), planned(32), planned(16, decoder="diffusion")
    assert (chosen.plan.fits, chosen.resolved.task.request.decoder) == (True, "conv")
    assert chosen.resolved.notes[-1] == "decoder: conv, as the diffusion decoder does not fit"
    assert chosen.resolved.sources["decoder"] == "preset auto"
    assert (roomy.plan.fits, roomy.resolved.task.request.decoder) == (True, "diffusion")
    assert (asked.plan.fits, asked.nearest[0]) == (False, "--decoder conv")


def test_a_still_takes_tokens_of_its_own_only_where_it_is_appended(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    still = str(tmp_path / "a.png")

    def tokens(preset: str, *images: str) -> int:
        asked = Asked(
            mode="i2v",
            prompt="x",
            layers=[(COMMAND_LINE, {"preset": preset, "res": "512x512", "image": images})],
            main=tmp_path / "a.png",
        )
        costs = asked.settle(Planned()).costs
        return sum(costs._tiles(costs.request.recipe.stages[0]))

    frame = (512 // 32) ** 2
    assert tokens("one-stage", f"{still}@last") - tokens("one-stage") == frame
    assert tokens("keyframes") - tokens("two-stage") == frame // 4


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_no_card_is_planned_for_where_none_is_to_be_used(device: str) -> None:
    with pytest.raises(RequestError, match=f"--vram cannot be used with --device {device}"):
        planned(vram=12, model="toy", device=device)
    for place in (COMMAND_LINE, Place(Origin.FILE, "ltx2.yaml")):
        layers = [(place, {"model": "toy", "device": "cuda" if place == COMMAND_LINE else device})]
        assert plan_render("t2v", "x", layers, vram_gb=12).resolved.task.machine.device == "cuda:0"
