"""Text conditioning: from a prompt to the text contexts of the denoiser, one per stream."""
