"""Attention and feed-forward, shared by the denoiser and the text connectors.

Source: docs/reference/transformer.md, "Attention"; docs/reference/text.md, "Connector block".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import attention as kernels
from torch.nn import functional as F
from torch.nn.attention import SDPBackend

from .chunks import ALL_TOKENS, Chunks, Rows
from .int8_attention import int8_attention
from .rope import LazyRope, Rope

if TYPE_CHECKING:
    from .segments import TextShares

BACKENDS: Mapping[str, SDPBackend] = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
INT8 = "int8"  # the kernel of comfy-kitchen
FLASH_VERSIONS = {"flash3": "FA3", "flash4": "FA4"}  # torch's names of the versions
WIDEST_REGISTER = 16  # float32 numbers in the widest CPU register
_is_int8 = False  # set by `attending`; a global, like torch's own choice of a kernel


class KeysValues(NamedTuple):
    """The keys and values of attention, both (b h n d)."""

    keys: Tensor
    values: Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention on (b h n d), the only place where a kernel is chosen.

    bias: additive, (b|1 h|1 n|1 n). If gradients are needed on the CPU, it is computed without torch's kernel, whose
    backward pass is slow there. With fewer keys than a SIMD register holds, that kernel also drops NaN, which is
    restored.
    """
    if q.requires_grad and q.device.type == "cpu":
        scores = q * q.shape[-1] ** -0.5 @ k.mT
        return (scores if bias is None else scores + bias).softmax(-1).to(v.dtype) @ v
    if _is_int8:
        return int8_attention(q, k, v, bias)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    if q.device.type == "cpu" and k.shape[-2] < WIDEST_REGISTER:
        is_lost = q.isnan().any(-1, keepdim=True) | k.isnan().any(-1).any(-1)[..., None, None]
        mixed = mixed.masked_fill(is_lost, torch.nan)
    return mixed


class Kernel:
    """How an attention module computes: over all tokens, with all heads. A subclass may distribute the work over
    ranks.
    """

    def memory(self, made: KeysValues) -> KeysValues:
        """The keys and values to attend to, given those computed here."""
        return made

    def __call__(self, q: Tensor, memory: KeysValues, bias: Tensor | None) -> Tensor:
        """The attention output for queries (b h n d)."""
        return attention(q, memory.keys, memory.values, bias)


PLAIN = Kernel()


@contextmanager
def attending(name: str) -> Iterator[None]:
    """Select the kernel that `attention` uses in this block; afterwards the previous one applies again.

    Inputs that a kernel does not support, such as a bias for flash attention on a GPU, use efficient or math. name: a
    backend of `Machine`; "sdpa" leaves the choice to torch.
    """
    global _is_int8
    if name == "sdpa":
        yield
        return
    if name == INT8:
        was_int8, _is_int8 = _is_int8, True
        try:
            yield
        finally:
            _is_int8 = was_int8
        return
    version, before = FLASH_VERSIONS.get(name), None
    first = SDPBackend.FLASH_ATTENTION if version else BACKENDS[name]
    others = [other for other in (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH) if other != first]
    if version:
        before = kernels.current_flash_attention_impl()
        kernels.activate_flash_attention_impl(version)
    try:
        with kernels.sdpa_kernel([first] if name == "math" else [first, *others], set_priority=True):
            yield
    finally:
        if before is not None:
            kernels.activate_flash_attention_impl(before)
        elif version:
            kernels.restore_flash_attention_impl()


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """Normalise (… d) to a root mean square of one, without weights."""
    return F.rms_norm(x, x.shape[-1:], eps=eps)


def normed_rows(x: Tensor, chunks: Chunks, eps: float) -> Rows:
    """Normalise rows of x (b n d): all at once if they are one chunk, else those that are requested."""
    if len(chunks.of(x.shape[1])) > 1:
        return lambda part, _: rms_norm(part, eps)
    normed = rms_norm(x, eps)
    return lambda part, _: normed


class Attention(nn.Module):
    """Multi-head attention with normalised queries and keys, rotary positions and optionally a gate per head.

    Args: query_dim, context_dim: widths of the two inputs. eps: of the norms, which are computed over all heads
    together.
    """

    def __init__(
        self, query_dim: int, context_dim: int, heads: int, head_dim: int, *, eps: float, gated: bool = False
    ) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.kernel = PLAIN
        self.to_q = nn.Linear(query_dim, inner)
        self.to_k = nn.Linear(context_dim, inner)
        self.to_v = nn.Linear(context_dim, inner)
        self.q_norm = nn.RMSNorm(inner, eps=eps)
        self.k_norm = nn.RMSNorm(inner, eps=eps)
        self.to_gate = nn.Linear(query_dim, heads) if gated else None
        self.to_out = nn.Linear(inner, query_dim)

    def forward(
        self,
        x: Tensor,
        context: Tensor | KeysValues | None = None,
        *,
        rope: Rope | None = None,
        context_rope: Rope | None = None,
        bias: Tensor | None = None,
        keep: Tensor | bool = True,
        shares: TextShares | None = None,
    ) -> Tensor:
        """Attend from x (b n query_dim) to a context (b l context_dim), to precomputed keys and values, or to x itself.

        Args: rope, context_rope: positions of x and of the context. bias: additive, broadcast to (b h n l). keep: True
        attends, False passes the values through unmixed, (b 1 1) blends the two per sample; then the context must be x,
        or contain it. shares: which rows of the context each token attends to, if it contains several texts.
        """
        if keep is False:
            mixed = self._split(self.to_v(x))
        else:
            if context is None:
                context = self.kernel.memory(self.keys_values(x, rope))
            elif isinstance(context, Tensor):
                context = self.keys_values(context, context_rope)
            queries = self.queries(x, rope)
            mixed = self.kernel(queries, context, bias) if shares is None else shares.read(queries, context)
            if isinstance(keep, Tensor):
                keep = keep[..., None]
                is_whole = context.values.shape == mixed.shape
                values = context.values if is_whole else self._split(self.to_v(x))
                mixed = mixed * keep + values * (1 - keep)
        if self.to_gate is not None:
            mixed = mixed * rearrange(2 * torch.sigmoid(self.to_gate(x)), "b n h -> b h n 1")
        return self.to_out(rearrange(mixed, "b h n d -> b n (h d)"))

    def queries(self, x: Tensor, rope: Rope | None = None) -> Tensor:
        """The queries (b h n d) of tokens x (b n query_dim)."""
        queries = self._split(self.q_norm(self.to_q(x)))
        return queries if rope is None else rope.rotate(queries)

    def keys(self, context: Tensor, rope: Rope | None = None) -> Tensor:
        """The keys (b h l d) of a context (b l context_dim)."""
        keys = self._split(self.k_norm(self.to_k(context)))
        return keys if rope is None else rope.rotate(keys)

    def keys_values(self, context: Tensor, rope: Rope | None = None) -> KeysValues:
        """Keys and values of a context (b l context_dim); they stay valid while the context does not change."""
        return KeysValues(self.keys(context, rope), self._split(self.to_v(context)))

    def chunked_keys_values(self, x: Tensor, chunks: Chunks, prepare: Rows, rope: Rope | LazyRope | None) -> KeysValues:
        """Keys and values of all rows of x (b n d), computed chunk by chunk.

        Args: prepare: computes the context from the rows and their slice.
        """
        parts = chunks.of(x.shape[1])
        if len(parts) == 1:
            made = self.keys_values(prepare(x, ALL_TOKENS), None if rope is None else rope.of_tokens(ALL_TOKENS))
            return self.kernel.memory(made)
        shape = (x.shape[0], self.heads, x.shape[1], self.to_k.out_features // self.heads)
        keys, values = (x.new_empty(shape) for _ in range(2))
        for rows in parts:
            part = self.keys_values(prepare(x[:, rows], rows), None if rope is None else rope.of_tokens(rows))
            keys[:, :, rows], values[:, :, rows] = part
        return self.kernel.memory(KeysValues(keys, values))

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b n (h d) -> b h n d", h=self.heads)


class MLP(nn.Module):
    """Feed-forward of four times the width, with a tanh-approximated GELU."""

    def __init__(self, dim: int, *, bias: bool = True) -> None:
        super().__init__()
        self.up = nn.Linear(dim, 4 * dim, bias=bias)
        self.down = nn.Linear(4 * dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (… dim) to (… dim)."""
        return self.down(F.gelu(self.up(x), approximate="tanh"))
