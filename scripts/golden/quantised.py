"""Compare quantised weight files: which layers are found, their decoded weights, their outputs, and which files are
refused.

A folder is one case, `model.safetensors` or `model.gguf` with `expected.safetensors`. Next to the folders, `cases.json`
lists the layers of each case, and `variants.json` lists changes of a file that have the same meaning and changes that
have to be refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from ltx2_core.checkpoint import adapt, assign, load_component
from ltx2_core.components import DIT
from ltx2_core.errors import CheckpointError, StorageError
from ltx2_core.headers import Header, read_header
from ltx2_core.models.passes import Pass, StreamInput
from ltx2_core.models.transformer import Transformer, run_passes
from ltx2_core.pipeline.convert.plan import plan_conversion
from ltx2_core.pipeline.convert.run import convert
from ltx2_core.quantize.decode import decode
from ltx2_core.quantize.linear import QuantisedLinear, quantised_linear
from ltx2_core.quantize.products import multiply
from ltx2_core.stored.layer import StoredLayer
from ltx2_core.text.gemma import COMPONENT, build_language_model, restore_buffers
from ltx2_core.text.released import config_of
from ltx2_core.types import Streams
from ltx2_core.weights import map_tensors
from scripts.quantise import largest_group, rotation

from .edits import edited
from .report import GoldenFile, Report

WEIGHTS_ONLY, VELOCITY, HIDDEN_STATES = 1e-5, 1e-5, 1e-5
# Tolerances of outputs with quantised inputs. The recorded int8 outputs were rounded to bfloat16 at every step.
ACTIVATIONS, INTEGER_ACTIVATIONS, INTEGER_ACTIVATIONS_F32 = 1e-2, 4e-2, 5e-3
INTEGERS = ("int8", "w4a8", "w6a8")
INPUTS = ("x/*", "*/rows", "inputs/*", "input_ids")
MODELS, EXPECTED = ("model.safetensors", "model.gguf"), "expected.safetensors"
CONVERT, CONVERTED_FROM = "convert", "bf16-2.5"  # the folders of the converted file and of its source
SCALES, HALF = 3e-7, 1e-3  # relative; how close to a half a number may be rounded either way
VERSIONS = {"2.3": "bf16-2.3", "2.5": "bf16-2.5"}  # the folder with the inputs for all velocities of a version


def run(folder: Path, where: str, report: Report) -> None:
    """Compare one case."""
    if folder.name == CONVERT:
        run_convert(folder, where, report)
        return
    case = json.loads((folder.parent / "cases.json").read_text())[folder.name]
    golden = GoldenFile(folder / EXPECTED, where, report, INPUTS)
    path = _model(folder)
    if path is not None:
        with golden.case("layers"):
            header = read_header(path)
            golden.compare_value("layers", "layers found", _found(header), sorted(map(_inside, case["quantised"])))
            for name in case["layers"]:
                _layer(golden, header, name)
        if "hidden_states" in golden:
            with golden.case("hidden_states"):
                _hidden_states(golden, header)
        if "velocity/video" in golden:
            with golden.case("velocity"):
                _velocity(golden, header, folder.parent / VERSIONS[case["version"]])
    golden.close(_case_of)


def run_convert(folder: Path, where: str, report: Report) -> None:
    """Compare the converted tensors of some layers with the file of a float32 writer."""
    golden, source = GoldenFile(folder / EXPECTED, where, report, ()), folder.parent / CONVERTED_FROM / MODELS[0]
    with golden.case(CONVERT):
        converted = convert(plan_conversion(source, "int8", source.with_name("int8.safetensors"))).path
        before, after = (map_tensors(header, header.tensors) for header in map(read_header, (source, converted)))
        for name in [name for name in golden.tensors if name.endswith(".weight")]:
            scale, marker = f"{name}_scale", f"{name.removesuffix('.weight')}.comfy_quant"
            golden.compare(scale, after[scale], SCALES)
            wrong = _wrong_codes(before[name], after[name], golden[name], golden[scale])
            golden.compare(name, after[name], 0.0, error=wrong)
            if marker in golden:
                golden.compare(marker, after[marker], 0.0, error=float(_bits(after[marker]) != _bits(golden[marker])))
    golden.close(_case_of)


def _wrong_codes(weight: Tensor, ours: Tensor, expected: Tensor, scale: Tensor) -> float:
    """The number of codes that differ, except for differences of 1 where the number is close to a half."""
    group = largest_group(weight.shape[1])
    turned = (weight.double().unflatten(-1, (-1, group)) @ rotation(group).double()).flatten(-2) / scale
    is_near = (turned - turned.floor() - 0.5).abs() <= HALF
    off = (ours.int() - expected.int()).abs()
    return float(((off > 1) | ((off == 1) & ~is_near)).sum())


def run_variants(path: Path, where: str, report: Report) -> None:
    """Compare every changed file with the file from which it was made."""
    cases = json.loads((path.parent / "cases.json").read_text())
    for variant in json.loads(path.read_text()):
        place = f"{where}/{variant['name']}"
        model = _model(path.parent / variant["base"])
        assert model is not None
        version = cases[variant["base"]]["version"]
        config = _config(read_header(model), path.parent / VERSIONS[version])
        before = _weights(model, config) if variant["must"] == "same" else {}
        changed = edited(model, variant["edits"])
        try:
            after = _weights(changed, config)
            became = "same" if after == before else "changed"
        except (CheckpointError, StorageError):
            became = "refuse"
        error = float(became != variant["must"])
        report.add_compared(place, variant["must"], error, 0.0, f"{became}: {variant['why']}" if error else "")


def _model(folder: Path) -> Path | None:
    """The weight file of a case; None if it has none."""
    return next((folder / name for name in MODELS if (folder / name).is_file()), None)


def _config(header: Header, base: Path) -> Mapping[str, Any]:
    """The config of a file, or of the unquantised model if the file has none. base: the folder of the unquantised
    model.
    """
    return header.config or read_header(base / MODELS[0]).config


def _found(header: Header) -> list[str]:
    """The names of the layers that a file does not store in bfloat16 or, in a GGUF file, float16."""
    halves = [name for name, info in header.tensors.items() if info.dtype == "F16" and len(info.shape) == 2]
    found = [layer.name for layer in header.stored.layers.values()]
    return sorted(map(_inside, [*found, *(name.removesuffix(".weight") for name in halves)]))


def _inside(name: str) -> str:
    """A name without the prefix of the official files, which GGUF files omit."""
    return name.removeprefix(DIT)


def _case_of(name: str) -> str:
    """The case of a tensor that was not compared: the last part of its name."""
    return name.rpartition("/")[2]


def _layer(golden: GoldenFile, header: Header, name: str) -> None:
    stored_as = next(one for one in (name, _inside(name)) if f"{one}.weight" in header.tensors)
    layer = header.stored.layers.get(f"{stored_as}.weight")
    roles = {"weight": f"{stored_as}.weight"} if layer is None else layer.tensors
    tensors = map_tensors(header, {*roles.values(), f"{stored_as}.bias"} & header.tensors.keys())
    stored = {role: tensors[tensor] for role, tensor in roles.items()}
    expected, bias = golden[f"{name}/weight.bf16"], tensors.get(f"{stored_as}.bias")
    rows, columns = expected.shape
    if layer is None:
        exact, weight = stored["weight"].float(), stored["weight"].bfloat16()
    else:
        module = _module(layer, header, stored, bias, expected)
        exact, weight = decode(layer, stored, range(rows)), module.weight
    _compare_bits(golden, f"{name}/weight.f32", exact[golden[f"{name}/rows"], :columns])
    _compare_bits(golden, f"{name}/weight.bf16", weight)
    x = golden[f"x/{columns}"]
    if f"{name}/out.weights_only" in golden:
        out = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
        golden.compare(f"{name}/out.weights_only", out, WEIGHTS_ONLY, "weights_only")
    if layer is not None:
        _compare_products(golden, name, layer, stored, bias, x)


def _compare_products(
    golden: GoldenFile, name: str, layer: StoredLayer, stored: Mapping[str, Tensor], bias: Tensor | None, x: Tensor
) -> None:
    """Compare the output of a layer whose inputs are quantised too."""
    if layer.format == "fp8" and "input_scale" not in stored:
        stored = {**stored, "input_scale": torch.ones(())}  # the scale of the recording; ours uses one scale per row
    is_whole = layer.format in INTEGERS
    bounds = {"out.activations": INTEGER_ACTIVATIONS if is_whole else ACTIVATIONS}
    bounds["out.activations.f32"] = INTEGER_ACTIVATIONS_F32
    for what, bound in bounds.items():
        if f"{name}/{what}" in golden:
            expected = golden[f"{name}/{what}"]
            own = x.to(expected.dtype)
            y = multiply(layer, stored, own)[:, : expected.shape[1]]
            golden.compare(f"{name}/{what}", y if bias is None else y + bias.to(y), bound, what)


def _module(
    layer: StoredLayer, header: Header, stored: Mapping[str, Tensor], bias: Tensor | None, like: Tensor
) -> QuantisedLinear:
    """A layer with the stored tensors."""
    linear = nn.Linear(like.shape[1], like.shape[0], bias=bias is not None, device="meta")
    module = quantised_linear(layer, linear, header)
    state = {f"stored.{role}": tensor for role, tensor in stored.items()}
    state |= {} if bias is None else {"bias": bias.float()}
    module.load_state_dict(state, assign=True)
    return module.requires_grad_(False)


def _compare_bits(golden: GoldenFile, name: str, ours: Tensor) -> None:
    golden.compare(name, ours, 0.0, name.rpartition("/")[2], error=float(_bits(ours) != _bits(golden[name])))


def _bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def _velocity(golden: GoldenFile, header: Header, base: Path) -> None:
    """The output of the whole model. base: the folder of the unquantised model of its version, which has the inputs."""
    model = load_component("transformer", header, dtype=torch.float32, config=_config(header, base))
    assert isinstance(model, Transformer)
    with safe_open(base / EXPECTED, "pt") as file, torch.inference_mode():
        streams = Streams(*(_input(file, stream) for stream in ("video", "audio")))
        (velocity,) = run_passes(model, [Pass(inputs=streams)])
    for stream, ours in velocity._asdict().items():
        golden.compare(f"velocity/{stream}", ours, VELOCITY)


def _hidden_states(golden: GoldenFile, header: Header) -> None:
    """All hidden states of the Gemma 3 to whose config the metadata of the file refers."""
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


def _weights(path: Path, config: Mapping[str, Any]) -> dict[str, bytes]:
    """The decoded weights of the quantised layers of a model, as used in the computation.

    Raises: CheckpointError or StorageError.
    """
    header = read_header(path)
    components = [name for name in ("transformer", "video_connector", "audio_connector") if _has(header, name)]
    found = {}
    for component in components:
        for name, module in load_component(component, header, config=config).named_modules():
            if isinstance(module, QuantisedLinear):
                found[f"{component}.{name}"] = _bits(module.weight)
    return found


def _has(header: Header, component: str) -> bool:
    return component == "transformer" or any(component.replace("_", "_embeddings_") in name for name in header.tensors)
