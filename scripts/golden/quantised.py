"""Quantised weight files: which layers are found, what they decode to, what they compute, and what is refused.

A folder holds one case, `model.safetensors.gz` with `expected.safetensors.gz`; `cases.json` beside the folders tells
which layers it has, and `variants.json` which changes of a file mean the same and which have to be refused.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ltx2_core.checkpoint import adapt, assign, load_component
from ltx2_core.errors import CheckpointError
from ltx2_core.headers import Header, read_header
from ltx2_core.models.transformer import Pass, StreamInput, Transformer, run_passes
from ltx2_core.pipeline.convert.plan import plan_conversion
from ltx2_core.pipeline.convert.run import convert
from ltx2_core.quantize.decode import decode
from ltx2_core.quantize.linear import QuantisedLinear, quantised_linear
from ltx2_core.stored.layer import StoredLayer
from ltx2_core.text.gemma import COMPONENT, build_language_model, restore_buffers
from ltx2_core.text.released import config_of
from ltx2_core.types import Streams
from ltx2_core.weights import map_tensors
from scripts.quantise import largest_group, rotation

from .edits import edited
from .report import GoldenFile, Report

WEIGHTS_ONLY, VELOCITY, HIDDEN_STATES = 1e-5, 1e-5, 1e-5
INPUTS = ("x/*", "*/rows", "inputs/*", "input_ids")
MODEL, EXPECTED = "model.safetensors", "expected.safetensors"
CONVERT, CONVERTED_FROM = "convert", "bf16-2.5"  # the folder of what is written, and that of the file it is made from
SCALES, HALF = 3e-7, 1e-3  # relative; and how near to a half a number may be rounded either way
VERSIONS = {"2.3": "bf16-2.3", "2.5": "bf16-2.5"}  # the folder with the inputs of all velocities of a version


def run(folder: Path, where: str, report: Report) -> None:
    """Compare one case."""
    if folder.name == CONVERT:
        run_convert(folder, where, report)
        return
    case = json.loads((folder.parent / "cases.json").read_text())[folder.name]
    with _unpacked(folder) as files:
        golden = GoldenFile(files / EXPECTED, where, report, INPUTS)
        if (files / MODEL).is_file():
            with golden.case("layers"):
                header = read_header(files / MODEL)
                found = sorted(layer.name for layer in header.stored.layers.values())
                golden.compare_value("layers", "layers found", found, sorted(case["quantised"]))
                for name in case["layers"]:
                    _layer(golden, header, name)
            if "hidden_states" in golden:
                with golden.case("hidden_states"):
                    _hidden_states(golden, header)
            if "velocity/video" in golden:
                with golden.case("velocity"), _unpacked(folder.parent / VERSIONS[case["version"]]) as inputs:
                    _velocity(golden, header, inputs / EXPECTED)
        golden.close(_case_of)


def run_convert(folder: Path, where: str, report: Report) -> None:
    """Compare what is written for some layers with the file of a float32 writer."""
    with _unpacked(folder) as expected, _unpacked(folder.parent / CONVERTED_FROM) as source:
        golden = GoldenFile(expected / EXPECTED, where, report, ())
        with golden.case(CONVERT):
            converted = convert(plan_conversion(source / MODEL, "int8", source / "int8.safetensors")).path
            before, after = (
                map_tensors(header, header.tensors) for header in map(read_header, (source / MODEL, converted))
            )
            for name in [name for name in golden.tensors if name.endswith(".weight")]:
                scale, marker = f"{name}_scale", f"{name.removesuffix('.weight')}.comfy_quant"
                golden.compare(scale, after[scale], SCALES)
                wrong = _wrong_codes(before[name], after[name], golden[name], golden[scale])
                golden.compare(name, after[name], 0.0, error=wrong)
                if marker in golden:
                    golden.compare(
                        marker, after[marker], 0.0, error=float(_bits(after[marker]) != _bits(golden[marker]))
                    )
        golden.close(_case_of)


def _wrong_codes(weight: Tensor, ours: Tensor, expected: Tensor, scale: Tensor) -> float:
    """How many codes differ, but for those by 1 of numbers that lie next to a half."""
    group = largest_group(weight.shape[1])
    turned = (weight.double().unflatten(-1, (-1, group)) @ rotation(group).double()).flatten(-2) / scale
    is_near = (turned - turned.floor() - 0.5).abs() <= HALF
    off = (ours.int() - expected.int()).abs()
    return float(((off > 1) | ((off == 1) & ~is_near)).sum())


def run_variants(path: Path, where: str, report: Report) -> None:
    """Compare every changed file with the one that it was made of."""
    for variant in json.loads(path.read_text()):
        place = f"{where}/{variant['name']}"
        with _unpacked(path.parent / variant["base"]) as files:
            if not (files / MODEL).is_file():
                report.add_uncompared(place, variant["must"], "its file is of a kind that is not read")
                continue
            before = _weights(files / MODEL) if variant["must"] == "same" else {}
            changed = edited(files / MODEL, variant["edits"])
            try:
                after = _weights(changed)
                became = "same" if after == before else "changed"
            except CheckpointError:
                became = "refuse"
        error = float(became != variant["must"])
        report.add_compared(place, variant["must"], error, 0.0, f"{became}: {variant['why']}" if error else "")


def _case_of(name: str) -> str:
    """The case of a tensor that was not compared: what it holds."""
    return name.rpartition("/")[2]


@contextmanager
def _unpacked(folder: Path) -> Iterator[Path]:
    """A folder with the files of a case as they are published."""
    with TemporaryDirectory() as place:
        for file in folder.glob("*.gz"):
            with gzip.open(file) as packed, (Path(place) / file.stem).open("wb") as plain:
                shutil.copyfileobj(packed, plain)
        yield Path(place)


def _layer(golden: GoldenFile, header: Header, name: str) -> None:
    layer = header.stored.layers[f"{name}.weight"]
    tensors = map_tensors(header, {**layer.tensors, "bias": f"{name}.bias"}.values() & header.tensors.keys())
    stored = {role: tensors[tensor] for role, tensor in layer.tensors.items()}
    expected = golden[f"{name}/weight.bf16"]
    rows, columns = expected.shape
    module = _module(layer, header, stored, tensors.get(f"{name}.bias"), expected)
    exact = decode(layer, stored, range(rows))[golden[f"{name}/rows"], :columns]
    _compare_bits(golden, f"{name}/weight.f32", exact)
    _compare_bits(golden, f"{name}/weight.bf16", module.weight)
    x = golden[f"x/{columns}"].float()
    if f"{name}/out.weights_only" in golden:
        golden.compare(f"{name}/out.weights_only", module(x), WEIGHTS_ONLY, "weights_only")


def _module(
    layer: StoredLayer, header: Header, stored: Mapping[str, Tensor], bias: Tensor | None, like: Tensor
) -> QuantisedLinear:
    """The layer that computes with stored tensors."""
    linear = nn.Linear(like.shape[1], like.shape[0], bias=bias is not None, device="meta")
    module = quantised_linear(layer, linear, header)
    state = {f"stored.{role}": tensor for role, tensor in stored.items() if role != "input_scale"}
    state |= {} if bias is None else {"bias": bias.float()}
    module.load_state_dict(state, assign=True)
    return module.requires_grad_(False)


def _compare_bits(golden: GoldenFile, name: str, ours: Tensor) -> None:
    golden.compare(name, ours, 0.0, name.rpartition("/")[2], error=float(_bits(ours) != _bits(golden[name])))


def _bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def _velocity(golden: GoldenFile, header: Header, inputs: Path) -> None:
    model = load_component("transformer", header, dtype=torch.float32)
    assert isinstance(model, Transformer)
    with safe_open(inputs, "pt") as file, torch.inference_mode():
        streams = Streams(*(_input(file, stream) for stream in ("video", "audio")))
        (velocity,) = run_passes(model, [Pass(inputs=streams)])
    for stream, ours in velocity._asdict().items():
        golden.compare(f"velocity/{stream}", ours, VELOCITY)


def _hidden_states(golden: GoldenFile, header: Header) -> None:
    """All hidden states of a Gemma 3, with whose config the file says what it is."""
    with torch.device("meta"):
        model = build_language_model(config_of(header))
    adapt(model, COMPONENT, header)
    assign(model, COMPONENT, [header], dtype=torch.float32)
    restore_buffers(model)
    with torch.inference_mode():
        states = model.eval()(input_ids=golden["input_ids"], use_cache=False, output_hidden_states=True).hidden_states
    golden.compare("hidden_states", torch.stack(states, dim=-1)[0], HIDDEN_STATES)


def _input(file: Any, stream: str) -> StreamInput:
    fields = {name: file.get_tensor(f"inputs/{stream}.{name}") for name in ("latent", "sigma", "positions", "context")}
    return StreamInput(unique_timesteps=file.get_tensor(f"inputs/{stream}.timesteps")[..., 0], **fields)


def _weights(path: Path) -> dict[str, bytes]:
    """The weights of the quantised layers of a model, as they are computed with. Raises: CheckpointError."""
    header = read_header(path)
    components = [name for name in ("transformer", "video_connector", "audio_connector") if _has(header, name)]
    found = {}
    for component in components:
        for name, module in load_component(component, header).named_modules():
            if isinstance(module, QuantisedLinear):
                found[f"{component}.{name}"] = _bits(module.weight)
    return found


def _has(header: Header, component: str) -> bool:
    return component == "transformer" or any(component.replace("_", "_embeddings_") in name for name in header.tensors)
