"""Denoising in small parts: a schedule makes sigmas, a sampler iterates over them, guidance mixes the model's
passes.
"""
