"""What `scripts/bench.py` measures: cost without weights, and time compared with diffusers."""
