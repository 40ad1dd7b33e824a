"""Input images: first frames and keyframes of a clip.

Source: docs/reference/sampling.md, "Images".
"""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import torch
from av import VideoStream
from einops import rearrange
from PIL import Image, ImageCms
from torch import Tensor

from .image_header import ORIENTATION, UPRIGHT, open_image
from .inputs import ImageSource
from .partial import partial_file
from .resize import cover, to_clip

LOOKED_AT = 896  # longer side in pixels of an image for a language model
SHORTEST_CODED = 2  # rows and columns; one colour sample stands for 2x2 pixels


def prepare_image(source: ImageSource, height: int, width: int, crf: int) -> Tensor:
    """An image for the video encoder: (1 3 1 height width) in [-1, 1].

    The model was trained on frames of compressed video, so an image is compressed first, at its own size.
    Args: crf: the strength of the compression; 0 for none.
    """
    return to_clip([compress(read_image(source), crf)], height, width)


def write_still(path: Path, frame: Tensor, *, overwrite: bool) -> None:
    """Write a frame (3 H W) in [0, 1] as a PNG. Raises: RequestError if it exists; StorageError for a disk error."""
    with partial_file(path, overwrite=overwrite) as partial:
        partial.write_bytes(still_bytes(frame))


def still_bytes(frame: Tensor) -> bytes:
    """A frame (3 H W) in [0, 1] as the content of a PNG."""
    file = io.BytesIO()
    codes = rearrange((255 * frame).round().byte(), "c H W -> H W c")
    Image.fromarray(codes.numpy()).save(file, "PNG")
    return file.getvalue()


def read_image(source: ImageSource) -> Tensor:
    """Decode an image: (1 3 H W) uint8, sRGB, upright.

    As in the reference, the alpha channel is dropped, so that hidden colours become visible. All eight EXIF
    orientations are applied; the reference does not apply those that mirror.
    Raises: MediaError if its data is damaged.
    """
    with open_image(source.path) as image:
        image.load()  # this already rotates a TIFF, and reports it
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
        profile = image.info.get("icc_profile")
        pixels = _to_srgb(_without_alpha(image), profile)
        upright = pixels if turn is None else pixels.transpose(turn)
        return rearrange(torch.from_numpy(np.array(upright)), "H W c -> 1 c H W")


def image_to_look_at(source: ImageSource) -> Tensor:
    """An image for a language model: (3 H W) uint8, at the size to which the reference resizes it first.

    Source: docs/reference/text.md, "Rewriting prompts".
    """
    image = read_image(source)
    height, width = (max(1, int(side * LOOKED_AT / max(image.shape[-2:]))) for side in image.shape[-2:])
    return cover(image, height, width).round().to(torch.uint8)[0]


def compress(image: Tensor, crf: int) -> Tensor:
    """An image (1 3 H W) uint8 after H.264 compression, at even sizes: an odd last row or column is removed.

    Source: docs/reference/sampling.md, "Images", step 2.
    """
    height, width = (side // 2 * 2 for side in image.shape[-2:])
    if crf == 0 or min(height, width) < SHORTEST_CODED:
        return image
    pixels = rearrange(image[..., :height, :width], "1 c H W -> H W c").contiguous().numpy()
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=1, options={"crf": str(crf), "preset": "veryfast"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file, "r") as coded:
        decoded = next(coded.decode(video=0)).to_ndarray(format="rgb24")
    return rearrange(torch.from_numpy(decoded), "H W c -> 1 c H W")


def _without_alpha(image: Image.Image) -> Image.Image:
    """The image without alpha or palette; 16-bit grey becomes 8-bit, which Pillow would clip instead."""
    if image.mode.startswith("I"):  # or I;16 and its kin, by the version of Pillow
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    return image.convert({"RGBA": "RGB", "LA": "L", "P": "RGB", "PA": "RGB"}.get(image.mode, image.mode))


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Apply a colour profile if it is valid."""
    if profile:
        try:
            given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            managed = ImageCms.profileToProfile(image, given, ImageCms.createProfile("sRGB"), outputMode="RGB")
            assert managed is not None  # only an in-place conversion returns None
            return managed
        except (ImageCms.PyCMSError, OSError):
            pass
    return image.convert("RGB")
