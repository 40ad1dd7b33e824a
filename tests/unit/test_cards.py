"""The GPUs of a machine, from the library of NVIDIA's driver and the files of AMD's driver."""

from __future__ import annotations

import sys
from importlib.util import spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import pytest

from ltx2_core import cards
from ltx2_core.cards import TorchBuild, find_card, find_cards, has_cuda_build, torch_build


class Driver(SimpleNamespace):
    """A double of the driver's library on a machine with some GPUs, given by their memory in bytes."""

    class NVMLError(Exception):
        pass

    def __init__(self, *memories: int, is_there: bool = True) -> None:
        super().__init__(memories=memories, is_there=is_there, is_open=False)

    def nvmlInit(self) -> None:
        if not self.is_there:
            raise self.NVMLError
        self.is_open = True

    def nvmlShutdown(self) -> None:
        self.is_open = False

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        if number >= len(self.memories):
            raise self.NVMLError
        return number

    def nvmlDeviceGetHandleByUUID(self, name: str) -> int:
        return {"GPU-a": 0, "GPU-b": 1}[name]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        assert self.is_open
        return SimpleNamespace(total=self.memories[handle], free=self.memories[handle] // 2)

    def nvmlDeviceGetCount(self) -> int:
        return len(self.memories)

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.1"

    def nvmlDeviceGetName(self, handle: int) -> str:
        return f"card {handle}"

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:
        return 8, 6 + handle


GB_12, GB_24 = 12_878_610_432, 25_757_220_864  # as drivers report GPUs that are sold with 12 and 24 GB


@pytest.mark.parametrize(
    ("number", "visible", "gb"),
    [
        (0, None, 12),
        (1, None, 24),
        (2, None, None),
        (0, "1", 24),
        (1, "1, 0", 12),
        (1, "1", None),
        (0, "GPU-b", 24),
        (0, "", None),
        (0, "-1", None),
    ],
)
def test_card_is_known_by_the_memory_that_it_is_sold_with(
    number: int, visible: str | None, gb: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(GB_12, GB_24)
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    card = cards.find_card(number)
    assert (None if card is None else card.gb) == gb
    assert not driver.is_open


def test_without_a_driver_there_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Driver(GB_24, is_there=False))
    assert cards.find_card() is None


def test_every_card_is_listed_with_driver_and_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Driver(GB_12, GB_24))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    first, second = find_cards()
    assert (first.name, first.gb, first.driver, first.capability) == ("card 0", 12, "570.1", (8, 6))
    assert second.free_bytes == GB_24 // 2


def write_amd(root: Path, number: int, **files: object) -> None:
    """Write the files of a GPU's driver; a file that is None is missing."""
    folder = root / f"card{number}" / "device"
    folder.mkdir(parents=True)
    (root / f"card{number}-DP-1").mkdir()  # a connector, which is not a GPU
    defaults = {"vendor": "0x1002", "device": "0x744c", "mem_info_vram_total": GB_24, "mem_info_vram_used": 1000}
    for name, content in (defaults | files).items():
        if content is not None:
            (folder / name).write_text(f"{content}\n")


@pytest.fixture
def amd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a machine whose torch is built for ROCm, without an NVIDIA GPU."""
    monkeypatch.setattr(cards, "DRM", tmp_path)
    monkeypatch.setattr(cards, "AMD_DRIVER", tmp_path / "version")
    monkeypatch.setattr(cards, "torch_build", lambda: TorchBuild("2.13.0+rocm7.1", hip="7.1.2"))
    monkeypatch.setitem(sys.modules, "pynvml", Driver(is_there=False))
    for name in (name for names in cards.AMD_FILTERS for name in names):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_card_of_amd_has_the_memory_that_its_driver_writes(amd: Path) -> None:
    write_amd(amd, 0, product_name="Radeon RX 7900 XTX")
    (amd / "version").write_text("6.12.12\n")
    card = find_card(0)
    assert card is not None
    assert (card.name, card.maker, card.gb, card.driver) == ("Radeon RX 7900 XTX", "AMD", 24, "6.12.12")
    assert (card.free_bytes, card.capability) == (GB_24 - 1000, None)
    assert find_cards() == [card]
    assert has_cuda_build()


@pytest.mark.parametrize("total", [None, "", "lots", "-5", "²"])
def test_memory_that_cannot_be_read_is_unknown_and_not_guessed(total: object, amd: Path) -> None:
    write_amd(amd, 0, mem_info_vram_total=total, product_name=None)
    card = find_card(0)
    assert card is not None
    assert (card.name, card.nbytes, card.gb, card.free_bytes) == ("AMD GPU 0x744c", 0, 0, None)


def test_cards_of_other_makers_are_passed_over(amd: Path) -> None:
    write_amd(amd, 0, vendor="0x8086")
    assert find_card(0) is None
    write_amd(amd, 10, product_name="second")
    write_amd(amd, 2, product_name="first")
    assert [card.name for card in find_cards()] == ["first", "second"]


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({}, ["a", "b", "c"]),
        ({"HIP_VISIBLE_DEVICES": "2,0"}, ["c", "a"]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["b"]),
        ({"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "1"}, ["a"]),
        ({"ROCR_VISIBLE_DEVICES": "1, 2", "HIP_VISIBLE_DEVICES": "1"}, ["c"]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-b,0"}, ["b", "a"]),
        ({"HIP_VISIBLE_DEVICES": "0,7,1"}, ["a"]),
        ({"HIP_VISIBLE_DEVICES": "-1"}, []),
        ({"HIP_VISIBLE_DEVICES": ""}, []),
    ],
)
def test_variables_of_rocm_choose_among_cards(
    variables: dict[str, str], shown: list[str], amd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate("abc"):
        write_amd(amd, number, product_name=name, unique_id=name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = [find_card(number) for number in range(4)]
    assert [card.name for card in found if card is not None] == shown
    assert found[len(shown) :] == [None] * (4 - len(shown))


def test_a_build_for_cuda_does_not_compute_on_a_card_of_amd(amd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_amd(amd, 0)
    monkeypatch.setattr(cards, "torch_build", lambda: TorchBuild("2.13.0", cuda="13.0"))
    assert find_card(0) is None
    assert len(find_cards()) == 1


@pytest.mark.parametrize(
    ("lines", "build"),
    [
        ("__version__ = '2.13.0'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None", ("2.13.0", "13.0", None)),
        ("__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\nhip = None", ("2.13.0+cpu", None, None)),
        ("__version__ = '2.13.0+rocm7.1'\ncuda = None\nhip: Optional[str] = '7.1'", ("2.13.0+rocm7.1", None, "7.1")),
    ],
)
def test_build_of_torch_says_whose_cards_it_computes_on(
    lines: str, build: tuple[str, str | None, str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "version.py").write_text(f"from typing import Optional\n{lines}\n")
    monkeypatch.setattr(cards, "find_spec", lambda name: spec_from_file_location(name, tmp_path / "__init__.py"))
    assert torch_build() == TorchBuild(*build)
    assert has_cuda_build() == (build[1:] != (None, None))


def test_without_torch_there_is_no_build_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "find_spec", lambda name: None)
    assert torch_build() is None
    assert not has_cuda_build()
