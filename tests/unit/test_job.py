"""Job folders: saved values are restored, damaged ones are refused, and no file of the user is removed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ltx2_core.errors import RequestError, StorageError
from ltx2_core.identity import Identity
from ltx2_core.latents import patchify_audio, patchify_video
from ltx2_core.machine import CHUNK_TOKENS
from ltx2_core.pipeline import reads
from ltx2_core.pipeline.job import PREVIEW, RECORD, Job, Saved, _checksum, latent_shapes
from ltx2_core.pipeline.parts import LatentShapes, ModelHeaders
from ltx2_core.pipeline.render import run
from ltx2_core.pipeline.request import RenderTask
from ltx2_core.pipeline.resolve.resolve import resolve
from ltx2_core.types import Streams
from tests.places import A_FILE

IDENTITIES = {"checkpoint": Identity(1, 2, "a"), "text_encoder/config.json": Identity(3, 4, "b")}


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
    with pytest.raises(RequestError, match=r"it holds latents-1\.safetensors, which belongs to no render"):
        make_job(tiny, tmp_path, overwrite=True)
    assert (job.folder / "latents-1.safetensors").exists()


def test_picture_of_somebody_else_in_a_folder_is_left_alone(tiny: Path, tmp_path: Path) -> None:
    job = make_job(tiny, tmp_path)
    (job.folder / RECORD).unlink()
    (job.folder / PREVIEW).write_text("mine")
    with pytest.raises(RequestError, match=r"it holds preview\.png, which belongs to no render"):
        make_job(tiny, tmp_path, overwrite=True)
    assert (job.folder / PREVIEW).read_text() == "mine"


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


def test_fingerprint_of_a_folder_follows_each_of_its_files(tiny: Path, tmp_path: Path) -> None:
    job = make_job(tiny, tmp_path)
    other = replace(job, identities=IDENTITIES | {"text_encoder/config.json": Identity(3, 4, "c")})
    assert job.fingerprint("checkpoint") == other.fingerprint("checkpoint") == "a"
    assert job.fingerprint("text_encoder") != other.fingerprint("text_encoder")


def edited(job: Job, *keys: str, value: object) -> None:
    """Change an entry of a record without updating its checksum."""
    path = job.folder / RECORD
    record = entry = json.loads(path.read_text())
    for key in keys[:-1]:
        entry = entry[key]
    entry[keys[-1]] = value
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"request": {}}', "[" * 10_000, '{"a":' * 10_000, "9" * 5000])
def test_damaged_record_is_refused(tiny: Path, tmp_path: Path, content: str) -> None:
    job = make_job(tiny, tmp_path)
    (job.folder / RECORD).write_text(content)
    with pytest.raises(StorageError, match="is damaged"):
        Job.open(job.folder)


def test_record_that_is_a_pipe_a_device_or_too_large_is_refused(tiny: Path, tmp_path: Path) -> None:
    job = make_job(tiny, tmp_path)
    path = job.folder / RECORD

    def hole() -> None:
        with path.open("wb") as file:
            file.truncate(5_000_000_000)

    for make in (lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero"), hole):
        path.unlink()
        make()
        with pytest.raises(StorageError, match="is damaged"):
            Job.open(job.folder)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("task", "output", "overwrite"), "no"),
        (("task", "output", "crf"), "19"),
        (("task", "output", "codec"), ["h264"]),
        (("task", "target"), "/" + "a" * 5000 + ".mp4"),
        (("task", "target"), "/elsewhere/a\0b.mp4"),
        (("task", "request", "seed"), 2),
        (("task", "request", "frames"), 10**5),
        (("task", "machine", "threads"), 10**9),
        (("task", "files", "paths", "checkpoint"), "/elsewhere/another.safetensors"),
        (("identities", "checkpoint", "content"), "c"),
        (("latents",), {"latents-1.safetensors": "d"}),
        (("schema",), 2),
    ],
)
def test_record_that_somebody_edited_is_refused(
    tiny: Path, tmp_path: Path, keys: tuple[str, ...], value: object
) -> None:
    job = make_job(tiny, tmp_path)
    edited(job, *keys, value=value)
    with pytest.raises(StorageError, match="is damaged"):
        Job.open(job.folder)


def test_record_from_before_a_field_of_the_machine_is_readable(tiny: Path, tmp_path: Path) -> None:
    job = make_job(tiny, tmp_path)
    path = job.folder / RECORD
    record = json.loads(path.read_bytes())
    del record["task"]["machine"]["chunk_tokens"]
    path.write_text(json.dumps(record | {"checksum": _checksum(record)}))
    assert Job.open(job.folder).task.machine.chunk_tokens == CHUNK_TOKENS


def test_record_stays_readable_where_only_the_output_was_edited(tiny: Path, tmp_path: Path) -> None:
    job = make_job(tiny, tmp_path)
    edited(job, "task", "output", "crf", value=23)
    assert Job.open(job.folder).task.output.crf == 23


def test_request_that_is_too_large_for_a_record_is_refused_at_once(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltx2_core.pipeline.job.MOST_RECORD_BYTES", 1000)
    found = resolve("t2v", "a bell", [(A_FILE, {"model": str(tiny), "output": str(tmp_path / "x.mp4")})])
    with pytest.raises(RequestError, match="cannot be kept in a job folder"):
        Job.create(found.job_dir, found.task, IDENTITIES)
    assert not found.job_dir.exists()


def shapes_of(job: Job) -> LatentShapes:
    return ModelHeaders.of(job.task.files).shapes


def fitting(job: Job, stage: int) -> Streams[torch.Tensor]:
    """Latents as they are after a stage of the job's request."""
    return Streams(
        **{name: torch.randn(shape) for name, shape in latent_shapes(job.request, stage, shapes_of(job)).items()}
    )


def stopped_tokens(job: Job, step: int) -> Saved:
    video, audio = fitting(job, 1)
    tokens = Streams(patchify_video(video), patchify_audio(audio))
    return Saved(tokens, torch.Generator().get_state(), step)


def test_latents_of_the_request_pass(tiny: Path, tmp_path: Path) -> None:
    job = make_job(tiny, tmp_path)
    job.save_stopped(1, stopped_tokens(job, 3))
    job.check_saved(shapes_of(job))
    job.save(1, fitting(job, 1), torch.Generator())
    job.save(2, fitting(job, 2), torch.Generator())
    Job.open(job.folder).check_saved(shapes_of(job))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda latents: latents._replace(audio=None), "it holds generator, video"),
        (lambda latents: latents._replace(video=latents.video[..., 1:]), "its video is F32"),
        (lambda latents: latents._replace(audio=latents.audio.long()), "its audio is I64"),
        (lambda latents: latents._replace(audio=latents.audio.bfloat16()), "its audio is BF16"),
    ],
)
def test_latents_of_another_request_are_refused(
    tiny: Path, tmp_path: Path, change: Callable[[Any], Any], why: str
) -> None:
    job = make_job(tiny, tmp_path)
    job.save(1, change(fitting(job, 1)), torch.Generator())
    with pytest.raises(StorageError, match=rf"latents-1\.safetensors is damaged\n{why}"):
        job.check_saved(shapes_of(job))


@pytest.mark.parametrize("step", [10**9, 8, 0, -5])
def test_step_that_the_stage_does_not_have_is_refused(tiny: Path, tmp_path: Path, step: int) -> None:
    job = make_job(tiny, tmp_path)
    job.save_stopped(1, stopped_tokens(job, step))
    with pytest.raises(StorageError, match=f"after step {step} of 8"):
        job.check_saved(shapes_of(job))


def test_one_flipped_bit_in_latents_is_seen(tiny: Path, tmp_path: Path) -> None:
    job = make_job(tiny, tmp_path)
    job.save(1, fitting(job, 1), torch.Generator())
    path = job.folder / "latents-1.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StorageError, match="it was changed after it was written"):
        Job.open(job.folder).check_saved(shapes_of(job))


def test_latents_that_no_record_names_are_made_again(tiny: Path, tmp_path: Path) -> None:
    job = make_job(tiny, tmp_path)
    record = (job.folder / RECORD).read_bytes()
    job.save(1, fitting(job, 1), torch.Generator())
    (job.folder / RECORD).write_bytes(record)  # as after a kill between the two steps
    assert Job.open(job.folder).finished_stages == 0


def test_output_stands_for_the_folder_beside_it(tiny: Path, tmp_path: Path) -> None:
    job = make_job(tiny, tmp_path)
    assert Job.open(tmp_path / "x.mp4") == job
    (tmp_path / "x.mp4").touch()
    assert Job.open(tmp_path / "x.mp4") == job
    (tmp_path / "y.mp4").touch()
    with pytest.raises(RequestError, match=r"there is no .*y\.mp4\.job"):
        Job.open(tmp_path / "y.mp4")


def test_what_killed_processes_left_is_removed_with_the_job(tiny: Path, tmp_path: Path) -> None:
    job = make_job(tiny, tmp_path)
    for name in (".job.json.0a1b2c.part", ".latents-2.safetensors.0a1b2c.part"):
        (job.folder / name).touch()
    job.remove()
    assert not job.folder.exists()


def test_link_in_the_place_of_the_job_folder_is_not_followed(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "x.mp4.job").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RequestError, match="it is a link"):
        make_job(tiny, tmp_path)
    assert [*(tmp_path / "elsewhere").iterdir()] == []


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


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("machine", "device"), "CPU"),
        (("machine", "device"), "cp"),
        (("machine", "device"), "cuda"),
        (("machine", "device"), "meta"),
        (("request", "recipe", "stages", 0, "sigmas"), "distilled-"),
        (("request", "recipe", "stages", 0, "sigmas"), ""),
    ],
)
def test_task_names_only_devices_and_noise_levels_that_there_are(
    tiny: Path, tmp_path: Path, keys: tuple[str | int, ...], value: str
) -> None:
    task = json.loads(make_job(tiny, tmp_path).task.model_dump_json())
    assert RenderTask.model_validate_json(json.dumps(task)).machine.device == "cpu"
    *above, last = keys
    parent = task
    for key in above:
        parent = parent[key]
    parent[last] = value
    with pytest.raises(ValidationError):
        RenderTask.model_validate_json(json.dumps(task))


def test_input_whose_path_no_disk_can_hold_is_told_as_missing(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "files_of", lambda *given: {"image-1": Path("/" + "a/" * 3000)})
    with pytest.raises(StorageError, match="does not exist any more"):
        run.require_unchanged(make_job(tiny, tmp_path))
