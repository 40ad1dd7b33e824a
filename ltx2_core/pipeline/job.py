"""The job folder of a render: what was asked for, and the latents of every stage that is finished, safe on disk.

Source: docs/cli.md, "Latents first".
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import ValidationError

from ..disk import write_whole
from ..errors import LTX2Error, RequestError, StorageError
from ..headers import read_header
from ..hub.find import ModelFiles
from ..types import Streams
from .request import RenderTask, Request

if TYPE_CHECKING:  # a job that cannot be gone on with is refused before torch is imported
    import torch
    from torch import Tensor

    from ..latents import Latents

SCHEMA = 2
RECORD = "job.json"
SAVED = ("latents-*.safetensors", "stopped-*.safetensors")


@dataclass(frozen=True, slots=True)
class Saved:
    """Latents on disk.

    generator: state of the random generator afterwards. step: how many steps of the stage are done.
    """

    latents: Latents
    generator: Tensor
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class Job:
    """One render and its folder. identities: of the files that it reads, by role, when the render began."""

    folder: Path
    task: RenderTask
    identities: Mapping[str, str]

    @classmethod
    def create(cls, folder: Path, task: RenderTask, identities: Mapping[str, str]) -> Self:
        """Make the folder. Raises: RequestError if it holds another render; StorageError if it cannot be written."""
        if (folder / RECORD).exists() and not task.output.overwrite:
            raise RequestError(
                f"{folder} holds a render that is not finished",
                hint=f"ltx2 resume {folder}, or --overwrite to start again",
            )
        if not (folder / RECORD).exists() and _saved_in(folder):
            why = "it holds latents that belong to no render"
            raise RequestError(f"{folder} cannot be used", why, "--job-dir names another folder")
        job = cls(folder=folder, task=_absolute(task), identities=dict(identities))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for old in _saved_in(folder):
                old.unlink()
            job._write_record()
        except OSError as error:
            raise StorageError(f"{folder} cannot be written", error.strerror or str(error)) from error
        return job

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read a folder again. Raises: RequestError if it holds no render, StorageError if it is damaged."""
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            if record["schema"] != SCHEMA:
                raise ValueError(f"it has schema {record['schema']}, and this version reads {SCHEMA}")
            task = RenderTask.model_validate(record["task"])
            return cls(folder=folder, task=task, identities=record["identities"])
        except FileNotFoundError as error:
            raise RequestError(f"{folder} holds no render", f"there is no {RECORD} in it") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
            raise StorageError(f"{folder / RECORD} is damaged", " ".join(str(error).split())[:200]) from error

    @property
    def request(self) -> Request:
        return self.task.request

    @property
    def finished_stages(self) -> int:
        """How many stages have their latents on disk."""
        stages = range(1, len(self.request.recipe.stages) + 1)
        return next((n - 1 for n in stages if not self._latents(n).exists()), len(stages))

    def save(self, stage: int, latents: Latents, generator: torch.Generator) -> None:
        """Keep the latents that a stage ended with. Stages count from 1."""
        self._write(self._latents(stage), Saved(latents, generator.get_state()))
        self._stopped(stage).unlink(missing_ok=True)

    def load(self, stage: int) -> Saved:
        """The latents that a stage ended with."""
        return self._read(self._latents(stage))

    def save_stopped(self, stage: int, saved: Saved) -> None:
        """Keep the tokens inside a stage that is not finished, after so many of its steps."""
        self._write(self._stopped(stage), saved)

    def load_stopped(self, stage: int) -> Saved | None:
        """The tokens inside a stage that was stopped; None if it was not."""
        path = self._stopped(stage)
        return self._read(path) if path.exists() else None

    def remove(self) -> None:
        """Remove what this program put into the folder, and the folder if nothing else is in it."""
        for path in [*_saved_in(self.folder), self.folder / RECORD]:
            path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            shutil.rmtree(self.folder)

    def _stopped(self, stage: int) -> Path:
        return self.folder / f"stopped-{stage}.safetensors"

    def _latents(self, stage: int) -> Path:
        return self.folder / f"latents-{stage}.safetensors"

    def _write_record(self) -> None:
        record = {"schema": SCHEMA, "task": self.task.model_dump(mode="json"), "identities": dict(self.identities)}
        write_whole(self.folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False).encode() + b"\n")

    def _write(self, path: Path, saved: Saved) -> None:
        tensors = {name: t.contiguous().cpu() for name, t in saved.latents._asdict().items() if t is not None}
        from safetensors import SafetensorError
        from safetensors.torch import save

        try:
            write_whole(path, save({**tensors, "generator": saved.generator}, {"step": str(saved.step)}))
        except (OSError, SafetensorError) as error:
            raise StorageError(f"{path} cannot be written", str(error)) from error

    def _read(self, path: Path) -> Saved:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            step = int(read_header(path).metadata["step"])
            tensors = load_file(path)
            return Saved(Streams(tensors.get("video"), tensors.get("audio")), tensors["generator"], step)
        except (LTX2Error, SafetensorError, KeyError, ValueError) as error:
            raise StorageError(f"{path} is damaged", hint="remove it, and ltx2 resume makes it again") from error


def _absolute(task: RenderTask) -> RenderTask:
    """The same task from any folder. Links stay: the name of a file is part of what tells it from others."""

    def absolute(paths: Mapping[str, Path]) -> dict[str, Path]:
        return {role: path.absolute() for role, path in paths.items()}

    files = ModelFiles(name=task.files.name, paths=absolute(task.files.paths))
    target = task.target.parent.resolve() / task.target.name
    return task.model_copy(update={"files": files, "inputs": absolute(task.inputs), "target": target})


def _saved_in(folder: Path) -> list[Path]:
    return [path for pattern in SAVED for path in folder.glob(pattern)]
