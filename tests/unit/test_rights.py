"""Files and folders that this user may not read, write or replace."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

import ltx2_core as core
from ltx2_core.disk import remove_leftovers
from ltx2_core.errors import StorageError
from ltx2_core.home import ltx2_home
from ltx2_core.hub.download import Listener, verify_again
from ltx2_core.hub.library import Library, models_home
from ltx2_core.hub.registry import read_catalogue
from ltx2_core.hub.wanted import plan_download
from ltx2_core.lock import locked
from ltx2_core.paths import require_replaceable
from ltx2_core.pipeline.job import Job
from tests.commands import ltx2, refused
from tests.rights import as_ordinary_user
from tests.unit.test_download import ENTRY, WEIGHTS, put
from tests.unit.test_job import make_job, make_latents
from tests.unit.test_text_cache import cache, made, same

ANOTHER_USER = 12345


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_prompts_are_encoded_again_where_their_cache_may_not_be_looked_at() -> None:
    (first,) = cache().recall(["a fox"], made)
    folder = ltx2_home() / "cache" / "text"
    folder.chmod(0)
    with as_ordinary_user():
        (again,) = cache().recall(["a fox"], made)
    folder.chmod(0o755)
    assert same(first, again)


def test_home_that_may_not_be_read_is_named_with_the_variable_for_another(home: Path) -> None:
    home.mkdir(mode=0)
    with as_ordinary_user():
        said = refused(7, "plan", "t2v", "--model", "toy")
    assert f"{home / 'models'} cannot be read" in said
    assert "export LTX2_HOME=FOLDER" in said


def test_model_that_an_administrator_shares_can_be_verified(home: Path) -> None:
    put(models_home() / "mine.yaml", ENTRY.encode())
    path = put(models_home() / "me/mine/mine.safetensors")
    for folder in (home, models_home()):
        folder.chmod(0o555)
    with as_ordinary_user():
        plan = plan_download("mine", Library(read_catalogue()))
        verdicts = verify_again(plan, Listener())
        with pytest.raises(StorageError, match="its rights"):
            core.verify_found(plan, Listener())  # the first step of downloading what is missing
    assert [*verdicts] == [path]
    assert path.read_bytes() == WEIGHTS


def test_parts_of_a_model_that_may_not_be_read_are_named(tmp_path: Path) -> None:
    toy = tmp_path / "toy"
    shutil.copytree(Path(core.__file__).parent / "toy", toy)
    (toy / "text_encoder").chmod(0)
    with as_ordinary_user():
        assert f"{Path('toy') / 'text_encoder'} cannot be read: its rights" in refused(
            7, "plan", "t2v", "--model", "toy/"
        )
    toy.chmod(0)
    with as_ordinary_user():
        assert "error: toy cannot be read its rights" in refused(7, "plan", "t2v", "--model", "toy/")
    toy.chmod(0o755)
    (toy / "text_encoder").chmod(0o755)


def test_file_that_may_not_be_looked_at_is_not_said_to_be_missing(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    with as_ordinary_user():
        said = refused(7, "plan", "t2v", "--model", "toy", "--transformer", "closed/a.safetensors")
    assert "--transformer closed/a.safetensors cannot be used its rights" in said


def test_latents_that_may_not_be_read_are_not_called_damaged(tiny: Path, tmp_path: Path) -> None:
    job = make_job(tiny, tmp_path)
    job.save(1, make_latents(1), torch.Generator())
    (job.folder / "latents-1.safetensors").chmod(0)
    with as_ordinary_user(), pytest.raises(StorageError) as caught:
        job.check_saved(None)  # type: ignore[arg-type]
    assert caught.value.what.endswith("latents-1.safetensors cannot be read")
    assert "remove" not in str(caught.value)


def test_file_of_another_user_in_a_shared_folder_is_refused_before_the_render(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = put(tmp_path / "shared" / "a.mp4")
    require_replaceable(target)
    monkeypatch.setattr(os, "geteuid", lambda: ANOTHER_USER)
    require_replaceable(target)  # its folder has no such rule
    target.parent.chmod(0o1777)
    require_replaceable(target.with_name("b.mp4"))
    with pytest.raises(StorageError, match=r"a\.mp4 cannot be replaced"):
        require_replaceable(target)


def test_leftovers_that_may_not_be_removed_stay(tmp_path: Path) -> None:
    part = put(tmp_path / "shared" / ".a.mp4.0a1b2c.part")
    part.parent.chmod(0o555)
    with as_ordinary_user():
        remove_leftovers(tmp_path / "shared" / "a.mp4")
    assert part.exists()


def test_record_of_a_job_stands_for_its_folder(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(tiny, tmp_path)
    assert Job.open(job.folder / "job.json") == job
    monkeypatch.chdir(job.folder)
    assert Job.open(Path("job.json")).folder == job.folder


def test_skipping_a_result_removes_what_a_killed_process_left_beside_it(tmp_path: Path) -> None:
    words = ("t2v", "waves", "--model", "toy", "-o", "x.mp4", "--skip-existing")
    left = (".x.mp4.lock", ".x.mp4.job.lock", ".x.mp4.0a1b2c.part")
    for name in ("x.mp4", *left):
        put(tmp_path / name)
    (tmp_path / "x.mp4.job").mkdir()
    with locked(tmp_path / "x.mp4"):
        assert ltx2(*words).exit_code == 0
    assert (tmp_path / "x.mp4.job").exists()  # another process was writing
    put(tmp_path / left[0])
    assert ltx2(*words).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["x.mp4"]


def test_nothing_is_written_into_a_folder_without_a_batch(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir(mode=0o555)
    with as_ordinary_user():
        assert "own holds no batch" in refused(2, "report", "own")


def test_root_of_a_disk_is_no_file_of_jobs() -> None:
    assert "error: / cannot be read it is a folder" in refused(2, "batch", "/", "--model", "toy")
