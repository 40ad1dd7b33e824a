"""Conversion of decoded frames to pixels: complete, in BT.709 RGB, with square pixels, upright.

Source: ITU-R BT.2100 (PQ and HLG), BT.2408 (diffuse white), BT.2087 (primaries).
"""

from __future__ import annotations

import av
import torch
from av.filter import Graph
from einops import rearrange
from torch import Tensor

from .reading import FULL, HLG, PQ, Colour, FrameReading
from .shown import linked

# Flags of swscale: for 8 bits those of the official reader, to get the same pixels; for more bits accurate rounding.
FLAGS_8_BIT = "bilinear"
FLAGS_MORE_BITS = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
MATRIX_NAMES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}
FULL_CODE_16 = 255 * 256  # the 16-bit code of white in swscale
DIFFUSE_WHITE_NITS, HLG_PEAK_NITS, PQ_PEAK_NITS = 203, 1000, 10_000
HLG_GAMMA, SDR_GAMMA = 1.2, 2.4
BT2020_TO_BT709 = (
    (1.660491, -0.587641, -0.072850),
    (-0.124550, 1.132900, -0.008349),
    (-0.018151, -0.100579, 1.118730),
)
TO_BT709 = {  # by primaries, in linear light
    1: ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    9: BT2020_TO_BT709,
    12: ((1.224940, -0.224940, 0), (-0.042057, 1.042057, 0), (-0.019638, -0.078636, 1.098274)),
}


class FrameConverter:
    """Converts the frames of one clip to pixels."""

    def __init__(self, reading: FrameReading) -> None:
        self.reading = reading
        self.is_linearised = bool(reading.hdr or reading.wide)
        codes = torch.arange(2**16 if self.is_linearised else 0)
        self.linear = linear_light(codes / FULL_CODE_16, reading.colour)  # a table is faster than powers of each pixel
        self.graphs: dict[tuple[int, int, str], Graph] = {}

    def pixels(self, frame: av.VideoFrame) -> Tensor:
        """A frame for display: (1 3 H W) uint8, BT.709."""
        graph = self._graph(frame)
        graph.push(frame)
        converted = graph.pull()
        assert isinstance(converted, av.VideoFrame)
        image = rearrange(torch.from_numpy(converted.to_ndarray()), "H W c -> 1 c H W")
        if self.is_linearised:
            image = to_bt709(self.linear[image.int()], self.reading.colour)
            image = (image * 255).round().to(torch.uint8)
        if self.reading.is_mirrored:
            image = image.flip(-1)
        return torch.rot90(image, self.reading.rotation // 90, (-2, -1))

    def _graph(self, frame: av.VideoFrame) -> Graph:
        """The filter graph that scales and converts to RGB; frames may change their format on the way."""
        key = (frame.width, frame.height, frame.format.name)
        if key not in self.graphs:
            self.graphs[key] = self._new_graph(frame)
        return self.graphs[key]

    def _new_graph(self, frame: av.VideoFrame) -> Graph:
        reading = self.reading
        width, height = reading.square_size
        if (frame.width, frame.height) != (reading.width, reading.height):
            width, height = frame.width, frame.height
        flags = FLAGS_8_BIT
        if max(component.bits for component in frame.format.components) > 8:
            flags = FLAGS_MORE_BITS
        options = [f"w={width}:h={height}:flags={flags}:out_range=full"]
        options.append(f"in_range={'full' if reading.colour.range == FULL else 'limited'}")
        if name := MATRIX_NAMES.get(reading.colour.matrix):
            options.append(f"in_color_matrix={name}")
        return linked(frame, ("scale", ":".join(options)), ("format", "gbrp16le" if self.is_linearised else "rgb24"))


def linear_light(values: Tensor, colour: Colour) -> Tensor:
    """Convert values of any shape, of one channel, from [0, 1] to linear light, in which 1 is white of 203 nits."""
    if colour.transfer == PQ:
        return _pq_nits(values) / DIFFUSE_WHITE_NITS
    if colour.transfer == HLG:
        return _hlg_nits(values) / DIFFUSE_WHITE_NITS
    return values**SDR_GAMMA


def to_bt709(linear: Tensor, colour: Colour) -> Tensor:
    """Convert linear light (1 3 H W) of high dynamic range or a wide gamut to BT.709 of standard dynamic range.

    Diffuse white becomes white; brighter values, and colours outside the gamut, are clipped.
    """
    matrix = linear.new_tensor(TO_BT709.get(colour.primaries, BT2020_TO_BT709))
    return torch.einsum("rc,bcHW->brHW", matrix, linear).clamp(0, 1) ** (1 / SDR_GAMMA)


def _hlg_nits(image: Tensor) -> Tensor:
    """The inverse OETF, and the gamma of a 1,000 nit display on each channel."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = torch.where(image <= 0.5, image.square() / 3, (((image - c) / a).exp() + b) / 12)
    return HLG_PEAK_NITS * scene**HLG_GAMMA


def _pq_nits(image: Tensor) -> Tensor:
    """The EOTF."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = image.double() ** (1 / m2)  # in float32, dark values would differ by one code
    nits = PQ_PEAK_NITS * ((power - c1).clamp(min=0) / (c2 - c3 * power)) ** (1 / m1)
    return nits.float()
