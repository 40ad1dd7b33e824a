"""`--preview` through the real command line: images during the render, an event for each, and the same result."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load

from ltx2_cli.display import Display
from ltx2_core.home import ltx2_home
from ltx2_core.identity import identity
from ltx2_core.pipeline.events import PreviewShown
from ltx2_core.pipeline.job import PREVIEW
from ltx2_core.pipeline.render.latent_colours import ColourFit
from ltx2_core.pipeline.render.models import Models
from ltx2_core.records import presets_folder
from tests.commands import ROOT, UNGUIDED, ltx2, rendered
from tests.stopping import stopped_when
from tests.synthetic_media import write_video

pytestmark = pytest.mark.usefixtures("kept_models")
SMALL = ("--res", "64x64", "--frames", 17, "--steps", 5, "--seed", 3, *UNGUIDED)


@pytest.fixture(autouse=True)
def _no_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))


def maps() -> list[Path]:
    """The stored maps of colours."""
    return [*(ltx2_home() / "previews").glob("*")]


def previews(*words: object) -> list[dict[str, Any]]:
    """The previews that a command reports."""
    result = ltx2(*words, "--json")
    assert result.exit_code == 0, result.stderr
    return [event for event in map(json.loads, result.stdout.splitlines()) if event["event"] == "preview"]


def test_the_result_has_the_same_bytes_and_pictures_come_on_the_way(tiny: Path, tmp_path: Path) -> None:
    words = ("t2v", "a bell", "--model", tiny, *SMALL, "--keep-latents", "--no-metadata")
    plain = rendered(*words, "-o", tmp_path / "a.mp4")
    assert not maps()
    assert not (tmp_path / "a.mp4.job" / PREVIEW).exists()
    first = previews(*words, "-o", tmp_path / "b.mp4", "--preview", 2)  # by the decoder
    path = tmp_path / "b.mp4.job" / PREVIEW
    assert [(one["path"], one["step"], one["total"]) for one in first] == [(str(path), step, 5) for step in (2, 4, 5)]
    (kept,) = maps()
    with Image.open(path) as decoded:
        assert decoded.size == (256, 256)  # enlarged from 32x32
    second = previews(*words, "-o", tmp_path / "c.mp4", "--preview", "auto", "--memory", "streamed")  # by the map
    assert [one["step"] for one in second] == [1, 2, 3, 4, 5]
    assert maps() == [kept]
    assert ColourFit.parse(kept.read_bytes(), 128).clips == 2
    for name in "bc":
        assert (tmp_path / f"{name}.mp4").read_bytes() == plain.read_bytes()
    result = ltx2(*words, "-o", tmp_path / "d.mp4", "--preview", 1)
    assert result.stderr.count("preview: ") == 1
    assert f"preview: {tmp_path / 'd.mp4.job' / PREVIEW}" in result.stderr.splitlines()
    assert "\x1b" not in result.stderr
    assert "preview: " not in ltx2(*words, "-o", tmp_path / "e.mp4", "--preview", 1, "-q").stderr


def test_a_stage_in_tiles_shows_the_whole_video(tiny: Path, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "wide.mp4", frames=9, size=(128, 32))
    words = ("v2v", clip, "a bell", "--upscale", 2, "--tiles", "2x1", "--model", tiny, "--seed", 3, "--no-metadata")
    plain = rendered(*words, "-o", tmp_path / "a.mp4")
    told = previews(*words, "-o", tmp_path / "b.mp4", "--preview", 1, "--keep-latents")
    total = told[0]["total"]
    assert [one["step"] for one in told] == [*range(1, total + 1)]
    with Image.open(tmp_path / "b.mp4.job" / PREVIEW) as shown:
        assert shown.size == (256, 64)  # two tiles side by side
    assert (tmp_path / "b.mp4").read_bytes() == plain.read_bytes()


def test_the_diffusion_decoder_shows_pictures_and_has_a_map_of_its_own(
    tiny_of: Callable[[str], Path], tmp_path: Path
) -> None:
    size = ("--res", "64x64", "--frames", 9, "--steps", 2, "--seed", 3, *UNGUIDED)
    words = ("t2v", "a bell", "--model", tiny_of("2.5"), *size, "--no-metadata")
    plain = rendered(*words, "--decoder", "diffusion", "-o", tmp_path / "a.mp4")
    told = previews(*words, "--decoder", "diffusion", "-o", tmp_path / "b.mp4", "--preview", 1)  # by the decoder
    assert [(one["step"], one["total"]) for one in told] == [(1, 2), (2, 2)]
    assert (tmp_path / "b.mp4").read_bytes() == plain.read_bytes()
    (own,) = maps()
    assert load(own.read_bytes())["clips"].item() == 1
    previews(*words, "--decoder", "conv", "-o", tmp_path / "c.mp4", "--preview", 2)
    assert len(maps()) == 2


def test_the_decoder_is_left_out_where_it_does_not_fit(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("t2v", "a bell", "--model", tiny, *SMALL)
    monkeypatch.setattr(Models, "has_room_for", lambda self, name: False)
    assert previews(*words, "-o", tmp_path / "a.mp4", "--preview", 1) == []
    assert len(maps()) == 1
    maps()[0].write_bytes(b"damaged")  # a damaged map is ignored and made again
    monkeypatch.undo()
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    assert len(previews(*words, "-o", tmp_path / "b.mp4", "--preview", 5)) == 1
    assert ColourFit.parse(maps()[0].read_bytes(), 128).clips == 1
    assert not (tmp_path / "b.mp4.job").exists()


def test_two_stages_and_a_stop_in_the_middle_show_the_rest(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = ("--res", "128x128", "--frames", 9, "--steps", 4, "--seed", 3, *UNGUIDED)
    words = ("t2v", "a bell", "--model", tiny, "--preset", "two-stage", *size)
    plain = rendered(*words, "-o", tmp_path / "a.mp4")
    with stopped_when(monkeypatch, False, True):
        assert ltx2(*words, "-o", tmp_path / "b.mp4", "--preview", 2).exit_code == 130
    assert (tmp_path / "b.mp4.job" / PREVIEW).exists()
    told = previews("resume", tmp_path / "b.mp4.job")
    assert [(one["step"], one["total"]) for one in told] == [(4, 4), (2, 3), (3, 3)]
    assert (tmp_path / "b.mp4").read_bytes() == plain.read_bytes()
    assert not (tmp_path / "b.mp4.job").exists()


@pytest.mark.slow
def test_a_batch_tells_of_a_preview_in_each_job_folder_and_draws_none(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = tmp_path / "jobs.jsonl"
    lines = [{"prompt": "a bell", "seed": seed, "keep_latents": True} for seed in (1, 2)]
    jobs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ("batch", jobs, "--model", tiny, "--res", "64x64", "--frames", 9, "--steps", 2, *UNGUIDED)
    told = previews(*words, "-o", tmp_path / "out", "--preview", 2)
    folders = {Path(one["path"]).parent for one in told}
    assert len(folders) == len(told) == 2
    assert all((folder / PREVIEW).is_file() for folder in folders)
    assert {one["job"] for one in told} == {folder.name.removesuffix(".mp4.job") for folder in folders}
    result = ltx2(*words, "-o", tmp_path / "out")  # a preview does not change the result: all jobs are done
    assert result.exit_code == 0
    assert "0.0 s" not in result.stderr
    assert all((folder / PREVIEW).is_file() for folder in folders)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("t2v", "a bell", "--video", "off", "--preview", 4, "-o", "a.wav"), "leaves only audio"),
        (("v2a", "clip.mp4", "--preview", 4, "-o", "a.mp4"), "the given video stays as it is"),
        (("t2v", "a bell", "--preview", 0, "-o", "a.mp4"), "it must be a number of steps from 1 to 9999, auto or off"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    words: tuple[object, ...], why: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if words[0] == "v2a":
        rendered("t2v", "a bell", "--model", tiny, *SMALL, "-o", "clip.mp4")
    result = ltx2(*words, "--model", tiny)
    assert result.exit_code == 2
    assert why in result.stderr


def test_settings_for_all_renders_show_nothing_where_no_video_is_made(tiny: Path, tmp_path: Path) -> None:
    config = tmp_path / "own.yaml"
    config.write_text("preview: 1\n")
    words = ("t2v", "a bell", "--model", tiny, "--video", "off", "--steps", 2, *UNGUIDED[3:4], "--config", config)
    assert previews(*words, "-o", tmp_path / "a.wav", "--duration", "1s") == []


def test_a_terminal_that_takes_pictures_gets_them_and_another_the_path_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / PREVIEW
    Image.new("RGB", (8, 8), "red").save(path)
    for name in ("TMUX", "STY", "KITTY_WINDOW_ID", "TERM_PROGRAM"):
        monkeypatch.delenv(name, raising=False)

    def shown(term: str, *, is_terminal: bool, level: int = 0) -> str:
        monkeypatch.setenv("TERM", term)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
        display = Display()
        display.level = level
        for step in (1, 2):
            display.event(PreviewShown(path=path, step=step, total=2))
        return capsys.readouterr().err

    assert shown("xterm-kitty", is_terminal=True).count("\x1b_G") == 2
    for term, is_terminal in (("xterm-kitty", False), ("xterm-256color", True), ("dumb", True)):
        assert shown(term, is_terminal=is_terminal).split() == ["preview:", str(path)]
    assert shown("xterm-kitty", is_terminal=True, level=-1) == ""


def test_the_map_of_the_built_in_model_is_shipped_and_small() -> None:
    vae = identity(ROOT / "ltx2_core" / "toy" / "video_vae.safetensors").content
    shipped = [*(presets_folder() / "previews").iterdir()]
    assert [path.name for path in shipped] == [f"{vae}.safetensors"]  # if this fails, run scripts/toy/preview_map.py
    assert shipped[0].stat().st_size < 6000
