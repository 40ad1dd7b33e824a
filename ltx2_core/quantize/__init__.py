"""Quantised layers: from stored bytes to numbers, and the linear layer that computes with them."""
