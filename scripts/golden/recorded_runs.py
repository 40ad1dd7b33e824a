"""What a recorded run asked for, as a request to our engine, and the files of the model that it ran with."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from ltx2_core.hub import ModelFiles
from ltx2_core.pipeline.events import Watch
from ltx2_core.pipeline.job import Job
from ltx2_core.pipeline.recipe import Recipe
from ltx2_core.pipeline.render.engine import Engine
from ltx2_core.pipeline.request import (
    ClipInput,
    ImageInput,
    LoraInput,
    OutputSettings,
    ReferenceInput,
    Request,
    SoundInput,
    Window,
)
from ltx2_core.pipeline.resolve.presets import recipe
from ltx2_core.sampling.guidance import GuidanceScales
from ltx2_core.types import Streams

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
IMAGE_CRF = 33
NEUTRAL = {"cfg_scale": 1, "stg_scale": 0, "stg_blocks": [], "modality_scale": 1, "rescale_scale": 0, "skip_step": 0}


class World:
    """The model of one generation, unpacked, and what its cases share."""

    def __init__(self, folder: Path, unpacked: Path) -> None:
        self.folder, self.unpacked = folder, unpacked
        self.settings: dict[str, Any] = json.loads((folder / "cases.json").read_text())

    @cached_property
    def files(self) -> ModelFiles:
        """The files of the model; those that are packed are unpacked first."""
        names = self.settings["files"]
        roles = {"checkpoint": "checkpoint", "text_encoder": "gemma", "upsampler": "spatial_upsampler"}
        roles |= {"distilled_lora": "distilled_lora"}
        return ModelFiles(name="golden", paths={role: self._unpack(names[name]) for role, name in roles.items()})

    def lora(self, name: str) -> Path:
        """The file of a LoRA, which the cases know by its name in `files`."""
        return self._unpack(self.settings["files"][name])

    def _unpack(self, name: str) -> Path:
        packed, unpacked = self.folder / "model" / f"{name}.gz", self.unpacked / name
        if not packed.exists():
            return self.folder / "model" / name
        if not unpacked.exists():
            with gzip.open(packed) as source, unpacked.open("wb") as target:
                shutil.copyfileobj(source, target)
        return unpacked

    def engine(self, request: Request) -> Engine:
        """An engine for a request, that keeps nothing and writes nothing."""
        output = OutputSettings(
            codec="h264", audio_codec="aac", metadata=False, sheet=False, strict=False, keep_latents=False
        )
        nowhere = self.unpacked / "none.mp4"
        inputs = {path.name: path for path in self.folder.glob("media/*")}
        inputs |= {lora.role: self.lora(lora.name) for lora in request.loras}
        job = Job(
            folder=nowhere,
            request=request,
            output=output,
            files=self.files,
            inputs=inputs,
            target=nowhere,
            overwrite=False,
            uses_cache=False,
            identities={},
        )
        return Engine(job, Watch())

    def request(self, case: Mapping[str, Any], precision: str) -> Request:
        """What a case asks for. One that starts from a clip has the clip's size, which stands with its first stage."""
        pipeline, first = case["pipeline"], case["stage1"]
        guided = case.get("guidance", {})
        guidance = {name: _scales(guided.get(name, NEUTRAL)) for name in ("video", "audio")}
        if pipeline == "t2a":  # as a request for sound alone settles it
            guidance["audio"] = replace(guidance["audio"], sm=1.0)
        frames, fps = first["frames"], Fraction(str(first["fps"]))
        given: dict[str, Any] = {}
        if images := case.get("images"):
            given["images"] = tuple(_image(image) for image in images)
        if source := case.get("source"):
            given["source"] = ClipInput(role=source, name=source)
        if sound := case.get("audio"):
            start, duration = (Fraction(str(case[f"audio_{name}"])) for name in ("start", "duration"))
            given["sound_source"] = SoundInput(role=sound, name=sound, start_s=start, duration_s=duration)
        elif pipeline == "retake" and case["stage1"]["audio"]["from_latent"]:
            given["sound_source"] = SoundInput(role=source, name=source, duration_s=frames / fps)
        if "start" in case:
            start, end = (Fraction(str(case[name])) for name in ("start", "end"))
            given["window"] = Window(start_s=start, end_s=end)
        if references := case.get("references"):
            attention = case.get("attention_strength", 1.0)  # in full, which needs no attention mask
            given["references"] = tuple(_reference(*one, attention) for one in references)
        return Request(
            mode="t2v",
            prompt=case["prompt"],
            negative=case.get("negative_prompt") if guided else None,
            seed=case["seed"],
            width=case.get("width", first["width"]),
            height=case.get("height", first["height"]),
            crop=None,
            frames=frames,
            fps=fps,
            video=_mode(first.get("video")),
            sound=_mode(first.get("audio")),
            preset=pipeline,
            recipe=_recipe(case),
            loras=_loras(case),
            steps=case.get("steps", 2),
            guidance=Streams(**guidance),
            schedule_tokens=4096,
            text_rows=1024,
            precision="bf16" if precision == "bf16" else "fp32",
            device="cpu",
            **given,
        )


def _mode(stream: Mapping[str, Any] | None) -> str:
    """What is done with a stream that a stage describes, or does not."""
    return "off" if stream is None else "keep" if stream["frozen"] else "generate"


def _recipe(case: Mapping[str, Any]) -> Recipe:
    """The recipe of a case, with the strength of its distilled LoRA."""
    name = RECIPES.get(case["pipeline"]) or ("retake" if case["distilled"] else "retake-guided")
    chosen = recipe(name)
    strength = case.get("distilled_lora_strength")
    if strength is None:
        return chosen
    stages = [
        stage if stage.distilled_lora is None else stage.model_copy(update={"distilled_lora": strength})
        for stage in chosen.stages
    ]
    return chosen.model_copy(update={"stages": tuple(stages)})


def _loras(case: Mapping[str, Any]) -> tuple[LoraInput, ...]:
    """The LoRAs of the user, then the one that its references need. The recipe says in which stages they act."""
    named = list(case.get("loras", ()))
    if case.get("references"):
        named.append(("ic_lora", case["ic_lora_strength"]))
    return tuple(LoraInput(role=name, name=name, strength=strength) for name, strength in named)


def _image(image: Mapping[str, Any]) -> ImageInput:
    name, crf = image["file"], image.get("crf", IMAGE_CRF)
    return ImageInput(role=name, name=name, frame=image["frame"], strength=image["strength"], crf=crf)


def _reference(name: str, strength: float, attention: float) -> ReferenceInput:
    return ReferenceInput(role=name, name=name, strength=strength, attention=attention, spatial_scale=2)


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
