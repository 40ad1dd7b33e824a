"""The LoRAs with a name in the catalogue, each on a tiny model of its generation, and LoRAs that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx2_core.hub.library import Library
from ltx2_core.hub.registry import Reference, read_shipped
from ltx2_core.pipeline.resolve.settings import COMMAND_LINE
from ltx2_core.pipeline.resolve.settle import Asked
from scripts.tiny_versions import VERSIONS
from tests.commands import ltx2, made_in, refused, rendered
from tests.synthetic_media import write_video

SMALL = ("--res", "128x128", "--frames", 9, "--steps", 2, "--seed", 3, "--sound", "off")
UNGUIDED = ("--video-st=1", "--video-stg=0")
# One LoRA for each kind: strength, no reference, reference of half the size. The others are slow tests.
OFTEN = {("2.0", "detailer"), ("2.0", "dolly-in"), ("2.3", "union"), ("2.5", "pixel-upscaler")}
USED = [
    pytest.param(made, name, id=f"{name}-{made}", marks=[] if (made, name) in OFTEN else pytest.mark.slow)
    for name, control in read_shipped().controls.items()
    for made in control.files
    if control.refused is None and made in VERSIONS
]
HALF_SIZE = {"union", "motion-track", "pixel-upscaler"}
STRENGTHS = {"cinemagraph": 2.0, "detailer": 0.5, "pixel-upscaler": 0.5}


pytestmark = pytest.mark.usefixtures("kept_models")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=9, size=(128, 128))


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, dict[str, str]], None]:
    """Install a LoRA with some metadata in the place and under the name of the published one."""

    def installed(lora: Path, metadata: dict[str, str]) -> None:
        def find(self: Library, reference: Reference) -> Path:
            path = tmp_path / (Path(reference.path).name or f"{reference.last.lower()}.safetensors")
            save_file(load_file(lora), path, metadata)
            return path

        monkeypatch.setattr(Library, "find_all", find)

    return installed


def style_of(model: Path) -> Path:
    """The LoRA of a tiny model without metadata."""
    (path,) = model.glob("*-lora-style.safetensors")
    with safe_open(path, "pt") as file:
        assert not file.metadata()
    return path


@pytest.mark.parametrize(("made", "name"), USED)
def test_a_lora_renders_by_its_name_as_it_was_made_for(
    made: str, name: str, tiny_of: Callable, clip: Path, install: Callable, tmp_path: Path
) -> None:
    model, in_context = tiny_of(made), read_shipped().controls[name].in_context
    install(style_of(model), {})
    mode = ("v2v", clip, "a bell", "--control") if in_context else ("t2v", "a bell", "--lora")
    words = [*mode, name, "--model", model, *SMALL, *UNGUIDED, "-o", tmp_path / "made.mp4"]
    request = made_in(rendered(*words)).request
    assert [lora.strength for lora in request.loras] == [STRENGTHS.get(name, 1.0)]
    scale = 2 if name in HALF_SIZE else 1
    assert [one.spatial_scale for one in request.references] == [scale] * in_context


def test_what_a_file_says_of_its_reference_holds_before_what_is_known(
    tiny_of: Callable, clip: Path, install: Callable, tmp_path: Path
) -> None:
    model = tiny_of("2.3")
    install(style_of(model), {"reference_downscale_factor": "1", "reference_temporal_scale_factor": "4"})
    flags = {"model": str(model), "control": "union", "res": "128x128", "output": str(tmp_path / "never.mp4")}
    asked = Asked(mode="v2v", prompt="a bell", layers=[(COMMAND_LINE, flags)], main=clip)
    (reference,) = asked.settle().resolved.request.references
    assert (reference.spatial_scale, reference.temporal_scale) == (1, 4)


def test_two_that_look_at_references_of_different_sizes_are_refused_by_name(
    tiny_of: Callable, clip: Path, install: Callable, tmp_path: Path
) -> None:
    model = tiny_of("2.3")
    install(style_of(model), {})
    told = refused(2, "v2v", clip, "--control", "union", "--lora", "deblur", "--model", model, *SMALL)
    assert "these LoRAs cannot be used together" in told
    assert "ltx-2.3-22b-ic-lora-union-control-ref0.5.safetensors 1/2 and" in told
    assert "ltx-2.3-22b-ic-lora-deblur-0.9.safetensors 1/1" in told
    assert told.endswith("hint: leave one of them out")


# high dynamic range


@pytest.fixture(scope="module")
def hdr(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with LoRAs for high dynamic range, recognised by their metadata or their name."""
    folder, tensors = tmp_path_factory.mktemp("hdr"), load_file(style_of(tiny))
    save_file(tensors, folder / "named-ic-lora.safetensors", {"hdr_transform": "logc3"})
    save_file(tensors, folder / "marked-ic-lora.safetensors", {"use_hdr_transform": "true"})
    save_file(tensors, folder / "ltx-2.3-22b-ic-lora-hdr-0.9.safetensors")
    return folder


@pytest.mark.parametrize(
    "given",
    [
        ("--control", "hdr"),
        ("--lora", "hdr:0.5"),
        ("--control", "named-ic-lora.safetensors"),
        ("--lora", "marked-ic-lora.safetensors:0.5"),
        ("--lora", "ltx-2.3-22b-ic-lora-hdr-0.9.safetensors"),
    ],
)
def test_a_lora_of_high_dynamic_range_is_refused_however_it_is_given(
    given: tuple[str, str], hdr: Path, tiny_of: Callable, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hdr)
    monkeypatch.setattr("ltx2_core.pipeline.render.run.Models", None)
    result = ltx2("v2v", clip, "a bell", "--model", tiny_of("2.0"), *given, *SMALL, "--json", "-o", "never.mp4")
    error, _ = map(json.loads, result.stdout.splitlines())
    assert result.exit_code == 2
    assert error["message"] == f"{' '.join(given)} cannot be used"
    assert "high dynamic range video, which this version cannot store" in error["why"]
    assert error["hint"] == "ltx2 models lists the LoRAs that can be used"
    assert not (hdr / "never.mp4").exists()


def test_a_lora_that_is_refused_is_not_offered_for_download() -> None:
    lines = ltx2("models").stdout
    usable, _, refused = lines.partition("LoRAs that this version cannot use yet")
    assert "deblur" in usable
    assert "hdr" not in usable.partition("LoRAs to download")[2]
    assert "hdr" in refused
    assert "dubit" in refused
