"""Compile the blocks of a denoiser with torch.compile: one graph for all of them, made when the first one runs.

Fused operations round less often than separate ones, so a compiled block gives different last bits. Therefore blocks
are compiled only if the user asks for it, or `doctor --tune` has measured that it is faster.
Source: docs/reference/transformer.md, "Compiled blocks".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from .errors import RequestError
from .home import ltx2_home

MOST_GRAPHS = 512  # per block: each size and each set of skipped parts has its own graph
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
LONGEST_REASON = 200


def compile_blocks(model: nn.Module, backend: str = "inductor") -> None:
    """Compile the blocks of a denoiser; streamed blocks are not loaded for this.

    The compiler's cache is under LTX2_HOME, unless torch's own environment variable names another folder.
    """
    import torch._dynamo.config as tracing  # this imports the compiler
    import torch._inductor.config as making

    os.environ.setdefault(CACHE_VARIABLE, str(ltx2_home() / "cache" / "compiled"))
    tracing.recompile_limit = tracing.accumulated_recompile_limit = MOST_GRAPHS
    making.deterministic = True  # the choice never depends on measurements in this process
    for block in model.get_submodule("blocks").children():
        block.compile(fullgraph=True, dynamic=False, backend=backend)


@contextmanager
def told_compiler_failures() -> Iterator[None]:
    """Raises: RequestError instead of the compiler's own errors."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        why = str(error).strip().partition("\n")[0][:LONGEST_REASON]
        raise RequestError("--compile cannot be used on this machine", why, "render with --no-compile") from error
