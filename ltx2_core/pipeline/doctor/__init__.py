"""Facts about a machine, whether a model works on it, and which choices are fastest: `ltx2 doctor`."""
