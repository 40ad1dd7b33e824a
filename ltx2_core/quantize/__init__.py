"""Quantised layers: decoding stored bytes, and the linear layer that computes with them."""
