"""Every tolerance of the tests, with its reason: max|a − b| / max|b| in float32 unless said otherwise."""

LEVELS_ONCE = 1e-6  # the same AdaLN on fewer rows: only the blocking of a matrix product differs
BATCHED_PASSES = 1e-5  # four samples in one matrix product instead of one: other blocking in every layer
DIFFUSERS_ATTENTION = (
    3e-6  # the same layers, our modulation fused and once per level, our attention unmasked: 5e-7 seen
)
DIFFUSERS_CONVOLUTIONS = 3e-6  # the same convolutions, our norms reduce in another order: 8e-7 seen, mostly 0
DIFFUSERS_SCHEDULE = 2e-6  # theirs computes the stretch in another order; both drift by 1e-4 beyond 20,000 tokens
DIFFUSERS_GUIDANCE = 1e-6  # the same sum with its terms in another order
