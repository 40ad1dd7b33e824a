"""Turn the settings of a recorded run into a request to our engine, and find the files of the model that it used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from ltx2_core.hub.find import ModelFiles
from ltx2_core.machine import Machine
from ltx2_core.pipeline.events import Watch
from ltx2_core.pipeline.job import Job
from ltx2_core.pipeline.recipe import Recipe
from ltx2_core.pipeline.render.engine import Engine
from ltx2_core.pipeline.render.models import Models
from ltx2_core.pipeline.request import (
    AudioInput,
    ClipInput,
    ImageInput,
    LoraInput,
    OutputSettings,
    ReferenceInput,
    RenderTask,
    Request,
    Window,
)
from ltx2_core.pipeline.resolve.fit import ENCODE_TILES
from ltx2_core.pipeline.resolve.presets import recipe
from ltx2_core.sampling.guidance import GuidanceScales
from ltx2_core.tiles import TilePlan
from ltx2_core.types import Streams

# The files of a model by their names in `cases.json`: one file with its Gemma folder, or one file per part.
ROLES = {
    "checkpoint": "checkpoint",
    "gemma": "text_encoder",
    "transformer": "transformer",
    "text_encoder": "text_encoder",
    "video_vae": "video_vae",
    "audio_vae": "audio_vae",
    "duration_head": "duration_head",
    "spatial_upsampler": "upsampler",
    "distilled_lora": "distilled_lora",
}
RECIPES = {
    "one_stage": "one-stage",
    "two_stages": "two-stage",
    "hq": "hq",
    "distilled": "distilled",
    "keyframe_interpolation": "keyframes",
    "ic_lora": "control",
    "a2vid": "two-stage",
    "v2a": "one-stage",
    "t2a": "one-stage",
}
IMAGE_CRF = {"2.0": 33, "2.3": 33, "2.5": 18}  # used if a case does not name a CRF
STEPPERS = {"EulerAncestralDiffusionStep": "ancestral"}  # samplers that the official recipe does not name
NEUTRAL = {"cfg_scale": 1, "stg_scale": 0, "stg_blocks": [], "modality_scale": 1, "rescale_scale": 0, "skip_step": 0}


def case_and_precision(name: str) -> tuple[str, str]:
    """The case and the precision of a file: it is named after its case, followed by `.bf16` unless it is a float32
    run.
    """
    case, _, precision = name.removesuffix(".safetensors").partition(".")
    return case, precision or "fp32"


class RecordedRuns:
    """The recorded runs of one generation, and the files of the model that they share.

    Args: folder: of the golden tensors, decompressed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = json.loads((folder / "cases.json").read_text())
        self.cases: dict[str, dict[str, Any]] = self.settings["cases"]

    @cached_property
    def files(self) -> ModelFiles:
        """The files of the model."""
        paths = {role: self.file(name) for name, role in ROLES.items() if name in self.settings["files"]}
        return ModelFiles(name="golden", paths=paths)

    def stored_elsewhere(self, case: str) -> dict[str, Tensor]:
        """The tensors of a case that are stored once, under another case; only those that are part of this set."""
        found: dict[str, Tensor] = {}
        for name, place in self.cases.get(case, {}).get("same_as", {}).items():
            owner, _, stored_as = place.partition(":")
            path = self.folder / f"{owner}.safetensors"
            if path.exists():
                with safe_open(path, "pt") as file:
                    found[name] = file.get_tensor(stored_as)
        return found

    def file(self, name: str) -> Path:
        """The file of a model or of a LoRA, which the cases refer to by its name in `files`."""
        return self.folder / "model" / self.settings["files"][name]

    def engine(self, case: Mapping[str, Any], precision: str) -> Engine:
        """An engine for a case, which caches nothing and writes nothing.

        It computes with one thread and, in bfloat16, with all passes in one batch, like the recorded run; both affect
        the rounding.
        """
        request, is_bf16 = self.request(case), precision == "bf16"
        machine = Machine(
            device="cpu",
            precision="bf16" if is_bf16 else "fp32",
            decode_tiles=TilePlan(),
            encode_tiles=ENCODE_TILES,
            batches_passes=is_bf16,
        )
        nowhere = self.folder / "none.mp4"
        inputs = {path.name: path for path in self.folder.glob("media/*")}
        inputs |= {lora.role: self.file(lora.name) for lora in request.loras}
        task = RenderTask(
            request=request,
            machine=machine,
            output=OutputSettings(),
            files=self.files,
            inputs=inputs,
            target=nowhere,
            uses_cache=False,
        )
        return Engine(Job(folder=nowhere, task=task, identities={}), Models(self.files, machine), Watch())

    def request(self, case: Mapping[str, Any]) -> Request:
        """The request of a case. If the case starts from a clip, the request has the size of the clip, which is stored
        with the first stage.
        """
        first = case["stage1"]
        return Request(
            mode="t2v",
            prompt=case["prompt"],
            negative=case.get("negative_prompt") if case.get("guidance") else None,
            seed=case["seed"],
            width=case.get("width", first["width"]),
            height=case.get("height", first["height"]),
            crop=None,
            frames=first["frames"],
            fps=_exact(first["fps"]),
            video=_mode(first.get("video")),
            audio=_mode(first.get("audio")),
            preset=case["pipeline"],
            recipe=_recipe(case),
            steps=case.get("steps", 2),
            guidance=_guidance(case),
            loras=_loras(case),
            images=tuple(self._image(image) for image in case.get("images", ())),
            source=_source(case),
            audio_source=_audio_source(case),
            references=_references(case),
            window=_window(case),
            generated_keyframes=tuple(case.get("generated_keyframes", ())),
            schedule_tokens=4096,
            text_rows=1024,
        )

    def _image(self, image: Mapping[str, Any]) -> ImageInput:
        name, crf = image["file"], image.get("crf", IMAGE_CRF[self.settings["files"]["version"]])
        return ImageInput(role=name, name=name, frame=image["frame"], strength=image["strength"], crf=crf)


def _exact(number: float) -> Fraction:
    """A number as a Fraction of its decimal notation."""
    return Fraction(str(number))


def _mode(stream: Mapping[str, Any] | None) -> str:
    """The mode of a stream, depending on how the stage describes it."""
    if stream is None:
        return "off"
    return "keep" if stream["frozen"] else "generate"


def _guidance(case: Mapping[str, Any]) -> Streams[GuidanceScales]:
    """The scales of both streams; neutral scales if the run was not guided."""
    given = case.get("guidance", {})
    video, audio = (_scales(given.get(stream, NEUTRAL)) for stream in ("video", "audio"))
    if case["pipeline"] == "t2a":  # as in a resolved request for audio alone
        audio = replace(audio, sm=1.0)
    return Streams(video, audio)


def _scales(given: Mapping[str, Any]) -> GuidanceScales:
    """The official names of the scales."""
    return GuidanceScales(
        st=given["cfg_scale"],
        sm=given["modality_scale"],
        stg=given["stg_scale"],
        stg_blocks=tuple(given["stg_blocks"]),
        rescale=given["rescale_scale"],
        skip_step=given["skip_step"],
    )


def _recipe(case: Mapping[str, Any]) -> Recipe:
    """The recipe of a case, with its sampler and the strength of its distilled LoRA."""
    chosen = recipe(_recipe_name(case)).adjusted(STEPPERS.get(case["stage1"].get("stepper")), None, None)
    strength = case.get("distilled_lora_strength")
    if strength is None:
        return chosen
    stages = [
        stage if stage.distilled_lora is None else stage.model_copy(update={"distilled_lora": strength})
        for stage in chosen.stages
    ]
    return chosen.model_copy(update={"stages": tuple(stages)})


def _recipe_name(case: Mapping[str, Any]) -> str:
    if case["pipeline"] != "retake":
        return RECIPES[case["pipeline"]]
    return "retake" if case["distilled"] else "retake-guided"


def _loras(case: Mapping[str, Any]) -> tuple[LoraInput, ...]:
    """The LoRAs of the user, then the LoRA that the references need. The recipe names the stages in which they act."""
    named = list(case.get("loras", ()))
    if "references" in case:
        named.append(("ic_lora", case["ic_lora_strength"]))
    return tuple(LoraInput(role=name, name=name, strength=strength) for name, strength in named)


def _source(case: Mapping[str, Any]) -> ClipInput | None:
    name = case.get("source")
    return None if name is None else ClipInput(role=name, name=name)


def _audio_source(case: Mapping[str, Any]) -> AudioInput | None:
    """The given audio of a run, or the audio of the clip of which it regenerates a part."""
    if name := case.get("audio"):
        start, duration = _exact(case["audio_start"]), _exact(case["audio_duration"])
        return AudioInput(role=name, name=name, start_s=start, duration_s=duration)
    first = case["stage1"]
    if case["pipeline"] == "retake" and first["audio"]["from_latent"]:
        duration = first["frames"] / _exact(first["fps"])
        return AudioInput(role=case["source"], name=case["source"], duration_s=duration)
    return None


def _references(case: Mapping[str, Any]) -> tuple[ReferenceInput, ...]:
    """The reference clips. Without an attention strength they act in full and need no attention mask."""
    attention = case.get("attention_strength", 1.0)
    return tuple(
        ReferenceInput(role=name, name=name, strength=strength, attention=attention, spatial_scale=2)
        for name, strength in case.get("references", ())
    )


def _window(case: Mapping[str, Any]) -> Window | None:
    return Window(start_s=_exact(case["start"]), end_s=_exact(case["end"])) if "start" in case else None
