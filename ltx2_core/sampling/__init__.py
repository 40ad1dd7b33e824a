"""Denoising in small parts: a schedule makes sigmas, a sampler walks them, guidance mixes the model's passes."""
