"""Copy the golden tensors that are part of this repository: `python scripts/subset_golden.py SRC DST`.

SRC is the complete set, DST a folder that does not exist yet. Files keep their format and their metadata. The table
lists which files are copied and which of their tensors are left out, so that the copy is small and still covers every
part once. A case without remaining tensors is also removed from the lists of cases. Files of tensors are compressed
with gzip.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import safe_open
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from any folder

from scripts.golden.packed import pack, unpack

# A file or a glob pattern of files, and glob patterns of the tensors that are left out.
FILES: dict[str, tuple[str, ...]] = {
    "transformer/2.0/checkpoint.safetensors": (),
    "transformer/2.0/cases.safetensors": (
        "*/out/*.x0",
        "per_token/out/*.block*",
        "per_token/prep/*",
        "masked_text/prep/*",
        "self_attention_mask/*",
        "guided_batch/*",
        "float_text_bias/*",
        "stg_all/*",
        "modality_all/*",
        "video_disabled/*",
    ),
    "text/2.0/checkpoint.safetensors": (),
    "text/2.0/gemma/*": (),
    "text/2.0/cases.json": (),
    "text/2.0/expected.safetensors": (
        "empty.audio_context",
        "inner_spaces.*",
        "literal_specials.*",
        "outer_whitespace.*",
        "too_long_256.*",
        "unicode.*_context",
        "whitespace_only.*",
    ),
    "text/2.5/text_encoder.safetensors": ("vision_model.*",),
    "text/2.5/transformer.safetensors": (),
    "text/2.5/duration_head.safetensors": (),
    "text/2.5/cases.json": (),
    "text/2.5/expected.safetensors": (
        "empty.*",
        "fits_exactly.*",
        "inner_spaces.*",
        "literal_specials.*_context",
        "one_over.*",
        "outer_whitespace.*",
        "short.*_context",
        "too_long_1024.hidden_states",
        "too_long_256.*",
        "unicode.*_context",
        "whitespace_only.*",
    ),
    "audio/2.0/checkpoint.safetensors": ("audio_vae.encoder.*",),
    "audio/2.0/cases.safetensors": (
        "encode.*",
        "frontend.mel_fb",
        "frontend.silence.*",
        "frontend.*_44100.*",
        "frontend.*_48000.*",
        "unit.downsample.*",
    ),
    "audio/2.5/checkpoint.safetensors": ("audio_vae.*",),
    "audio/2.5/cases.safetensors": (
        "encode.*",
        "frontend.*",
        "patchify.*",
        "timing.*",
        "unit.downsample.*",
        "unit.pixel_norm.*",
        "unit.resnet.*",
        "unit.upsample.*",
        "decode.*",
        "full.*",
    ),
    "video_vae/2.0/checkpoint.safetensors": ("vae.encoder.*",),
    "video_vae/2.0/cases.safetensors": ("encode*", "decode.tap.up_blocks.*", "decode_image.*"),
    "video_vae/2.0-timestep/checkpoint.safetensors": ("vae.decoder.*",),
    "video_vae/2.0-timestep/cases.safetensors": ("decode*", "encode_cropped.*", "stats.*"),
    "video_vae/2.5-diffusion/checkpoint.safetensors": (
        "encoder.*",
        "decoder.conv*",
        "decoder.diff_blocks.*",
        "decoder.*_stages.[012].*",
        "decoder.norm_out.*",
        "decoder.shared_adaln.*",
        "decoder.t_embedder.*",
        "decoder.upsamples.[012].*",
    ),
    "video_vae/2.5-diffusion/cases.safetensors": ("encode.*", "latent", "noise", "video"),
    "video_vae/tile_plans.json": (),
    "sampling/schedules.safetensors": (),
    "sampling/guidance.safetensors": (),
    "sampling/samplers.safetensors": ("ge1.5_*", "ancestral0.5_*", "res2s_*_ltx2/*", "*_bf16_plain_*"),
    "sampling/conditioning.safetensors": ("mask_downsample_0/*", "reference_[02]*", "two_references*"),
    "sampling/grids.safetensors": (),
    "e2e/2.0/model/*.*": (),
    "e2e/2.0/model/gemma/*": (),
    "e2e/2.0/cases.json": (),
    "e2e/2.0/contexts.safetensors": (),
    "e2e/2.0/t2v.safetensors": (),
    "e2e/2.0/t2v.bf16.safetensors": (),
    "e2e/2.0/hq.safetensors": (),
    "e2e/2.0/i2v.safetensors": (),
    "e2e/2.0/v2a.safetensors": (),
    "e2e/2.0/media/image0.png": (),
    "e2e/2.0/media/clip_silent.mov": (),
}

# The layer of each quantised file that is copied; everything else of the file is left out.
BLOCKS = "model.diffusion_model.transformer_blocks."
QUANTISED = {
    "fp8-official": f"{BLOCKS}1.attn1.to_gate_logits",
    "fp8-comfy": f"{BLOCKS}0.audio_attn1.to_k",
    "fp8-legacy": f"{BLOCKS}1.audio_attn2.to_v",
    "fp8-rowwise": f"{BLOCKS}1.audio_attn2.to_v",
    "fp8-cast": f"{BLOCKS}1.audio_attn2.to_v",
    "mxfp8": f"{BLOCKS}1.attn1.to_gate_logits",
    "nvfp4-official": f"{BLOCKS}1.audio_attn2.to_v",
    "nvfp4-comfy": f"{BLOCKS}1.attn1.to_gate_logits",
    "int8-rows": f"{BLOCKS}1.audio_attn2.to_v",
    "int8-convrot": f"{BLOCKS}1.audio_attn2.to_v",
    "w4a8": f"{BLOCKS}1.audio_attn2.to_v",
    "mixed": f"{BLOCKS}0.audio_ff.net.2",
}


# Files that tests and commands read directly from this folder.
PLAIN = (
    "transformer/2.0/checkpoint.safetensors",
    "text/2.0/gemma/*",
    "text/2.5/text_encoder.safetensors",
    "text/2.5/duration_head.safetensors",
)


def copy_layers(source: Path, target: Path) -> None:
    """Copy one layer of each quantised file, with its expected tensors."""
    cases = json.loads((source / "cases.json").read_text())
    for case, layer in QUANTISED.items():
        columns = cases[case]["layers"][layer]["shape"][1]
        expected = (f"{layer}/rows", f"{layer}/weight.*", f"{layer}/out.weights_only", f"x/{columns}")
        (target / case).mkdir(parents=True)
        _copy_layer(source / case, target / case, "model.safetensors", (f"{layer}.*", "*scaled_fp8"), layer)
        _copy_layer(source / case, target / case, "expected.safetensors", expected, layer)
    kept = {case: {"quantised": [layer], "layers": {layer: {}}} for case, layer in QUANTISED.items()}
    (target / "cases.json").write_text(json.dumps(kept, indent=1) + "\n")


def _copy_layer(source: Path, target: Path, name: str, patterns: Sequence[str], layer: str) -> None:
    """Copy the tensors of a file whose names match."""
    with safe_open(source / name, "pt") as file:
        names = [own for own in file.keys() if any(fnmatch.fnmatchcase(own, pattern) for pattern in patterns)]  # noqa: SIM118
        metadata = dict(file.metadata() or {})
        metadata.pop("config", None)
        if "_quantization_metadata" in metadata:
            said = json.loads(metadata["_quantization_metadata"])
            said["layers"] = {own: fields for own, fields in said["layers"].items() if own == layer}
            metadata["_quantization_metadata"] = json.dumps(said)
        save_file({own: file.get_tensor(own) for own in names}, target / name, metadata)


def copy_tensors(source: Path, target: Path, dropped: Sequence[str]) -> set[str]:
    """Copy a file without some of its tensors. Returns: the cases that have no tensor left, which are removed too."""
    with safe_open(source, "pt") as file:
        names = list(file.keys())
        kept = [name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in dropped)]
        emptied = {case_of(name) for name in names} - {case_of(name) for name in kept}
        metadata = dict(file.metadata() or {})
        if "cases" in metadata:
            cases = json.loads(metadata["cases"])
            metadata["cases"] = json.dumps({name: cases[name] for name in cases if name not in emptied})
        save_file({name: file.get_tensor(name) for name in kept}, target, metadata)
    return emptied


def copy_subset(source: Path, target: Path) -> None:
    """Copy the files and tensors in the tables from a complete set that is not compressed."""
    for pattern, dropped in FILES.items():
        for path in sorted(source.glob(pattern)):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if not dropped:
                shutil.copyfile(path, copy)
                continue
            emptied = copy_tensors(path, copy, dropped)
            listed = copy.with_name("cases.json")
            if listed.exists():
                drop_cases(listed, emptied)
    if (source / "quantised").is_dir():
        copy_layers(source / "quantised", target / "quantised")


def case_of(name: str) -> str:
    return name.split("/")[0] if "/" in name else name.split(".")[0]


def drop_cases(path: Path, emptied: set[str]) -> None:
    """Remove cases from the list that is next to the tensors."""
    content = json.loads(path.read_text())
    content["cases"] = [case for case in content["cases"] if case["name"] not in emptied]
    path.write_text(json.dumps(content, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args(arguments)
    if options.target.exists():
        parser.error(f"{options.target} already exists")
    with TemporaryDirectory() as place:
        copy_subset(unpack(options.source, Path(place)), options.target)
    for path in sorted(options.target.rglob("*.safetensors")):
        if not any(path.relative_to(options.target).match(pattern) for pattern in PLAIN):
            pack(path)
    total = sum(path.stat().st_size for path in options.target.rglob("*") if path.is_file())
    print(f"{total:,} bytes in {options.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
