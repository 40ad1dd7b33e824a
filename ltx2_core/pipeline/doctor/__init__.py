"""What a machine is like, whether a model works on it, and what it computes fastest: `ltx2 doctor`."""
