"""The settings that are derived from a request give the same request again, for all options of the user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ltx2_core.errors import MediaError
from ltx2_core.pipeline.job import Job, JobRecord
from ltx2_core.pipeline.made import Made, MadeModel, versions
from ltx2_core.pipeline.render.run import identities
from ltx2_core.pipeline.request import EncodingSettings, RenderTask
from ltx2_core.pipeline.rerun.recipe import FoundRecipe, read_recipe
from ltx2_core.pipeline.rerun.rerun import _prompt, resolve_again
from ltx2_core.pipeline.resolve.machine import hardware
from ltx2_core.pipeline.resolve.presets import recipe
from ltx2_core.pipeline.resolve.settings import COMMAND_LINE, Origin, Place
from ltx2_core.pipeline.resolve.settle import Asked
from tests.synthetic_media import write_sound, write_video

NAMED = Place(Origin.FILE, "asked.yaml")  # settings in a file are ignored, not refused, if they have no effect
RECIPES = ["one-stage", "distilled-one-stage", "distilled-lora", "distilled", "two-stage", "keyframes", "hq"]
EDITS: dict[str, dict[str, Any]] = {
    "restyle": {"strength": 0.35},
    "extend": {"extend": "0.4s"},
    "lead": {"extend": "0.4s", "extend_before": "0.7s"},
    "retake": {"retake": "0.3s-0.61s"},
    "audio": {"retake": "0.3s-0.61s", "video": "keep"},
}
SCALES = st.floats(0, 100) | st.just(1.0) | st.just(0.0)
GUIDED = {f"{stream}_{name}": SCALES for stream in ("video", "audio") for name in ("st", "sm", "stg")}
GUIDED |= {f"{stream}_rescale": st.floats(0, 1) for stream in ("video", "audio")}
ANY = GUIDED | {
    "seed": st.integers(0, 2**63 - 1),
    "negative": st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=9),
    "skip_step": st.integers(0, 3),
    "schedule_tokens": st.integers(1, 10**6),
    "text_rows": st.sampled_from([1, 256, 1024]),
    "sampler": st.sampled_from(["euler", "res2s"]),
    "tiles": st.sampled_from(["1x2", "3x2"]),
    "image_crf": st.integers(0, 51),
    "codec": st.sampled_from(["h264", "h265", "av1"]),
    "audio_codec": st.sampled_from(["aac", "alac", "flac"]),
    "crf": st.integers(0, 51),
    "old_sound": st.sampled_from(["drop", "second-track"]),
    "decoder": st.just("conv"),
}
SHAPED = {
    "res": st.sampled_from(["128x128", "480p", "720p", "1080p", "128x192"]),
    "frames": st.sampled_from([9, 17, 121]),
    "fps": st.sampled_from(["24", "23.976", "12.5", "59.94", "7/2"]),
}


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "clip.mp4", frames=28, size=(96, 64), sound="aac")
    Image.new("RGB", (80, 60), "red").save(folder / "photo.png")
    write_sound(folder / "bell.wav")
    return folder


def made_of(task: RenderTask) -> Made:
    """The recipe that the file of a task would contain."""
    job = Job(folder=task.target, task=task, identities=identities(task))
    assert JobRecord.parse(JobRecord(task=task, identities=job.identities, latents={}).dump()).task == task
    made = Made(
        made_with=versions(),
        hardware=hardware(task.machine.device),
        model=MadeModel(name=task.files.name, files=job.made_files()),
        request=task.request,
        machine=task.machine,
        output=EncodingSettings(**task.output.model_dump(include={*EncodingSettings.model_fields})),
    )
    return Made.parse(made.dump())


def require_same(mode: str, asked: dict[str, Any], main: Path | None, folder: Path) -> None:
    """Settle, derive the settings, settle again, and compare."""
    layer = {"output": str(folder / "{seed}.mp4"), "overwrite": True, **asked}
    task = Asked(mode=mode, prompt="a bell", layers=[(NAMED, layer)], main=main).settle().resolved.task
    found = FoundRecipe(path=folder / "a.mp4", made=made_of(task), is_own=True)
    again = resolve_again(
        found, {}, {"output": str(task.target), "overwrite": True}, [folder, task.files.paths["checkpoint"].parent]
    )
    assert again.differences == {}
    assert (again.resolved.task.request, again.resolved.task.machine) == (task.request, task.machine)
    assert again.resolved.task.output == task.output


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), preset=st.sampled_from(RECIPES))
def test_settings_read_out_of_a_request_settle_it_again(
    data: st.DataObject, preset: str, tiny: Path, media: Path
) -> None:
    asked = data.draw(st.fixed_dictionaries({}, optional=ANY | SHAPED))
    if recipe(preset).stages[0].guided:
        asked |= data.draw(st.sampled_from([{}, {"draft": True}, {"draft": True, "draft_steps": 3}]))
    streams = data.draw(st.sampled_from([{}, {"video": "off"}, {"sound": "off"}]))
    mode = data.draw(st.sampled_from(["t2v", "i2v"])) if "video" not in streams else "t2v"
    times = ["@last:0.125"] if mode == "i2v" else ["", "@0:0.125"]  # the input image is at the first frame
    images = data.draw(st.sampled_from([(), *((f"{media}/photo.png{time}",) for time in times)]))
    suffix = "wav" if "video" in streams else "mp4"
    asked |= {"model": str(tiny), "preset": preset, **streams, "image": images}
    asked |= {"output": str(media / f"a.{suffix}"), "res": asked.get("res", "128x128")}
    require_same(mode, asked, media / "photo.png" if mode == "i2v" else None, media)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), mode=st.sampled_from([*EDITS, "a2v", "v2a"]))
def test_parts_of_clips_and_audio_are_the_same_parts_again(
    data: st.DataObject, mode: str, tiny: Path, media: Path
) -> None:
    asked = data.draw(st.fixed_dictionaries({}, optional={name: ANY[name] for name in ("seed", "skip_step", "crf")}))
    part = {"start": st.sampled_from(["0.1s", "0.04s", "0.2501s"])}
    part |= (
        {"duration": st.sampled_from(["0.3s", "0.52s"])}
        if mode in ("a2v", "v2a")
        else {"fps": st.sampled_from(["24", "23.976"])}
    )
    asked |= data.draw(st.fixed_dictionaries({}, optional=part))
    asked |= {"model": str(tiny), "res": "128x128", **EDITS.get(mode, {})}
    if asked.get("video") == "keep":
        asked.pop("fps", None)
    main = media / ("bell.wav" if mode == "a2v" else "clip.mp4")
    require_same("v2v" if mode in EDITS else mode, asked, main, media)


@pytest.mark.parametrize(
    ("changes", "written", "prompt"),
    [
        ({}, "a dog", "a brown dog"),
        ({"enhance": "true"}, "a dog", "a dog"),
        ({"enhance": "true"}, None, "a brown dog"),
        ({"enhance": "true", "prompt": "a cat"}, "a dog", "a cat"),
    ],
)
def test_a_prompt_is_rewritten_again_from_what_a_person_wrote(
    changes: dict[str, str], written: str | None, prompt: str
) -> None:
    found = Asked(mode="t2v", prompt="a brown dog", layers=[(COMMAND_LINE, {"model": "toy"})]).settle().resolved
    request = found.request.model_copy(update={"given_prompt": written})
    assert _prompt(request, changes) == prompt


def test_a_file_that_is_none_of_ours_is_refused_with_a_hint(tmp_path: Path) -> None:
    for content, why in ((b"a few words", "its format is not supported"), (b"\x89PNG and more", "it is an image")):
        (tmp_path / "a.mp4").write_bytes(content)
        with pytest.raises(MediaError, match=why) as refused:
            read_recipe(tmp_path / "a.mp4")
        assert refused.value.hint
