"""The samplers by name, as data: their functions, and the seeds of their random generators. Needs no torch.

A new sampler is a function with the signature of `sample_euler` and a row here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

WINDOW_OFFSET = 1_000_003  # difference between the seeds of neighbouring windows


@dataclass(frozen=True, slots=True)
class Seed:
    """The seed of a generator: the request's seed with an offset, or a fixed number."""

    offset: int = 0
    fixed: int | None = None

    def of(self, request_seed: int, window: int = 0) -> int:
        """The seed in a window of a chain, each of which has different noise."""
        seed = request_seed + self.offset if self.fixed is None else self.fixed
        return seed + window * WINDOW_OFFSET


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """One sampler.

    Args: module, function: inside this package. generators: the seeds of its generator arguments, by name.
    is_resumable: whether it keeps no state between steps, so that a stage can be resumed in the middle. evaluations: of
    the denoiser, for each step.
    """

    module: str
    function: str
    generators: Mapping[str, Seed] = field(default_factory=dict)
    is_resumable: bool = False
    evaluations: int = 1


SAMPLERS: Mapping[str, Sampler] = {
    "euler": Sampler(module="samplers", function="sample_euler", is_resumable=True),
    "gradient": Sampler(module="samplers", function="sample_gradient_estimation"),
    "ancestral": Sampler(  # the offset makes the noise of the steps differ from the initial noise
        module="samplers", function="sample_ancestral", generators={"generator": Seed(offset=10_000)}
    ),
    "res2s": Sampler(  # the official code's seeds, independent of the request's seed
        module="res2s",
        function="sample_res2s",
        evaluations=2,
        generators={"step_generator": Seed(fixed=-1), "middle_generator": Seed(fixed=9999)},
    ),
}
