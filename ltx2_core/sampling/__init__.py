"""Denoising in small parts: a schedule makes sigmas, a sampler follows them, guidance mixes the model's passes."""
