"""`v2v --upscale`: a clip at its size times 2 or 1.5, through the real command line on tiny models."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltx2_core.hub.library import Library
from ltx2_core.hub.registry import Reference
from ltx2_core.media.probe import probe
from ltx2_core.pipeline.render.engine import Engine
from ltx2_core.pipeline.render.stage_inputs import InputEncoder
from ltx2_core.pipeline.request import Request
from tests.commands import ltx2, made_in, refused, rendered
from tests.synthetic_media import packets, write_video

pytestmark = pytest.mark.usefixtures("kept_models")

FPS = Fraction(24)
LORA = "ltx-2.5-22b-ic-lora-pixel-spatial-upscaler-x2-1.0.safetensors"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip with audio whose sides fit no latent grid, one whose sides fit, and two of more than 20 seconds."""
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "odd.mp4", frames=12, fps=FPS, size=(90, 50), sound="aac")
    write_video(folder / "even.mp4", frames=9, fps=FPS, size=(64, 64))
    write_video(folder / "standing.mp4", frames=9, fps=FPS, size=(96, 64), rotation=90)
    write_video(folder / "long.mp4", frames=50, fps=Fraction(2), size=(32, 32), sound="aac")
    write_video(folder / "wide.mp4", frames=44, fps=Fraction(2), size=(128, 32))
    return folder


@pytest.fixture
def upscale(tiny: Path, clips: Path, tmp_path: Path) -> Callable[..., tuple[Request, Tensor, str]]:
    """Run the edit. Returns: the request, the video latents and the messages."""

    def run(name: str, *words: object, model: Path = tiny, target: str = "big.mp4") -> tuple[Request, Tensor, str]:
        common = ("--model", model, "--seed", 3, "--keep-latents", "-o", tmp_path / target)
        factor = () if "--upscale" in words else ("--upscale", 2)
        result = ltx2("v2v", clips / name, "a bell rings", *factor, *common, *words)
        assert result.exit_code == 0, result.stderr
        latents = load_file(tmp_path / f"{target}.job" / "latents-1.safetensors")
        return made_in(tmp_path / target).request, latents["video"], " ".join(result.stderr.split())

    return run


def shape_of(path: Path) -> tuple[int, int, int | None]:
    video = probe(path).video
    assert video is not None
    return video.width, video.height, video.frames


def test_one_tile_and_one_window_are_the_second_of_two_stages_bit_by_bit(
    tiny: Path, upscale: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--model", tiny, "--seed", 3, "--sound", "off", "--frames", 9, "--res", "128x128", "--steps", 2)
    path = rendered(
        "t2v", "a bell rings", *words, "--preset", "two-stage", "--keep-latents", "-o", tmp_path / "two.mp4"
    )
    first, last = (load_file(f"{path}.job/latents-{number}.safetensors") for number in (1, 2))
    run = Engine.stage_run

    def from_first(
        self: Engine, stage: Any, results: Any, contexts: Any, generator: torch.Generator, *more: Any
    ) -> Any:
        generator.set_state(first["generator"])
        return run(self, stage, results, contexts, generator, *more)

    monkeypatch.setattr(Engine, "stage_run", from_first)
    monkeypatch.setattr(InputEncoder, "clip", lambda self, grid, stage: first["video"])
    request, enlarged, _ = upscale("even.mp4", "--sound", "off")
    assert (request.preset, request.recipe.stages[0].is_whole) == ("upscale-lora", True)
    assert enlarged.equal(last["video"])


def test_a_clip_of_any_size_and_length_keeps_its_frames_its_shape_and_its_audio(
    upscale: Callable, clips: Path, tmp_path: Path
) -> None:
    request, latent, told = upscale("odd.mp4")
    assert (request.width, request.height, request.frames, request.kept_frames) == (192, 128, 17, 12)
    assert latent.shape[2:] == (3, 4, 6)
    assert shape_of(tmp_path / "big.mp4") == (180, 100, 12)
    assert packets(tmp_path / "big.mp4", "audio") == packets(clips / "odd.mp4", "audio")
    assert "odd.mp4: 90x50 becomes 180x100, rendered at 192x128 with its edges repeated, and cut" in told
    assert "refined without an in-context LoRA" in told
    assert shape_of(rendered("decode", tmp_path / "big.mp4.job", "-o", tmp_path / "again.mp4")) == (180, 100, 12)
    assert (tmp_path / "again.mp4").read_bytes() == (tmp_path / "big.mp4").read_bytes()


def test_a_clip_without_audio_stays_silent_and_a_standing_one_stands(upscale: Callable, tmp_path: Path) -> None:
    request, _, _ = upscale("standing.mp4", "--no-crop")
    assert (request.audio, request.video) == ("off", "generate")
    assert shape_of(tmp_path / "big.mp4") == (128, 192, 9)
    assert probe(tmp_path / "big.mp4").audio is None


def test_by_one_and_a_half(upscale: Callable, tmp_path: Path) -> None:
    request, latent, told = upscale("odd.mp4", "--upscale", "1.5", "--sound", "off")
    assert (request.recipe.stages[0].source_scale, latent.shape[2:]) == (Fraction(2, 3), (3, 3, 6))
    assert shape_of(tmp_path / "big.mp4") == (134, 74, 12)
    assert "upsampler_x1.5" in made_in(tmp_path / "big.mp4").model.files
    assert "rendered at 192x96" in told


def test_a_lower_strength_stays_nearer_to_the_enlarged_clip(upscale: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Tensor] = []
    enlarged = InputEncoder.enlarged

    def kept(self: InputEncoder, *given: Any) -> Tensor:
        begun.append(enlarged(self, *given))
        return begun[-1]

    monkeypatch.setattr(InputEncoder, "enlarged", kept)
    request, usual, _ = upscale("even.mp4")
    _, weak, _ = upscale("even.mp4", "--strength", 0.1, target="weak.mp4")
    _, guided, _ = upscale("even.mp4", "--preset", "upscale-guided", "--steps", 2, target="guided.mp4")
    assert request.strength is None
    assert (weak - begun[1]).norm() < 0.5 * (usual - begun[0]).norm()
    assert guided.isfinite().all()


@pytest.mark.slow
def test_a_long_clip_is_refined_in_windows_and_comes_near_the_whole(
    upscale: Callable, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, windows, told = upscale("long.mp4")
    assert (request.frames, request.file_frames, request.recipe.stages[0].windows) == (57, 50, 3)
    assert "28.5 s are refined in 3 windows of 1x1 tiles" in told
    assert shape_of(tmp_path / "big.mp4") == (64, 64, 50)
    monkeypatch.setattr("ltx2_core.pipeline.resolve.upscaling.count_for", lambda *given: 1)
    request, whole, _ = upscale("long.mp4", target="whole.mp4")
    assert request.recipe.stages[0].windows == 1
    assert 0 < (windows - whole).norm() < 0.2 * whole.norm()


def test_windows_and_tiles_are_rendered_again_to_the_same_bytes(upscale: Callable, tmp_path: Path) -> None:
    request, latent, told = upscale("wide.mp4", "--duration", "21s", "--start", "0.5s", "--tiles", "2x1")
    assert (request.recipe.stages[0].tiles, request.recipe.stages[0].windows) == ((2, 1), 2)
    assert latent.shape[2:] == (7, 2, 8)
    assert "are refined in 2 windows of 2x1 tiles" in told
    path = tmp_path / "big.mp4"
    result = ltx2("rerun", path, "-o", tmp_path / "again.mp4")
    assert result.exit_code == 0, result.stderr
    assert "nothing differs" in result.stderr
    assert (tmp_path / "again.mp4").read_bytes() == path.read_bytes()


@pytest.fixture
def installed(tiny_of: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the LoRA of the edit for the tiny model of 2.5."""
    (style,) = tiny_of("2.5").glob("*-lora-style.safetensors")
    save_file(load_file(style), tmp_path / LORA)

    def find(self: Library, reference: Reference) -> Path | None:
        return tmp_path / LORA if reference.path == LORA else None

    monkeypatch.setattr(Library, "find_all", find)


@pytest.mark.usefixtures("installed")
def test_the_lora_that_is_made_for_it_looks_at_the_clip_where_it_is_installed(
    upscale: Callable, tiny_of: Callable, tmp_path: Path
) -> None:
    model = tiny_of("2.5")
    request, looked, told = upscale("even.mp4", model=model)
    assert [(one.name, one.strength) for one in request.loras] == [(LORA, 0.5)]
    (reference,) = request.references
    assert (reference.name, reference.spatial_scale) == ("even.mp4", 2)
    assert f"refined with {LORA} looking at the clip" in told
    again = rendered("rerun", tmp_path / "big.mp4", "-o", tmp_path / "again.mp4")
    assert again.read_bytes() == (tmp_path / "big.mp4").read_bytes()
    without, alone, _ = upscale("even.mp4", "--control", "off", model=model, target="alone.mp4")
    assert without.references == without.loras == ()
    assert not alone.allclose(looked, atol=1e-3)
    half, _, told = upscale("even.mp4", "--upscale", "1.5", model=tiny_of("2.3"), target="half.mp4")
    assert half.loras == ()


@pytest.mark.slow
@pytest.mark.parametrize("version", ["2.0", "2.3", "2.5"])
def test_every_generation_enlarges(version: str, upscale: Callable, tiny_of: Callable, tmp_path: Path) -> None:
    for preset in ("upscale", "upscale-guided"):
        steps = ("--steps", 2) if preset == "upscale-guided" else ()
        upscale("odd.mp4", "--preset", preset, *steps, model=tiny_of(version), target=f"{preset}.mp4")
        assert shape_of(tmp_path / f"{preset}.mp4") == (180, 100, 12)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--res", "64x64"), "the size follows from that of the clip"),
        (("--aspect", "1:1"), "the size follows from that of the clip"),
        (("--upscale", "1"), "the upsamplers enlarge 2 or 1.5 times"),
        (("--upscale", "2x"), "the upsamplers enlarge 2 or 1.5 times"),
        (("--upscale", "3"), "the upsamplers enlarge 2 or 1.5 times"),
        (("--sound", "generate"), "only the video is enlarged, and the audio of the clip is kept"),
        (("--video", "keep"), "only --retake can keep the video"),
        (("--extend", "1s"), "--extend and --upscale cannot be used together"),
        (("--strength", "0.95"), "begins at a noise level of 0.909375"),
        (("--preset", "restyle"), "it does not upscale a clip"),
        (("--duration", "2s"), "odd.mp4 lasts 0.50 s, which is 12 frames at 24 fps"),
        (("--frames", "12"), "--frames 9 or --frames 17"),
        (("--steps", "4"), "preset upscale-lora has steps of its own"),
        (("--draft",), "a single stage of"),
        (("--tiles", "2x3"), "the video is 6x4 latent cells large, and neighbours share 5 of them hint: --tiles 1x1"),
        (("--tiles", "2"), "it is not a number of tiles across and down such as 2x2"),
    ],
)
def test_what_cannot_be_done_while_a_clip_is_enlarged_is_refused(
    words: tuple[str, ...], says: str, tiny: Path, clips: Path, tmp_path: Path
) -> None:
    factor = () if "--upscale" in words else ("--upscale", 2)
    assert says in refused(2, "v2v", clips / "odd.mp4", *factor, *words, "--model", tiny, "-o", tmp_path / "never.mp4")


def test_tiles_need_a_stage_that_refines_an_enlarged_video() -> None:
    result = ltx2("plan", "t2v", "a bell rings", "--model", "toy", "--preset", "distilled-lora", "--tiles", "2x2")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "preset distilled-lora has no stage that refines an enlarged video" in result.stderr


def test_a_clip_that_would_be_too_large_is_refused_with_numbers(tiny: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "wide.mp4", frames=1, size=(8200, 32), codec="mjpeg", pixels="yuvj420p")
    told = refused(2, "v2v", tmp_path / "wide.mp4", "--upscale", 2, "--model", tiny, "-o", tmp_path / "never.mp4")
    assert "8200x32 becomes 16400x64, and no side can be longer than 16384" in told


def test_the_plan_counts_the_upsampler_and_the_largest_window(
    tiny: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def phases() -> dict[str, dict[str, Any]]:
        words = ("--upscale", 2, "--model", tiny, "--json", "-o", tmp_path / "never.mp4")
        result = ltx2("plan", "v2v", clips / "long.mp4", *words)
        assert result.exit_code == 0, result.stderr
        told = next(event for line in result.stdout.splitlines() if (event := json.loads(line))["event"] == "output")
        return {phase["name"]: phase for phase in told["phases"]}

    windows = phases()
    assert [*windows] == ["text", "text context", "inputs", "audio input", "upsampling", "denoising", "video"]
    monkeypatch.setattr("ltx2_core.pipeline.resolve.upscaling.count_for", lambda *given: 1)
    assert windows["denoising"]["ram"] < phases()["denoising"]["ram"]
