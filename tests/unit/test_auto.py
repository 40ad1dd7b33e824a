"""The choice of `--preset auto`, and how it gets the facts of a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ltx2_core import cards
from ltx2_core.errors import RequestError
from ltx2_core.hub.registry import RegisteredModel
from ltx2_core.pipeline.resolve import basis, machine, plan
from ltx2_core.pipeline.resolve import resolve as resolves
from ltx2_core.pipeline.resolve.resolve import planned_card, resolve
from ltx2_core.pipeline.resolve.settle import Asked
from ltx2_core.pipeline.resolved import Resolved
from tests.places import A_FILE

CHECKPOINT = "ltx-2-tiny-dev.safetensors"
UPSAMPLER, LORA = "ltx-2-tiny-spatial-upscaler-x2-1.0.safetensors", "ltx-2-tiny-distilled-lora.safetensors"


@pytest.fixture(scope="module")
def models(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes folders with parts of the tiny model: a checkpoint with a given name, its text encoder, other files."""

    def model(checkpoint: str, *others: str) -> Path:
        folder = tmp_path_factory.mktemp("model")
        (folder / checkpoint).symlink_to(tiny / CHECKPOINT)
        for name in ("gemma", *others):
            (folder / name).symlink_to(tiny / name)
        return folder

    return model


def resolved(model: Path | str, **flags: object) -> Resolved:
    return resolve("t2v", "x", [(A_FILE, {"model": str(model), "output": "none.mp4"} | flags)])


@pytest.mark.parametrize(
    ("checkpoint", "others", "flags", "recipe", "why"),
    [
        ("dev", (UPSAMPLER, LORA), {}, "one-stage", "768x512 needs no second stage"),
        ("dev", (UPSAMPLER, LORA), {"res": "1080p"}, "two-stage", "1080p is large"),
        ("dev", (UPSAMPLER, LORA), {"res": "1280x736"}, "one-stage", "1280x736 is not a multiple of 64"),
        ("dev", (UPSAMPLER,), {"res": "1080p"}, "one-stage", "no distilled lora for a second stage"),
        ("dev", (), {"res": "1080p"}, "one-stage", "no upsampler and no distilled lora"),
        ("dev", (UPSAMPLER, LORA), {"video": "off", "output": "none.wav"}, "one-stage", "no video is generated"),
        ("Distilled", (UPSAMPLER,), {}, "distilled", "the model is distilled"),
        ("Distilled", (), {}, "distilled-one-stage", "no upsampler for a second stage"),
        ("Distilled", (UPSAMPLER,), {"res": "96x64"}, "distilled-one-stage", "not a multiple of 64"),
    ],
)
def test_recipe_follows_the_files_and_the_size(
    checkpoint: str, others: tuple[str, ...], flags: dict, recipe: str, why: str, models: Callable[..., Path]
) -> None:
    found = resolved(models(f"{checkpoint}.safetensors", *others), **flags)
    assert found.request.preset == recipe
    (note,) = (note for note in found.notes if note.startswith("auto: "))
    assert f"auto: {recipe}, as " in note
    assert why in note


def test_recipe_that_is_asked_for_is_no_choice(tiny: Path) -> None:
    found = resolved(tiny, preset="one-stage", res="1080p")
    assert found.request.preset == "one-stage"
    assert not any(note.startswith("auto: ") for note in found.notes)


def show_card(monkeypatch: pytest.MonkeyPatch, gb: int) -> None:
    """A machine with one GPU of this many GB."""
    card = cards.Card(name="a card", nbytes=gb * 2**30, capability=(8, 9))
    monkeypatch.setattr(machine, "find_card", lambda number: card)
    monkeypatch.setattr(machine, "has_cuda_build", lambda: True)


@pytest.mark.parametrize(
    ("card", "tier"),
    [(6, "480p"), (8, "480p"), (12, "480p"), (14, "720p"), (16, "1080p"), (24, "1080p"), (140, "1080p")],
)
def test_size_follows_the_card_as_far_as_the_model_has_seen(
    card: int, tier: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    show_card(monkeypatch, card)
    found = resolved(tiny)
    assert found.sources["res"] == "preset auto"
    assert found.notes[0].endswith(f"; {tier} for a card of {card} GB")
    assert found.request.file_size[1] == int(tier[:-1])
    assert found.request.preset == ("one-stage" if tier == "480p" else "two-stage")


def test_no_size_is_chosen_for_a_card_whose_memory_is_unknown(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    show_card(monkeypatch, 0)
    found = resolved(tiny)
    assert found.sources["res"] != "preset auto"
    assert "for a card" not in found.notes[0]


def test_size_that_is_set_stays_whatever_the_card(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    show_card(monkeypatch, 24)
    assert resolved(tiny, res="96x64").request.file_size == (96, 64)
    assert resolved(tiny, preset="smoke").request.file_size == (128, 96)
    assert resolved(tiny, preset="one-stage").request.file_size == (768, 512)


def test_entry_of_a_model_says_its_recipe_and_its_sizes(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    show_card(monkeypatch, 24)
    values: dict[str, Any] = {"preset": "distilled", "res": "256x128"}
    entry = RegisteredModel(
        summary="",
        generation="2.0",
        files={"checkpoint": CHECKPOINT, "text_encoder": "gemma", "upsampler": UPSAMPLER},
        folder=str(tiny),
        tiers=(),
        defaults=values,
    )
    monkeypatch.setattr(basis, "registered_models", lambda: {"small": entry})
    found = resolved("small")
    assert (found.request.preset, found.request.file_size) == ("distilled", (256, 128))
    assert found.notes[0] == "auto: distilled, as the model's own recipe"
    with pytest.raises(RequestError, match="made for none of the sizes by name"):
        resolved("small", res="720p")


# The precision of the files


@pytest.fixture
def in_precisions(
    tiny: Path, tiny_in: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Register the tiny model in bf16 and in other precisions, on a machine with a GPU of 8 GB."""

    def register(*precisions: str, absent: str = "") -> None:
        folders = {"bf16": tiny, **{precision: tiny_in(precision) for precision in precisions}}
        entries = {
            "small" if precision == "bf16" else f"small-{precision}": RegisteredModel(
                summary="",
                generation="2.0",
                files={"checkpoint": next(folder.glob("ltx-2-tiny-dev*")).name, "text_encoder": "gemma"},
                precision=precision,
                folder=str(tmp_path / "none" if precision == absent else folder),
                defaults={"res": "128x128"},
            )
            for precision, folder in folders.items()
        }
        for module in (basis, resolves):
            monkeypatch.setattr(module, "registered_models", lambda: entries)

    show_card(monkeypatch, 8)
    return register


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let `goes_well` be true for some models only."""
    monkeypatch.setattr(resolves, "goes_well", lambda costs, device: costs.files.name in names)


@pytest.mark.parametrize(
    ("precisions", "well", "chosen"),
    [
        (("fp8",), ("small", "small-fp8"), "small"),
        (("fp8",), ("small-fp8",), "small-fp8"),
        (("int8",), ("small-int8",), "small-int8"),
        (("fp8",), (), "small"),
    ],
)
def test_a_model_that_is_too_large_is_taken_in_8_bits_where_that_goes_well(
    precisions: tuple[str, ...],
    well: tuple[str, ...],
    chosen: str,
    in_precisions: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_precisions(*precisions)
    only(monkeypatch, *well)
    found = resolved("small")
    assert found.task.files.name == chosen
    (note,) = (note for note in found.notes if note.startswith("auto: "))
    said = f"; {chosen}, as small is too large for a card of 8 GB"
    assert note.endswith(said) == (chosen != "small")
    assert (found.sources["model"] == "preset auto") == (chosen != "small")


@pytest.mark.parametrize(
    "flags", [{"precision": "bf16"}, {"memory": "streamed"}, {"preset": "one-stage"}, {"force": True}]
)
def test_files_stay_where_a_person_has_said_how_to_render(
    flags: dict[str, object], in_precisions: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_precisions("fp8")
    only(monkeypatch, "small-fp8")
    assert resolved("small", **flags).task.files.name == "small"


def test_no_file_is_chosen_that_is_not_installed(
    in_precisions: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_precisions("fp8", absent="fp8")
    only(monkeypatch, "small-fp8")
    assert resolved("small").task.files.name == "small"


@pytest.mark.parametrize(
    ("model", "vram", "ram", "expected"),
    [
        ("ltx-2", 80, 16, True),  # it stays on the GPU
        ("ltx-2", 24, 64, True),  # the streamed weights stay in system memory
        ("ltx-2", 24, 16, False),
        ("ltx-2-fp8", 24, 16, True),
        ("ltx-2", 4, 64, False),
    ],
)
def test_a_model_goes_well_that_needs_no_sparing(
    model: str, vram: int, ram: int, expected: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LTX2_HOME", str(tmp_path))
    monkeypatch.setattr(plan, "ram_bytes", lambda: ram * plan.GIB)
    device = planned_card(vram)
    flags = {"model": model, "res": "480p", "precision": "auto"}
    asked = Asked(mode="t2v", prompt="x", layers=[(A_FILE, flags)])
    assert plan.goes_well(asked.settle(basis.Planned(device)).costs, device) == expected


def test_a_computer_without_a_card_keeps_the_files(tiny: Path) -> None:
    found = Asked(mode="t2v", prompt="x", layers=[(A_FILE, {"model": str(tiny), "output": "none.mp4"})]).settle(None)
    assert plan.goes_well(found.costs, found.device)
