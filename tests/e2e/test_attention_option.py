"""`--attention` through the real command line: the second clip, the unchanged result, and what is refused."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import av
import pytest
from safetensors.torch import load_file
from torch import Tensor

from tests.commands import AUDIO_UNGUIDED, UNGUIDED, ltx2, refused, rendered
from tests.stopping import stopped_when

pytestmark = pytest.mark.usefixtures("kept_models")
SMALL = ("--res", "64x64", "--frames", 17, "--steps", 3, "--seed", 3)


def attention_of(clip: Path, stage: int = 1) -> Tensor:
    """The attention that a render with --keep-latents has stored."""
    return load_file(f"{clip}.job/latents-{stage}.safetensors")["attention"]


def test_the_result_has_the_same_bytes_and_the_overlay_its_audio(tiny: Path, tmp_path: Path) -> None:
    words = ("t2v", "a bell", "--model", tiny, *SMALL)
    plain = rendered(*words, "-o", tmp_path / "a.mp4")
    shown = tmp_path / "bell-3.mp4"
    watched = rendered(*words, "-o", tmp_path / "b.mp4", "--attention", tmp_path / "bell-{seed}.mp4", "--sheet")
    assert plain.read_bytes() == watched.read_bytes()
    with av.open(shown) as overlay, av.open(plain) as clip:
        assert overlay.streams.video[0].frames == clip.streams.video[0].frames == 17
        assert [bytes(one) for one in overlay.demux(audio=0)] == [bytes(one) for one in clip.demux(audio=0)]
    result = ltx2(*words, "-o", tmp_path / "c.mp4", "--attention", shown)
    assert result.exit_code == 2
    assert f"{shown} already exists" in result.stderr
    words = (*words, *UNGUIDED, "-o", tmp_path / "c.mp4", "--attention", shown, "--overwrite", "--json")
    told = ltx2(*words).stdout.splitlines()
    assert str(shown) in [event.get("path") for event in map(json.loads, told) if event["event"] == "output"]


def test_streamed_weights_and_a_stop_give_the_same_map(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("t2v", "a bell", "--model", tiny, *SMALL, *UNGUIDED, "--keep-latents")
    every = ("--attention-steps", "1-3")
    one = rendered(*words, "-o", tmp_path / "a.mp4", "--attention", tmp_path / "aa.mp4", *every, "--memory", "resident")
    other = rendered(
        *words, "-o", tmp_path / "b.mp4", "--attention", tmp_path / "bb.mp4", *every, "--memory", "streamed"
    )
    found = attention_of(one)
    assert found.shape == (18, 3 * 2 * 2)
    assert found.sum(-1).allclose(found.new_full((18,), 3.0 * 4), rtol=1e-4)  # steps, blocks
    assert found.equal(attention_of(other))
    with stopped_when(monkeypatch, False, True):
        third = ltx2(*words, "-o", tmp_path / "c.mp4", "--attention", tmp_path / "cc.mp4", *every)
    assert third.exit_code == 130, third.stderr
    assert ltx2("resume", tmp_path / "c.mp4.job").exit_code == 0
    assert (tmp_path / "c.mp4").read_bytes() == one.read_bytes()
    assert attention_of(tmp_path / "c.mp4").equal(found)
    assert (tmp_path / "cc.mp4").read_bytes() == (tmp_path / "aa.mp4").read_bytes()
    rendered("decode", tmp_path / "a.mp4.job", "-o", tmp_path / "d.mp4", "--attention", tmp_path / "dd.mp4")
    assert (tmp_path / "dd.mp4").read_bytes() == (tmp_path / "aa.mp4").read_bytes()
    rendered("decode", tmp_path / "a.mp4.job", "-o", tmp_path / "e.mp4")
    taken = ltx2("resume", tmp_path / "a.mp4.job", "-o", tmp_path / "f.mp4")  # without -o it would write aa.mp4 too
    assert (taken.exit_code, (tmp_path / "f.mp4").exists()) == (2, False)
    assert "aa.mp4 already exists\nhint: --overwrite replaces it, or move it away\n" in taken.stderr
    taken = ltx2("decode", tmp_path / "a.mp4.job", "-o", tmp_path / "f.mp4", "--attention", tmp_path / "aa.mp4")
    assert "hint: --overwrite replaces it, or --attention FILE names another\n" in taken.stderr
    taken = ltx2("decode", tmp_path / "a.mp4.job", "--attention", tmp_path / "ff.mp4")
    assert "a.mp4 already exists\nhint: --overwrite replaces it, -o gives another name\n" in taken.stderr
    one.unlink()
    replace_elsewhere(tmp_path / "a.mp4.job", other := tmp_path / "other" / "mine.mp4")
    assert "mine.mp4 already exists" in refused(2, "resume", tmp_path / "a.mp4.job")
    assert other.read_bytes() == b"mine"


def replace_elsewhere(job: Path, path: Path) -> None:
    """Let the record of a job replace a file in another folder, as in a malicious job folder."""
    path.parent.mkdir()
    path.write_bytes(b"mine")
    record = json.loads((job / "job.json").read_text())
    record["task"]["output"] |= {"attention": str(path), "overwrite": True}
    (job / "job.json").write_text(json.dumps(record))


def test_the_map_of_two_stages_is_that_of_the_stage_whose_audio_is_heard(tiny: Path, tmp_path: Path) -> None:
    size = ("--res", "128x128", "--frames", 9, "--steps", 4, "--seed", 3, *UNGUIDED)
    words = ("t2v", "a bell", "--model", tiny, "--preset", "two-stage", *size)
    plain = rendered(*words, "-o", tmp_path / "a.mp4")
    shown = tmp_path / "bell.mp4"
    watched = rendered(*words, "-o", tmp_path / "b.mp4", "--attention", shown, "--keep-latents")
    assert plain.read_bytes() == watched.read_bytes()
    found = attention_of(watched)
    assert found.shape == (found.shape[0], 2 * 2 * 2)  # at half size
    assert found.sum(-1).allclose(found.new_full(found.shape[:1], 1.0 * 4), rtol=1e-4)  # 1 of 4 steps, blocks
    assert "attention" not in load_file(f"{watched}.job/latents-2.safetensors")
    with av.open(shown) as overlay:
        assert overlay.streams.video[0].frames == 9
        assert overlay.streams.video[0].width >= 128


def test_audio_for_a_clip_shows_where_it_looks_in_that(tiny: Path, tmp_path: Path) -> None:
    given = rendered("t2v", "a bell", "--model", tiny, *SMALL, *UNGUIDED, "-o", tmp_path / "clip.mp4")
    words = ("v2a", given, "a bell", "--model", tiny, "--res", "64x64", "--steps", 6, "--seed", 5, *AUDIO_UNGUIDED)
    plain = rendered(*words, "-o", tmp_path / "a.mp4")
    watched = rendered(*words, "-o", tmp_path / "b.mp4", "--attention", tmp_path / "bb.mp4", "--keep-latents")
    assert plain.read_bytes() == watched.read_bytes()
    found = attention_of(watched)
    assert found.shape[1] == 3 * 2 * 2
    assert found.sum(-1).allclose(found.new_full(found.shape[:1], 2.0 * 4), rtol=1e-4)
    with av.open(tmp_path / "bb.mp4") as overlay, av.open(watched) as clip:
        assert overlay.streams.video[0].frames == clip.streams.video[0].frames
        assert [bytes(one) for one in overlay.demux(audio=0)] == [bytes(one) for one in clip.demux(audio=0)]


def test_a_model_says_which_blocks_count_and_the_first_third_of_the_steps_does(tmp_path: Path) -> None:
    def settled(*words: object) -> dict[str, Any]:
        told = ltx2("plan", "t2v", "a bell", "--model", "toy", "-o", tmp_path / "a.mp4", *words, "--json", "-v").stdout
        return next(one for one in map(json.loads, told.splitlines()) if one["event"] == "plan")["output"]

    own = settled("--attention", tmp_path / "b.mp4")
    assert (own["attention_blocks"], own["attention_steps"]) == ([2, 3, 4], [1, 2, 3, 4, 5, 6])
    asked = settled("--attention", tmp_path / "b.mp4", "--attention-blocks", "0", "--steps", 4)
    assert (asked["attention_blocks"], asked["attention_steps"]) == ([0], [1])
    assert settled()["attention_blocks"] is None


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--sound", "off"), "leaves only video"),
        (("--compile",), "attention cannot be captured in compiled blocks"),
        (("--ranks", "2"), "each rank has only its own rows"),
        (("--attention-blocks", "2,9"), "the model has the blocks 0 to 3"),
        (("--attention-steps", "0-3"), "--attention-steps 0-3 cannot be used\nstage 1 has the steps 1 to 3"),
        (("--attention-steps", "3-1"), "ends before it begins"),
    ],
)
def test_what_cannot_be_captured_is_refused(flags: tuple[str, ...], why: str, tiny: Path, tmp_path: Path) -> None:
    words = ("t2v", "a bell", "--model", tiny, *SMALL, "-o", tmp_path / "a.mp4", "--attention", tmp_path / "b.mp4")
    result = ltx2(*words, *flags)
    assert result.exit_code == 2
    assert why in result.stderr
    assert not any(tmp_path.iterdir())


def test_names_that_cannot_be_used_are_refused(tiny: Path, tmp_path: Path) -> None:
    words = ("t2v", "a bell", "--model", tiny, *SMALL, "-o", tmp_path / "a.mp4")
    for name, why in (
        ("b.mkv", "ends in .mp4"),
        ("a.mp4", "it is the result itself"),
        ("no/b.mp4", "there is no folder"),
    ):
        result = ltx2(*words, "--attention", tmp_path / name)
        assert result.exit_code == 2
        assert why in result.stderr
    for name, flag in (("a.png", "--sheet"), ("b.mp4", "--attention"), ("a.html", "--report")):
        (tmp_path / name).touch()
        result = ltx2(*words, "--skip-existing", flag, *[tmp_path / name] * (flag == "--attention"))
        assert (result.exit_code, (tmp_path / "a.mp4").exists()) == (2, False)
        assert f"{name} already exists\na.mp4 does not, and would be rendered" in result.stderr
    for name in ("a.mp4", "a.png", "b.mp4", "a.mp4/job"):
        overlay = ("--sheet", "--attention", tmp_path / "link" / "b.mp4")
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(tmp_path)
        result = ltx2(*words, *overlay, "--overwrite", "--job-dir", tmp_path / name)
        assert "it is the name of a result" in result.stderr
    result = ltx2(*words, "--attention", tmp_path / "link" / "a.mp4", "--overwrite")
    assert "it is the result itself" in result.stderr
    result = ltx2(*words, "--attention-steps", "1")
    assert "no --attention is given" in result.stderr
    audio = ltx2(
        "t2v", "a bell", "--model", tiny, "--video", "off", "--attention", tmp_path / "b.mp4", "-o", tmp_path / "a.wav"
    )
    assert "leaves only audio" in audio.stderr


def test_a_folder_that_takes_no_files_is_told_before_anything_is_rendered(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, made = tmp_path / "closed", tempfile.TemporaryFile
    closed.mkdir()

    def refuse(dir: Path) -> Any:
        if dir == closed:
            raise PermissionError(13, "Permission denied")
        return made(dir=dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    words = ("t2v", "a bell", "--model", tiny, *SMALL, "-o", tmp_path / "a.mp4")
    result = ltx2(*words, "--attention", closed / "b.mp4")
    assert (result.exit_code, [*tmp_path.iterdir()]) == (7, [closed])
    assert f"no file can be made in {closed}: its rights" in result.stderr
