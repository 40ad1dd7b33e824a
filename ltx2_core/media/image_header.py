"""Headers of images, with Pillow only: loading PyAV takes longer than reading a header.

Source: docs/cli.md, "Inputs"; docs/reference/sampling.md, "Images".
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from .inputs import IMAGE_FORMATS, ImageSource, check_size, refusal, too_large
from .kinds import HEIC_BRANDS

ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {  # by EXIF value: the transformation that makes the stored image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TIFF_WIDTH, TIFF_HEIGHT = 256, 257  # tags
WITHOUT_RANGE = {"F": "floating-point numbers", "I": "32-bit integers"}  # modes whose white is not known
LYING = (5, 6, 7, 8)  # the values of which stored rows become columns
VIEWS_OF_ONE_SHOT = "MPO"  # a JPEG of a phone or a stereo camera, with further views, depth or brightness behind it


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image; its pixels are decoded on demand.

    Raises: MediaError, also for errors of the image inside the block.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_formats(path)) as image:
                yield image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise too_large(path) from error
    except UnidentifiedImageError as error:
        raise refusal(path, f"it is not one of {', '.join(IMAGE_FORMATS)}") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise refusal(path, f"its data is damaged: {error}") from error


def _formats(path: Path) -> tuple[str, ...]:
    """The supported formats; HEIC only if pillow-heif is installed."""
    with path.open("rb") as file:
        brand = file.read(12)[4:]
    if brand[:4] != b"ftyp" or brand[4:] not in HEIC_BRANDS:
        return IMAGE_FORMATS
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports]  # an optional dependency
    except ImportError as error:
        raise refusal(path, "it is a HEIC photo, which needs pillow-heif", "pip install 'ltx2[heic]'") from error
    pillow_heif.register_heif_opener()
    return ("HEIF",)


def image_source(path: Path) -> ImageSource:
    with open_image(path) as image:
        if values := WITHOUT_RANGE.get(image.mode):
            raise refusal(path, f"its values are {values}", "save it with 8 or 16 bits")
        width, height = _stored_size(image)
        check_size(path, width, height)
        if image.getexif().get(ORIENTATION) in LYING:
            width, height = height, width
        has_more = image.format != VIEWS_OF_ONE_SHOT and getattr(image, "is_animated", False)
        return ImageSource(path=path, width=width, height=height, has_more=has_more)


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height before the image is rotated; Pillow reports those of a TIFF after the rotation."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.tag_v2[TIFF_WIDTH], image.tag_v2[TIFF_HEIGHT]
    return image.size
