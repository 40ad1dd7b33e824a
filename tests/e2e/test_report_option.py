"""`--report` and `ltx2 report` through the real command line: where pages are written, their content, and their
updates.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

import ltx2_core as core
from ltx2_core.pipeline import processes
from ltx2_core.pipeline.batch.record import RECORD
from ltx2_core.pipeline.batch.worker import Worker
from ltx2_core.pipeline.job import Job
from tests.commands import ltx2, refused, rendered
from tests.report_files import clip, noise, recipe

# a forked process has already imported torch, and the models are tiny
pytestmark = [
    pytest.mark.usefixtures("kept_models"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
SMOKE = ("--preset", "smoke", "--seed", 1, "--steps", 2)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "somebody"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(processes, "START_METHOD", "fork")


def batch(*words: object) -> Path:
    """The page of a batch of two prompts with two seeds each."""
    Path("s.txt").write_text("a lamp\na bell\n")
    done = ltx2("batch", "s.txt", "--preset", "smoke", "--steps", 2, "--seeds", "1-2", *words)
    assert done.exit_code == 0, done.stderr
    return Path("s/report.html")


def places(page: str) -> list[str]:
    """Texts in a page that reveal where it was made."""
    return [word for word in (str(Path.cwd()), "somebody", os.path.expanduser("~/")) if word in page]  # noqa: PTH111


def test_a_render_writes_a_page_beside_its_clip_and_tells_it() -> None:
    result = ltx2("t2v", "a <b>lamp</b>", *SMOKE, "--report", "-o", "a.mp4")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{Path('a.mp4').absolute()}\n"
    assert f"wrote {Path('a.html').absolute()}" in result.stderr
    page = Path("a.html").read_text()
    assert "a &lt;b&gt;lamp&lt;/b&gt;" in page
    assert "ltx2 rerun a.mp4" in page
    assert places(page) == []
    plain = rendered("t2v", "a <b>lamp</b>", *SMOKE, "-o", "b.mp4")
    assert plain.read_bytes() == Path("a.mp4").read_bytes()
    assert not Path("b.html").exists()


def test_a_page_in_the_place_is_refused_before_anything_is_rendered() -> None:
    Path("a.html").write_text("mine")
    assert "a.html already exists" in refused(2, "t2v", "x", *SMOKE, "--report", "-o", "a.mp4")
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["a.html"]


def test_the_record_of_a_job_carries_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Job, "remove", lambda self: None)  # as if the process was killed there
        rendered("t2v", "a lamp", *SMOKE, "--report", "-o", "a.mp4")
    page = Path("a.html").read_bytes()
    Path("a.html").unlink()
    rendered("resume", "a.mp4")
    assert Path("a.html").read_bytes() == page
    assert not Path("a.mp4.job").exists()


def test_decode_and_rerun_write_a_page_where_that_is_asked_for() -> None:
    rendered("t2v", "a lamp", *SMOKE, "--keep-latents", "-o", "a.mp4")
    rendered("decode", "a.mp4.job", "--report", "-o", "b.mp4")
    rendered("rerun", "a.mp4", "--report", "-o", "c.mp4")
    rendered("rerun", "a.mp4", "--set", "report=true", "-o", "d.mp4")
    assert sorted(path.name for path in Path.cwd().glob("*.html")) == ["b.html", "c.html", "d.html"]


def test_audio_alone_has_a_page() -> None:
    rendered("t2v", "a bell", *SMOKE, "--video", "off", "--report", "-o", "a.wav")
    page = Path("a.html").read_text()
    assert "24000 Hz" in page
    assert "./a.wav" in page


def test_a_batch_has_one_page_that_a_second_run_makes_anew_without_rendering() -> None:
    page = batch("--report")
    assert [path.name for path in Path("s").glob("*.html")] == ["report.html"]
    text = page.read_text()
    assert "4 jobs, 2 prompts, 2 seeds" in text
    assert text.count("<article") == 4
    assert "ltx2 rerun s/0001-a-lamp-1.mp4" in text
    assert places(text) == []
    before = page.read_bytes()
    page.unlink()
    clips = {path: path.stat().st_mtime_ns for path in Path("s").glob("*.mp4")}
    assert batch("--report").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in clips} == clips


def test_a_batch_that_was_disturbed_ends_with_the_same_page(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Worker.finish

    def finish(self: Worker, resolved: core.Resolved, watch: core.Watch) -> core.Result:
        if resolved.target.stem == "0002-a-bell-1":
            raise core.StorageError(f"{resolved.target.absolute()} cannot be written", str(Path.cwd()))
        return usual(self, resolved, watch)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "finish", finish)
        Path("s.txt").write_text("a lamp\na bell\n")
        words = ("batch", "s.txt", "--preset", "smoke", "--steps", 2, "--seeds", "1-2", "--report")
        assert ltx2(*words).exit_code == 9
    text = Path("s/report.html").read_text()
    assert "1 failed" in text
    assert places(text) == []
    disturbed = batch("--report").read_bytes()
    Path("s").rename("other")
    assert batch("--report").read_bytes() == disturbed


def test_a_settings_file_asks_for_the_page_of_the_batch_and_for_no_other() -> None:
    Path("ltx2.yaml").write_text("report: true\n")
    assert batch().exists()
    assert [path.name for path in Path("s").glob("*.html")] == ["report.html"]


@pytest.mark.parametrize("words", [("--sweep", "report=true,false"), ()])
def test_a_job_has_no_page_of_its_own(words: tuple[str, ...]) -> None:
    Path("s.yaml").write_text("jobs:\n - {prompt: a, name: one" + ("}" if words else ", report: true}"))
    told = refused(2, "batch", "s.yaml", "--preset", "smoke", *words)
    assert "it is said once for the whole batch" in told


def test_the_command_makes_pages_of_what_is_there() -> None:
    clip(Path("a.mp4"), recipe("an old clip"), noise())
    assert rendered("report", "a.mp4") == Path("a.html").absolute()
    assert "an old clip" in Path("a.html").read_text()
    assert "hint: --overwrite replaces it" in refused(2, "report", "a.mp4")
    assert rendered("report", "a.mp4", "--overwrite").exists()
    for content, why in ((None, "there is no such file"), (b"", "it is empty"), (b"x", "its format is not supported")):
        if content is not None:
            Path("b.mp4").write_bytes(content)
        assert f"b.mp4 cannot be read {why}" in refused(3, "report", "b.mp4")
    Path("empty").mkdir()
    assert f"there is no {RECORD} in it" in refused(2, "report", "empty")
    page = batch()
    assert not page.exists()
    told = [json.loads(line) for line in ltx2("report", "s", "--json").stdout.splitlines()]
    assert told[-2]["path"] == str(page.absolute())
    assert [one["done"] for one in told if one["event"] == "step"] == [1, 2, 3, 4]


def test_a_damaged_result_is_told_in_its_place() -> None:
    page = batch()
    broken = Path("s/0001-a-lamp-1.mp4")
    content = broken.read_bytes()
    broken.write_bytes(b"\0" * len(content))
    assert ltx2("report", "s").exit_code == 0
    assert "1 unreadable" in page.read_text()
    broken.unlink()
    assert ltx2("report", "s").exit_code == 0
    assert re.search(r'class="cell missing".*0001-a-lamp-1.mp4.*missing', page.read_text())
    assert places(page.read_text()) == []
