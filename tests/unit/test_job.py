"""Job folders: what is saved comes back, what is damaged is refused, and nothing of the user's is removed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ltx2_core.errors import RequestError, StorageError
from ltx2_core.pipeline.job import RECORD, Job, Saved
from ltx2_core.pipeline.resolve.resolve import resolve
from ltx2_core.types import Streams
from tests.places import A_FILE

IDENTITIES = {"checkpoint": "a", "text_encoder": "b"}


def make_job(tiny: Path, folder: Path, **flags: object) -> Job:
    given = {"model": str(tiny), "preset": "distilled", "res": "128x128", "seed": 1, "output": str(folder / "x.mp4")}
    found = resolve("t2v", "a bell rings", [(A_FILE, given | flags)])
    return Job.create(found.job_dir, found.task, IDENTITIES)


def make_latents(seed: int) -> Streams[torch.Tensor]:
    torch.manual_seed(seed)
    return Streams(torch.randn(1, 4, 2, 2, 2), torch.randn(1, 2, 3, 4).bfloat16())


def test_job_that_is_opened_again_is_the_same(tiny: Path, tmp_path: Path) -> None:
    job = make_job(tiny, tmp_path)
    assert Job.open(job.folder) == job


def test_files_keep_the_names_that_they_were_found_by(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "linked").symlink_to(tiny)
    (tmp_path / "up.safetensors").symlink_to(tiny / "ltx-2-tiny-spatial-upscaler-x2-1.0.safetensors")
    monkeypatch.chdir(tmp_path)
    job = make_job(Path("linked"), tmp_path, upsampler="up.safetensors")
    assert Job.open(job.folder).task.files.paths["upsampler"] == tmp_path / "up.safetensors"


def test_latents_and_generator_come_back_bit_for_bit(tiny: Path, tmp_path: Path) -> None:
    job, latents = make_job(tiny, tmp_path), make_latents(0)
    generator = torch.Generator().manual_seed(3)
    torch.randn(5, generator=generator)
    job.save(1, latents, generator)
    found = job.load(1)
    assert all(a.equal(b) and a.dtype == b.dtype for a, b in zip(found.latents, latents, strict=True))
    again = torch.Generator()
    again.set_state(found.generator)
    assert torch.randn(3, generator=again).equal(torch.randn(3, generator=generator))


def test_finished_stages_are_counted_from_the_first_without_a_gap(tiny: Path, tmp_path: Path) -> None:
    job, generator = make_job(tiny, tmp_path), torch.Generator()
    assert job.finished_stages == 0
    job.save(2, make_latents(2), generator)
    assert job.finished_stages == 0
    job.save(1, make_latents(1), generator)
    assert job.finished_stages == 2


def test_stage_that_was_stopped_is_forgotten_when_it_is_finished(tiny: Path, tmp_path: Path) -> None:
    job, generator = make_job(tiny, tmp_path), torch.Generator()
    job.save_stopped(1, Saved(make_latents(1), generator.get_state(), step=3))
    stopped = job.load_stopped(1)
    assert stopped is not None
    assert stopped.step == 3
    job.save(1, make_latents(1), generator)
    assert job.load_stopped(1) is None


def test_tokens_of_one_stage_are_not_taken_for_those_of_another(tiny: Path, tmp_path: Path) -> None:
    job = make_job(tiny, tmp_path)
    job.save_stopped(1, Saved(make_latents(1), torch.Generator().get_state(), step=3))
    assert job.load_stopped(2) is None


def test_folder_with_latents_of_nobody_is_left_alone(tiny: Path, tmp_path: Path) -> None:
    job = make_job(tiny, tmp_path)
    job.save(1, make_latents(1), torch.Generator())
    (job.folder / RECORD).unlink()
    with pytest.raises(RequestError, match="belong to no render"):
        make_job(tiny, tmp_path, overwrite=True)
    assert (job.folder / "latents-1.safetensors").exists()


def test_single_stream_is_saved_alone(tiny: Path, tmp_path: Path) -> None:
    job = make_job(tiny, tmp_path)
    job.save(1, Streams(audio=make_latents(1).audio), torch.Generator())
    assert job.load(1).latents.video is None


def test_unfinished_job_is_not_overwritten_unless_told_to(tiny: Path, tmp_path: Path) -> None:
    job = make_job(tiny, tmp_path)
    job.save(1, make_latents(1), torch.Generator())
    with pytest.raises(RequestError, match=r"not finished\nhint: ltx2 resume"):
        make_job(tiny, tmp_path)
    assert make_job(tiny, tmp_path, overwrite=True).finished_stages == 0


@pytest.mark.parametrize("content", ["", "[]", "{", '{"request": {}}'])
def test_damaged_record_is_refused(tiny: Path, tmp_path: Path, content: str) -> None:
    job = make_job(tiny, tmp_path)
    (job.folder / RECORD).write_text(content)
    with pytest.raises(StorageError, match="is damaged"):
        Job.open(job.folder)


def test_folder_without_a_record_is_no_job(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="holds no render"):
        Job.open(tmp_path)


def test_damaged_latents_are_refused(tiny: Path, tmp_path: Path) -> None:
    job = make_job(tiny, tmp_path)
    job.save(1, make_latents(1), torch.Generator())
    path = job.folder / "latents-1.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(StorageError, match=r"latents-1\.safetensors is damaged"):
        job.load(1)


def test_removing_a_job_leaves_what_the_user_put_there(tiny: Path, tmp_path: Path) -> None:
    job = make_job(tiny, tmp_path)
    (job.folder / "notes.txt").write_text("mine")
    job.save(1, make_latents(1), torch.Generator())
    job.remove()
    assert [path.name for path in job.folder.iterdir()] == ["notes.txt"]
    (job.folder / "notes.txt").unlink()
    job.remove()
    assert not job.folder.exists()
