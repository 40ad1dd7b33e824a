"""Compare images, clips and samples: resized, compressed, decoded and packed."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

from einops import rearrange
from torch import Tensor

from ltx2_core.media.accept import check_input
from ltx2_core.media.image import compress, read_image
from ltx2_core.media.inputs import ImageSource
from ltx2_core.media.pixels import to_i420
from ltx2_core.media.resize import cover, fit, to_clip
from ltx2_core.media.waveform import to_pcm16

from ..report import GoldenFile
from .cases import DTYPES, CaseTable, Parameters, close, difference, exact

I420_SHARE = 0.001
CODED_RMS = 255 * 10 ** (-45 / 20)  # RMS error that corresponds to a PSNR of 45 dB


# For each EXIF orientation of a photo that is stored mirrored, a function that mirrors (H W c) back: the official
# reader ignores the mirroring, and ours undoes it.
AS_STORED: dict[int, Callable[[Tensor], Tensor]] = {
    2: lambda upright: upright.flip(1),
    4: lambda upright: upright.flip(0),
    5: lambda upright: upright.transpose(0, 1),
    7: lambda upright: upright.flip(0, 1).transpose(0, 1),
}


def i420(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    name = f"{case}/i420"
    ours = to_i420(rearrange(golden[f"{case}/rgb"], "F H W c -> F c H W"))
    codes = difference(golden, name, ours)
    share = codes.bool().double().mean().item()
    if codes.max() > 1:
        share = math.inf
    golden.compare(name, ours, I420_SHARE, error=share, note="share of bytes that are one code off")


def resized(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    given, (height, width) = golden[f"{case}/input"], parameters["target_hw"]
    pictures = rearrange(given.reshape(-1, *given.shape[-3:]), "F H W c -> F c H W")  # a still image has no frame axis
    close(golden, f"{case}/resized", rearrange(cover(pictures, height, width), "F c H W -> 1 c F H W"))
    for name, dtype in DTYPES.items():
        if f"{case}/{name}" in golden:
            close(golden, f"{case}/{name}", to_clip([pictures], height, width).to(dtype))


def compressed(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    name, given = f"{case}/output", golden[f"{parameters['input']}/input"]
    ours = rearrange(compress(rearrange(given, "H W c -> 1 c H W"), parameters["crf"]), "1 c H W -> H W c")
    error = difference(golden, name, ours).square().mean().sqrt().item()
    golden.compare(name, ours, CODED_RMS, error=error, note="root mean square")


def decoded(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        file.write(bytes(golden[f"{case}/png"].tolist()))
        file.flush()
        picture = read_image(check_input(Path(file.name), ImageSource))
    pixels = rearrange(picture, "1 c H W -> H W c")
    mirrored_back = AS_STORED.get(parameters.get("orientation", 1))
    if mirrored_back is None:
        exact(golden, f"{case}/rgb", pixels)
    else:
        note = "after mirroring it back: ours stands upright, and the official reader leaves it as it is stored"
        golden.compare(f"{case}/rgb", mirrored_back(pixels), 0.0, note=note)


def fitted(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    height, width = parameters["target_hw"]
    ours = fit(rearrange(golden[f"{case}/input"], "H W c -> 1 c H W"), height, width)
    close(golden, f"{case}/out", rearrange(ours, "1 c H W -> 1 c 1 H W"))


def pcm16(golden: GoldenFile, case: str, parameters: Parameters) -> None:
    exact(golden, f"{case}/pcm", to_pcm16(golden[f"{case}/wav"]))


MEDIA = CaseTable(
    inputs=("i420_*/rgb", "pcm16/wav", "image_*/input", "clip/input", "reflect_pad_*/input", "decode_*/png"),
    checks={
        "i420_*": i420,
        "pcm16": pcm16,
        "image_*_crf*": compressed,
        "image_*": resized,
        "clip": resized,
        "reflect_pad_*": fitted,
        "decode_*": decoded,
    },
)
