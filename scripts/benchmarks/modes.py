"""Time the denoiser in each memory mode against resident weights: medians of alternating runs of one file in one
process.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import save_file

from ltx2_core import keymap
from ltx2_core.checkpoint import assign, assign_streamed, build_component
from ltx2_core.components import DIT
from ltx2_core.config.transformer import TransformerConfig
from ltx2_core.headers import Header, read_header
from ltx2_core.machine import CHUNK_TOKENS, LEAN_CHUNK_TOKENS, RESIDENT_BLOCKS, MemoryMode
from ltx2_core.models.chunks import Chunks
from ltx2_core.models.transformer import Transformer
from ltx2_core.pipeline.doctor.sample import random_transformer, scaled_settings
from ltx2_core.stored.encoding import TARGETS

from .paired import Pair, Setup, in_turns
from .section import Section
from .subjects import Ours, make_inputs

FORMATS = ("bf16", *TARGETS)
MODES: tuple[MemoryMode, ...] = get_args(MemoryMode)
MOST_RATIO = 1.10  # limit for the time of streamed weights relative to resident ones, on the CPU
GIB = 2**30
Row = tuple[dict[str, str], Pair | None]


def section(
    setup: Setup, *, formats: Sequence[str] = ("bf16",), modes: Sequence[str] = MODES, cap_gb: int | None = None
) -> Section:
    """Measure, describe the results, and compare streamed weights with their limit if a CPU stands in for a GPU.

    Args: cap_gb: limit of allocations on the GPU, in GiB; if resident weights do not fit into it, they are left out.
    """
    if cap_gb is not None and setup.device.type == "cuda":
        total = torch.cuda.get_device_properties(setup.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, cap_gb * GIB / total), setup.device)
    with tempfile.TemporaryDirectory() as folder:
        rows = list(_rows(setup, Path(folder), formats, modes))
    streamed = [
        pair.ratio for label, pair in rows if pair is not None and label["mode"] == "streamed" and _is_paired(pair)
    ]
    limit = "everything" if cap_gb is None else f"{cap_gb} GiB"
    is_limited = setup.limits is not None and bool(streamed)
    words = ", ".join(f"{ratio:.3f}" for ratio in streamed) or "not measured beside resident"
    return Section(
        title=f"Memory modes on {setup.device_name}",
        facts=[
            f"LTX-2 2.0, {setup.layers} blocks, {setup.heads} heads, random weights from a file in each format",
            f"computed in {str(setup.dtype).removeprefix('torch.')}, one forward",
            f"the most that may be allocated: {limit}",
            "medians of several runs, alternating with resident ones in one process; the ratio is that of neighbours",
        ],
        rows=[label | _figures(pair, setup) for label, pair in rows],
        verdict=f"streamed/resident: {words}",
        is_good=not is_limited or max(streamed) <= MOST_RATIO,
        runs={" ".join(label.values()): pair.seconds[0] for label, pair in rows if pair is not None},
    )


def _rows(setup: Setup, folder: Path, formats: Sequence[str], modes: Sequence[str]) -> Iterator[Row]:
    """Time every format in every mode, at every size."""
    settings = scaled_settings(setup.layers, setup.heads)
    plain = _written(settings, setup, folder / "bf16.safetensors")
    for form in formats:
        header = read_header(plain if form == "bf16" else _converted(plain, form))
        resident = _fitting(header, "resident", setup) if "resident" in modes else None
        for mode in [mode for mode in MODES if mode in modes and mode != "resident"]:
            model = _loaded(header, mode, setup)
            for size in setup.sizes:
                label = {"format": form, "mode": mode, "size": "x".join(map(str, size))}
                print(f"timing: {', '.join(label.values())}", file=sys.stderr, flush=True)
                torch.manual_seed(0)
                inputs = make_inputs(model.config, size, setup.dtype, setup.device)
                both = [Ours(one).forward(inputs) for one in (resident, model) if one is not None]
                yield label, _in_turns(both, setup)
            model.to("meta")
        if resident is not None:
            resident.to("meta")


def _in_turns(calls: Sequence[Any], setup: Setup) -> Pair | None:
    """The times of the two calls, first those of the mode; None if memory is not sufficient."""
    try:
        return in_turns([*reversed(calls)], setup.device, setup.runs)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None


def _fitting(header: Header, mode: MemoryMode, setup: Setup) -> Transformer | None:
    """A model in a memory mode; None if it does not fit on the GPU."""
    try:
        return _loaded(header, mode, setup)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None


def _loaded(header: Header, mode: MemoryMode, setup: Setup) -> Transformer:
    """The denoiser of a file, loaded as in a render."""
    module: Any = build_component("transformer", header)
    if mode == "resident":
        assign(module, "transformer", [header], device=setup.device, dtype=setup.dtype)
    else:
        resident = RESIDENT_BLOCKS if mode == "streamed" else 0
        assign_streamed(module, "transformer", [header], device=setup.device, dtype=setup.dtype, resident=resident)
    tokens = LEAN_CHUNK_TOKENS if mode == "lean" else CHUNK_TOKENS
    module.work_in(Chunks(tokens, keeps_tables=mode != "lean"))
    return module


def _written(settings: dict[str, Any], setup: Setup, path: Path) -> Path:
    """A checkpoint with random weights in bfloat16, under the official names."""
    torch.manual_seed(0)
    model = random_transformer(TransformerConfig.from_metadata(settings), torch.bfloat16, setup.device)
    rows = keymap.TRANSFORMER
    tensors = {DIT + keymap.to_official(name, rows): tensor.cpu() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, {"config": json.dumps(settings)})
    return path


def _converted(plain: Path, form: str) -> Path:
    """The same model in another format."""
    # These imports need more packages than the rest of the bench.
    from ltx2_core.pipeline.convert.plan import plan_conversion
    from ltx2_core.pipeline.convert.run import convert

    target = plain.with_name(f"{form}.safetensors")
    return convert(plan_conversion(plain, form, target)).path


def _is_paired(pair: Pair) -> bool:
    return len(pair.seconds) == 2


def _figures(pair: Pair | None, setup: Setup) -> dict[str, str]:
    """The cells of a row."""
    cells = dict.fromkeys(("runs", "s", "resident, s", "ratio"), "-")
    if setup.device.type == "cuda":
        cells["GB"] = "-"
    if pair is None:
        return cells | {"s": "does not fit"}
    cells |= {"runs": str(len(pair.seconds[0])), "s": f"{statistics.median(pair.seconds[0]):.3f}"}
    if _is_paired(pair):
        cells |= {"resident, s": f"{statistics.median(pair.seconds[1]):.3f}", "ratio": f"{pair.ratio:.3f}"}
    if setup.device.type == "cuda":
        cells["GB"] = f"{pair.peak_bytes[0] / 1e9:.1f}"
    return cells
