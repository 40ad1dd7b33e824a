"""Compare text conditioning with its golden tensors: from prompts, through a real tokenizer and a tiny Gemma, to
contexts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltx2_core.checkpoint import load_component
from ltx2_core.components import COMPONENTS
from ltx2_core.grids import frames_lasting
from ltx2_core.headers import read_header
from ltx2_core.text.answers import clean_response
from ltx2_core.text.encode import ContextModels
from ltx2_core.text.enhance import Conversation
from ltx2_core.text.enhancers import enhancer_of_encoder
from ltx2_core.text.files import EncoderFiles, check_pair, find_encoder
from ltx2_core.text.gemma import Gemma, load_gemma, pad_left
from scripts.golden.report import GoldenFile, Report

EXACT = 0.0
RELATIVE = 1e-5
BFLOAT16_STEPS = 1.0
INPUTS = ("*.valid_rows", "*.rows", "duration.*_tokens")
REWRITING = "enhance_t2v"

Tensors = Mapping[str, Tensor]


class Folder:
    """The models of one folder, loaded when a case first asks for them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def encoder(self) -> EncoderFiles:
        """The encoder of a folder, or of a file that also contains the projection."""
        alone = self.path / "text_encoder.safetensors"
        return find_encoder(alone if alone.is_file() else self.path / "gemma")

    @cached_property
    def gemma(self) -> Gemma:
        return load_gemma(self.encoder, dtype=torch.float32)

    @cached_property
    def models(self) -> ContextModels:
        names = ("checkpoint.safetensors", "transformer.safetensors")
        checkpoint = read_header(next(self.path / name for name in names if (self.path / name).is_file()))
        holders = [checkpoint, self.encoder.header]
        projection = next(one for one in holders if COMPONENTS["text_projection"].names_in(one))
        check_pair(self.encoder, checkpoint, projection)
        headers = {"text_projection": projection, "video_connector": checkpoint, "audio_connector": checkpoint}
        config = checkpoint.config
        return ContextModels(
            *(load_component(name, one, dtype=torch.float32, config=config) for name, one in headers.items())
        )


def run_case(folder: Folder, prompt: str, rows: int, picked: Tensors) -> dict[str, Tensor]:
    """Compare all tensors that the golden file may contain for one prompt. picked: the tokens and context rows that it
    stores.
    """
    tokenizer = folder.gemma.tokenizer
    ids, mask = pad_left([tokenizer.encode(prompt, rows)], rows, tokenizer.pad)
    (hidden,) = folder.gemma([prompt], rows)
    video, audio = folder.models.projection(hidden)
    context = folder.models.connect(hidden, rows)
    tokens = picked.get("valid_rows", torch.arange(hidden.shape[1]))
    lines = picked.get("rows", torch.arange(rows))
    return {
        "input_ids": ids[0],
        "attention_mask": mask[0],
        "hidden_states": hidden[0, tokens],
        "flat_normalised": folder.models.projection.normalise(hidden)[0],
        "flat_normalised_bf16": folder.models.projection.normalise(hidden.bfloat16())[0],
        "features_video": video[0, tokens],
        "features_audio": audio[0, tokens],
        "video_context": context.video[0, lines],
        "audio_context": context.audio[0, lines],
        "context_mask": torch.ones(len(lines), dtype=torch.int64),  # a context has no mask: all of its rows are valid
    }


def steps_apart(ours: Tensor, expected: Tensor) -> float:
    """The largest number of representable bfloat16 numbers between the elements of two tensors with the same signs."""
    a, b = (tensor.view(torch.int16).int() for tensor in (ours, expected))
    return (a - b).abs().max().item()


def compare(golden: GoldenFile, case: str, ours: Tensors) -> None:
    for name, tensor in ours.items():
        full = f"{case}.{name}"
        if full not in golden:
            continue
        if tensor.dtype == torch.bfloat16:
            error = steps_apart(tensor, golden[full])
            golden.compare(full, tensor, BFLOAT16_STEPS, case, error=error, note="in steps of bfloat16")
        else:
            golden.compare(full, tensor, RELATIVE if tensor.is_floating_point() else EXACT, case)


def compare_durations(golden: GoldenFile, folder: Path) -> None:
    """Compare the output of the duration head for two contexts, and for each context alone."""
    head = load_component("duration_head", folder / "duration_head.safetensors", dtype=torch.float32, config={})
    video, audio = golden["duration.video_tokens"], golden["duration.audio_tokens"]
    given = {"both": (video, audio), "video_only": (video, None), "audio_only": (None, audio)}
    for name, contexts in given.items():
        golden.compare(f"duration.seconds_{name}", head(*contexts), RELATIVE, "duration")


def compare_frames(golden: GoldenFile, rows: Sequence[Sequence[float]]) -> None:
    """Compare the conversion of seconds to a number of frames, within bounds."""
    for *given, frames in rows:
        golden.compare_value("duration_to_frames", f"{given}", frames_lasting(*given), frames)


def compare_conversation(golden: GoldenFile, encoder: EncoderFiles, said: Mapping[str, str]) -> None:
    """Compare the conversation with a language model that rewrites a prompt: as text, and as ids."""
    conversation = Conversation(enhancer_of_encoder(encoder))
    text = conversation.render(said["prompt"], said["system_prompt"])
    golden.compare_value(REWRITING, "templated", text, said["templated"])
    for name, tensor in conversation.encode(text).items():
        golden.compare(f"{REWRITING}.{name}", tensor[0], EXACT, REWRITING)


def run(folder: Path, where: str, report: Report) -> None:
    cases: dict[str, Any] = json.loads((folder / "cases.json").read_text())
    golden = GoldenFile(folder / "expected.safetensors", where, report, INPUTS)
    models = Folder(folder)
    for case in cases["cases"]:
        name = case["name"]
        if golden.waits(name):
            continue
        with golden.case(name), torch.no_grad():
            picked = {key: golden[f"{name}.{key}"] for key in ("valid_rows", "rows") if f"{name}.{key}" in golden}
            compare(golden, name, run_case(models, case["prompt"], case["max_length"], picked))
    if "duration.seconds_both" in golden:
        with golden.case("duration"):
            compare_durations(golden, folder)
    with golden.case("duration_to_frames"):
        compare_frames(golden, cases.get("duration_to_frames", {}).get("rows", []))
    with golden.case("clean_response"):
        for row in cases.get("clean_response", []):
            golden.compare_value("clean_response", repr(row["text"]), clean_response(row["text"]), row["cleaned"])
    if REWRITING in cases:
        with golden.case(REWRITING):
            compare_conversation(golden, models.encoder, cases[REWRITING])
    golden.close(case_of=lambda name: name.split(".")[0])
