"""Runs the video VAE on clips of any size, tile by tile."""
