"""What `scripts/bench.py` measures: cost without weights, and time beside diffusers."""
