"""One writer per output, and job folders that are checked before they are used: the real command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import Result

import ltx2_core as core
from ltx2_cli.display import Display
from ltx2_core.lock import locked
from ltx2_core.media.clip import COPIED_FILES
from ltx2_core.media.copy import IN_MP4, OWN_CONTAINER
from ltx2_core.pipeline.job import Job
from tests.commands import ltx2, refused, rendered

pytestmark = pytest.mark.usefixtures("kept_models")

ROOT = Path(__file__).parents[2]
IN_STAGE = core.StepDone(phase="denoise", done=1, total=3)


def stopped(*words: object) -> Result:
    """Run a command that gets a stop request after its first step."""
    shown = Display.event

    def event(self: Display, what: Any) -> None:
        shown(self, what)
        if what == IN_STAGE:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Display, "event", event)
        result = ltx2(*words)
    assert result.exit_code == 130, result.stderr
    return result


@pytest.fixture
def smoke(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[object]]:
    """The words of a render of three steps, in its own folder."""
    monkeypatch.chdir(tmp_path)
    common = ["--model", tiny, "--preset", "smoke", "--steps", 3, "--seed", 7]
    return lambda *more: ["t2v", "a bell rings", *common, *more]


@pytest.fixture(scope="module")
def undisturbed(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("undisturbed") / "a.mp4"
    return rendered(
        "t2v", "a bell rings", "--model", tiny, "--preset", "smoke", "--steps", 3, "--seed", 7, "-o", path
    ).read_bytes()


# One writer


def test_output_that_is_being_written_is_refused_or_skipped(smoke: Callable[..., list[object]]) -> None:
    with locked(Path("a.mp4")):
        for more in ([], ["--overwrite"]):
            said = refused(2, *smoke("-o", "a.mp4", "--job-dir", "new/deep/job", *more))
            assert f"is being written by process {os.getpid()} on " in said
            assert "hint: -o gives another name" in said
        skipped = ltx2(*smoke("-o", "a.mp4", "--skip-existing"))
    assert (skipped.exit_code, skipped.stdout) == (0, "")
    assert "skipped: " in skipped.stderr
    assert [*Path.cwd().iterdir()] == []


def test_job_folder_that_is_being_written_is_refused_whatever_the_output(smoke: Callable[..., list[object]]) -> None:
    stopped(*smoke("-o", "a.mp4"))
    with locked(Path("a.mp4.job")):
        said = refused(2, "resume", "a.mp4.job", "-o", "b.mp4")
        assert "a.mp4.job is being written by process" in said
        assert "hint: wait until that process has ended" in said
        words = smoke("-o", "b.mp4", "--job-dir", "a.mp4.job", "--overwrite")
        assert "a.mp4.job is being written by process" in refused(2, *words)


def test_job_that_another_process_has_finished_meanwhile_is_not_rendered_again(
    smoke: Callable[..., list[object]],
) -> None:
    stopped(*smoke("-o", "a.mp4"))
    job = core.continued(core.Job.open(Path("a.mp4.job")), {"overwrite": True})
    rendered("resume", "a.mp4.job")
    with pytest.raises(core.RequestError, match="holds no render"):
        core.resume(job)


def together(count: int, words: list[object]) -> list[int]:
    """Run a command in this many processes at once. Returns their exit codes."""
    reader, writer = os.pipe()
    children = []
    with warnings.catch_warnings(
        action="ignore"
    ):  # the warning is about threads in the parent: they only wait, and the children end soon
        for _ in range(count):
            child = os.fork()
            if child == 0:
                code = 99
                try:
                    os.close(writer)
                    os.read(reader, 1)  # returns when the parent releases all children
                    code = ltx2(*words).exit_code
                finally:
                    os._exit(code)
            children.append(child)
    os.close(reader)
    os.close(writer)
    return sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


@pytest.mark.parametrize("how", [[], ["--overwrite"], ["--skip-existing"]], ids=["refuse", "overwrite", "skip"])
def test_parallel_renders_of_one_output_leave_one_whole_file(
    how: list[str], smoke: Callable[..., list[object]], undisturbed: bytes
) -> None:
    codes = together(8, smoke("-o", "a.mp4", *how))
    assert {*codes} <= ({0} if how == ["--skip-existing"] else {0, 2})
    assert 0 in codes
    assert Path("a.mp4").read_bytes() == undisturbed
    assert [path.name for path in Path.cwd().iterdir()] == ["a.mp4"]


# Targets of a resumed job


def edit(folder: str, **changes: object) -> None:
    path = Path(folder, "job.json")
    record = json.loads(path.read_text())
    record["task"] |= changes
    path.write_text(json.dumps(record))


def test_record_cannot_name_a_file_elsewhere_or_of_another_kind(
    smoke: Callable[..., list[object]], undisturbed: bytes
) -> None:
    stopped(*smoke("-o", "a.mp4", "--overwrite"))
    Path("elsewhere").mkdir()
    for name in ("elsewhere/victim.mp4", "../victim.mp4", "victim.txt", "job.json"):
        victim = Path(name)
        victim.write_text("mine")
        edit("a.mp4.job", target=str(Path.cwd() / name))
        assert "-o FILE says where" in refused(2, "resume", "a.mp4.job")
        assert victim.read_text() == "mine"
        victim.unlink()
    assert rendered("resume", "a.mp4.job", "-o", "b.mp4").read_bytes() == undisturbed


def test_job_folder_elsewhere_goes_on_where_the_hint_says(
    smoke: Callable[..., list[object]], undisturbed: bytes
) -> None:
    Path("mine").mkdir()
    result = stopped(*smoke("-o", "a clip.mp4", "--job-dir", "mine/jobs/of/1"))
    target = Path.cwd() / "a clip.mp4"
    assert result.stderr.splitlines()[-1] == f"hint: ltx2 resume mine/jobs/of/1 -o '{target}'"
    assert "is not beside it" in refused(2, "resume", "mine/jobs/of/1")
    result = ltx2("resume", "mine/jobs/of/1", "-o", target)
    assert "128x96, 9 frames at 24 fps, 3 steps, seed 7" in result.stderr  # the plan line
    assert target.read_bytes() == undisturbed
    assert [*Path("mine").iterdir()] == []  # without the folders that the render created above its own


def test_resume_replaces_only_what_it_is_told_to(smoke: Callable[..., list[object]], undisturbed: bytes) -> None:
    stopped(*smoke("-o", "a.mp4"))
    Path("a.mp4").write_text("mine")
    assert "hint: --overwrite replaces it, -o gives another name" in refused(2, "resume", "a.mp4.job")
    assert "-o b.wav cannot be used" in refused(2, "resume", "a.mp4.job", "-o", "b.wav")
    assert rendered("resume", "a.mp4", "--overwrite").read_bytes() == undisturbed


def test_every_file_that_a_video_is_copied_into_is_known_by_its_suffix() -> None:
    assert {*COPIED_FILES} == {one.suffix for one in (IN_MP4, *OWN_CONTAINER.values())}


# What a resumed job uses


def test_job_that_was_killed_after_its_file_had_its_name_is_only_tidied_up(
    smoke: Callable[..., list[object]], undisturbed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Job, "remove", lambda self: None)  # as if the process was killed there
        rendered(*smoke("-o", "a.mp4", "--sheet"))
    before = Path("a.mp4").stat()
    assert rendered("resume", "a.mp4").read_bytes() == undisturbed
    assert Path("a.mp4").stat() == before
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["a.mp4", "a.png"]


def test_other_file_in_the_place_of_the_finished_one_is_not_taken_for_it(
    smoke: Callable[..., list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Job, "remove", lambda self: None)
        rendered(*smoke("-o", "a.mp4"))
    Path("a.mp4").write_bytes(Path("a.mp4").read_bytes()[::-1])
    assert "a.mp4 already exists" in refused(2, "resume", "a.mp4.job")


def test_resume_of_a_kept_and_finished_render_says_how_to_write_it_again(smoke: Callable[..., list[object]]) -> None:
    rendered(*smoke("-o", "a.mp4", "--keep-latents"))
    told = refused(2, "resume", "a.mp4.job")
    assert "a.mp4.job holds a finished render" in told
    assert "hint: ltx2 decode a.mp4.job -o other.mp4" in told
    assert rendered("decode", "a.mp4.job", "-o", "other.mp4").read_bytes() == Path("a.mp4").read_bytes()


def test_lora_of_the_same_size_and_header_is_not_mixed_in(
    tiny: Path, smoke: Callable[..., list[object]], undisturbed: bytes
) -> None:
    lora = Path("style.safetensors")
    shutil.copy(tiny / "ltx-2-tiny-lora-style.safetensors", lora)
    kept = lora.read_bytes()
    stopped(*smoke("-o", "a.mp4", "--lora", lora))
    tensors = {name: tensor + 1 for name, tensor in load_file(lora).items()}
    save_file(tensors, "other.safetensors")
    other = (
        kept[: -sum(t.nbytes for t in tensors.values())]
        + Path("other.safetensors").read_bytes()[-sum(t.nbytes for t in tensors.values()) :]
    )
    time.sleep(0.01)
    lora.write_bytes(other)
    assert lora.stat().st_size == len(kept)
    assert f"{lora.absolute()} has changed since this render began" in refused(7, "resume", "a.mp4.job")
    lora.write_bytes(kept)  # the bytes count, not the time stamp
    rendered("resume", "a.mp4.job")
    rendered(*smoke("-o", "b.mp4", "--lora", lora))
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes() != undisturbed


def test_edited_latents_are_refused_before_a_model_is_loaded(
    smoke: Callable[..., list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(*smoke("-o", "a.mp4"))
    path = Path("a.mp4.job", "stopped-1.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(core.Models, "transformer", lambda *given: pytest.fail("a model was loaded"))
    told = refused(7, "resume", "a.mp4.job")
    assert "stopped-1.safetensors is damaged" in told
    assert "hint: remove it, and ltx2 resume makes it again" in told
