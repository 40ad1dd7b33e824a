"""Compare guidance: the guided estimate, the passes of a step, and skipped steps."""

from __future__ import annotations

import torch

from ltx2_core.sampling.guidance import Contexts, GuidanceScales, PassKind, guide, plan_passes
from ltx2_core.types import Streams

from ..report import GoldenFile
from .cases import DTYPES, CaseTable, Check, Parameters, close, exact

SCALES = {
    "cfg_scale": "st",
    "modality_scale": "sm",
    "stg_scale": "stg",
    "stg_blocks": "stg_blocks",
    "rescale_scale": "rescale",
    "skip_step": "skip_step",
}
PASS_NAMES = {
    PassKind.COND: "cond",
    PassKind.UNCOND: "uncond",
    PassKind.PERTURBED: "ptb",
    PassKind.ISOLATED: "mod",
}


def scales_of(parameters: Parameters) -> GuidanceScales:
    values = {ours: parameters[theirs] for theirs, ours in SCALES.items() if theirs in parameters}
    return GuidanceScales(**values | {"stg_blocks": tuple(values.get("stg_blocks", ()))})


def guided(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    stream, _, dtype = case.split("_")
    scales = scales_of(parameters)
    estimates = {kind: golden[f"inputs_{stream}/{kind}"].to(DTYPES[dtype]) for kind in PassKind if scales.needs(kind)}
    close(golden, f"{case}/out", guide(estimates, scales))


def delta(kind: PassKind, scale: str) -> Check:
    def check(golden: GoldenFile, case: str, parameters: Parameters) -> None:
        cond, other = golden["inputs_video/cond"], golden["inputs_video/uncond"]  # the same for every kind of guidance
        scales = GuidanceScales(**{scale: parameters["scale"]})
        close(golden, f"{case}/delta", guide({PassKind.COND: cond, kind: other}, scales) - cond)

    return check


def passes(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    given = Streams(parameters["video_params"], parameters["audio_params"])
    scales: Streams[GuidanceScales] = given.map(scales_of)
    contexts = scales.map(lambda one: Contexts("pos", "neg" if one.needs(PassKind.UNCOND) else None))
    plan = plan_passes(scales, parameters["step_index"])
    exact(golden, f"{case}/count", torch.tensor(len(plan)))
    ours = [
        {
            "name": PASS_NAMES[one.kind],
            "video_context": contexts.video and contexts.video.of(one.kind),
            "audio_context": contexts.audio and contexts.audio.of(one.kind),
            "skip_video_self_attn_blocks": list(one.perturbed.video or ()),
            "skip_audio_self_attn_blocks": list(one.perturbed.audio or ()),
            "isolate_modalities": one.is_isolated,
            "video_enabled": one.enabled.video,
            "audio_enabled": one.enabled.audio,
        }
        for one in plan
    ]
    golden.compare_value(case, case, ours, parameters["passes"])


def skipped(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    scales = scales_of(parameters)
    steps = range(len(golden[f"{case}/skipped"]))
    exact(golden, f"{case}/skipped", torch.tensor([not scales.runs_at(step) for step in steps]))


GUIDANCE = CaseTable(
    inputs=("inputs_*", "sigma_bins/sigma"),
    checks={
        "video_[0-9]*": guided,
        "audio_[0-9]*": guided,
        "delta_cfg_[0-9]*": delta(PassKind.UNCOND, "st"),
        "delta_stg_[0-9]*": delta(PassKind.PERTURBED, "stg"),
        "passes_*": passes,
        "skip_step_*": skipped,
    },
)
