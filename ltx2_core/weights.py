"""The tensors of a weight file as views of the file, which is mapped read-only.

The safetensors library maps a file privately and writable. Linux refuses such a mapping for a file that is larger than
RAM and swap together; a read-only mapping costs nothing, as its pages can always be read from the file again.
Source: docs/reference/checkpoints.md, "Loading".
"""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Iterable
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from .disk import disk_errors, disk_hint, disk_reason
from .errors import CheckpointError, StorageError
from .gguf_header import BLOCK_TYPES
from .headers import FLOATS, Header, TensorInfo

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
STORED_DTYPES = {**DTYPES, **dict.fromkeys(BLOCK_TYPES, torch.uint8)}  # blocks of a GGUF file are bytes
FLOAT_DTYPES = {DTYPES[name] for name in FLOATS}
FP8_DTYPES = {torch.float8_e4m3fn, torch.float8_e5m2}


def map_tensors(header: Header, names: Iterable[str]) -> dict[str, Tensor]:
    """Tensors of a file by their names in it, in their stored dtype and shape, on the CPU.

    A matrix of a GGUF file that is stored in blocks is returned as its bytes (rows bytes), uint8.
    The tensors are views: nothing is read before it is used, each of them keeps the file mapped (so that Windows does
    not allow deleting it), and writing into one ends the process. A tensor that is not aligned to the size of its
    elements is copied; the published files have none.

    Raises: StorageError if the file cannot be read any more, or does not match the given names and header.
    """
    try:
        infos = {name: header.tensors[name] for name in names}
        with header.path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise StorageError(f"{header.path} cannot be read", disk_reason(error), disk_hint(error)) from error
    except KeyError as error:
        raise _changed(header, f"it has no tensor {error.args[0]}") from error
    end = max((info.end for info in infos.values()), default=0)
    if end > len(content):
        raise _changed(header, f"it has {len(content):,} bytes instead of {end:,}")
    with warnings.catch_warnings():
        # torch warns that it does not protect read-only buffers; nothing here writes to them.
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        return {name: _view(content, info) for name, info in infos.items()}


def require_unchanged(header: Header) -> None:
    """Raises: StorageError if a mapped file has become shorter than its header says.

    Reading a missing part of a mapping would end the process.
    """
    end = max((info.end for info in header.tensors.values()), default=0)
    with disk_errors(header.path, "cannot be read"):
        size = header.path.stat().st_size
    if size < end:
        raise _changed(header, f"it has {size:,} bytes instead of {end:,}")


def stored_shape(info: TensorInfo) -> tuple[int, ...]:
    """The stored shape of a tensor: that of the header, or with bytes instead of columns for blocks."""
    if info.dtype not in BLOCK_TYPES:
        return info.shape
    kind = BLOCK_TYPES[info.dtype]
    return (*info.shape[:-1], info.shape[-1] // kind.elements * kind.nbytes)


def require_finite(path: Path, name: str, tensor: Tensor) -> None:
    """Raises: CheckpointError if a tensor of a file has NaN or infinite values."""
    if not is_finite(tensor):
        raise CheckpointError(
            f"{path.name} holds NaN or infinite values",
            f"they are in the tensor {name}",
            "download the file again, or use another one",
        )


def is_finite(tensor: Tensor) -> bool:
    """Whether all values of a tensor are finite. It needs no additional memory for a plain float."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    wide = tensor if tensor.dtype in FLOAT_DTYPES else tensor.float()
    return all(limit.isfinite().item() for limit in wide.aminmax())  # both are NaN where any value is


def _view(content: mmap.mmap, info: TensorInfo) -> Tensor:
    """One tensor. Each has its own storage, so that copying one does not copy the file."""
    dtype, shape = STORED_DTYPES[info.dtype], stored_shape(info)
    if info.nbytes == 0:
        return torch.empty(shape, dtype=dtype)
    if info.start % dtype.itemsize:
        raw = torch.frombuffer(content, dtype=torch.uint8, count=info.nbytes, offset=info.start)
        return raw.clone().view(dtype).reshape(shape)
    return torch.frombuffer(content, dtype=dtype, count=prod(shape), offset=info.start).reshape(shape)


def _changed(header: Header, why: str) -> StorageError:
    return StorageError(f"{header.path.name} has changed since it was checked", why, "run the command again")
