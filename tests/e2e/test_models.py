"""Models are kept for later stages and renders: each is loaded at most once, and the bytes of results do not change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ltx2_core as core
from ltx2_core import headers
from ltx2_core.hub.find import ModelFiles
from ltx2_core.media import accept
from ltx2_core.media.inputs import VideoSource
from ltx2_core.pipeline.render import models as loaders
from ltx2_core.pipeline.render import stage_inputs
from ltx2_core.pipeline.resolve import fit
from tests.synthetic_media import write_video


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The number of times that each component is loaded."""
    counts: Counter[str] = Counter()
    assign = loaders.assign

    def counted(module: Any, name: str, *rest: Any, **more: Any) -> Any:
        counts[name] += 1
        return assign(module, name, *rest, **more)

    monkeypatch.setattr(loaders, "assign", counted)
    return counts


@pytest.fixture
def resolved(tiny: Path, tmp_path: Path) -> Callable[..., core.Resolved]:
    def resolved(name: str, mode: str = "t2v", main: Path | None = None, **settings: object) -> core.Resolved:
        usual = {"model": str(tiny), "res": "128x128", "frames": "9", "steps": "2", "seed": "7"}
        given = core.gather(usual | {"output": str(tmp_path / f"{name}.mp4"), "metadata": False} | settings)
        return core.resolve(mode, "a bell rings", given.layers, main=main)

    return resolved


def test_stages_with_the_same_weights_load_them_once(loaded: Counter[str], resolved: Callable) -> None:
    core.run(resolved("a", preset="distilled", steps=None))
    assert {name for name, count in loaded.items() if count > 1} == set()
    assert loaded["transformer"] == 1


def test_the_module_that_was_compared_with_its_file_is_the_one_that_is_loaded(
    resolved: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: Counter[str] = Counter()
    build = loaders.build_component

    def counted(name: str, header: headers.Header, config: Any = None) -> Any:
        built[name] += 1
        return build(name, header, config)

    monkeypatch.setattr(loaders, "build_component", counted)
    core.run(resolved("a", preset="distilled", steps=None))
    assert set(built.values()) == {1}


def test_loras_of_a_stage_are_fused_and_taken_out_exactly(
    loaded: Counter[str], resolved: Callable, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = str(tiny / "ltx-2-tiny-lora-style.safetensors")
    made = core.run(resolved("a", preset="two-stage", lora=(lora,))).path.read_bytes()
    assert loaded["transformer"] == 1
    monkeypatch.setattr(fit, "KEPT_SHARE", 0)
    apart = core.run(resolved("b", preset="two-stage", lora=(lora,))).path.read_bytes()
    assert loaded["transformer"] == 3
    assert apart == made


def test_renders_one_after_another_load_a_model_once_and_give_the_bytes_of_their_own(
    loaded: Counter[str], resolved: Callable, tiny: Path
) -> None:
    together = [resolved(name, seed=seed) for name, seed in (("a", "7"), ("b", "8"))]
    models = core.Models(together[0].task.files, together[0].task.machine)
    made = [core.run(one, models=models).path.read_bytes() for one in together]
    assert loaded["transformer"] == loaded["video_decoder"] == 1
    alone = core.run(resolved("c", seed="8")).path.read_bytes()
    assert made[1] == alone
    assert made[0] != alone


def test_models_of_other_files_are_refused(resolved: Callable) -> None:
    one = resolved("a")
    models = core.Models(ModelFiles(name="other", paths={}), one.task.machine)
    with pytest.raises(ValueError, match="other files"):
        core.run(one, models=models)


def test_clip_that_is_extended_in_two_stages_is_heard_once(
    resolved: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[object] = []
    read = stage_inputs.read_audio
    monkeypatch.setattr(stage_inputs, "read_audio", lambda *given: heard.append(given) or read(*given))
    clip = write_video(tmp_path / "clip.mp4", frames=17, size=(128, 128), sound="aac")
    core.run(resolved("a", "v2v", clip, extend="0.7s", preset="two-stage", frames=None))
    assert len(heard) == 1


def test_clip_is_examined_once_as_video_and_once_as_audio_until_it_changes(resolved: Callable, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", frames=17, size=(128, 128), sound="aac")
    accept._examine.cache_clear()
    core.run(resolved("a", "v2v", clip, extend="0.7s", preset="two-stage", frames=None))
    assert accept._examine.cache_info().misses == 2
    write_video(clip, frames=9, size=(128, 128))
    assert accept.check_input(clip, VideoSource).frames == 9


def test_each_header_is_read_once(resolved: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    headers._parsed.cache_clear()
    core.run(resolved("a", preset="two-stage"))
    read = headers._parsed.cache_info()
    assert read.misses == read.currsize  # no file is read twice
    assert read.hits  # although they are requested again


@pytest.mark.parametrize("device", ["cuda:0", "mps"])
def test_a_device_that_torch_cannot_use_ends_a_render_before_anything_is_written(
    device: str, resolved: Callable, tmp_path: Path
) -> None:
    asked = resolved("a")
    task = asked.task.model_copy(update={"machine": replace(asked.task.machine, device=device)})
    with pytest.raises(core.RequestError, match=f"--device {device} cannot be used"):
        core.run(replace(asked, task=task))
    assert list(tmp_path.iterdir()) == []
