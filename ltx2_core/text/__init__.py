"""Text conditioning: from a prompt to what the denoiser reads, one context per stream."""
