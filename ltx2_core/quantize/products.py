"""Multiply by a quantised weight in its stored type: the inputs are quantised too.

A GPU multiplies the codes themselves. On the CPU the same products are computed in float32, which the tests compare.
Source: docs/reference/quantised.md, "Products in the stored type".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.functional import ScalingType, SwizzleType

from ..errors import RequestError
from ..machine import has_fast_kernels
from ..stored.layer import Format, StoredLayer
from .blocks import E2M1, MXFP8_BLOCK, NVFP4_BLOCK
from .decode import CHUNK, decode
from .fp8 import LARGEST_E4M3, to_e4m3
from .integers import to_int8, whole_numbers
from .rows import LEAST_SCALE, Stored, in_pieces, scaled_blocks

LEAST_ROWS = 17  # rows of the inputs; with fewer, decoding is cheaper, and torch._int_mm does not support fewer
LEAST_OUT = 64  # rows of the weight; narrower layers, such as gates, are decoded
LARGEST_NVFP4 = 6 * LARGEST_E4M3
HALFWAY = ((0.25, False), (0.75, True), (1.25, False), (1.75, True), (2.5, False), (3.5, True), (5.0, False))


@dataclass(frozen=True, slots=True)
class Product:
    """How one format is multiplied. run: computes (rows out) from inputs (rows columns), both with the padding of the
    weight. columns, rows: required divisors of those of the weight.
    """

    run: Callable[[StoredLayer, Stored, Tensor], Tensor]
    columns: int
    rows: int


def multiplies(layer: StoredLayer, weight: torch.dtype, formats: Collection[str]) -> bool:
    """Whether a layer is multiplied as it is stored. weight: its dtype. formats: those that the machine supports."""
    product = PRODUCTS.get(layer.format)
    if product is None or layer.format not in formats or layer.needs_full_precision or weight == torch.float8_e5m2:
        return False
    rows, columns = layer.shape
    return rows >= LEAST_OUT and not rows % product.rows and not columns % product.columns


def multiply(layer: StoredLayer, stored: Stored, x: Tensor) -> Tensor:
    """Inputs (rows columns) times the transposed weight, in the dtype of the inputs: (rows out), with padding.

    Rows are processed in chunks, so that only the result has the size of the inputs; each chunk is independent.

    Args: stored: the tensors of the layer, by role. Raises: RequestError if the GPU does not support it.
    """
    columns = layer.shape[1]
    x = F.pad(x, (0, columns - x.shape[1]))
    if layer.format == "nvfp4" and "input_scale" not in stored:  # one scale for all rows
        largest = torch.stack(x.aminmax()).abs().amax().float()
        stored = {**stored, "input_scale": (largest / LARGEST_NVFP4).clamp(min=LEAST_SCALE)}
    run = PRODUCTS[layer.format].run
    parts = x.split(max(LEAST_ROWS, CHUNK * 4 // max(layer.shape)))
    try:
        return torch.cat([run(layer, stored, part) for part in parts])
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ImportError) as error:
        why = str(error).partition("\n")[0]
        raise RequestError(
            f"weights in {layer.title} cannot be multiplied as they are stored",
            why,
            "--precision bf16 decodes them first",
        ) from error


def _fp8(layer: StoredLayer, stored: Stored, x: Tensor) -> Tensor:
    """Products of fp8 with a scale for the weight or for each of its rows, and one for the inputs or for each of their
    rows.
    """
    weight, scale = stored["weight"], stored["weight_scale"]
    given = stored.get("input_scale")
    if given is not None and scale.numel() == 1:
        codes = to_e4m3(x * (1 / given.reshape(())))  # first rounded to the dtype of x, as in the official code
        recipe = ScalingType.TensorWise
        scales = given.reshape(()), scale.reshape(())
    else:
        scaled = x.float()
        own = (scaled.abs().amax(-1, keepdim=True) / LARGEST_E4M3).clamp(min=LEAST_SCALE)
        if given is not None:
            own = given.reshape(1, 1).expand_as(own).contiguous()
        codes = to_e4m3(scaled / own)
        recipe = ScalingType.RowWise
        scales = own, scale.reshape(1, -1).expand(1, len(weight)).contiguous()
    return F.scaled_mm(codes, weight.t(), scales[0], recipe, scales[1], recipe, output_dtype=x.dtype)


def _mxfp8(layer: StoredLayer, stored: Stored, x: Tensor) -> Tensor:
    """Products of E4M3 with powers of two for 32 columns."""
    blocks = x.float().unflatten(-1, (-1, MXFP8_BLOCK))
    mantissa, exponents = (blocks.abs().amax(-1) / LARGEST_E4M3).frexp()
    exponents = (exponents - (mantissa == 0.5).int()).clamp(-127, 127)  # exponents of the next power of two
    powers = torch.ldexp(torch.ones_like(mantissa), exponents)
    codes = to_e4m3((blocks / powers[..., None]).flatten(-2))
    if not x.is_cuda:
        return _decoded(layer, stored, scaled_blocks(codes.float(), powers), x.dtype)
    scales = in_pieces((exponents + 127).byte()).view(torch.float8_e8m0fnu)
    own = stored["weight_scale"].view(torch.float8_e8m0fnu)
    recipe, order = ScalingType.BlockWise1x32, SwizzleType.SWIZZLE_32_4_4
    return F.scaled_mm(codes, stored["weight"].t(), scales, recipe, own, recipe, order, order, output_dtype=x.dtype)


def _nvfp4(layer: StoredLayer, stored: Stored, x: Tensor) -> Tensor:
    """Products of E2M1 with scales for 16 columns and one for all; codes are packed in the order of the file."""
    whole = stored["input_scale"].reshape(())
    blocks = x.float().unflatten(-1, (-1, NVFP4_BLOCK))
    scales = to_e4m3(blocks.abs().amax(-1) / 6 / whole)
    steps = (whole * scales.float())[..., None]
    values = torch.where(steps > 0, blocks / steps, 0).flatten(-2)
    size = values.abs()
    codes = sum(torch.ge(size, edge) if is_in else torch.gt(size, edge) for edge, is_in in HALFWAY)
    assert isinstance(codes, Tensor)
    if not x.is_cuda:
        rounded = torch.tensor(E2M1)[codes].copysign(values)
        return _decoded(layer, stored, scaled_blocks(rounded, whole * scales.float()), x.dtype)
    even, odd = (codes + 8 * values.signbit()).byte().unflatten(-1, (-1, 2)).unbind(-1)
    packed = (even << 4 | odd).view(torch.float4_e2m1fn_x2)
    ours = [in_pieces(scales.view(torch.uint8)).view(scales.dtype), whole]
    own = [stored["weight_scale"].view(scales.dtype), stored["weight_scale_2"].reshape(())]
    recipe = [ScalingType.BlockWise1x16, ScalingType.TensorWise]
    order = [SwizzleType.SWIZZLE_32_4_4, SwizzleType.NO_SWIZZLE]
    weight = stored["weight"].view(torch.float4_e2m1fn_x2).t()
    return F.scaled_mm(packed, weight, ours, recipe, own, recipe, order, order, output_dtype=x.dtype)


def _int8(layer: StoredLayer, stored: Stored, x: Tensor) -> Tensor:
    """Products of int8; if the weight is rotated, the inputs are rotated in the same way."""
    whole, scales = whole_numbers(layer, stored, range(layer.shape[0]))
    if x.is_cuda and has_fast_kernels():
        import comfy_kitchen

        group = layer.rotation
        return comfy_kitchen.int8_linear(
            x, whole, scales, out_dtype=x.dtype, convrot=group > 1, convrot_groupsize=group
        )
    codes, own = to_int8(x, layer.rotation)
    filled = F.pad(codes, (0, 0, 0, max(0, LEAST_ROWS - len(codes))))  # the last chunk of rows may be small
    sums = torch.ops.aten._int_mm(filled, whole.t())[: len(codes)]
    return (sums.float() * own * scales.reshape(1, -1)).to(x.dtype)


INT8 = Product(_int8, columns=8, rows=32)
PRODUCTS: Mapping[Format, Product] = {
    "fp8": Product(_fp8, columns=16, rows=16),
    "fp8_rows": Product(_fp8, columns=16, rows=16),
    "mxfp8": Product(_mxfp8, columns=32, rows=16),
    "nvfp4": Product(_nvfp4, columns=32, rows=16),
    "int8": INT8,
    "w4a8": INT8,
    "w6a8": INT8,
}


def _decoded(layer: StoredLayer, stored: Stored, x: Tensor, dtype: torch.dtype) -> Tensor:
    """The product of decoded inputs and the decoded weight, summed in float32 as on a GPU."""
    return (x @ decode(layer, stored, range(layer.shape[0])).T).to(dtype)
