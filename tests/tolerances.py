"""Every tolerance of the tests, with its reason: max|a − b| / max|b| in float32 unless said otherwise."""

UNIQUE_TIMESTEPS = 1e-6  # the same AdaLN on fewer rows: only the blocking of a matrix product differs
ATTENTION_IN_BOXES = 2e-6  # the same softmax over the same keys, with more masked keys among them: 5e-7 measured
FUSED_NEIGHBOURS = 3e-6  # the same softmax over the same keys, summed in another order by comfy-kitchen on the CPU
MATH_ATTENTION = 3e-6  # the same softmax over the same keys, written out instead of in blocks
INT8_ATTENTION = 0.02  # 8-bit codes for queries, keys, values and weights, relative L2: 0.012 measured
BATCHED_PASSES = 1e-5  # four samples in one matrix product instead of one: different blocking in every layer
RANKS = 1e-5  # fewer rows in a matrix product and fewer heads in an attention, so different blocking: 3e-6 measured
EQUAL_TEXTS = 1e-5  # the same attention in runs of tokens, and a sum of it weighted with w and 1 − w
CHUNKED_TOKENS = 1e-6  # the same rows in smaller matrix products and fewer queries at a time
COMPILED_BLOCKS = 5e-6  # torch.compile splits a fused multiply-add of the rotation in two: 5e-7 measured
DIFFUSERS_ATTENTION = 3e-6  # the same layers, but our modulation is fused and made once per level: 5e-7 seen
DIFFUSERS_CONVOLUTIONS = 3e-6  # the same convolutions, but norms may sum in another order: 8e-7 seen, mostly 0
DIFFUSERS_DIFFUSION_DECODER = 1e-5  # rounding to float32 alone changes ours by 2e-6 to 4e-6: 2e-6 measured
DIFFUSERS_ANCESTRAL = 2e-6  # the same step, but from a velocity instead of the clean estimate
DIFFUSERS_SCHEDULE = 2e-6  # the same formula in another order; beyond 20,000 tokens the error of float32 itself is 1e-4
DIFFUSERS_GUIDANCE = 1e-6  # the same sum with its terms in another order
DIFFUSERS_STEP = 1e-5  # four passes whose differences are weighted with up to 6, text made once: 7e-8 seen
RECORDED_LATENTS = 2e-5  # whole float32 runs of the official pipelines, relative L2: 2e-6 measured
RECORDED_SOUND = 3e-4  # log-mel and clipping amplify, and 16-bit storage rounds by 2e-5 alone, relative L2
RECORDED_PSNR_DB = 60  # 8-bit frames, in which some values may differ by one level: 89 dB measured
RECORDED_SSIM = 1e-5  # the difference from 1, for the same reason
OFFICIAL_FILE_PSNR_DB = 30  # two bfloat16 runs, each through x264; another seed gives about 10 dB
LORA_BRANCHES = 1e-5  # x Wᵀ + s (x Aᵀ) Bᵀ, not x (W + s B A)ᵀ: float32 sums in another order, relative L2: 1e-6 seen
AUDIO_PIECES = 3e-5  # the same convolutions over fewer steps at a time, and a vocoder that amplifies: 1e-5 seen
LEAST_PLANNED, MOST_PLANNED = (
    0.95,
    1.15,
)  # of the bytes that are counted: a plan may ask for too much rather than too little
