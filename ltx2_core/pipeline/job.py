"""The job folder of a render: the request, and the latents of every finished stage, synced to disk.

Source: docs/cli.md, "Latents first".
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, ValidationError

from ..disk import disk_errors, disk_hint, disk_reason, made_folder, read_whole, remove_leftovers, write_whole
from ..errors import LTX2Error, RequestError, StorageError
from ..headers import Header, read_header
from ..hub.find import ModelFiles
from ..identity import Identity, identity
from ..paths import given_path, in_shell, with_name
from ..records import Record
from ..types import Streams
from .outputs import lies_beside, resume_command
from .parts import DURATION_HEAD, LatentShapes
from .request import ENHANCER, RECORD, MadeFile, RenderTask, Request
from .windows import runs_of

if TYPE_CHECKING:  # a job that cannot be resumed is refused before torch is imported
    import torch
    from torch import Tensor

    from ..latents import Latents

MOST_RECORD_BYTES = 1_000_000
MOST_GENERATOR_BYTES = 10_000  # the state of torch's generator for the CPU has 5,056
PREVIEW = "preview.png"  # the preview image in a job folder
SAVED = ("latents-*.safetensors", "stopped-*.safetensors", PREVIEW)
KEYFRAMES = "keyframes"  # the tensor of the generated keyframes
ATTENTION = "attention"  # the tensor with the attention of the audio to the video
AGAIN = "remove it, and ltx2 resume makes it again"
CHOSE_BEFORE = (ENHANCER, DURATION_HEAD)  # roles of models that determined the prompt or the length before the render
STORED_AS = {"fp32": "F32", "bf16": "BF16"}


class JobRecord(Record):
    """The record in a job folder.

    Args: identities: of the files that the render reads, when it started. latents: the SHA-256 of each file of latents,
    by name. result: the finished file, before it was renamed. parents: the folders above this one that were created for
    it, the innermost first. checksum: of everything except where and how the result is written.
    """

    version: Literal[3] = Field(default=3, alias="schema")
    task: RenderTask
    identities: Mapping[str, Identity]
    latents: Mapping[str, str]
    result: Identity | None = None
    parents: tuple[Path, ...] = ()
    checksum: str = ""

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Read a record. Raises: ValueError if it is not what `dump` wrote."""
        record = cls.model_validate_json(content, strict=True)
        # The raw content, not the parsed record: an older record lacks the fields that have been added since.
        if record.checksum != _checksum(json.loads(content)):
            raise ValueError("it was changed after it was written")
        try:
            given_path(record.task.target, "target")
        except RequestError as error:
            raise ValueError(f"its target is not the name of a file: {error.why}") from error
        return record

    def dump(self) -> bytes:
        """The text of the file."""
        signed = self.model_copy(update={"checksum": self.computed_checksum})
        return signed.model_dump_json(by_alias=True, indent=1).encode() + b"\n"

    @property
    def computed_checksum(self) -> str:
        return _checksum(self.model_dump(mode="json", by_alias=True))


def _checksum(record: dict[str, Any]) -> str:
    """The checksum of a record as JSON holds it, without itself and without where and how the result is written."""
    values = {("version" if name == "schema" else name): value for name, value in record.items() if name != "checksum"}
    values["task"] = {name: value for name, value in values["task"].items() if name not in ("target", "output")}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Saved:
    """Latents on disk.

    generator: state of the random generator afterwards. step: the number of finished steps of the stage. keyframes: (1
    c k h w), generated single frames; None if there are none, and inside a stage. attention: (na nv) float32, the
    summed attention of each audio token to each video token; None if it is not captured.
    """

    latents: Latents
    generator: Tensor
    step: int = 0
    keyframes: Tensor | None = None
    attention: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One render and its folder.

    Args: identities: of the files that it reads, when the render started. saved: the SHA-256 of each file of latents,
    by name. result: the finished file. parents: the folders above it that were created for it. is_redirected: whether
    the user has set the target, overriding the record. exchanged: the identities of files that are read instead of
    those in the record, by role.
    """

    folder: Path
    task: RenderTask
    identities: Mapping[str, Identity]
    saved: dict[str, str] = field(default_factory=dict)
    result: Identity | None = None
    parents: tuple[Path, ...] = ()
    is_redirected: bool = False
    exchanged: Mapping[str, Identity] = field(default_factory=dict)

    @classmethod
    def create(
        cls, folder: Path, task: RenderTask, identities: Mapping[str, Identity], parents: Sequence[Path] = ()
    ) -> Self:
        """Create the folder. Raises: RequestError if it contains another render; StorageError if it cannot be
        written.
        """
        job = cls(folder=folder, task=_absolute(task), identities=dict(identities), parents=tuple(parents))
        job._check_folder()
        with made_folder(folder, stays=True), disk_errors(folder):
            job._clear()
            job._write_record()
        return job

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a folder. path: the folder, its record, or the output that it belongs to.

        Raises: RequestError if it contains no render, StorageError if it is damaged.
        """
        is_record = path.name == RECORD and os.path.isfile(path)  # noqa: PTH113  # false for a name that is too long
        folder = with_name(path.parent if is_record else path)
        if not os.path.isdir(path) and os.path.isdir(f"{path}.job"):  # noqa: PTH112  # false for a name that is too long
            folder = path.with_name(f"{path.name}.job")
        try:
            record = JobRecord.parse(read_whole(folder / RECORD, MOST_RECORD_BYTES))
        except FileNotFoundError as error:
            raise RequestError(f"{folder} holds no render", "it is not the folder OUTPUT.job of one") from error
        except NotADirectoryError as error:
            why = f"it is a file, and there is no {folder}.job"
            hint = f"ltx2 rerun {in_shell(folder)} renders it again, if it is a result"
            raise RequestError(f"{folder} holds no render", why, hint) from error
        except OSError as error:
            raise StorageError(f"{folder} cannot be read", disk_reason(error), disk_hint(error)) from error
        except ValueError as error:
            raise StorageError(
                f"{folder} is damaged", f"its record cannot be read: {_reason(error)}", "render again"
            ) from error
        return cls(
            folder=folder,
            task=record.task,
            identities=record.identities,
            saved=dict(record.latents),
            result=record.result,
            parents=tuple(path for path in record.parents if path in folder.absolute().parents),
        )

    def reopened(self) -> Self:
        """The same job with the present state of its folder. Raises: as `open`."""
        found = Job.open(self.folder)
        identities = {**found.identities, **self.exchanged}
        return replace(self, identities=identities, saved=found.saved, result=found.result)

    @property
    def request(self) -> Request:
        return self.task.request

    @property
    def stages(self) -> int:
        """The number of stages in all windows."""
        return len(runs_of(self.request))

    @property
    def finished_stages(self) -> int:
        """The number of stages whose latents are on disk; for a chain, in all windows."""
        stages = range(1, self.stages + 1)
        return next((n - 1 for n in stages if not self._has(self._latents(n))), len(stages))

    @property
    def has_all_latents(self) -> bool:
        return self.finished_stages == self.stages

    @property
    def is_written(self) -> bool:
        """Whether the target is the finished file of this job, whose process was killed before it removed the
        folder.
        """
        target = self.task.target
        return self.result is not None and target.is_file() and not target.is_symlink() and self.result.is_of(target)

    @property
    def resume_command(self) -> str:
        return resume_command(self.folder, self.task.target)

    def fingerprint(self, role: str) -> str:
        """The hash of a file's content, or of the hashes of a folder's files, by its role."""
        return content_of(self.identities, role).fingerprint

    def made_files(self) -> dict[str, MadeFile]:
        """The facts in the recipe about the files that the result was made from, by role."""
        paths, recorded = {**self.task.files.paths, **self.task.inputs}, self.task.recorded
        read = {role.partition("/")[0] for role in self.identities}
        files = {role: content_of(self.identities, role, path.name) for role, path in paths.items() if role in read}
        for role, known in recorded.items():
            is_same = role in files and files[role].fingerprint == known.fingerprint
            if is_same or role in CHOSE_BEFORE:
                files[role] = known
        return dict(sorted(files.items()))

    def with_length(self, frames: int) -> Self:
        """The same job with the length that the model has chosen, which is stored in its record.

        Raises: StorageError if the record cannot be written.
        """
        return self._with_request(frames=frames, auto_length=None)

    def with_prompt(self, prompt: str) -> Self:
        """The same job with a rewritten prompt, which is stored in its record beside the original one.

        Raises: StorageError if the record cannot be written.
        """
        return self._with_request(prompt=prompt, given_prompt=self.request.prompt, enhances=False)

    def _with_request(self, **changes: Any) -> Self:
        request = self.request.model_copy(update=changes)
        job = replace(self, task=self.task.model_copy(update={"request": request}))
        with disk_errors(self.folder):
            job._write_record()
        return job

    def require_target(self) -> None:
        """Raises: RequestError if the target comes from the record only, and is not beside the folder."""
        if not self.is_redirected and not lies_beside(self.folder, self.task.target):
            why = f"its output {self.task.target} is not beside it"
            raise RequestError(f"{self.folder} does not say where the result goes", why, "-o FILE says where")

    def check_saved(self, shapes: LatentShapes) -> None:
        """Compare the latents on disk with the request and with their checksums, before a model is loaded.

        Raises: StorageError that names the file.
        """
        for number in range(1, self.stages + 1):
            for path in (self._latents(number), self._stopped(number)):
                if self._has(path):
                    self._check(path, number, shapes)

    def save(
        self,
        stage: int,
        latents: Latents,
        generator: torch.Generator,
        keyframes: Tensor | None = None,
        attention: Tensor | None = None,
    ) -> None:
        """Save the result of a stage: latents, generated keyframes, the attention map.

        Stages count from 1.
        """
        self.saved.pop(self._stopped(stage).name, None)
        saved = Saved(latents, generator.get_state(), keyframes=keyframes, attention=attention)
        self._write(self._latents(stage), saved)
        self._stopped(stage).unlink(missing_ok=True)

    def load(self, stage: int) -> Saved:
        """The latents at the end of a stage."""
        return self._read(self._latents(stage))

    def save_stopped(self, stage: int, saved: Saved) -> None:
        """Save the tokens inside an unfinished stage, after so many of its steps."""
        self._write(self._stopped(stage), saved)

    def load_stopped(self, stage: int) -> Saved | None:
        """The tokens inside a stopped stage; None if it was not stopped."""
        path = self._stopped(stage)
        return self._read(path) if self._has(path) else None

    def note_result(self, finished: Path) -> None:
        """Record the finished file before it is renamed, unless the folder is kept anyway."""
        if not self.task.output.keep_latents:
            replace(self, result=identity(finished))._write_record()

    def remove(self) -> None:
        """Remove the files of this program from the folder, and the folder if it is then empty."""
        self._clear()
        (self.folder / RECORD).unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _check_folder(self) -> None:
        """Raises: RequestError if a render cannot start in the folder."""
        folder = self.folder
        if folder.is_symlink() and lies_beside(folder, self.task.target):
            raise RequestError(f"{folder} cannot be used", "it is a link", "--job-dir names another folder")
        has_record = os.path.lexists(folder / RECORD)
        if has_record and not self.task.output.overwrite:
            hint = f"{self.resume_command}, or --overwrite to start again"
            raise RequestError(f"{folder} holds a render that is not finished", hint=hint)
        if not has_record and (files := self._files()):
            why = f"it holds {files[0].name}, which belongs to no render"
            raise RequestError(f"{folder} cannot be used", why, "--job-dir names another folder")

    def _files(self) -> list[Path]:
        return [path for pattern in SAVED for path in self.folder.glob(pattern)]

    def remove_incomplete(self) -> None:
        """Remove the incomplete files of killed processes. Call it only while holding the lock of the folder."""
        for path in {*self._files(), *self._own_files, self.folder / RECORD}:
            remove_leftovers(path)

    def _clear(self) -> None:
        """Remove all latents, and the incomplete files of killed processes."""
        self.remove_incomplete()
        for path in {*self._files(), *self._own_files}:
            path.unlink(missing_ok=True)

    @property
    def _own_files(self) -> list[Path]:
        """The files that the render may write into the folder, besides the record."""
        names = [name for stage in range(1, self.stages + 1) for name in self._names(stage)]
        return [self.folder / name for name in (*names, PREVIEW)]

    def _names(self, stage: int) -> tuple[str, str]:
        return self._latents(stage).name, self._stopped(stage).name

    def _stopped(self, stage: int) -> Path:
        return self.folder / f"stopped-{stage}.safetensors"

    def _latents(self, stage: int) -> Path:
        return self.folder / f"latents-{stage}.safetensors"

    def _has(self, path: Path) -> bool:
        return path.name in self.saved and path.exists()

    def _write_record(self) -> None:
        record = JobRecord(
            task=self.task,
            identities=self.identities,
            latents=self.saved,
            result=self.result,
            parents=self.parents,
        )
        content = record.dump()
        if len(content) > MOST_RECORD_BYTES:
            why = f"its record has {len(content):,} bytes, and {MOST_RECORD_BYTES:,} is the most"
            raise RequestError("the request cannot be kept in a job folder", why, "a shorter prompt")
        write_whole(self.folder / RECORD, content)

    def _write(self, path: Path, saved: Saved) -> None:
        """Write latents, then the record: a record never names a file that is not on disk."""
        from safetensors import SafetensorError
        from safetensors.torch import save

        given = {**saved.latents._asdict(), KEYFRAMES: saved.keyframes, ATTENTION: saved.attention}
        tensors = {name: t.contiguous().cpu() for name, t in given.items() if t is not None}
        try:
            content = save({**tensors, "generator": saved.generator}, {"step": str(saved.step)})
            if self.saved.pop(path.name, None) is not None:
                self._write_record()
            write_whole(path, content)
            self.saved[path.name] = hashlib.sha256(content).hexdigest()
            self._write_record()
        except (OSError, SafetensorError) as error:
            raise StorageError(f"{path} cannot be written", disk_reason(error), disk_hint(error)) from error

    def _read(self, path: Path) -> Saved:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            step = int(read_header(path).metadata["step"])
            tensors = load_file(path)
            latents = Streams(tensors.get("video"), tensors.get("audio"))
            return Saved(latents, tensors["generator"], step, tensors.get(KEYFRAMES), tensors.get(ATTENTION))
        except (LTX2Error, SafetensorError, KeyError, ValueError) as error:
            raise StorageError(f"{path} is damaged", hint=AGAIN) from error

    def _check(self, path: Path, number: int, shapes: LatentShapes) -> None:
        """Raises: StorageError if a file is not the result of a stage of this request, or was changed."""
        is_stopped = path == self._stopped(number)
        with disk_errors(path, "cannot be read"), path.open("rb"):
            pass  # latents that this user may not read are not damaged, and must not be removed
        try:
            header = read_header(path)
            self._check_tensors(header, number, shapes, is_stopped=is_stopped)
            total = runs_of(self.request)[number - 1].steps
            step = int(header.metadata["step"])
            if not (0 < step < total if is_stopped else step == 0):
                raise ValueError(f"it stands after step {step} of {total}")
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            if content != self.saved[path.name]:
                raise ValueError("it was changed after it was written")
        except (LTX2Error, OSError, KeyError, ValueError) as error:
            raise StorageError(f"{path} is damaged", _reason(error), AGAIN) from error

    def _check_tensors(self, header: Header, number: int, shapes: LatentShapes, *, is_stopped: bool) -> None:
        """Raises: ValueError for tensors that do not fit the request; KeyError for a missing one."""
        expected = latent_shapes(self.request, number, shapes)
        if is_stopped:
            expected.pop(KEYFRAMES, None)  # they are part of the video tokens
        if header.tensors.keys() - {ATTENTION} != {*expected, "generator"}:
            raise ValueError(f"it holds {', '.join(sorted(header.tensors))}")
        generator = header.tensors["generator"]
        if generator.dtype != "U8" or len(generator.shape) != 1 or generator.nbytes > MOST_GENERATOR_BYTES:
            raise ValueError("its generator state is not valid")
        if attention := header.tensors.get(ATTENTION):
            counts = [_tokens(expected[name])[0] for name in ("audio", "video")]
            is_large = is_stopped and attention.shape[1:] > (counts[1],)  # it includes tokens that conditions appended
            if attention.dtype != "F32" or not (is_large or [*attention.shape] == counts):
                raise ValueError(f"its {ATTENTION} has the wrong number of tokens")
        for name, shape in expected.items():
            found = header.tensors[name]
            is_of_request = found.shape == shape
            if is_stopped:  # the tokens include those that conditions appended
                least, width = _tokens(shape)
                is_of_request = found.shape[::2] == (1, width) and found.shape[1] >= least
            if not is_of_request or found.dtype != STORED_AS[self.task.machine.precision]:
                raise ValueError(f"its {name} is {found.dtype} {list(found.shape)}, which is not this request's")


def content_of(identities: Mapping[str, Identity], role: str, name: str = "") -> MadeFile:
    """The identity of a file's content, or of a folder by the names and hashes of its files.

    Args: identities: by role; of a folder's files by role and name. name: of the file or folder.
    """
    if role in identities:
        return MadeFile(name=name, fingerprint=identities[role].content, size=identities[role].size)
    inside = {key: one for key, one in identities.items() if key.startswith(f"{role}/")}
    text = json.dumps({key: one.content for key, one in inside.items()}, sort_keys=True)
    size = sum(one.size for one in inside.values())
    return MadeFile(name=name, fingerprint=hashlib.sha256(text.encode()).hexdigest(), size=size)


def latent_shapes(request: Request, number: int, shapes: LatentShapes) -> dict[str, tuple[int, ...]]:
    """The shapes (1 c f h w) and (1 c t m) of the latents at the end of a stage, and of its generated keyframes (1 c k
    h w). Stages count from 1, through all windows of a chain.
    """
    run = runs_of(request)[number - 1]
    request, stage = run.request, run.stage
    video, audio = shapes.video_vae, shapes.audio_vae
    steps = len(request.audio_steps)
    frames, rows, columns = request.grid(video.factors, stage).latent
    both = {
        "video": (1, video.latent_channels, frames, rows, columns),
        "audio": (1, audio.latent_channels, steps, audio.latent_bins),
    }
    found = {name: both[name] for name, mode in request.streams._asdict().items() if mode != "off"}
    if keyframes := request.keyframes_of(stage):
        found[KEYFRAMES] = (1, video.latent_channels, len(keyframes), rows, columns)
    return found


def _tokens(shape: tuple[int, ...]) -> tuple[int, int]:
    """The number of tokens of a latent, and of values per token."""
    if len(shape) == 5:
        _, channels, frames, rows, columns = shape
        return frames * rows * columns, channels
    _, channels, steps, bins = shape
    return steps, channels * bins


def _absolute(task: RenderTask) -> RenderTask:
    """The same task with absolute paths. Links are kept: the name of a file is part of its identity."""

    def absolute(paths: Mapping[str, Path]) -> dict[str, Path]:
        return {role: path.absolute() for role, path in paths.items()}

    files = ModelFiles(name=task.files.name, paths=absolute(task.files.paths))
    target = task.target.parent.resolve() / task.target.name
    return task.model_copy(update={"files": files, "inputs": absolute(task.inputs), "target": target})


def _reason(error: Exception) -> str:
    """Why something cannot be read, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        return f"{place}: {first['msg']}"[:200].lstrip(": ")
    if isinstance(error, LTX2Error):
        return error.why or error.what
    return disk_reason(error)[:200]
